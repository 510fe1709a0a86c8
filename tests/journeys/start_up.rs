//! What a start says that cannot succeed: one sentence with the remedy, and exit code 2, or 3 for services that do not
//! answer.

use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Output};

use journeys::client::{Client, text};
use journeys::ground::Site;
use journeys::model::tiny_files;
use journeys::process::{Process, Signal, binary};
use journeys::stack::free_port;
use journeys::wait::{seconds, until};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::embedded_stack::{open_folder, ready, up_command, up_command_at};

async fn run(command: Command) -> Output {
    // Killed when it does not end.
    let mut command = tokio::process::Command::from(command);
    let output = command.kill_on_drop(true).output();
    tokio::time::timeout(seconds(60), output).await.expect("it ends").unwrap()
}

async fn refuses(command: Command, words: &[&str]) {
    exits(2, command, words).await;
}

async fn exits(code: i32, command: Command, words: &[&str]) {
    let output = run(command).await;
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    let last = message.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("pyrograph: ") && words.iter().all(|word| last.contains(word)), "{words:?}: {message}");
}

fn on_site(site: &Site, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.env_clear().envs(site.environment()).args(arguments);
    command
}

#[tokio::test]
async fn a_bucket_that_is_not_there() {
    let site = Site::create().await;
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = on_site(&site, &["serve", "--bind", &address]);
    command.env("PYROGRAPH_S3_BUCKET", "nothing-here");
    refuses(command, &["no bucket `nothing-here`", "Create it", "PYROGRAPH_S3_BUCKET"]).await;
}

#[tokio::test]
async fn services_that_do_not_answer() {
    let site = Site::create().await;
    assert!(run(on_site(&site, &["migrate"])).await.status.success());
    let (nobody, folder) = (format!("127.0.0.1:{}", free_port()), open_folder());
    let with = |arguments: &[&str], variable: &str, value: String| {
        let mut command = on_site(&site, arguments);
        command.env(variable, value).env("HOME", folder.path()).current_dir(folder.path());
        command
    };
    let [serve, up] = ["serve", "up"].map(|name| (name, format!("127.0.0.1:{}", free_port())));
    let servers = [&[serve.0, "--bind", &serve.1], &[up.0, "--bind", &up.1]];
    for arguments in [&servers[0][..], servers[1], &["sweep"]] {
        let address = || format!("http://{nobody}");
        let storage = with(arguments, "PYROGRAPH_S3_ENDPOINT", address());
        exits(3, storage, &["S3", &address(), "cannot be used"]).await;
        refuses(with(arguments, "PYROGRAPH_S3_SECRET_ACCESS_KEY", "wrong".to_owned()), &["S3", "keys"]).await;
    }
    let others = [&["worker", "--device", "cpu"][..], &["sweep"], &["migrate"]];
    let databases = others.into_iter().chain(servers.map(|arguments| &arguments[..])).map(|arguments| {
        exits(3, with(arguments, "DATABASE_URL", format!("postgres://{nobody}/x")), &["Postgres", "does not answer"])
    });
    futures::future::join_all(databases).await;
}

#[tokio::test]
async fn a_schema_of_a_newer_version() {
    let site = Site::create().await;
    assert!(run(on_site(&site, &["migrate"])).await.status.success());
    let mut database = PgConnection::connect(&site.database_url).await.unwrap();
    sqlx::query("INSERT INTO _sqlx_migrations VALUES (9999, 'tomorrow', now(), true, '', 0)")
        .execute(&mut database)
        .await
        .unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    for arguments in [&["migrate"][..], &["serve", "--bind", &address], &["worker", "--device", "cpu"], &["sweep"]] {
        refuses(on_site(&site, arguments), &["newer version of Pyrograph", "9999", "backup"]).await;
    }
}

#[tokio::test]
async fn a_database_without_a_schema() {
    let site = Site::create().await;
    for arguments in [&["worker", "--device", "cpu"][..], &["sweep", "--dry-run"]] {
        refuses(on_site(&site, arguments), &["Run `pyrograph migrate`"]).await;
    }
}

/// Containers read logs as JSON, line by line.
#[tokio::test]
async fn a_fatal_line_is_json_where_the_log_is() {
    let site = Site::create().await;
    let mut command = on_site(&site, &["worker", "--device", "cpu"]);
    command.env("PYROGRAPH_LOG_FORMAT", "json");
    let output = run(command).await;
    let lines: Vec<Value> = String::from_utf8(output.stderr)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let last = lines.last().unwrap();
    assert_eq!(last["level"], "ERROR", "{last}");
    assert!(text(&last["fields"]["message"]).contains("pyrograph migrate"), "{last}");
}

#[tokio::test]
async fn a_worker_says_that_its_bucket_cannot_be_used() {
    let site = Site::create().await;
    assert!(run(on_site(&site, &["migrate"])).await.status.success());
    for (variable, value, word) in [
        ("PYROGRAPH_S3_SECRET_ACCESS_KEY", "wrong", "cannot be used"),
        ("PYROGRAPH_S3_BUCKET", "nothing-here", "no bucket"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = on_site(&site, &["worker", "--device", "cpu"]);
        command.env(variable, value).env("HOME", folder.path());
        let mut worker = Process::start("worker", &folder.path().join("worker.log"), command);
        until(seconds(60), word, || async { worker.log().contains(word).then_some(()) }).await;
        assert!(worker.log().contains("ERROR"), "{}", worker.log());
        assert!(worker.end(Signal::TERM, seconds(30)).success());
    }
}

#[tokio::test]
async fn data_of_another_postgres() {
    let folder = open_folder();
    let data = folder.path().join("data/postgres/data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("PG_VERSION"), "11\n").unwrap();
    if std::fs::metadata(&data).unwrap().uid() == 0 {
        // The account that runs Postgres for root owns its data.
        assert!(Command::new("chown").arg("nobody").arg(&data).status().unwrap().success());
    }
    refuses(up_command(folder.path(), free_port()), &["Postgres 11", "PYROGRAPH_POSTGRES_BIN", "pg_upgrade"]).await;
    assert_eq!(std::fs::read(data.join("PG_VERSION")).unwrap(), b"11\n");
}

#[tokio::test]
async fn a_port_that_is_taken_and_an_address_that_is_not_ours() {
    let folder = open_folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    refuses(up_command(folder.path(), port), &[&format!("127.0.0.1:{port} is in use"), "--bind"]).await;
    refuses(up_command_at(folder.path(), "203.0.113.7:8080"), &["no address 203.0.113.7", "0.0.0.0"]).await;
}

#[tokio::test]
async fn names_that_are_none() {
    let folder = open_folder();
    for (variable, value) in [
        ("PYROGRAPH_PUBLIC_URL", "pictures.example"),
        ("PYROGRAPH_ALLOWED_HOSTS", "a, http://b"),
        ("PYROGRAPH_S3_PUBLIC_ENDPOINT", "bucket.example"),
    ] {
        let mut command = up_command(folder.path(), free_port());
        command.env(variable, value);
        refuses(command, &[variable]).await;
    }
}

#[tokio::test]
async fn a_database_is_named_and_no_bucket() {
    let site = Site::create().await;
    let folder = open_folder();
    let port = free_port();
    let mut command = up_command(folder.path(), port);
    // The worker gets what `up` has found, and not the variables.
    let file = folder.path().join("database");
    std::fs::write(&file, &site.database_url).unwrap();
    command.env("DATABASE_URL_FILE", &file).env("PYROGRAPH_DATABASE_DIRECT_URL", &site.database_url);
    let mut process = Process::start("up", &folder.path().join("up.log"), command);
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    ready(&mut process, &client).await;
    client.add_model("tiny", &tiny_files(), None).await.expect(201);
    let request = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32});
    let made = client.succeeded(&client.generate(&request).await, seconds(90)).await;
    assert!(text(&made["artifacts"][0]["url"]).starts_with(&format!("http://127.0.0.1:{port}/s3/")), "{made:#}");
    client.artifacts(&made).await;
    assert!(process.end(Signal::TERM, seconds(60)).success());
}
