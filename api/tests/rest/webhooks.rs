//! Webhooks: who is notified of what, with which signature, and how often it is tried.

use std::time::{Duration, Instant};

use domain::job::{self, ErrorClass, JobKind, LeasePolicy, Reaper};
use outbox::Outbox;
use reqwest::Method;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio_util::sync::CancellationToken;

use crate::deliveries::{local, open_server, painted, sender};
use crate::sink::{Act, Received, Sink};
use crate::test_server::{TestServer, text};

const EVERY_EVENT: [&str; 5] = ["started", "progress", "succeeded", "failed", "canceled"];
/// Seconds after each failed try, after Standard Webhooks.
const PAUSES: [f64; 7] = [5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 86_400.0];

async fn webhook(server: &TestServer, url: &str, events: &[&str]) -> String {
    text(&server.post("/v1/webhooks", &json!({"url": url, "events": events})).await.expect(201)["id"])
}

/// What the sink has received, once there is as much.
async fn received(sink: &Sink, count: usize) -> Vec<Received> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let received = sink.received();
        if received.len() >= count {
            return received;
        }
        assert!(Instant::now() < until, "{} instead of {count}", received.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn deliveries(server: &TestServer, query: &str) -> Vec<Value> {
    let page = server.get(&format!("/v1/webhook-deliveries?limit=100&{query}")).await.expect(200);
    page["items"].as_array().unwrap().clone()
}

/// The only delivery, once `is_so`.
async fn delivery(server: &TestServer, is_so: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let found = deliveries(server, "").await;
        let [delivery] = found.as_slice() else { panic!("{found:#?}") };
        if is_so(delivery) {
            return delivery.clone();
        }
        assert!(Instant::now() < until, "{delivery:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn execute(server: &TestServer, statement: &'static str) -> u64 {
    sqlx::query(statement).execute(&server.pools.lease).await.unwrap().rows_affected()
}

async fn generation(server: &TestServer, webhook: &Value) -> Value {
    server.post("/v1/generations", &json!({"prompt": "a fox", "webhook": webhook})).await.expect(202)
}

fn body(received: &Received) -> Value {
    serde_json::from_slice(&received.body).unwrap()
}

fn types(received: &[Received]) -> Vec<String> {
    received.iter().map(|post| text(&body(post)["type"])).collect()
}

fn id(received: &Received) -> &str {
    received.headers["webhook-id"].to_str().unwrap()
}

#[tokio::test]
async fn events_are_signed_after_the_standard() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Status(204)]).await;
    let _sender = sender(&server).await;
    let created = server.post("/v1/webhooks", &json!({"url": sink.url("hook")})).await;
    assert_eq!(created.header("location"), format!("/v1/webhooks/{}", text(&created.body["id"])));
    let created = created.expect(201);
    assert_eq!(created["events"], json!(["succeeded", "failed", "canceled"]));
    assert_eq!(created["url"], format!("http://{}/hook", sink.address), "without its query");
    let answer = server.get("/v1/webhooks/secret").await;
    assert_eq!(answer.header("cache-control"), "no-store");
    let first = text(&answer.expect(200)["secret"]);
    assert_eq!(text(&server.get("/v1/webhooks/secret").await.expect(200)["secret"]), first);
    let accepts =
        |secret: &str, post: &Received| Webhook::new(secret).unwrap().verify(&post.body, &post.headers).is_ok();

    let (path, _) = painted(&server, &json!({"prompt": "a fox"})).await;
    let post = received(&sink, 1).await.remove(0);
    assert_eq!(post.line, "POST /hook?X-Amz-Signature=s3cret-hook");
    assert_eq!(post.headers["content-type"], "application/json");
    assert!(accepts(&first, &post), "{:?}", post.headers);
    let mut forged = post.clone();
    forged.body[10] ^= 1;
    assert!(!accepts(&first, &forged));
    let (told, shown) = (body(&post), server.get(&path).await.expect(200));
    assert_eq!((&told["type"], &told["data"]["id"]), (&json!("generation.succeeded"), &shown["id"]));
    assert_eq!(told["data"]["artifacts"], json!([shown["artifacts"][0]["id"]]));
    assert_eq!(told["data"]["urls"]["subject"], json!(path));
    assert_eq!(server.get(&text(&told["data"]["urls"]["self"])).await.expect(200)["id"], shown["id"]);

    // Both secrets during the overlap, then the new one alone.
    let rotated = server.post("/v1/webhooks/rotate-secret", &json!({"overlap_seconds": 3600})).await.expect(200);
    let second = text(&rotated["secret"]);
    assert!(rotated["previous_until"].is_string() && second != first);
    painted(&server, &json!({"prompt": "a fox"})).await;
    let post = received(&sink, 2).await.remove(1);
    assert!(accepts(&first, &post) && accepts(&second, &post), "{:?}", post.headers);
    let rotated = server.post("/v1/webhooks/rotate-secret", &json!({"overlap_seconds": 0})).await.expect(200);
    assert_eq!(rotated["previous_until"], Value::Null);
    painted(&server, &json!({"prompt": "a fox"})).await;
    let post = received(&sink, 3).await.remove(2);
    assert!(!accepts(&first, &post) && !accepts(&second, &post) && accepts(&text(&rotated["secret"]), &post));
}

#[tokio::test]
async fn a_sink_that_fails_gets_the_same_event_by_the_schedule() {
    let (_first, server) = open_server().await;
    let elsewhere = Sink::start(vec![Act::Status(200)]).await;
    let redirect = format!("HTTP/1.1 302 Go\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url("inside"));
    let mut script = vec![Act::Status(500), Act::Raw(redirect.into_bytes()), Act::Hangup, Act::Silent];
    script.extend(vec![Act::Status(404); 4]);
    script.push(Act::Status(200));
    let sink = Sink::start(script).await;
    webhook(&server, &sink.url("hook"), &["succeeded"]).await;
    let _sender = sender(&server).await;
    painted(&server, &json!({"prompt": "a fox"})).await;
    for (tried, pause) in (1..).zip(PAUSES) {
        let seconds = |delivery: &Value| {
            let next: chrono::DateTime<chrono::Utc> = text(&delivery["next_attempt_at"]).parse().unwrap();
            (next - chrono::Utc::now()).as_seconds_f64()
        };
        // During the try, the time of the try is shown.
        let failed = delivery(&server, |delivery| delivery["attempts"] == tried && seconds(delivery) > 0.0).await;
        let seconds = seconds(&failed);
        assert_eq!((&failed["status"], failed["error"].is_string()), (&json!("pending"), true));
        assert!((pause * 0.9 - 2.0..pause * 1.1).contains(&seconds), "try {tried}: {seconds} s instead of {pause}");
        assert!(!failed.to_string().contains("s3cret"), "{failed:#}");
        execute(&server, "UPDATE deliveries SET due_at = clock_timestamp()").await;
    }
    let failed = delivery(&server, |delivery| delivery["status"] == "failed").await;
    assert_eq!((&failed["attempts"], &failed["status_code"]), (&json!(8), &json!(404)));
    assert_eq!(failed["next_attempt_at"], Value::Null);
    let path = format!("/v1/webhook-deliveries/{}/redeliver", text(&failed["id"]));
    let again = server.send(server.request(Method::POST, &path)).await.expect(202);
    assert_eq!((&again["status"], &again["attempts"], &again["id"]), (&json!("pending"), &json!(0), &failed["id"]));
    let sent = delivery(&server, |delivery| delivery["status"] == "succeeded").await;
    assert_eq!((&sent["status_code"], &sent["error"]), (&json!(200), &Value::Null));

    let received = sink.received();
    assert_eq!((received.len(), elsewhere.connections()), (9, 0), "no redirect is followed");
    let whole: Vec<&Received> = received.iter().enumerate().filter(|(at, _)| *at != 2).map(|(_, post)| post).collect();
    assert!(whole.iter().all(|post| post.body == received[0].body), "the same bytes each time");
    assert!(received.iter().all(|post| id(post) == text(&failed["id"])), "the same id each time");
}

#[tokio::test]
async fn a_sender_that_dies_before_it_has_recorded_the_answer_leaves_a_duplicate() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Slow(Duration::from_mins(1)), Act::Status(200)]).await;
    webhook(&server, &sink.url("hook"), &["succeeded"]).await;
    let outbox = Outbox::new(server.pools.lease.clone(), server.storage.clone(), local().into());
    let dying = tokio::spawn(outbox.run(None, CancellationToken::new()));
    painted(&server, &json!({"prompt": "a fox"})).await;
    received(&sink, 1).await;
    dying.abort();
    assert_eq!(
        execute(&server, "UPDATE deliveries SET lease_until = clock_timestamp() WHERE sender IS NOT NULL").await,
        1
    );
    let _sender = sender(&server).await;
    let received = received(&sink, 2).await;
    assert_eq!((id(&received[0]), &received[0].body), (id(&received[1]), &received[1].body));
    let sent = delivery(&server, |delivery| delivery["status"] == "succeeded").await;
    assert_eq!((text(&sent["id"]).as_str(), &sent["attempts"]), (id(&received[0]), &json!(2)));
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Status(503), Act::Status(410), Act::Status(200)]).await;
    let hook = webhook(&server, &sink.url("hook"), &["succeeded"]).await;
    let path = format!("/v1/webhooks/{hook}");
    let sender = sender(&server).await;
    painted(&server, &json!({"prompt": "a fox"})).await;
    delivery(&server, |delivery| delivery["status_code"] == 503).await;
    execute(&server, "UPDATE deliveries SET due_at = clock_timestamp() + interval '1 hour'").await;
    painted(&server, &json!({"prompt": "a fox"})).await;
    received(&sink, 2).await;
    let until = Instant::now() + Duration::from_secs(10);
    while server.get(&path).await.expect(200)["enabled"] == true
        || !deliveries(&server, "status=pending").await.is_empty()
    {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let shown = server.get(&path).await.expect(200);
    assert!(text(&shown["disabled_reason"]).contains("410") && shown["disabled_at"].is_string(), "{shown:#}");
    let failed = deliveries(&server, &format!("status=failed&webhook={hook}")).await;
    assert_eq!(failed.len(), 2, "also the one that waited for its next try");
    painted(&server, &json!({"prompt": "a fox"})).await;
    assert_eq!(deliveries(&server, "").await.len(), 2, "nothing is posted to a disabled webhook");
    let redeliver = format!("/v1/webhook-deliveries/{}/redeliver", text(&failed[0]["id"]));
    server.send(server.request(Method::POST, &redeliver)).await.refuses(409, "");
    let patch = |body: Value| server.send(server.request(Method::PATCH, &path).json(&body));
    let enabled = patch(json!({"enabled": true, "events": ["failed"]})).await.expect(200);
    assert_eq!((&enabled["enabled"], &enabled["disabled_reason"]), (&json!(true), &Value::Null));
    assert_eq!((&enabled["events"], &enabled["url"]), (&json!(["failed"]), &shown["url"]));
    server.send(server.request(Method::POST, &redeliver)).await.expect(202);
    received(&sink, 3).await;
    let disabled = patch(json!({"enabled": false})).await.expect(200);
    assert_eq!(disabled["enabled"], false);
    server.delete(&path).await.expect(204);
    server.get(&path).await.refuses(404, "");
    assert_eq!(deliveries(&server, "").await.len(), 0);
    drop(sender);

    // The same for the endpoint of a request.
    let sink = Sink::start(vec![Act::Status(410)]).await;
    let _sender = self::sender(&server).await;
    generation(&server, &json!({"url": sink.url("own"), "events": ["started", "succeeded"]})).await;
    let claim = server.claim(JobKind::Generation).await;
    delivery(&server, |delivery| delivery["status"] == "failed").await;
    server.paint(&claim).await;
    assert_eq!((deliveries(&server, "").await.len(), sink.received().len()), (1, 1));
}

#[tokio::test]
async fn every_end_of_a_job_is_told() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Status(200)]).await;
    webhook(&server, &sink.url("hook"), &EVERY_EVENT).await;
    let _sender = sender(&server).await;
    let (pool, policy) = (
        &server.pools.lease,
        LeasePolicy {
            ttl: Duration::ZERO,
            beat: Duration::ZERO,
            crash_backoff: Duration::ZERO,
            ..LeasePolicy::default()
        },
    );
    painted(&server, &json!({"prompt": "a fox"})).await;
    assert_eq!(types(&received(&sink, 2).await).len(), 2);
    let request = json!({"prompt": "a fox"});
    let create = || server.post("/v1/generations", &request);
    create().await.expect(202);
    let claim = server.claim(JobKind::Generation).await;
    job::fail(pool, &claim, &policy, ErrorClass::InvalidInput, "No such fox.").await.unwrap();
    received(&sink, 4).await;
    // Canceled while it is queued.
    let queued = create().await.header("location").to_owned();
    server.send(server.request(Method::POST, &format!("{queued}/cancel"))).await.expect(200);
    received(&sink, 5).await;
    // Canceled while it runs.
    let running = create().await.header("location").to_owned();
    let claim = server.claim(JobKind::Generation).await;
    server.send(server.request(Method::POST, &format!("{running}/cancel"))).await.expect(200);
    job::canceled(pool, &claim).await.unwrap();
    received(&sink, 7).await;
    // Its workers die, one after the other.
    create().await.expect(202);
    for _ in 0..3 {
        server.claim(JobKind::Generation).await;
        execute(
            &server,
            "UPDATE jobs SET lease_until = clock_timestamp() - interval '1 second' WHERE status = 'running'",
        )
        .await;
        assert_eq!(Reaper::new(policy).tick(pool).await.unwrap(), 1);
    }
    let all = received(&sink, 11).await;
    let mut found = types(&all);
    found.sort();
    let told = |event: &str, count: usize| vec![format!("generation.{event}"); count];
    let expected = [told("canceled", 2), told("failed", 2), told("started", 6), told("succeeded", 1)].concat();
    assert_eq!(found, expected);
    let failed: Vec<Value> = all.iter().map(body).filter(|body| body["type"] == "generation.failed").collect();
    let classes: Vec<String> = failed.iter().map(|body| text(&body["data"]["error"]["class"])).collect();
    assert!(classes.contains(&"invalid_input".to_owned()) && classes.contains(&"crash".to_owned()), "{classes:?}");
}

#[tokio::test]
async fn progress_is_told_twice_in_a_second_and_tried_once() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Status(500)]).await;
    webhook(&server, &sink.url("hook"), &["progress"]).await;
    let own = Sink::start(vec![Act::Status(200)]).await;
    generation(&server, &json!({"url": own.url("own"), "events": ["progress"]})).await;
    let _sender = sender(&server).await;
    let claim = server.claim(JobKind::Generation).await;
    let began = Instant::now();
    let mut step = 0;
    while began.elapsed() < Duration::from_millis(1900) {
        step += 1;
        job::progress(&server.pools.lease, &claim, step, 1000, json!({})).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let most = began.elapsed().as_millis() as usize / 500 + 1;
    server.paint(&claim).await;
    received(&sink, 2).await;
    let count = deliveries(&server, "").await.len();
    let until = Instant::now() + Duration::from_secs(10);
    while !deliveries(&server, "status=pending").await.is_empty() {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (posts, own) = (sink.received(), own.received());
    assert_eq!(posts.len() + own.len(), count, "each is posted once");
    for posts in [&posts, &own] {
        assert!((2..=most).contains(&posts.len()), "{} in {most} half seconds", posts.len());
        let told = body(&posts[0]);
        assert_eq!((&told["type"], &told["data"]["total_steps"]), (&json!("generation.progress"), &json!(1000)));
        let mut times: Vec<chrono::DateTime<chrono::Utc>> =
            posts.iter().map(|post| text(&body(post)["timestamp"]).parse().unwrap()).collect();
        times.sort();
        assert!(times.windows(2).all(|pair| (pair[1] - pair[0]).num_milliseconds() >= 490), "{times:?}");
    }
    assert!(deliveries(&server, "status=failed").await.iter().all(|delivery| delivery["attempts"] == 1));
    execute(&server, "UPDATE deliveries SET created_at = created_at - interval '25 hours'").await;
    domain::sweep::tidy(&server.pools.lease, &server.storage).await.unwrap();
    assert_eq!(server.count("deliveries").await, 0);
}

#[tokio::test]
async fn a_request_names_its_own_webhook() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Status(200)]).await;
    let _sender = sender(&server).await;
    let shown = json!({"url": format!("http://{}/own", sink.address), "events": ["succeeded", "failed", "canceled"]});
    let created = generation(&server, &json!({"url": sink.url("own")})).await;
    assert_eq!(created["webhook"], shown);
    let (path, claim) = (text(&created["urls"]["self"]), server.claim(JobKind::Generation).await);
    server.paint(&claim).await;
    assert_eq!(received(&sink, 1).await[0].line, "POST /own?X-Amz-Signature=s3cret-own");
    let until = Instant::now() + Duration::from_secs(10);
    while server.count("job_webhooks WHERE query IS NOT NULL").await > 0 {
        assert!(Instant::now() < until, "the query is forgotten once everything is delivered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for path in [path.clone(), path.replace("generations", "jobs")] {
        assert_eq!(server.get(&path).await.expect(200)["webhook"], shown);
    }
    let told = deliveries(&server, &format!("job={}", text(&created["id"]))).await;
    assert_eq!((told.len(), &told[0]["webhook"]), (1, &Value::Null));
    let redeliver = format!("/v1/webhook-deliveries/{}/redeliver", text(&told[0]["id"]));
    server.send(server.request(Method::POST, &redeliver)).await.refuses(409, "");

    // A failed job is repeated with its webhook.
    let created = generation(&server, &json!({"url": sink.url("own"), "events": ["failed", "started"]})).await;
    let retry = format!("/v1/jobs/{}/retry", text(&created["id"]));
    let fail = async || {
        let claim = server.claim(JobKind::Generation).await;
        let policy = LeasePolicy::default();
        job::fail(&server.pools.lease, &claim, &policy, ErrorClass::InvalidInput, "no").await.unwrap();
    };
    fail().await;
    received(&sink, 3).await;
    let again = server.send(server.request(Method::POST, &retry)).await.expect(202);
    assert_eq!(again["webhook"]["events"], json!(["failed", "started"]));
    fail().await;
    received(&sink, 5).await;
    // A day later its URL is forgotten.
    let mut connection = server.pools.lease.acquire().await.unwrap();
    for statement in [
        "SET session_replication_role = replica",
        "UPDATE jobs SET finished_at = finished_at - interval '25 hours' WHERE status = 'failed'",
        "UPDATE deliveries SET ended_at = ended_at - interval '25 hours'",
        "SET session_replication_role = origin",
    ] {
        sqlx::query(statement).execute(&mut *connection).await.unwrap();
    }
    drop(connection);
    domain::sweep::tidy(&server.pools.lease, &server.storage).await.unwrap();
    let retry = format!("/v1/jobs/{}/retry", text(&again["id"]));
    server.send(server.request(Method::POST, &retry)).await.refuses(409, "webhook");
    let new = json!({"webhook": {"url": sink.url("new")}});
    let again = server.post(&retry, &new).await.expect(202);
    assert_eq!(again["webhook"]["url"], format!("http://{}/new", sink.address));
}

#[tokio::test]
async fn trainings_and_imports_name_webhooks_too() {
    let (_first, server) = open_server().await;
    let sink = Sink::start(vec![Act::Status(200)]).await;
    let _sender = sender(&server).await;
    let webhook = json!({"url": sink.url("own"), "events": ["canceled"]});
    let dataset = server.dataset(1).await;
    let training = json!({"name": "trained", "dataset": dataset, "steps": 5, "webhook": webhook});
    let training = server.post("/v1/trainings", &training).await.expect(202);
    let source = json!({"kind": "url", "url": "https://example.com/a.safetensors"});
    let import = json!({"name": "imported", "source": source, "webhook": webhook});
    let import = server.post("/v1/models", &import).await.expect(202);
    for (kind, job) in [("training", &training), ("import", &import)] {
        assert_eq!(job["webhook"]["events"], json!(["canceled"]), "{kind}");
        let before = sink.received().len();
        server.send(server.request(Method::POST, &text(&job["urls"]["cancel"]))).await.expect(200);
        let told = body(&received(&sink, before + 1).await[before]);
        assert_eq!((&told["type"], &told["data"]["id"]), (&json!(format!("{kind}.canceled")), &job["id"]));
    }
}

#[tokio::test]
async fn wrong_webhooks_are_refused() {
    let server = TestServer::with_checkpoint().await;
    let dataset = server.dataset(1).await;
    let before = (server.count("jobs").await, server.count("webhooks").await);
    let ok = "https://example.com/hook?key=hunter2";
    let wrong = [
        (json!({"url": "hook"}), "url"),
        (json!({"url": "ftp://example.com/"}), "url"),
        (json!({"url": "https://me:hunter2@example.com/"}), "url"),
        (json!({"url": "http://example.com/"}), "url"),
        (json!({"url": "https://127.0.0.1/"}), "url"),
        (json!({"url": "https://169.254.169.254/latest"}), "url"),
        (json!({"url": "https://[::ffff:10.0.0.1]/"}), "url"),
        (json!({"url": format!("https://example.com/{}", "a".repeat(8192))}), "url"),
        (json!({"url": 1}), "url"),
        (json!({"events": ["failed"]}), "url"),
        (json!({"url": ok, "events": []}), "events"),
        (json!({"url": ok, "events": ["failed", "failed"]}), "events[1]"),
        (json!({"url": ok, "events": ["finished"]}), "events[0]"),
        (json!({"url": ok, "events": "failed"}), "events"),
        (json!({"url": ok, "secret": "x"}), "secret"),
    ];
    let source = json!({"kind": "url", "url": "https://example.com/a.safetensors"});
    for (webhook, field) in &wrong {
        let answer = server.post("/v1/webhooks", webhook).await;
        answer.refuses(422, field);
        assert!(!answer.body.to_string().contains("hunter2"), "{}", answer.body);
        for (path, mut request) in [
            ("/v1/generations", json!({"prompt": "a fox"})),
            ("/v1/trainings", json!({"name": "t", "dataset": dataset, "steps": 5})),
            ("/v1/models", json!({"name": "m", "source": source})),
        ] {
            request["webhook"] = webhook.clone();
            let answer = server.post(path, &request).await;
            answer.refuses(422, &format!("webhook.{field}"));
            assert!(!answer.body.to_string().contains("hunter2"), "{}", answer.body);
        }
    }
    server.post("/v1/generations", &json!({"prompt": "a fox", "webhook": [ok]})).await.refuses(422, "webhook");
    assert_eq!((server.count("jobs").await, server.count("webhooks").await), before);

    let hook = text(&server.post("/v1/webhooks", &json!({"url": ok})).await.expect(201)["id"]);
    let patch = |body: Value| server.send(server.request(Method::PATCH, &format!("/v1/webhooks/{hook}")).json(&body));
    patch(json!({"url": "https://10.0.0.1/"})).await.refuses(422, "url");
    patch(json!({"events": []})).await.refuses(422, "events");
    patch(json!({"enabled": "no"})).await.refuses(422, "enabled");
    patch(json!({"enable": true})).await.refuses(422, "enable");
    for seconds in [json!(-1), json!(604_801), json!("1h")] {
        let answer = server.post("/v1/webhooks/rotate-secret", &json!({"overlap_seconds": seconds})).await;
        answer.refuses(422, "overlap_seconds");
    }
    for query in ["status=done", "webhook=x", "job=1", "limit=0", "state=failed"] {
        let field = query.split('=').next().unwrap();
        server.get(&format!("/v1/webhook-deliveries?{query}")).await.refuses(422, field);
    }
    for _ in 1..50 {
        server.post("/v1/webhooks", &json!({"url": ok})).await.expect(201);
    }
    server.post("/v1/webhooks", &json!({"url": ok})).await.refuses(409, "");
    // Each older secret would sign for a day.
    for _ in 0..8 {
        server.post("/v1/webhooks/rotate-secret", &json!({})).await.expect(200);
    }
    server.post("/v1/webhooks/rotate-secret", &json!({})).await.refuses(409, "overlap_seconds");
    server.post("/v1/webhooks/rotate-secret", &json!({"overlap_seconds": 0})).await.expect(200);
    assert!(!server.get("/v1/webhooks").await.body.to_string().contains("hunter2"));
    let audit = server.get("/v1/audit?limit=100").await.expect(200).to_string();
    assert!(audit.contains("webhook.create") && audit.contains("webhook.rotate_secret"), "{audit}");
    assert!(!audit.contains("hunter2") && !audit.contains("example.com/hook"), "{audit}");
}
