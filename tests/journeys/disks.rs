//! Workers whose disks are full, or too small for a model.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use journeys::client::{Client, text};
use journeys::hub::{HOST, Hub, lora};
use journeys::model::tiny_files;
use journeys::process::Signal;
use journeys::programs::skip;
use journeys::sse::Events;
use journeys::stack::{Pace, Stack};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};

/// A small file system, which is unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, and the calling test is noted as skipped, where mounting is not allowed.
    fn mount(folder: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder);
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(folder.to_owned())),
            _ => skip("right to mount"),
        }
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// Takes all room that is left. Returns the file that has it.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).unwrap();
        for piece in [vec![0; 4096], vec![0; 1]] {
            let full = loop {
                if let Err(error) = file.write_all(&piece) {
                    break error;
                }
            };
            assert_eq!(full.kind(), ErrorKind::StorageFull);
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn picture() -> Value {
    json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32})
}

async fn live(client: &Client, count: usize) -> Vec<Value> {
    until(seconds(60), &format!("{count} workers live"), || async {
        let workers = client.get("/v1/workers").await.expect(200)["items"].as_array().unwrap().clone();
        (workers.len() == count).then_some(workers)
    })
    .await
}

#[tokio::test]
async fn a_job_waits_while_the_disk_is_full() {
    let stack = Stack::start(Pace::Promised).await;
    let Some(disk) = SmallDisk::mount(&stack.folder().join("disk"), "8m") else { return };
    let client = &stack.client;
    let _worker = stack.worker_with("worker", "", &[("PYROGRAPH_WORKER_DIR", disk.path())]);
    live(client, 1).await;
    let filler = disk.fill();
    let generation = client.generate(&picture()).await;
    let reason = until(seconds(60), "the worker says why it pauses", || async {
        live(client, 1).await[0]["paused"].as_str().map(str::to_owned)
    })
    .await;
    assert!(reason.contains("disk"), "{reason}");
    let waiting = client.get(&text(&generation["urls"]["self"])).await.expect(200);
    assert_eq!(waiting["status"], "queued", "{waiting:#}");
    fs::remove_file(filler).unwrap();
    let done = client.succeeded(&generation, seconds(120)).await;
    let events = Events::open(client, &text(&done["urls"]["events"]), None).await.rest(seconds(10)).await;
    let retrying = events.iter().find(|event| event.kind == "retrying").expect("an event");
    assert!(text(&retrying.data["message"]).contains("disk of the worker is full"), "{}", retrying.data);
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}

/// The worker with the small disk claims first; the other one, stopped meanwhile, gets the job when it continues.
/// Without it the job fails.
#[tokio::test]
async fn what_is_larger_than_a_disk_goes_to_a_worker_with_a_larger_one() {
    let stack = Stack::start(Pace::Promised).await;
    let Some(disk) = SmallDisk::mount(&stack.folder().join("disk"), "1m") else { return };
    let bytes: usize = tiny_files().iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes > 1 << 20, "the model is larger than the disk");
    let client = &stack.client;
    let large = stack.worker("large", "");
    live(client, 1).await;
    let environment = [("PYROGRAPH_WORKER_DIR", disk.path()), ("PYROGRAPH_IMPORT_NETWORKS", HOST)];
    let _small = stack.worker_with("small", "", &environment);
    live(client, 2).await;
    large.signal(Signal::STOP);
    let generation = client.generate(&picture()).await;
    let path = text(&generation["urls"]["self"]);
    until(seconds(30), "the small one gives it back", || async {
        let now = client.get(&path).await.expect(200);
        (now["status"] == "queued" && now["attempts"] != 0).then_some(())
    })
    .await;
    large.signal(Signal::CONT);
    let done = client.succeeded(&generation, seconds(60)).await;
    assert_eq!(done["attempts"], 2, "{done:#}");
    let paused: Vec<Value> = live(client, 2).await.iter().map(|worker| worker["paused"].clone()).collect();
    assert_eq!(paused, [Value::Null, Value::Null], "nothing is wrong with the small one");

    drop(large);
    live(client, 1).await;
    let hub = Hub::start([("clay.safetensors".to_owned(), lora(2048))]);
    let source = json!({"kind": "url", "url": format!("{}/files/clay.safetensors", hub.url)});
    for job in [client.generate(&picture()).await, client.import("clay", &source).await] {
        let failed = client.settled(&job, seconds(60)).await;
        assert_eq!(
            (&failed["status"], &failed["error"]["class"]),
            (&json!("failed"), &json!("resource")),
            "{failed:#}"
        );
        let why = text(&failed["error"]["message"]);
        assert!(why.contains("the disk of the worker has 1.0 MiB in all"), "{why}");
    }
    stack.ledger.audit().await;
    stack.audit_bucket().await;
}
