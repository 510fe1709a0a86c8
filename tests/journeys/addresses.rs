//! A URL from a client leads to the public internet, or nowhere: neither to this machine nor into the network around
//! it, however it is spelled, and also when another server redirects to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use journeys::client::text;
use journeys::hub::{HOST, Hub};
use journeys::stack::{Pace, Stack};
use journeys::wait::{seconds, until};
use reqwest::Url;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// The port of the URLs.
const PORT: u16 = 8443;

fn forbidden_urls() -> Vec<&'static str> {
    let lines = include_str!("../../outgoing/src/guard/forbidden_urls.txt").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// Counts the connections to every address of this machine.
async fn listen() -> Arc<AtomicUsize> {
    let listener = match TcpListener::bind(("::", PORT)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(("0.0.0.0", PORT)).await.expect("the port of the URLs is free"),
    };
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    count
}

/// Waits until an import has failed, or waits for another attempt since a name could not be looked up.
async fn comes_to_nothing(stack: &Stack, import: &Value, place: &str) {
    let path = text(&import["urls"]["self"]);
    let end = until(seconds(120), place, || async {
        let now = stack.client.get(&path).await.expect(200);
        let is_queued_again = now["status"] == "queued" && now["attempts"] != 0;
        (["failed", "succeeded"].contains(&text(&now["status"]).as_str()) || is_queued_again).then_some(now)
    })
    .await;
    if end["status"] == "queued" {
        stack.client.post(&text(&import["urls"]["cancel"]), &json!({})).await;
    }
    assert_ne!(end["status"], "succeeded", "{place}");
    // The answer does not show whether something listens there.
    let error = end["error"].to_string();
    assert!(!error.contains("refused") && !error.contains("certificate"), "{place}: {error}");
}

#[tokio::test]
async fn no_url_leads_into_the_network_around() {
    let urls = forbidden_urls();
    assert!(urls.len() >= 120, "{}", urls.len());
    let caught = listen().await;
    TcpStream::connect(("127.0.0.1", PORT)).await.expect("it listens");
    until(seconds(5), "it counts", || async { (caught.swap(0, Ordering::SeqCst) == 1).then_some(()) }).await;

    let stack = Stack::start(Pace::Quick).await;
    let hub = Hub::start([]);
    let worker = stack.worker_with("worker", "", &[("PYROGRAPH_IMPORT_NETWORKS", HOST)]);
    let (mut imports, mut refused) = (Vec::new(), 0);
    for (number, url) in urls.iter().enumerate() {
        // A picture is an id or bytes, and never fetched.
        let generation = json!({"prompt": "an owl", "model": "tiny", "image": url});
        let answer = stack.client.post("/v1/generations", &generation).await;
        assert!((400..500).contains(&answer.status), "{url}: {:#}", answer.body);
        let redirect = Url::parse_with_params(&format!("{}/to", hub.url), [("url", url)]).unwrap();
        for (way, place) in [("direct", (*url).to_owned()), ("redirect", redirect.to_string())] {
            let source = json!({"kind": "url", "url": place});
            let body = json!({"name": format!("{way}-{number}"), "source": source});
            let answer = stack.client.post("/v1/models", &body).await;
            match answer.status {
                202 => imports.push((answer.body, format!("{way} {url}"))),
                422 => refused += 1,
                status => panic!("{url}: {status} {:#}", answer.body),
            }
        }
    }
    assert!(refused >= 20, "user names, backslashes and other protocols are refused at once: {refused}");
    for (import, place) in &imports {
        comes_to_nothing(&stack, import, place).await;
    }
    assert_eq!(caught.load(Ordering::SeqCst), 0, "something was reached");
    drop(worker);

    // Where the operator allows this machine, by either variable, the same URL reaches it.
    let source = json!({"kind": "url", "url": format!("http://127.0.0.1:{PORT}/x")});
    for variable in ["PYROGRAPH_IMPORT_NETWORKS", "PYROGRAPH_OUTBOUND_NETWORKS"] {
        let worker = stack.worker_with(variable, "", &[(variable, "127.0.0.1")]);
        let import = stack.client.import(&variable.to_lowercase(), &source).await;
        until(seconds(60), variable, || async { (caught.load(Ordering::SeqCst) > 0).then_some(()) }).await;
        stack.client.post(&text(&import["urls"]["cancel"]), &json!({})).await.expect(200);
        stack.client.settled(&import, seconds(60)).await;
        drop(worker);
        caught.store(0, Ordering::SeqCst);
    }
    println!("{} imports of {} URLs came to nothing", imports.len(), urls.len());
}

/// Networks for imports are no networks for deliveries.
#[tokio::test]
async fn networks_of_imports_stay_closed_to_deliveries() {
    let networks = |variable| [(variable, "127.0.0.1")];
    let stack = Stack::start_with(Pace::Quick, &networks("PYROGRAPH_IMPORT_NETWORKS")).await;
    let (_api, open) = stack.another_api("open", &networks("PYROGRAPH_OUTBOUND_NETWORKS")).await;
    let body = json!({
        "prompt": "an owl",
        "model": "tiny",
        "response_format": "upload",
        "upload_url": format!("http://127.0.0.1:{PORT}/x"),
    });
    let refused = stack.client.post("/v1/generations", &body).await;
    assert_eq!(refused.status, 422, "{:#}", refused.body);
    assert!(refused.body.to_string().contains("upload_url"), "{:#}", refused.body);
    let accepted = open.post("/v1/generations", &body).await;
    assert_eq!(accepted.status, 202, "{:#}", accepted.body);
}
