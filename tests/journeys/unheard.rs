//! A log that cannot be written: its reader has died, or its disk is full. Its lines are lost, and nothing else.

use std::fs::File;
use std::process::Stdio;

use journeys::client::Client;
use journeys::model::tiny_files;
use journeys::process::{Process, Signal, mentioning};
use journeys::stack::free_port;
use journeys::wait::seconds;
use serde_json::json;

use crate::embedded_stack::{open_folder, ready, up_command};

async fn works_and_stops(stderr: Stdio) {
    let folder = open_folder();
    let port = free_port();
    let log = folder.path().join("up.log");
    let mut process = Process::start_with("up", &log, up_command(folder.path(), port), stderr);
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    ready(&mut process, &client).await;
    client.add_model("tiny", &tiny_files(), None).await.expect(201);
    let request = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32});
    client.succeeded(&client.generate(&request).await, seconds(90)).await;
    let status = process.end(Signal::TERM, seconds(60));
    assert!(status.success(), "{status}");
    let left = mentioning(folder.path().to_str().unwrap());
    assert!(left.is_empty(), "processes left behind: {left:?}");
}

#[tokio::test]
async fn the_reader_of_the_log_has_died() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    works_and_stops(writer.into()).await;
}

#[tokio::test]
async fn the_disk_of_the_log_is_full() {
    works_and_stops(File::options().write(true).open("/dev/full").unwrap().into()).await;
}
