//! A real browser at files that users have uploaded: it runs nothing of them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::Storage;
use domain::storage::{Keys, StorageConfig};
use journeys::client::{Client, text};
use journeys::process::{Process, Signal};
use journeys::programs::chromium;
use journeys::stack::free_port;
use journeys::wait::seconds;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::embedded_stack::{open_folder, ready, up_command};

/// Longest that the browser may take for a page.
const LOOK: Duration = Duration::from_mins(1);

/// A server that counts who comes, and its address.
async fn canary() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        }
    });
    (address, count)
}

/// Opens the address in the browser, and returns the page that it shows then.
async fn look(command: Command, address: &str) -> String {
    let mut command = tokio::process::Command::from(command);
    command.args(["--timeout=3000", "--dump-dom", address]).kill_on_drop(true);
    let output = tokio::time::timeout(LOOK, command.output()).await.expect("the browser ends").unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The storage of a running `up`.
fn storage(data: &Path) -> Storage {
    let services: Value = serde_json::from_slice(&std::fs::read(data.join("services.json")).unwrap()).unwrap();
    let storage = &services["storage"];
    let keys: Keys = serde_json::from_value(storage["keys"].clone()).unwrap();
    let [endpoint, bucket, region] = ["endpoint", "bucket", "region"].map(|name| text(&storage[name]));
    Storage::new(&StorageConfig { endpoint, bucket, region, keys, public_endpoint: None }).unwrap()
}

#[tokio::test]
async fn an_uploaded_page_runs_nothing() {
    let folder = open_folder();
    let profile = tempfile::tempdir().unwrap();
    if chromium(profile.path()).is_none() {
        return;
    }
    let browser = || chromium(profile.path()).unwrap();
    let (canary, count) = canary().await;
    let page = format!(
        "<html><body><script>document.body.textContent = 'it ran'; new Image().src = '{canary}/script';</script>\
         <img src='{canary}/picture' onerror=\"fetch('{canary}/handler')\"><iframe src='{canary}/frame'></iframe>\
         <object data='{canary}/object'></object><script src='{canary}/file.js'></script></body></html>"
    );
    // The same page as a file of this machine shows that the browser would run it.
    let file = folder.path().join("page.html");
    std::fs::write(&file, &page).unwrap();
    let shown = look(browser(), &format!("file://{}", file.display())).await;
    assert!(shown.contains("it ran") && count.load(Ordering::Relaxed) > 0, "the browser runs no page: {shown}");
    count.store(0, Ordering::Relaxed);

    let port = free_port();
    let client = Client::new(&format!("http://127.0.0.1:{port}"));
    let mut process = Process::start("up", &folder.path().join("up.log"), up_command(folder.path(), port));
    ready(&mut process, &client).await;
    let storage = storage(&folder.path().join("data"));
    let through = storage.through(format!("http://127.0.0.1:{port}/s3").parse().unwrap());
    let svg = format!("<svg xmlns='http://www.w3.org/2000/svg'><script>fetch('{canary}/svg')</script></svg>");
    for (name, media_type, bytes) in [
        ("inputs/page.html", "text/html", &page),
        ("inputs/page.png", "image/png", &page),
        ("inputs/page.svg", "image/svg+xml", &svg),
        ("inputs/page", "application/octet-stream", &page),
    ] {
        storage.put(name, bytes.clone().into(), media_type).await.unwrap();
        let url = through.presign_get_as(name, "page.html", seconds(600)).await.unwrap();
        assert_eq!(client.download(url.as_str()).await, bytes.as_bytes(), "{name}");
        let shown = look(browser(), url.as_str()).await;
        assert!(!shown.contains("it ran"), "{name}: {shown}");
    }
    // The API's own pages run.
    let shown = look(browser(), &format!("http://127.0.0.1:{port}/docs/")).await;
    assert!(shown.contains("swagger-ui"), "{shown}");
    assert_eq!(count.load(Ordering::Relaxed), 0, "a page of a user has reached another server");
    assert!(process.end(Signal::TERM, seconds(60)).success());
}
