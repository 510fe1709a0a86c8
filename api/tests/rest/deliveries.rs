//! How pictures are delivered: in the response, by a CDN, and to URLs of the caller.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::StorageKey;
use domain::event::Feed;
use domain::job::{self, ErrorClass, JobKind, LeasePolicy};
use outbox::Outbox;
use outgoing::{Guard, GuardedClients};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::sink::{Act, Sink};
use crate::test_server::{TestServer, hex, png, text};

/// Sends what the outbox of a server contains, until it is dropped.
pub(crate) struct Sender(CancellationToken);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// It may reach this machine.
pub(crate) async fn sender(server: &TestServer) -> Sender {
    sender_within(server, &["127.0.0.0/8"]).await
}

async fn sender_within(server: &TestServer, networks: &[&str]) -> Sender {
    let guard = Guard::new(networks.iter().map(|network| network.parse().unwrap()).collect());
    let feed = Feed::start(server.pools.listen.clone()).await;
    let stop = CancellationToken::new();
    let outbox = Outbox::new(server.pools.lease.clone(), server.storage.clone(), GuardedClients::new(guard))
        .with_limit(Duration::from_secs(2));
    tokio::spawn(outbox.run(Some(feed), stop.clone()));
    Sender(stop)
}

pub(crate) fn local() -> Guard {
    Guard::new(vec!["127.0.0.0/8".parse().unwrap()])
}

/// A server whose deliveries may reach this machine.
pub(crate) async fn open_server() -> (TestServer, TestServer) {
    let first = TestServer::with_checkpoint().await;
    let server = first.with(|state| state.with_outbound(local())).await;
    (first, server)
}

fn upload_to(url: &str) -> Value {
    json!({"prompt": "a fox", "response_format": "upload", "upload_url": url})
}

/// The path of a generation that is uploaded to this URL, and whose picture is made.
pub(crate) async fn painted(server: &TestServer, request: &Value) -> (String, Vec<u8>) {
    let path = server.post("/v1/generations", request).await;
    let path = path.header("location").to_owned();
    let picture = server.paint(&server.claim(JobKind::Generation).await).await;
    (path, picture)
}

/// The delivery of the first picture, once it has ended.
async fn delivery(server: &TestServer, path: &str) -> Value {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let delivery = server.get(path).await.expect(200)["artifacts"][0]["delivery"].clone();
        if delivery.is_object() && delivery["status"] != "pending" {
            return delivery;
        }
        assert!(Instant::now() < until, "{delivery}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_picture_is_uploaded_to_the_callers_url() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Status(200)]).await;
    let _sender = sender(&server).await;
    let mut request = upload_to(&sink.url("fox"));
    request["upload_headers"] = json!({"X-Amz-Acl": "private"});
    let created = server.post("/v1/generations", &request).await.expect(202);
    assert_eq!(created["upload_urls"], json!([sink.url("fox")]), "as it was stated");
    assert_eq!((&created["output_format"], &created["output_quality"]), (&json!("jpeg"), &json!(65)));
    let path = text(&created["urls"]["self"]);
    let before = server.get(&path).await.expect(200);
    assert_eq!(before["response_format"], "upload");
    assert!(!before.to_string().contains("s3cret"), "{before:#}");
    assert_eq!(sink.connections(), 0, "before the picture is made");

    let picture = server.paint(&server.claim(JobKind::Generation).await).await;
    let delivery = delivery(&server, &path).await;
    assert_eq!((&delivery["status"], &delivery["status_code"]), (&json!("succeeded"), &json!(200)));
    assert_eq!((&delivery["attempts"], &delivery["error"]), (&json!(1), &Value::Null));
    assert!(delivery["delivered_at"].is_string());
    let received = sink.received();
    let [put] = received.as_slice() else { panic!("{received:?}") };
    assert_eq!(put.line, "PUT /fox?X-Amz-Signature=s3cret-fox");
    assert_eq!(put.body, picture);
    for header in [&format!("content-length: {}", picture.len()), "content-type: image/png", "x-amz-acl: private"] {
        assert!(put.head.contains(header), "{}", put.head);
    }
    assert!(!put.head.contains("referer") && !put.head.contains("cookie") && !put.head.contains("authorization"));
    assert_eq!(server.count("delivery_secrets").await, 0, "forgotten");
    // A stated format is kept.
    request["output_format"] = json!("png");
    assert_eq!(server.post("/v1/generations", &request).await.expect(202)["output_quality"], Value::Null);
}

#[tokio::test]
async fn a_sink_that_fails_three_times_is_tried_four_times() {
    let (_first, server) = open_server().await;
    let script = vec![Act::Status(503), Act::Hangup, Act::Status(429), Act::Status(204)];
    let sink = Sink::start(script).await;
    let _sender = sender(&server).await;
    let (path, picture) = painted(&server, &upload_to(&sink.url("fox"))).await;
    let delivery = delivery(&server, &path).await;
    assert_eq!((&delivery["status"], &delivery["attempts"]), (&json!("succeeded"), &json!(4)));
    let received = sink.received();
    assert_eq!(received.len(), 4);
    assert!(received.iter().filter(|put| put.body == picture).count() >= 3, "the same bytes each time");
    for (pair, pause) in received.windows(2).zip([1.0, 2.0, 4.0]) {
        let seconds = (pair[1].at - pair[0].at).as_secs_f64();
        // A busy machine may be late.
        assert!((pause * 0.95..pause + 1.5).contains(&seconds), "{seconds} s instead of {pause}");
    }
}

#[tokio::test]
async fn what_a_sink_answers_decides_what_becomes_of_the_delivery() {
    let (_first, server) = open_server().await;
    let elsewhere = Sink::start(vec![Act::Status(200)]).await;
    let redirect = format!("HTTP/1.1 307 Go\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url("inside"));
    let html = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 15\r\n\r\n<html>no</html>";
    let heads = format!("HTTP/1.1 200 OK\r\nx-a: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(10 << 20));
    let _sender = sender(&server).await;
    let acts = [
        (Act::Status(403), "failed", json!(403), 1),
        (Act::Status(404), "failed", json!(404), 1),
        (Act::Raw(redirect.into_bytes()), "failed", json!(307), 1),
        (Act::Raw(html.into()), "succeeded", json!(200), 1),
        (Act::Slow(Duration::from_secs(1)), "succeeded", json!(200), 1),
        (Act::Silent, "failed", Value::Null, 4),
        (Act::Raw(heads.into_bytes()), "failed", Value::Null, 4),
        (Act::Raw(b"no HTTP\r\n\r\n".to_vec()), "failed", Value::Null, 4),
        (Act::Status(500), "failed", json!(500), 4),
    ];
    let play = async |(act, status, code, attempts): (Act, &str, Value, i64)| {
        let sink = Sink::start(vec![act.clone()]).await;
        let (path, picture) = painted(&server, &upload_to(&sink.url("fox"))).await;
        let delivery = delivery(&server, &path).await;
        let shown = format!("{:.60}", format!("{act:?}"));
        assert_eq!(
            (&delivery["status"], &delivery["status_code"], &delivery["attempts"]),
            (&json!(status), &code, &json!(attempts)),
            "{shown}: {delivery}"
        );
        assert_eq!(delivery["error"].is_string(), status == "failed", "{shown}: {delivery}");
        assert!(!delivery.to_string().contains("s3cret"), "{delivery}");
        let generation = server.get(&path).await.expect(200);
        assert_eq!(generation["status"], "succeeded", "a failed delivery loses no picture");
        assert_eq!(server.download(&generation["artifacts"][0]["url"]).await, picture);
    };
    futures::future::join_all(acts.map(play)).await;
    assert_eq!(elsewhere.connections(), 0, "no redirect is followed");
}

#[tokio::test]
async fn a_failed_delivery_is_repeated_on_request() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Status(403), Act::Status(200)]).await;
    let _sender = sender(&server).await;
    let (path, picture) = painted(&server, &upload_to(&sink.url("first"))).await;
    assert_eq!(delivery(&server, &path).await["status"], "failed");
    let artifact = text(&server.get(&path).await.expect(200)["artifacts"][0]["id"]);
    let deliver = format!("/v1/artifacts/{artifact}/deliver");
    // To the same URL, which is known for a day.
    let again = server.send(server.request(Method::POST, &deliver)).await.expect(202);
    assert_eq!((&again["status"], &again["attempts"]), (&json!("pending"), &json!(0)));
    assert_eq!(delivery(&server, &path).await["status"], "succeeded");
    // Now it is forgotten.
    server.send(server.request(Method::POST, &deliver)).await.refuses(409, "");
    server.post(&deliver, &json!({"upload_headers": {"x-amz-acl": "private"}})).await.refuses(422, "upload_headers");
    server.post(&deliver, &json!({"upload_url": "ftp://example.com/"})).await.refuses(422, "upload_url");
    server.post(&deliver, &json!({"url": "https://example.com/"})).await.refuses(422, "url");
    server.post(&deliver, &json!({"upload_url": sink.url("second")})).await.expect(202);
    assert_eq!(delivery(&server, &path).await["status"], "succeeded");
    let lines: Vec<String> = sink.received().iter().map(|put| put.line.clone()).collect();
    let [first, second] = ["first", "second"].map(|path| format!("PUT /{path}?X-Amz-Signature=s3cret-{path}"));
    assert_eq!(lines, [first.clone(), first, second]);
    assert!(sink.received().iter().all(|put| put.body == picture));

    // An accepted upload is made before another one.
    server.post(&deliver, &json!({"upload_url": sink.url("third")})).await.expect(202);
    let asked =
        (0..4).map(|_| async { server.post(&deliver, &json!({"upload_url": sink.url("fourth")})).await.status });
    let asked = futures::future::join_all(asked).await;
    assert!(asked.iter().all(|status| [202, 409].contains(status)), "{asked:?}");
    assert_eq!(delivery(&server, &path).await["status"], "succeeded");
    let accepted = 1 + asked.iter().filter(|status| **status == 202).count();
    assert_eq!(sink.received().len(), 3 + accepted);

    // A picture that was not to be uploaded can be.
    let (plain, _) = painted(&server, &json!({"prompt": "a fox"})).await;
    let artifact = text(&server.get(&plain).await.expect(200)["artifacts"][0]["id"]);
    let deliver = format!("/v1/artifacts/{artifact}/deliver");
    server.send(server.request(Method::POST, &deliver)).await.refuses(409, "");
    server.post(&deliver, &json!({"upload_url": sink.url("plain")})).await.expect(202);
    assert_eq!(delivery(&server, &plain).await["status"], "succeeded");
    server.post("/v1/artifacts/01a22ec5-a209-71d8-a924-a71be5309c01/deliver", &json!({})).await.refuses(404, "");
}

#[tokio::test]
async fn a_url_sees_only_committed_bytes() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Slow(Duration::from_millis(300))]).await;
    let created = server.post("/v1/generations", &upload_to(&sink.url("fox"))).await;
    let path = created.header("location").to_owned();
    // A worker that stops has stored another picture; its job is taken over.
    let zombie = server.claim(JobKind::Generation).await;
    let key = StorageKey::Artifact { job: zombie.job, epoch: zombie.epoch, position: 0, extension: "png" }.to_string();
    server.storage.put(&key, Bytes::from(png(32, 32, 99)), "image/png").await.unwrap();
    job::release(&server.pools.lease, &zombie, "taken over").await.unwrap();
    let picture = server.paint(&server.claim(JobKind::Generation).await).await;
    let late = domain::generation::finish(&server.pools.lease, &zombie, Vec::new(), &[]).await;
    assert!(matches!(late, Err(domain::Error::LeaseLost)), "{late:?}");
    // A sender that dies in its try, and several that are alive.
    let dead = domain::delivery::claim(&server.pools.lease, uuid::Uuid::now_v7(), domain::delivery::Target::Upload, 10);
    let dead = dead.await.unwrap();
    assert_eq!(dead.len(), 1);
    let _senders = [sender(&server).await, sender(&server).await, sender(&server).await];
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(sink.connections(), 0, "the lease of the dead sender holds");
    sqlx::query("UPDATE deliveries SET lease_until = clock_timestamp()").execute(&server.pools.lease).await.unwrap();
    assert_eq!(delivery(&server, &path).await["attempts"], 2);
    // What the dead one would report is too late.
    let (outcome, answer) = (domain::delivery::Outcome::Failed, domain::delivery::Answer::error("dead"));
    let late = domain::delivery::settle(&server.pools.lease, &dead[0], &outcome, &answer).await;
    assert!(matches!(late, Err(domain::Error::LeaseLost)), "{late:?}");
    let received = sink.received();
    assert_eq!(received.len(), 1, "one sender of three");
    let committed = server.get(&path).await.expect(200)["artifacts"][0]["sha256"].clone();
    assert!(received.iter().all(|put| hex(&Sha256::digest(&put.body)) == committed && put.body == picture));
}

#[tokio::test]
async fn a_delivery_reaches_only_what_the_operator_allows() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Status(200)]).await;
    let _sender = sender_within(&server, &[]).await;
    let local = format!("http://localhost:{}/fox", sink.address.port());
    let (path, _) = painted(&server, &upload_to(&local)).await;
    let delivery = delivery(&server, &path).await;
    assert_eq!((&delivery["status"], &delivery["attempts"]), (&json!("failed"), &json!(1)));
    assert_eq!(delivery["status_code"], Value::Null);
    assert_eq!(sink.connections(), 0);
}

#[tokio::test]
async fn wrong_wishes_for_the_delivery_are_refused() {
    let server = TestServer::with_checkpoint().await;
    let ok = "https://example.com/fox?sig=1";
    let expired = "https://b.example.com/k?X-Amz-Date=20200101T000000Z&X-Amz-Expires=3600&X-Amz-Signature=a";
    for (fields, field) in [
        (json!({"response_format": "s3"}), "response_format"),
        (json!({"response_format": 1}), "response_format"),
        (json!({"response_format": "upload"}), "upload_urls"),
        (json!({"response_format": "upload", "upload_urls": []}), "upload_urls"),
        (json!({"response_format": "upload", "upload_urls": [ok, "https://example.com/b"]}), "upload_urls"),
        (json!({"response_format": "upload", "upload_url": ok, "num_images": 2}), "upload_url"),
        (json!({"response_format": "upload", "upload_urls": [ok, ok], "num_images": 2}), "upload_urls[1]"),
        (json!({"response_format": "upload", "upload_url": ok, "upload_urls": [ok]}), "upload_url"),
        (json!({"response_format": "upload", "upload_url": "file:///etc/passwd"}), "upload_url"),
        (json!({"response_format": "upload", "upload_url": "https://me:hunter2@example.com/"}), "upload_url"),
        (json!({"response_format": "upload", "upload_url": "http://169.254.169.254/latest"}), "upload_url"),
        (json!({"response_format": "upload", "upload_url": "https://127.0.0.1/"}), "upload_url"),
        (json!({"response_format": "upload", "upload_url": "https://[::ffff:10.0.0.1]/"}), "upload_url"),
        (json!({"response_format": "upload", "upload_url": "https://example.com:22/"}), "upload_url"),
        (json!({"response_format": "upload", "upload_url": expired}), "upload_url"),
        (json!({"response_format": "upload", "upload_url": ok, "upload_headers": {"host": "a"}}), "upload_headers"),
        (
            json!({"response_format": "upload", "upload_url": ok, "upload_headers": {"x-amz-a": "b\nc"}}),
            "upload_headers",
        ),
        (json!({"upload_url": ok}), "upload_url"),
        (json!({"upload_urls": [ok]}), "upload_urls"),
        (json!({"response_format": "b64_json", "upload_headers": {}}), "upload_headers"),
        (json!({"response_format": "binary"}), "response_format"),
    ] {
        let mut request = fields.clone();
        request["prompt"] = "a fox".into();
        let answer = server.send(server.request(Method::POST, "/v1/generations").json(&request)).await;
        answer.refuses(422, field);
        assert!(!answer.body.to_string().contains("hunter2"), "{}", answer.body);
    }
    let two = json!({"prompt": "a fox", "response_format": "binary", "num_images": 2});
    let request = server.request(Method::POST, "/v1/generations").header("prefer", "wait=1").json(&two);
    server.send(request).await.refuses(422, "response_format");
    assert_eq!((server.count("generations").await, server.count("deliveries").await), (0, 0));
}

#[tokio::test]
async fn a_failed_generation_is_repeated_with_its_urls_or_new_ones() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Status(200)]).await;
    let _sender = sender(&server).await;
    let failed = async |url: &str| {
        let path = server.post("/v1/generations", &upload_to(url)).await.header("location").to_owned();
        let claim = server.claim(JobKind::Generation).await;
        let policy = LeasePolicy::default();
        job::fail(&server.pools.lease, &claim, &policy, ErrorClass::InvalidInput, "no").await.unwrap();
        path.replace("generations", "jobs") + "/retry"
    };
    let retry = failed(&sink.url("one")).await;
    let again = server.send(server.request(Method::POST, &retry)).await.expect(202);
    server.paint(&server.claim(JobKind::Generation).await).await;
    assert_eq!(delivery(&server, &text(&again["urls"]["subject"])).await["status"], "succeeded");

    // A day later.
    let retry = failed(&sink.url("two")).await;
    // An ended job never changes, except for who may do without its guard.
    let mut connection = server.pools.lease.acquire().await.unwrap();
    for statement in [
        "SET session_replication_role = replica",
        "UPDATE jobs SET finished_at = finished_at - interval '25 hours' WHERE status = 'failed'",
        "SET session_replication_role = origin",
    ] {
        sqlx::query(statement).execute(&mut *connection).await.unwrap();
    }
    drop(connection);
    sqlx::query("UPDATE deliveries SET due_at = due_at - interval '25 hours' WHERE status = 'waiting'")
        .execute(&server.pools.lease)
        .await
        .unwrap();
    domain::sweep::tidy(&server.pools.lease, &server.storage).await.unwrap();
    assert_eq!(server.count("delivery_secrets").await, 0);
    server.send(server.request(Method::POST, &retry)).await.refuses(409, "upload_urls");
    server.post(&retry, &json!({"upload_urls": [sink.url("a"), sink.url("b")]})).await.refuses(422, "upload_urls");
    let again = server.post(&retry, &json!({"upload_url": sink.url("three")})).await.expect(202);
    server.paint(&server.claim(JobKind::Generation).await).await;
    assert_eq!(delivery(&server, &text(&again["urls"]["subject"])).await["status"], "succeeded");
    let lines: Vec<String> = sink.received().iter().map(|put| put.line.clone()).collect();
    assert_eq!(lines, ["one", "three"].map(|path| format!("PUT /{path}?X-Amz-Signature=s3cret-{path}")));
}

/// Answers a request once its picture is made, after `pause`.
async fn answered(server: &TestServer, request: &Value) -> reqwest::Response {
    let request = server.request(Method::POST, "/v1/generations").header("prefer", "wait=20").json(request);
    let (response, ()) = tokio::join!(request.send(), async {
        loop {
            let policy = LeasePolicy::default();
            let worker = domain::WorkerId::new();
            let claim = job::claim(&server.pools.lease, &[JobKind::Generation], worker, &[], &policy).await.unwrap();
            if let Some(claim) = claim {
                return drop(server.paint(&claim).await);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    response.unwrap()
}

#[tokio::test]
async fn the_response_is_the_picture_or_has_it_within() {
    let server = TestServer::with_checkpoint().await;
    let response = answered(&server, &json!({"prompt": "a fox", "response_format": "binary", "seed": 5})).await;
    assert_eq!(response.status(), 201);
    let headers = response.headers().clone();
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    assert_eq!((header("content-type"), header("pyrograph-seed")), ("image/png".to_owned(), "5".to_owned()));
    assert_eq!(header("preference-applied"), "wait=20");
    let bytes = response.bytes().await.unwrap();
    let generation = server.get(&header("location")).await.expect(200);
    assert_eq!(hex(&Sha256::digest(&bytes)), text(&generation["artifacts"][0]["sha256"]));
    assert_eq!(header("pyrograph-generation"), text(&generation["id"]));
    assert_eq!(header("pyrograph-artifact"), text(&generation["artifacts"][0]["id"]));

    let response = answered(&server, &json!({"prompt": "a fox", "response_format": "b64_json"})).await;
    let body: Value = response.json().await.unwrap();
    let picture = STANDARD.decode(text(&body["artifacts"][0]["b64_json"])).unwrap();
    assert_eq!(hex(&Sha256::digest(&picture)), text(&body["artifacts"][0]["sha256"]));
    let one = server.get(&text(&body["urls"]["self"])).await.expect(200);
    assert_eq!(one["artifacts"][0]["b64_json"], body["artifacts"][0]["b64_json"]);
    let list = server.get("/v1/generations").await.expect(200);
    assert_eq!(list["items"][0]["artifacts"][0]["b64_json"], Value::Null, "a list would be large");

    // Not done in time: JSON, and the same generation later.
    let late = json!({"prompt": "a fox", "response_format": "binary"});
    let request = server.request(Method::POST, "/v1/generations").header("prefer", "wait=0").json(&late);
    assert_eq!(server.send(request).await.expect(202)["status"], "queued");
}

#[tokio::test]
async fn a_wait_includes_the_upload() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Slow(Duration::from_millis(400))]).await;
    let _sender = sender(&server).await;
    let body: Value = answered(&server, &upload_to(&sink.url("fox"))).await.json().await.unwrap();
    assert_eq!(body["artifacts"][0]["delivery"]["status"], "succeeded", "{body:#}");
    assert_eq!(body["upload_urls"], json!([sink.url("fox")]));
}

#[tokio::test]
async fn a_cdn_shows_pictures_only() {
    let first = TestServer::with_checkpoint().await;
    let server = first.with(|state| state.with_cdn("https://cdn.example.com/p/".parse().unwrap())).await;
    let (path, _) = painted(&server, &json!({"prompt": "a fox"})).await;
    let url = text(&server.get(&path).await.expect(200)["artifacts"][0]["url"]);
    assert!(url.starts_with("https://cdn.example.com/p/artifacts/") && url.ends_with("/1/0.png"), "{url}");
    let page = server.get("/v1/models").await;
    assert!(page.header("content-security-policy").contains(" https://cdn.example.com;"));
    assert!(!page.header("content-security-policy").contains("https://cdn.example.com/p"));
}

#[tokio::test]
async fn a_deleted_generation_is_not_uploaded() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Status(200)]).await;
    let (path, _) = painted(&server, &upload_to(&sink.url("fox"))).await;
    server.delete(&path).await.expect(204);
    assert_eq!((server.count("deliveries").await, server.count("delivery_secrets").await), (0, 0));
    let _sender = sender(&server).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(sink.connections(), 0);
}

/// Row 2 of the promises: a request that is cut off at any moment has written everything or nothing.
#[tokio::test]
async fn a_request_that_is_cut_off_has_written_everything_or_nothing() {
    let (_first, server) = open_server().await;
    let body = json!({
        "prompt": "a fox", "num_images": 2, "response_format": "upload",
        "upload_urls": ["https://example.com/0?s=1", "https://example.com/1?s=1"],
    });
    let mut answered = 0;
    for attempt in 0..150_u64 {
        let request = server.request(Method::POST, "/v1/generations").json(&body).send();
        let limit = Duration::from_micros(200 * attempt);
        answered += i64::from(tokio::time::timeout(limit, request).await.is_ok_and(|answer| answer.is_ok()));
    }
    // The server may still be at work.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let counted: Vec<i64> =
        futures::future::join_all(["generations", "jobs", "job_events", "job_needs"].map(|table| server.count(table)))
            .await;
    assert!(counted.iter().all(|count| *count == counted[0]), "{counted:?}");
    assert!((answered..150).contains(&counted[0]) && answered > 0, "{answered} answered, {counted:?}");
    let sent = [server.count("deliveries").await, server.count("delivery_secrets").await];
    assert_eq!(sent, [2 * counted[0]; 2]);
}
