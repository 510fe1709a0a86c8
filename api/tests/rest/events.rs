//! Server-sent events: live, replayed, and ended after the last event.

use std::time::Duration;

use domain::job::{self, JobKind};
use domain::preview::{self, Preview};
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::test_server::{TestServer, text};

/// Reads the stream to its end: (id, kind, data) of each event.
async fn read(server: &TestServer, path: &str, last: Option<&str>) -> Vec<(String, String, Value)> {
    let mut request = server.request(Method::GET, path);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = String::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = tokio::time::timeout(Duration::from_secs(30), chunks.next()).await.expect("the stream ends")
    {
        body.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
    }
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    body.split("\n\n")
        .filter_map(|block| {
            Some((field(block, "id")?, field(block, "event")?, serde_json::from_str(&field(block, "data")?).unwrap()))
        })
        .collect()
}

#[tokio::test]
async fn a_stream_tells_everything_once_and_ends() {
    let server = TestServer::with_checkpoint().await;
    let generation = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let path = text(&generation["urls"]["events"]);
    let (events, ()) = tokio::join!(read(&server, &path, None), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let claim = server.claim(JobKind::Generation).await;
        for step in 1..=3 {
            let sequence = job::progress(&server.pools.lease, &claim, step, 12, json!({})).await.unwrap();
            domain::event::announce(&server.pools.lease, claim.job, sequence).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server.paint(&claim).await;
    });
    let kinds: Vec<_> = events.iter().map(|(_, kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["queued", "started", "progress", "progress", "progress", "succeeded"]);
    let ids: Vec<_> = events.iter().map(|(id, ..)| id.as_str()).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(events[3].2["step"], 2);
    assert_eq!(events[1].2["attempt"], 1);

    assert_eq!(read(&server, &path, None).await, events, "the same story again");
    assert_eq!(read(&server, &path, Some("4")).await, events[4..]);
    let over = server.send(server.request(Method::GET, &path).header("last-event-id", "6")).await;
    assert_eq!((over.status, over.body), (204, Value::Null), "so that browsers do not come back");
    // Numbers that the job has never had.
    for last in ["nonsense", "7", "9223372036854775807", "99999999999999999999", "-1"] {
        assert_eq!(read(&server, &path, Some(last)).await, events, "{last}");
    }
    server.get("/v1/generations/00000000-0000-7000-8000-000000000000/events").await.refuses(404, "");
    server.get("/v1/trainings/00000000-0000-7000-8000-000000000000/events").await.refuses(404, "");
}

#[tokio::test]
async fn previews_stand_beside_the_numbered_events() {
    let server = TestServer::with_checkpoint().await;
    let asked = json!({"prompt": "a fox", "preview_every": 1});
    let generation = server.post("/v1/generations", &asked).await.expect(202);
    let claim = server.claim(JobKind::Generation).await;
    let record = async |step: i32| {
        let preview = Preview { step, total_steps: 12, position: 0, width: 16, height: 8, jpeg: vec![step as u8; 4] };
        preview::record(&server.pools.lease, &claim, &preview).await.unwrap();
    };
    record(1).await;
    record(2).await;
    let mut chunks =
        server.request(Method::GET, &text(&generation["urls"]["events"])).send().await.unwrap().bytes_stream();
    let mut told = String::new();
    let mut until = async |end: &str| {
        while !told.ends_with(end) {
            let chunk = tokio::time::timeout(Duration::from_secs(30), chunks.next()).await.expect("more comes");
            told.push_str(std::str::from_utf8(&chunk.expect("the stream is open").unwrap()).unwrap());
        }
        std::mem::take(&mut told)
    };
    let first = until("}\n\n").await + &until("\"width\":16}\n\n").await;
    let image = |told: &str| told.split("\"image\":\"data:image/jpeg;base64,").nth(1).map(|rest| rest[..8].to_owned());
    assert_eq!(image(&first).as_deref(), Some("AgICAg=="), "the newest alone: {first}");
    record(3).await;
    assert_eq!(image(&until("\"width\":16}\n\n").await).as_deref(), Some("AwMDAw=="));
    server.paint(&claim).await;
    let rest = until("\n\n").await;
    assert!(rest.starts_with("id: 3\nevent: succeeded\n"), "numbers have no gap: {rest}");
}

#[tokio::test]
async fn a_stream_ends_with_the_server() {
    let server = TestServer::with_checkpoint().await;
    let generation = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let path = text(&generation["urls"]["events"]);
    // The number of an event of another job.
    let request = server.request(Method::GET, &path).header("last-event-id", "100");
    let mut chunks = request.send().await.unwrap().bytes_stream();
    let first = chunks.next().await.expect("the stream is open").unwrap();
    assert!(first.starts_with(b"id: 1\nevent: queued\n"), "{first:?}");
    server.stop.cancel();
    let rest = tokio::time::timeout(Duration::from_secs(20), chunks.count()).await;
    assert_eq!(rest, Ok(0), "the stream ends with the server, not with the job");
}

/// Of a job that ended long ago a project may keep the last event only.
#[tokio::test]
async fn a_stream_without_its_older_events_tells_the_end() {
    let server = TestServer::with_checkpoint().await;
    let generation = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let path = text(&generation["urls"]["events"]);
    server.paint(&server.claim(JobKind::Generation).await).await;
    let all = read(&server, &path, None).await;
    assert_eq!(all.len(), 3);
    for statement in [
        "ALTER TABLE jobs DISABLE TRIGGER USER",
        "UPDATE jobs SET finished_at = finished_at - interval '2 days'",
        "ALTER TABLE jobs ENABLE TRIGGER USER",
        "UPDATE projects SET keep_events_days = 1",
    ] {
        sqlx::query(statement).execute(&server.pools.lease).await.unwrap();
    }
    domain::sweep::tidy(&server.pools.lease, &server.storage).await.unwrap();
    for seen in [None, Some("1"), Some("2"), Some("77")] {
        assert_eq!(read(&server, &path, seen).await, all[2..], "{seen:?}");
    }
    let finished = server.request(Method::GET, &path).header("last-event-id", "3");
    assert_eq!(finished.send().await.unwrap().status(), 204);
}
