//! `pyrograph up`: one command on an empty folder, an orderly stop on Ctrl-C, and all data is there at the next start.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use journeys::client::{Client, text};
use journeys::model::tiny_files;
use journeys::process::{Process, Signal, binary, mentioning, runs, send};
use journeys::stack::free_port;
use journeys::wait::{seconds, until};
use serde_json::json;

fn up_command(folder: &Path, port: u16) -> Command {
    let mut command = Command::new(binary());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .stdin(Stdio::null())
        .current_dir(folder);
    command.args(["up", "--data-dir", folder.join("data").to_str().unwrap(), "--bind", &format!("127.0.0.1:{port}")]);
    command
}

fn up(folder: &Path, port: u16) -> Process {
    Process::start("up", &folder.join("up.log"), up_command(folder, port))
}

async fn worker_of(up: &Process) -> u32 {
    until(seconds(30), "the worker", || async {
        mentioning("--with-parent").into_iter().find(|id| up.children().contains(id))
    })
    .await
}

/// A folder that is accessible to the account under which root's Postgres runs, so that its data stays here too.
fn open_folder() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir_in("/tmp").unwrap()
}

async fn ready(process: &mut Process, client: &Client) {
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
        ("PYROGRAPH_IMPORT_NETWORKS", "foo", "auto", "PYROGRAPH_IMPORT_NETWORKS"),
        ("PYROGRAPH_LEASE_TTL_MS", "100", "auto", "PYROGRAPH_LEASE_TTL_MS"),
        ("PYROGRAPH_POSTGRES_BIN", "/nowhere", "auto", "/nowhere"),
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
    assert!(output.status.code() == Some(1) && told.contains("http://127.0.0.1:1 cannot be used"), "{told}");
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
async fn a_second_signal_takes_postgres_along() {
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
    send(worker, Signal::KILL);
    let data = folder.path().join("data");
    until(seconds(20), "nothing is left", || async { mentioning(data.to_str().unwrap()).is_empty().then_some(()) })
        .await;
}
