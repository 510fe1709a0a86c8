//! `pyrograph up`: one command on an empty folder, an orderly stop on Ctrl-C, and all data is there at the next start.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use journeys::client::{Client, text};
use journeys::model::tiny_files;
use journeys::picture::discs;
use journeys::process::{Process, Signal, binary, mentioning, postgres_programs, runs, send};
use journeys::stack::free_port;
use journeys::wait::{seconds, until};
use reqwest::Url;
use serde_json::json;

pub(crate) fn up_command(folder: &Path, port: u16) -> Command {
    up_command_at(folder, &format!("127.0.0.1:{port}"))
}

pub(crate) fn up_command_at(folder: &Path, bind: &str) -> Command {
    let mut command = Command::new(binary());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(postgres_programs())
        .env("HOME", folder)
        .stdin(Stdio::null())
        .current_dir(folder);
    command.args(["up", "--data-dir", folder.join("data").to_str().unwrap(), "--bind", bind]);
    command
}

fn up(folder: &Path, port: u16) -> Process {
    Process::start("up", &folder.join("up.log"), up_command(folder, port))
}

/// Process id of the Postgres of this installation, once it has said so.
fn postmaster(data: &Path) -> Option<u32> {
    let folder = data.join("postgres");
    let folder = std::fs::read_to_string(folder.join("location")).map_or(folder, |moved| moved.trim().into());
    let text = std::fs::read_to_string(folder.join("data/postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok().filter(|id| runs(*id))
}

async fn worker_of(up: &Process) -> u32 {
    until(seconds(30), "the worker", || async {
        mentioning("--with-parent").into_iter().find(|id| up.children().contains(id))
    })
    .await
}

/// A folder that is accessible to the account under which root's Postgres runs, so that its data stays here too.
pub(crate) fn open_folder() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir_in("/tmp").unwrap()
}

pub(crate) async fn ready(process: &mut Process, client: &Client) {
    until(seconds(90), "`pyrograph up` is ready", || {
        let alive = process.is_alive();
        let client = client.clone();
        async move {
            assert!(alive, "`pyrograph up` ended at its start");
            client.is_ready().await.then_some(())
        }
    })
    .await;
}

#[tokio::test]
async fn up_down_up_again_and_up_after_a_kill() {
    let folder = open_folder();
    let data = folder.path().join("data");
    let port = free_port();
    let client = Client::new(&format!("http://127.0.0.1:{port}"));

    // First start on an empty folder: the built-in model is there without an import.
    let mut process = up(folder.path(), port);
    ready(&mut process, &client).await;
    assert_eq!(client.get("/v1/models/ember").await.expect(200)["built_in"], true);
    assert_eq!(client.delete("/v1/models/ember").await.status, 409, "what is built in stays");
    client.add_model("tiny", &tiny_files(), None).await.expect(201);
    let request =
        json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 2, "width": 32, "height": 32, "seed": 8});
    let generation = client.succeeded(&client.generate(&request).await, seconds(90)).await;
    let picture = client.artifacts(&generation).await;

    // A second start on a folder in use is refused with a message, and does not disturb the first.
    let second = {
        let folder = folder.path().to_owned();
        let port = free_port();
        let output = tokio::task::spawn_blocking(move || up_command(&folder, port).output().unwrap());
        tokio::time::timeout(seconds(30), output).await.expect("the second start ends").unwrap()
    };
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).len() > 20, "it says why");
    assert!(client.is_ready().await, "the first one goes on");

    // Ctrl-C: everything stops in order, with the right exit code.
    let start = Instant::now();
    let status = process.end(Signal::INT, seconds(30));
    assert!(status.success(), "{status}");
    eprintln!("Ctrl-C took {:?}", start.elapsed());
    let left = mentioning(data.to_str().unwrap());
    assert!(left.is_empty(), "processes left behind: {left:?}");

    // The second start finds everything: rows, bytes, keys, the model cache.
    let start = Instant::now();
    let mut process = up(folder.path(), port);
    ready(&mut process, &client).await;
    eprintln!("the second start took {:?}", start.elapsed());
    let again = client.get(&text(&generation["urls"]["self"])).await.expect(200);
    assert_eq!(client.artifacts(&again).await, picture);
    assert_eq!(client.artifacts(&client.succeeded(&client.generate(&request).await, seconds(60)).await).await, picture);

    // Kill everything at once, engine and database included; then start again.
    let engines = mentioning("engine").into_iter().filter(|id| process.children().contains(id)).collect::<Vec<_>>();
    process.kill();
    until(seconds(15), "no engine without its worker", || async {
        (!engines.iter().any(|id| runs(*id))).then_some(())
    })
    .await;
    let mut process = up(folder.path(), port);
    ready(&mut process, &client).await;
    let again = client.get(&text(&generation["urls"]["self"])).await.expect(200);
    assert_eq!(client.artifacts(&again).await, picture);
    assert!(process.end(Signal::TERM, seconds(30)).success());
    let left = mentioning(data.to_str().unwrap());
    assert!(left.is_empty(), "processes left behind: {left:?}");
}

#[tokio::test]
async fn what_can_never_work_ends_up_and_nothing_stays() {
    let folder = open_folder();
    for (variable, value, flag, word) in [
        ("PYROGRAPH_S3_ENDPOINT", "http://127.0.0.1:1", "auto", "PYROGRAPH_S3_ACCESS_KEY_ID"),
        ("PYROGRAPH_IMPORT_NETWORKS", "foo", "auto", "PYROGRAPH_IMPORT_NETWORKS: `foo` is not a network"),
        ("PYROGRAPH_OUTBOUND_NETWORKS", "::1,10/8", "auto", "PYROGRAPH_OUTBOUND_NETWORKS: `10/8` is not a network"),
        ("PYROGRAPH_LEASE_TTL_MS", "100", "auto", "PYROGRAPH_LEASE_TTL_MS"),
        ("PYROGRAPH_POSTGRES_BIN", "/nowhere", "auto", "/nowhere"),
        ("PYROGRAPH_DATABASE_DIRECT_URL", "postgres://127.0.0.1/x", "auto", "DATABASE_URL is not"),
        ("PYROGRAPH_DATABASE_POOL", "4294967295", "auto", "PYROGRAPH_DATABASE_POOL"),
        ("PYROGRAPH_CHECKPOINT_EVERY", "0", "auto", "PYROGRAPH_CHECKPOINT_EVERY"),
        ("PYROGRAPH_WORKER_DIR", "/proc/nope", "auto", "PYROGRAPH_WORKER_DIR"),
        ("PYROGRAPH_IMPORT_DIR", "/nope", "auto", "PYROGRAPH_IMPORT_DIR"),
        ("SSL_CERT_DIR", "/nope", "auto", "SSL_CERT_DIR"),
        // No machine has a card of this number.
        ("PYROGRAPH_LOG", "info", "cuda:4096", "cuda:4096"),
    ] {
        let mut command = up_command(folder.path(), free_port());
        let output = command.env(variable, value).args(["--device", flag]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{variable}: {told}");
        assert!(told.contains(word), "{told}");
        let left = mentioning(folder.path().to_str().unwrap());
        assert!(left.is_empty(), "{variable}: processes left behind: {left:?}");
    }

    // That a bucket does not answer is only found when Postgres runs already.
    let mut command = up_command(folder.path(), free_port());
    command.env("PYROGRAPH_S3_ENDPOINT", "http://127.0.0.1:1");
    let output = command.env("PYROGRAPH_S3_ACCESS_KEY_ID", "id").env("PYROGRAPH_S3_SECRET_ACCESS_KEY", "key").output();
    let output = output.unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && told.contains("S3 at http://127.0.0.1:1"), "{told}");
    let left = mentioning(folder.path().to_str().unwrap());
    assert!(left.is_empty(), "processes left behind: {left:?}");
}

#[tokio::test]
async fn a_worker_that_can_never_work_again_ends_up() {
    let folder = open_folder();
    let port = free_port();
    let mut process = up(folder.path(), port);
    ready(&mut process, &Client::new(&format!("http://127.0.0.1:{port}"))).await;
    until(seconds(30), "the worker works", || async { process.log().contains("worker started").then_some(()) }).await;
    // The next worker does not find its services, and reports that a restart would not help.
    std::fs::remove_file(folder.path().join("data/services.json")).unwrap();
    send(worker_of(&process).await, Signal::KILL);
    assert_eq!(process.wait(seconds(60)).code(), Some(2), "{}", process.log());
    assert!(process.log().contains("no services"), "{}", process.log());
    let data = folder.path().join("data");
    until(seconds(20), "nothing is left", || async { mentioning(data.to_str().unwrap()).is_empty().then_some(()) })
        .await;
}

#[tokio::test]
async fn a_second_signal_takes_worker_and_postgres_along() {
    let folder = open_folder();
    let port = free_port();
    let mut process = up(folder.path(), port);
    ready(&mut process, &Client::new(&format!("http://127.0.0.1:{port}"))).await;
    // A worker that does not respond delays the orderly stop.
    let worker = worker_of(&process).await;
    send(worker, Signal::STOP);
    process.signal(Signal::INT);
    until(seconds(10), "it stops", || async { process.log().contains("Stopping.").then_some(()) }).await;
    until(seconds(10), "it leaves at once", || {
        process.signal(Signal::TERM);
        let alive = process.is_alive();
        async move { (!alive).then_some(()) }
    })
    .await;
    let data = folder.path().join("data");
    until(seconds(20), "nothing is left, not even the worker", || async {
        mentioning(data.to_str().unwrap()).is_empty().then_some(())
    })
    .await;
}

/// Postgres of root runs as another account, which cannot enter every folder.
#[tokio::test]
async fn a_database_behind_a_closed_folder_is_never_replaced() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let close = |folder: &Path, mode| std::fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
    let refused = |folder: &Path| {
        let output = up_command(folder, free_port()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let folder = open_folder();
    let port = free_port();
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    let mut process = up(folder.path(), port);
    ready(&mut process, &client).await;
    client.empty_dataset("kept").await;
    assert!(process.end(Signal::INT, seconds(60)).success());
    close(folder.path(), 0o700);
    let why = refused(folder.path());
    assert!(why.contains(&format!("chmod o+x {}", folder.path().display())), "{why}");
    close(folder.path(), 0o755);
    let mut process = up(folder.path(), port);
    ready(&mut process, &client).await;
    assert_eq!(client.get("/v1/datasets").await.expect(200)["items"][0]["name"], "kept");
    assert!(process.end(Signal::INT, seconds(60)).success());

    // A new one goes to another place, and belongs to this folder only.
    let (closed, copy) = (open_folder(), open_folder());
    close(closed.path(), 0o700);
    let mut process = up(closed.path(), port);
    ready(&mut process, &client).await;
    until(seconds(10), "the banner", || async { process.log().contains("Pyrograph is up").then_some(()) }).await;
    let outside = std::fs::read_to_string(closed.path().join("data/postgres/location")).unwrap();
    assert!(process.log().contains(&format!("Database {outside}")), "{}", process.log());
    assert!(process.end(Signal::INT, seconds(60)).success());
    let copied = Command::new("cp").arg("-r").arg(closed.path().join("data")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let why = refused(copy.path());
    assert!(why.contains("is a copy of"), "{why}");
    std::fs::remove_dir_all(outside).unwrap();
}

#[tokio::test]
async fn a_killed_postgres_is_started_again() {
    let folder = open_folder();
    let data = folder.path().join("data");
    let port = free_port();
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    let mut process = up(folder.path(), port);
    ready(&mut process, &client).await;
    client.add_model("tiny", &tiny_files(), None).await.expect(201);
    let request = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 2, "width": 32, "height": 32});
    let before = client.succeeded(&client.generate(&request).await, seconds(90)).await;

    for _ in 0..2 {
        let killed = postmaster(&data).unwrap();
        send(killed, Signal::KILL);
        until(seconds(60), "another Postgres runs", || async { postmaster(&data).filter(|id| *id != killed) }).await;
        ready(&mut process, &client).await;
        client.get(&text(&before["urls"]["self"])).await.expect(200);
        client.succeeded(&client.generate(&request).await, seconds(90)).await;
    }
    let log = process.log();
    assert!(log.contains("Postgres has stopped") && log.contains("Postgres runs again"), "{log}");
    assert!(process.end(Signal::TERM, seconds(60)).success());
    let left = mentioning(data.to_str().unwrap());
    assert!(left.is_empty(), "processes left behind: {left:?}");
}

#[tokio::test]
async fn pictures_are_read_at_the_address_of_the_api() {
    let folder = open_folder();
    let port = free_port();
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    // As people do it whose API others reach: on every address, under the name of a proxy.
    let mut command = up_command_at(folder.path(), &format!("0.0.0.0:{port}"));
    command.arg("--open").env("PYROGRAPH_PUBLIC_URL", "https://pictures.example/pyro");
    let mut process = Process::start("up", &folder.path().join("up.log"), command);
    ready(&mut process, &client).await;
    until(seconds(10), "the banner", || async { process.log().contains("Pyrograph is up").then_some(()) }).await;
    let log = process.log();
    assert!(log.contains("API      https://pictures.example/pyro\n") && !log.contains("http://0.0.0.0"), "{log}");
    assert!(log.contains("WARNING: --open"), "it warns: {log}");

    client.add_model("tiny", &tiny_files(), None).await.expect(201);
    let url = text(&client.get("/v1/models/tiny").await.expect(200)["files"][0]["url"]);
    let rest = url.strip_prefix("https://pictures.example/pyro/s3/").unwrap_or_else(|| panic!("{url}"));
    // What a proxy makes of it.
    let bytes = client.download(&format!("http://127.0.0.1:{port}/s3/{rest}")).await;
    assert!(!bytes.is_empty());

    // An expired or unsigned URL is the client's fault, and no error of the server.
    let storage = std::fs::read(folder.path().join("data/services.json")).unwrap();
    let storage: serde_json::Value = serde_json::from_slice(&storage).unwrap();
    let unsigned = format!("{}/pyrograph/models/x", text(&storage["storage"]["endpoint"]));
    assert_eq!(client.status(reqwest::Method::GET, &unsigned, Vec::new()).await, 403);
    assert!(!process.log().contains("ERROR"), "{}", process.log());
    assert!(process.end(Signal::TERM, seconds(60)).success());
}

/// A worker that was killed is no longer asked whether it has the memory for a request.
#[tokio::test]
async fn a_killed_worker_refuses_nothing_after_a_restart() {
    let folder = open_folder();
    let port = free_port();
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    let mut command = up_command(folder.path(), port);
    command.env("PYROGRAPH_VRAM_BUDGET", "70MiB");
    let mut process = Process::start("up", &folder.path().join("up.log"), command);
    ready(&mut process, &client).await;
    let worker = worker_of(&process).await;
    let owl = json!({"prompt": "owl", "width": 512, "height": 512});
    until(seconds(60), "the worker has too little memory", || async {
        (client.post("/v1/generations", &owl).await.status == 422).then_some(())
    })
    .await;
    process.kill();
    send(worker, Signal::KILL);

    let mut process = up(folder.path(), port);
    ready(&mut process, &client).await;
    client.post("/v1/generations", &owl).await.expect(202);
    assert!(process.end(Signal::TERM, seconds(60)).success());
}

#[tokio::test]
async fn a_public_endpoint_of_the_bucket_is_signed() {
    let folder = open_folder();
    let port = free_port();
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    let mut command = up_command(folder.path(), port);
    command.env("PYROGRAPH_S3_PUBLIC_ENDPOINT", "http://bucket.example:9000");
    let mut process = Process::start("up", &folder.path().join("up.log"), command);
    ready(&mut process, &client).await;
    let url = text(&client.get("/v1/models/ember").await.expect(200)["files"][0]["url"]);
    assert!(url.starts_with("http://bucket.example:9000/pyrograph/"), "{url}");

    // The same of `serve` on the folder, which says otherwise.
    let other = free_port();
    let mut serve = Command::new(binary());
    serve.env_clear().current_dir(folder.path()).env("PYROGRAPH_S3_PUBLIC_ENDPOINT", "https://other.example");
    serve.args(["serve", "--data-dir", "data", "--bind", &format!("127.0.0.1:{other}")]);
    let mut second = Process::start("serve", &folder.path().join("serve.log"), serve);
    let client = Client::new(&format!("http://127.0.0.1:{other}"));
    ready(&mut second, &client).await;
    let url = text(&client.get("/v1/models/ember").await.expect(200)["files"][0]["url"]);
    assert!(url.starts_with("https://other.example/pyrograph/"), "{url}");
    assert!(second.end(Signal::TERM, seconds(60)).success());

    // A name that resolves to the bucket: the signature is for it.
    let url = Url::parse(&url).unwrap();
    assert!(url.query().unwrap().contains("X-Amz-SignedHeaders=host"));
    assert!(process.end(Signal::TERM, seconds(60)).success());
}

/// The user may have a LoRA of the demo's name. The jobs of an interrupted demo are canceled.
#[tokio::test]
async fn a_demo_takes_away_only_what_a_demo_made() {
    let folder = open_folder();
    let port = free_port();
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    let mut process = up(folder.path(), port);
    ready(&mut process, &client).await;
    let dataset = client.dataset("mine", &discs(1)).await;
    let request = json!({"name": "pyrography", "dataset": dataset, "model": "ember", "steps": 5000});
    let mine = text(&client.post("/v1/trainings", &request).await.expect(202)["id"]);
    assert_eq!(process.end(Signal::INT, seconds(60)).code(), Some(0));

    let demo = |log: &str| {
        let up = up_command(folder.path(), port);
        let mut demo = Command::new(up.get_program());
        demo.env_clear().current_dir(folder.path()).stdin(Stdio::null());
        demo.envs(up.get_envs().filter_map(|(name, value)| Some((name, value?))));
        demo.args(["demo", "--data-dir", "data", "--output", "out"]);
        Process::start("demo", &folder.path().join(log), demo)
    };
    let mut record = None;
    for log in ["first.log", "second.log"] {
        let mut process = demo(log);
        until(seconds(120), "the demo's training", || async {
            process.log().contains("the LoRA of the demo is pyrography-2").then_some(())
        })
        .await;
        let now = || std::fs::read(folder.path().join("data/demo.json")).ok();
        until(seconds(30), "it is recorded", || async { (now() != record).then_some(()) }).await;
        record = now();
        assert_eq!(process.end(Signal::INT, seconds(90)).code(), Some(5), "{}", process.log());
    }

    let mut process = up(folder.path(), port);
    ready(&mut process, &client).await;
    let trainings = client.get("/v1/trainings").await.expect(200);
    for training in trainings["items"].as_array().unwrap() {
        let own = training["id"] == mine.as_str();
        assert_eq!(training["status"] == "canceled", !own, "{trainings:#}");
        assert_eq!(training["name"], if own { "pyrography" } else { "pyrography-2" });
    }
    assert_eq!(trainings["items"].as_array().map(Vec::len), Some(3), "{trainings:#}");
    assert_eq!(process.end(Signal::INT, seconds(60)).code(), Some(0));
}
