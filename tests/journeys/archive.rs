//! The archive of `pyrograph up` and its verification, and archives that cannot be.

use std::path::Path;
use std::process::{Command, Output};

use journeys::client::Client;
use journeys::process::{Process, Signal, binary, postgres_programs};
use journeys::stack::{Pace, Stack, free_port, run};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};

use crate::embedded_stack::{open_folder, ready, up_command};

const ARCHIVE: &str = "s3://pictures/shop";

fn verify(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.env_clear().envs(postgres_programs()).env("HOME", folder).env("PYROGRAPH_ARCHIVE_URL", ARCHIVE);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(["archive", "verify", "--data-dir", folder.join("data").to_str().unwrap()]).args(arguments);
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_up_is_verified() {
    let (folder, port) = (open_folder(), free_port());
    let folder = folder.path();
    let mut command = up_command(folder, port);
    command.env("PYROGRAPH_ARCHIVE_URL", ARCHIVE);
    let mut up = Process::start("up", &folder.join("up.log"), command);
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    ready(&mut up, &client).await;
    let request = json!({"prompt": "an owl", "num_images": 2, "num_inference_steps": 1, "width": 32, "height": 32});
    let done = client.succeeded(&client.generate(&request).await, seconds(120)).await;
    until(seconds(20), "the pictures are archived", || async {
        let queues = client.get("/v1/outbox").await.expect(200);
        (queues[1]["target"] == "archive" && queues[1]["pending"] == 0).then_some(())
    })
    .await;

    let hash = done["artifacts"][0]["image_hash"].as_str().unwrap();
    let verified = verify(folder, &[hash]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let since = verify(folder, &["--since", "2026-01-01T00:00:00Z", "--json"]);
    let since: Value = serde_json::from_slice(&since.stdout).unwrap();
    assert_eq!(since, json!({"checked": 2, "faults": [], "left_out": 0}));
    for (arguments, code, says) in [
        (&["0123"][..], 2, "32 hexadecimal digits"),
        (&["0123456789abcdef0123456789abcdef"], 1, "is missing"),
        (&["--since", "yesterday"], 2, "--since"),
        (&[], 2, "HASH"),
    ] {
        let refused = verify(folder, arguments);
        let said = String::from_utf8_lossy(&refused.stdout) + String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    let log = up.log();
    assert_eq!(log.lines().filter(|line| line.contains("delivered") && line.contains("archive")).count(), 2, "{log}");
    up.end(Signal::TERM, seconds(60));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_cannot_be() {
    let stack = Stack::start(Pace::Promised).await;
    for (environment, says) in [
        (&[("PYROGRAPH_ARCHIVE_URL", "pictures")][..], "s3://bucket/prefix"),
        (&[("PYROGRAPH_ARCHIVE_URL", "s3://no-such-bucket")], "no bucket `no-such-bucket`"),
        (&[("PYROGRAPH_ARCHIVE_URL", "s3://pyrograph/artifacts")], "is Pyrograph's"),
        (
            &[("PYROGRAPH_ARCHIVE_URL", "s3://pyrograph/x"), ("PYROGRAPH_ARCHIVE_QUALITY", "0")],
            "PYROGRAPH_ARCHIVE_QUALITY",
        ),
        (
            &[("PYROGRAPH_ARCHIVE_URL", "s3://pyrograph/x"), ("PYROGRAPH_ARCHIVE_S3_ACCESS_KEY_ID", "a")],
            "PYROGRAPH_ARCHIVE_S3_SECRET_ACCESS_KEY",
        ),
        (
            &[("PYROGRAPH_ARCHIVE_URL", "s3://pyrograph/x"), ("PYROGRAPH_ARCHIVE_S3_ENDPOINT", "nowhere")],
            "is not a URL",
        ),
    ] {
        let refused = run(&stack.site, environment, &["serve", "--bind", "127.0.0.1:0"]);
        let why = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{environment:?}: {why}");
        assert!(why.contains(says), "{environment:?}: {why}");
    }
}
