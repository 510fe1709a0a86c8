//! Clients that other people's generators make from the OpenAPI document: they are used as their users would.

use std::path::{Path, PathBuf};
use std::process::Command;

use journeys::picture::discs;
use journeys::stack::{Pace, Stack};

#[tokio::test]
#[ignore = "run by `just clients`, which generates the clients first"]
async fn generated_clients_work() {
    let clients = std::env::var_os("PYROGRAPH_CLIENTS")
        .map(PathBuf::from)
        .expect("PYROGRAPH_CLIENTS names the folder of the generated clients: run `just clients`");
    let stack = Stack::start(Pace::Promised).await;
    let _worker = stack.worker("worker", "");
    let pictures: Vec<PathBuf> = discs(2)
        .into_iter()
        .map(|photo| {
            let path = stack.folder().join(photo.name);
            std::fs::write(&path, photo.bytes).unwrap();
            path
        })
        .collect();
    let base = stack.client.base().to_owned();
    tokio::task::spawn_blocking(move || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/use_python.py");
        let mut python = Command::new(clients.join("venv/bin/python"));
        succeeds(python.env("PYTHONPATH", &clients).arg(script).arg(&base).args(&pictures));
        let mut node = Command::new("node");
        succeeds(node.arg(clients.join("use_typescript.js")).arg(&base).args(&pictures));
    })
    .await
    .unwrap();
    stack.ledger.audit().await;
}

fn succeeds(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}; see above");
}
