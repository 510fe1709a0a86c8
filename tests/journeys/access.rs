//! Keys from the command line: who is served before there is one, and who after.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use journeys::authority::Nginx;
use journeys::client::{Client, text};
use journeys::hub::{Hub, USER_TOKEN};
use journeys::process::{Process, Signal, binary, postgres_programs};
use journeys::stack::free_port;
use journeys::wait::{seconds, until};
use reqwest::Method;
use serde_json::Value;

use crate::embedded_stack::{open_folder, ready, up_command, up_command_at};

/// Runs a command as a user in `folder` does.
pub(crate) fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary());
    command.env_clear().envs(postgres_programs()).env("HOME", folder).current_dir(folder);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(environment.iter().copied()).args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Changes and deletes the project `shop` from the command line.
fn projects_are_changed_and_deleted(folder: &Path) {
    let projects =
        |arguments: &[&str]| run(folder, &[&["projects"][..], arguments, &["--data-dir", "data"]].concat(), &[]);
    let update = ["update", "shop", "--json", "--queued-jobs"];
    let more = ["100", "--stored-bytes", "10GiB", "--keep-outputs", "30d"];
    let changed = json(&projects(&[&update[..], &more].concat()));
    let outputs_days = |project: &Value| project["retention"]["outputs_days"].clone();
    assert_eq!((&changed["quotas"]["queued_jobs"], outputs_days(&changed)), (&100.into(), 30.into()));
    assert_eq!(changed["quotas"]["stored_bytes"], 10_i64 << 30);
    let lifted = json(&projects(&[&update[..], &["none"]].concat()));
    assert_eq!((&lifted["quotas"]["queued_jobs"], outputs_days(&lifted)), (&Value::Null, 30.into()));
    let would = json(&projects(&["update", "shop", "--json", "--keep-inputs", "1d", "--dry-run"]));
    assert_eq!(would["inputs"], serde_json::json!({"count": 0, "bytes": 0}));
    let for_ever = json(&projects(&["update", "shop", "--json", "--keep-outputs", "none"]));
    let nothing =
        serde_json::json!({"outputs_days": null, "inputs_days": null, "events_days": null, "failed_jobs_days": null});
    assert_eq!(for_ever["retention"], nothing, "a dry run changes nothing");
    let listed = projects(&["list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("stored_bytes=10737418240"), "{listed:?}");

    for (arguments, code) in [
        (&["update", "shop", "--queued-jobs", "many"][..], 2),
        (&["update", "shop", "--queued-jobs", "-1"], 2),
        (&["update", "shop", "--keep-outputs", "0d"], 4),
        (&["update", "shop", "--keep-inputs", "12h"], 2),
        (&["create", "store", "--keep-events", "36501d"], 4),
        (&["update", "nowhere"], 4),
        // Without a terminal nobody can be asked.
        (&["delete", "shop"], 2),
        (&["delete", "nowhere", "--yes"], 4),
        (&["delete", "default", "--yes"], 2),
        (&["delete", "shop", "--yes", "--move-shared", "shop"], 4),
    ] {
        let output = projects(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let deleted = json(&projects(&["delete", "shop", "--yes", "--json"]));
    assert_eq!(deleted["name"], "shop");
    assert_eq!(json(&projects(&["list", "--json"])).as_array().unwrap().len(), 1);
}

/// The status of a list of models, with a key or without.
async fn status(client: &Client, key: Option<&str>) -> u16 {
    let request = client.request(Method::GET, "/v1/models");
    let request = key.into_iter().fold(request, |request, key| request.bearer_auth(key));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_first_key_closes_up_and_its_user_goes_on() {
    let folder = open_folder();
    let port = free_port();
    let server = format!("http://127.0.0.1:{port}");
    let client = Client::new(&server);
    let mut process = Process::start("up", &folder.path().join("up.log"), up_command(folder.path(), port));
    ready(&mut process, &client).await;
    assert_eq!(status(&client, None).await, 200);
    assert!(process.log().contains("It serves this machine only"), "{}", process.log());
    // A proxy that adds nothing looks like a local client.
    let proxy = Nginx::bare(&server).await;
    if let Some(proxy) = &proxy {
        let through = Client::new(&proxy.url);
        assert_eq!(status(&through, None).await, 403);
        let page = through.get("/").await;
        assert!(text(&page.expect(403)["detail"]).contains("pyrograph keys create"));
    }

    let data_dir = ("PYROGRAPH_DATA_DIR", "data");
    let made = json(&run(folder.path(), &["keys", "create", "--name", "backend", "--json"], &[data_dir]));
    let (id, key) = (text(&made["id"]), text(&made["key"]));
    until(seconds(5), "the installation is closed", || async { (status(&client, None).await == 401).then_some(()) })
        .await;
    assert_eq!(status(&client, Some(&key)).await, 200);

    if let Some(proxy) = &proxy {
        assert_eq!(status(&Client::new(&proxy.url), Some(&key)).await, 200);
    }

    // Beside `up` its user needs no key, and elsewhere one does.
    let file = folder.path().join("data/key.json");
    until(seconds(10), "the local key", || async { file.exists().then_some(()) }).await;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let list = ["models", "list", "--json", "--server", &server];
    json(&run(folder.path(), &list, &[data_dir]));
    let elsewhere = tempfile::tempdir().unwrap();
    let refused = run(elsewhere.path(), &list, &[]);
    assert_eq!(refused.status.code(), Some(4), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--key"), "{}", String::from_utf8_lossy(&refused.stderr));
    json(&run(elsewhere.path(), &list, &[("PYROGRAPH_KEY", &key)]));
    json(&run(elsewhere.path(), &[&list[..], &["--key", &key]].concat(), &[]));
    std::fs::write(elsewhere.path().join("key"), format!("{key}\n")).unwrap();
    json(&run(elsewhere.path(), &list, &[("PYROGRAPH_KEY_FILE", "key")]));

    let listed = json(&run(folder.path(), &["keys", "list", "--json"], &[data_dir]));
    let names: Vec<_> =
        listed.as_array().unwrap().iter().map(|key| (text(&key["name"]), key["local"] == true)).collect();
    assert_eq!(names, [("local".to_owned(), true), ("backend".to_owned(), false)]);
    let wrong = run(folder.path(), &["keys", "create", "--name", "", "--scopes", "read"], &[data_dir]);
    assert_eq!(wrong.status.code(), Some(4));

    // A second time does no harm.
    for _ in 0..2 {
        json(&run(folder.path(), &["keys", "revoke", &id, "--json"], &[data_dir]));
        let unknown = run(folder.path(), &["keys", "revoke", "01a22e33-f1da-725a-af8f-803388d02000"], &[data_dir]);
        let why = String::from_utf8_lossy(&unknown.stderr);
        assert!(unknown.status.code() == Some(4) && why.contains("there is no key"), "{why}");
    }
    for wrong in [["revoke", "abc"].as_slice(), &["create", "--name", "x", "--expires", "99999999999d"]] {
        let refused = run(folder.path(), &[&["keys"], wrong].concat(), &[data_dir]);
        assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
    }
    until(seconds(5), "the key is revoked", || async { (status(&client, Some(&key)).await == 401).then_some(()) })
        .await;
    json(&run(folder.path(), &list, &[data_dir]));

    // A browser logs in by a link, once.
    let printed = json(&run(folder.path(), &["login-link", "--json", "--server", &server], &[data_dir]));
    let link = text(&printed["url"]).split_once("#login=").unwrap().1.to_owned();
    let log_in = || client.request(Method::POST, "/v1/session").json(&serde_json::json!({"link": link})).send();
    let answer = log_in().await.unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(answer.status() == 200 && cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
    assert_eq!(log_in().await.unwrap().status(), 401);
    // `http://` may be left out.
    let bare = server.trim_start_matches("http://");
    let printed = json(&run(folder.path(), &["login-link", "--json", "--server", bare], &[data_dir]));
    assert!(text(&printed["url"]).starts_with(&format!("http://{bare}/#login=")), "{printed}");
    // Without a server, where clients reach it.
    let public = ("PYROGRAPH_PUBLIC_URL", "https://pictures.example.com/pyro");
    let printed = json(&run(folder.path(), &["login-link", "--json"], &[data_dir, public]));
    assert!(text(&printed["url"]).starts_with("https://pictures.example.com/pyro/#login="), "{printed}");
    let wrong = run(folder.path(), &["login-link", "--server", "ftp://x"], &[data_dir]);
    assert_eq!((wrong.status.code(), wrong.stdout.as_slice()), (Some(2), &b""[..]));
    let with_cookie = async |cookie: &str| {
        let cookie = cookie.split(';').next().unwrap();
        let request = client.request(Method::GET, "/v1/models").header("cookie", cookie);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(with_cookie(&cookie).await, 200);

    // The key and the session outlast a restart.
    let secret = key.rsplit('_').next().unwrap();
    assert!(!process.log().contains(secret), "a key is in the log");
    assert!(process.end(Signal::TERM, seconds(60)).success());
    let mut process = Process::start("up", &folder.path().join("again.log"), up_command(folder.path(), port));
    ready(&mut process, &client).await;
    assert_eq!(status(&client, None).await, 401);
    assert_eq!(with_cookie(&cookie).await, 200);
    json(&run(folder.path(), &list, &[data_dir]));
    assert!(process.end(Signal::TERM, seconds(60)).success());
}

#[tokio::test]
async fn a_server_that_others_reach_needs_a_key_first() {
    let folder = open_folder();
    let port = free_port();
    let refused = up_command_at(folder.path(), &format!("0.0.0.0:{port}")).output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{message}");
    assert!(message.contains("pyrograph keys create") && message.contains("--open"), "{message}");

    // Also where `up` does not run, and for a project that is new.
    let create =
        ["keys", "create", "--name", "backend", "--project", "shop", "--expires", "30d", "--scopes", "read,admin"];
    let made = json(&run(folder.path(), &[&create[..], &["--json", "--data-dir", "data"]].concat(), &[]));
    assert!(made["expires_at"].is_string() && made["scopes"].as_array().unwrap().len() == 2, "{made:#}");
    let projects = json(&run(folder.path(), &["projects", "list", "--json", "--data-dir", "data"], &[]));
    assert_eq!(projects.as_array().unwrap().len(), 2, "{projects:#}");
    let command = up_command_at(folder.path(), &format!("0.0.0.0:{port}"));
    let mut process = Process::start("up", &folder.path().join("up.log"), command);
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    ready(&mut process, &client).await;
    assert_eq!(status(&client, None).await, 401);
    assert_eq!(status(&client, Some(&text(&made["key"]))).await, 200);
    // A command on the folder of a running `up` uses its Postgres.
    json(&run(folder.path(), &["keys", "list", "--project", "shop", "--json", "--data-dir", "data"], &[]));
    projects_are_changed_and_deleted(folder.path());
    until(seconds(5), "the key of the project is revoked", || async {
        (status(&client, Some(&text(&made["key"]))).await == 401).then_some(())
    })
    .await;
    let unknown = run(folder.path(), &["keys", "list", "--project", "nowhere", "--data-dir", "data"], &[]);
    assert_eq!(unknown.status.code(), Some(4), "{}", String::from_utf8_lossy(&unknown.stderr));
    assert!(process.end(Signal::TERM, seconds(60)).success());
}

#[tokio::test]
async fn tokens_of_the_hub_close_the_installation() {
    let hub = Hub::start([]);
    let folder = open_folder();
    let port = free_port();
    let up = |rules: &str| {
        let mut command = up_command_at(folder.path(), &format!("0.0.0.0:{port}"));
        command.env("HF_ENDPOINT", &hub.url).env("PYROGRAPH_HF_ALLOW", rules);
        command
    };
    for (rules, says) in [("jane:studio,hf_s3cret", "rule 2"), (",", "no rule"), ("jane:Studio", "no project")] {
        let refused = up(rules).output().unwrap();
        let message = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{message}");
        assert!(message.contains("PYROGRAPH_HF_ALLOW") && message.contains(says), "{message}");
        assert!(!message.contains("s3cret"), "{message}");
    }

    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    let mut process = Process::start("up", &folder.path().join("up.log"), up("jane:studio,*:guests"));
    ready(&mut process, &client).await;
    assert_eq!((status(&client, None).await, status(&client, Some(USER_TOKEN)).await), (401, 200));
    assert_eq!(status(&client, Some("hf_unknown")).await, 401);
    assert!(process.log().contains("WARN") && process.log().contains("every account"), "{}", process.log());
    // Client commands send a token as they send a key; the user of `up` needs neither.
    let server = format!("http://127.0.0.1:{port}");
    let list = ["models", "list", "--json", "--server", &server];
    let elsewhere = tempfile::tempdir().unwrap();
    json(&run(elsewhere.path(), &list, &[("PYROGRAPH_KEY", USER_TOKEN)]));
    let data_dir = ("PYROGRAPH_DATA_DIR", "data");
    until(seconds(10), "the local key", || async { folder.path().join("data/key.json").exists().then_some(()) }).await;
    json(&run(folder.path(), &list, &[data_dir]));
    let projects = json(&run(folder.path(), &["projects", "list", "--json", "--data-dir", "data"], &[]));
    let names: Vec<String> = projects.as_array().unwrap().iter().map(|project| text(&project["name"])).collect();
    assert_eq!(names, ["guests", "studio", "default"]);
    assert!(process.end(Signal::TERM, seconds(60)).success());
    assert!(!process.log().contains(USER_TOKEN), "a token is in the log");

    // Without the rules it stays closed.
    let mut process = Process::start("up", &folder.path().join("again.log"), up(""));
    ready(&mut process, &client).await;
    assert_eq!((status(&client, None).await, status(&client, Some(USER_TOKEN)).await), (401, 401));
    assert!(process.end(Signal::TERM, seconds(60)).success());
}
