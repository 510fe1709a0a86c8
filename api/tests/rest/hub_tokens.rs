//! Callers with a token of the Hugging Face Hub: whom the rules admit, what they may do, and what happens while the Hub
//! is away.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::{Access, Hub, HubTimes, Rate};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use domain::job::JobKind;
use domain::{Caller, Principal, ProjectId, Scopes, access, project};
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use crate::test_server::{Answer, TestServer, text};

const ACME: &str = "hf_acmeCanary00000000000000000000000";
const JANE: &str = "hf_janeCanary00000000000000000000000";
const JOE: &str = "hf_joeCanary000000000000000000000000";

/// A server that speaks the part of the Hub's protocol about tokens.
struct FakeHub {
    url: Url,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The answer about each token.
    tokens: Mutex<HashMap<String, Value>>,
    asked: AtomicUsize,
    is_away: AtomicBool,
    leads_to: Mutex<Option<String>>,
}

/// What the Hub says about a token that reads.
fn user(name: &str, organisations: &[&str]) -> Value {
    with_token(name, organisations, &json!({"displayName": "x", "role": "read"}))
}

fn with_token(name: &str, organisations: &[&str], token: &Value) -> Value {
    let organisations: Vec<Value> = organisations.iter().map(|name| json!({"type": "org", "name": name})).collect();
    json!({"type": "user", "id": "1", "name": name, "orgs": organisations,
           "auth": {"type": "access_token", "accessToken": token}})
}

impl FakeHub {
    async fn start() -> Self {
        let shared: Arc<Shared> = Arc::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let app = Router::new().route("/api/whoami-v2", get(who_am_i)).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let hub = Self { url, shared };
        hub.knows(ACME, user("Someone", &["acme", "other"]));
        hub.knows(JANE, user("jane", &["acme2"]));
        hub.knows(JOE, user("joe", &[]));
        hub
    }

    fn knows(&self, token: &str, answer: Value) {
        self.shared.tokens.lock().unwrap().insert(token.to_owned(), answer);
    }

    fn forgets(&self, token: &str) {
        self.shared.tokens.lock().unwrap().remove(token);
    }

    fn is_away(&self, away: bool) {
        self.shared.is_away.store(away, Ordering::SeqCst);
    }

    /// How often it was asked since the last call.
    fn asked(&self) -> usize {
        self.shared.asked.swap(0, Ordering::SeqCst)
    }

    fn hub(&self, rules: &str) -> Hub {
        Hub::new(&self.url, rules.parse().unwrap()).unwrap()
    }
}

async fn who_am_i(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    shared.asked.fetch_add(1, Ordering::SeqCst);
    if let Some(address) = shared.leads_to.lock().unwrap().clone() {
        return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, address)]).into_response();
    }
    if shared.is_away.load(Ordering::SeqCst) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let token = headers[header::AUTHORIZATION].to_str().unwrap().strip_prefix("Bearer ").unwrap();
    match shared.tokens.lock().unwrap().get(token) {
        Some(answer) => Json(answer.clone()).into_response(),
        None => (StatusCode::UNAUTHORIZED, Json(json!({"error": "Invalid username or password."}))).into_response(),
    }
}

impl TestServer {
    /// The same installation as a server that admits tokens of the Hub, as `serve` starts it.
    async fn admitting(&self, hub: Hub) -> TestServer {
        self.another(self.admits(hub).await).await
    }

    /// Closes the installation and creates the projects that the rules name.
    async fn admits(&self, hub: Hub) -> Access {
        let operator = Caller::operator(ProjectId::DEFAULT);
        access::close(&operator, &self.pools.api).await.unwrap();
        for name in hub.rules().projects() {
            project::get_or_create(&operator, &self.pools.api, name).await.unwrap();
        }
        Access::keys_and_hub(self.pools.api.clone(), hub)
    }

    async fn with_token(&self, token: &str, method: Method, path: &str) -> Answer {
        self.send(self.request(method, path).bearer_auth(token)).await
    }

    async fn session(&self, token: &str) -> Answer {
        self.with_token(token, Method::GET, "/v1/session").await
    }
}

#[tokio::test]
async fn a_rule_admits_an_account_to_its_project() {
    let open = TestServer::with_checkpoint().await;
    let hub = FakeHub::start().await;
    let server = open.admitting(hub.hub("acme:shop,Jane:studio:train")).await;
    server.get("/v1/models").await.refuses(401, "");

    let acme = server.session(ACME).await.expect(200);
    let jane = server.session(JANE).await.expect(200);
    assert_eq!(
        (&acme["scopes"], &jane["scopes"]),
        (&json!(["read", "generate"]), &json!(["read", "generate", "train"]))
    );
    assert_ne!(acme["project"], jane["project"]);
    let dataset = |token: &str| {
        let request = server.request(Method::POST, "/v1/datasets").json(&json!({"name": "dogs"}));
        server.send(request.bearer_auth(token))
    };
    let refused = dataset(ACME).await;
    refused.refuses(403, "");
    assert!(text(&refused.body["detail"]).contains("token lacks the scope `train`"), "{:#}", refused.body);
    let path = format!("/v1/datasets/{}", text(&dataset(JANE).await.expect(201)["id"]));
    server.with_token(JANE, Method::GET, &path).await.expect(200);
    server.with_token(ACME, Method::GET, &path).await.refuses(404, "");
    let elsewhere = server.request(Method::GET, &path).bearer_auth(ACME).header("pyrograph-project", "studio");
    server.send(elsewhere).await.refuses(403, "");
    for (method, path) in [(Method::GET, "/v1/keys"), (Method::GET, "/v1/audit"), (Method::POST, "/v1/uploads")] {
        server.with_token(JANE, method, path).await.refuses(403, "");
    }

    // The Hub was asked once about each, also when many requests come at once.
    assert_eq!(hub.asked(), 2);
    hub.knows("hf_new", user("jane", &[]));
    let many = futures::future::join_all((0..20).map(|_| server.session("hf_new"))).await;
    assert!(many.iter().all(|answer| answer.status == 200), "{many:#?}");
    assert_eq!(hub.asked(), 1);

    // Only as `Bearer`, and not in place of a key.
    for value in [format!("Key {ACME}"), format!("Basic {}", "aGY6aGZfeA==")] {
        let request = server.request(Method::GET, "/v1/models").header("authorization", value);
        server.send(request).await.refuses(401, "Authorization");
    }
    let log_in = server.post("/v1/session", &json!({"key": ACME})).await;
    log_in.refuses(422, "key");
    assert_eq!(hub.asked(), 0);

    // A project that is deleted is closed to them.
    sqlx::query("DELETE FROM projects WHERE name = 'shop'").execute(&server.pools.lease).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    server.session(ACME).await.refuses(403, "");

    // No token is in a row.
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'",
    )
    .fetch_all(&server.pools.lease)
    .await
    .unwrap();
    for table in tables {
        let statement = format!(r#"SELECT coalesce(string_agg(t::text, ' '), '') FROM "{table}" t"#);
        let rows: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_one(&server.pools.lease).await.unwrap();
        assert!(!rows.contains("Canary"), "a token is in {table}");
    }
}

#[tokio::test]
async fn tokens_that_are_not_admitted() {
    let open = TestServer::new().await;
    let hub = FakeHub::start().await;
    // On an installation without keys, what a client sends is ignored.
    let asking = open.another(Access::keys(open.pools.api.clone())).await;
    asking.session(JANE).await.expect(200);
    let server = open.admitting(hub.hub("jane:studio")).await;
    // Another server without the rules.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    asking.session(JANE).await.refuses(401, "");
    assert_eq!(hub.asked(), 0);

    let fine = json!({"role": "fineGrained",
                      "fineGrained": {"global": ["inference.serverless.write"], "scoped": []}});
    hub.knows("hf_fine", with_token("jane", &[], &fine));
    hub.knows("hf_app", json!({"type": "user", "name": "jane", "orgs": [], "auth": {"type": "oauth_app"}}));
    for token in ["hf_unknown", "hf_fine", "hf_app", JOE, ACME] {
        let answer = server.session(token).await;
        answer.refuses(401, "");
        assert_eq!(answer.header("www-authenticate"), "Bearer", "{token}");
        assert!(!answer.body.to_string().contains(token), "{:#}", answer.body);
    }
    assert_eq!(hub.asked(), 5);
    server.session("hf_unknown").await.refuses(401, "");
    assert_eq!(hub.asked(), 0, "a refusal counts as long as an admission");
    server.session(JANE).await.expect(200);
    assert_eq!(server.count("datasets").await, 0);

    let everyone = open.admitting(hub.hub("jane:studio,*:guests")).await;
    assert_eq!(everyone.session(JOE).await.expect(200)["scopes"], json!(["read", "generate"]));
}

#[tokio::test]
async fn the_hub_is_not_asked_about_every_guess() {
    let open = TestServer::new().await;
    let hub = FakeHub::start().await;
    let server = open.admitting(hub.hub("jane:studio,acme:shop")).await;
    server.session(JANE).await.expect(200);
    hub.asked();
    // All at once: they are limited before the Hub has answered.
    let guesses: Vec<String> = (0..40).map(|number| format!("hf_guess{number}")).collect();
    let answers = futures::future::join_all(guesses.iter().map(|guess| server.session(guess))).await;
    let with = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((with(401), with(429), hub.asked()), (20, 20, 20));
    let limited = server.session(ACME).await;
    limited.refuses(429, "");
    assert!((1..=60).contains(&limited.header("retry-after").parse::<u64>().unwrap()));
    // One that is known goes in.
    server.session(JANE).await.expect(200);
}

#[tokio::test]
async fn while_the_hub_is_away_known_tokens_are_admitted() {
    let open = TestServer::new().await;
    let hub = FakeHub::start().await;
    let times = |away| HubTimes { fresh: Duration::from_millis(300), away, pause: Duration::from_millis(200) };
    let admitting = |away| hub.hub("jane:studio,acme:shop").with_times(times(away));
    // One that forgets whom the Hub has admitted as soon as it is away, as every server does after an hour.
    let forgetful = open.admitting(admitting(Duration::ZERO)).await;
    let server = open.admitting(admitting(HubTimes::default().away)).await;
    let times = times(Duration::ZERO);
    for server in [&server, &forgetful] {
        server.session(JANE).await.expect(200);
    }
    hub.is_away(true);
    tokio::time::sleep(times.fresh).await;
    hub.asked();
    server.session(JANE).await.expect(200);
    assert_eq!(hub.asked(), 1);
    forgetful.session(JANE).await.refuses(503, "");
    let unknown = server.session(ACME).await;
    unknown.refuses(503, "");
    assert!((1..=60).contains(&unknown.header("retry-after").parse::<u64>().unwrap()));
    assert!(!unknown.body.to_string().contains("Canary"));

    // A Hub that leads elsewhere is away, too, and the token stays here.
    let other = FakeHub::start().await;
    *hub.shared.leads_to.lock().unwrap() = Some(format!("{}api/whoami-v2", other.url));
    hub.is_away(false);
    tokio::time::sleep(times.pause).await;
    server.session(ACME).await.refuses(503, "");
    assert_eq!(other.asked(), 0);
    *hub.shared.leads_to.lock().unwrap() = None;
    hub.knows("hf_odd", json!(["not", "the", "Hub"]));
    server.session("hf_odd").await.refuses(503, "");

    tokio::time::sleep(times.pause).await;
    for token in [JANE, ACME] {
        server.session(token).await.expect(200);
        forgetful.session(token).await.expect(200);
    }
    // What the Hub takes back is taken back here.
    hub.forgets(JANE);
    tokio::time::sleep(times.fresh).await;
    server.session(JANE).await.refuses(401, "");
}

#[tokio::test]
async fn a_stream_ends_with_the_answer_about_its_token() {
    let open = TestServer::with_checkpoint().await;
    sqlx::query("UPDATE models SET shared = true").execute(&open.pools.lease).await.unwrap();
    let hub = FakeHub::start().await;
    let times = HubTimes { fresh: Duration::from_secs(3), ..HubTimes::default() };
    let server = open.admitting(hub.hub("jane:studio").with_times(times)).await;
    let generate = server.request(Method::POST, "/v1/generations").json(&json!({"prompt": "a fox"}));
    let job = server.send(generate.bearer_auth(JANE)).await.expect(202);
    let events = text(&job["urls"]["events"]);
    let response = server.request(Method::GET, &events).bearer_auth(JANE).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut stream = response.bytes_stream();
    stream.next().await.unwrap().unwrap();
    hub.forgets(JANE);
    let since = Instant::now();
    let rest = async { while let Some(Ok(_)) = stream.next().await {} };
    tokio::time::timeout(Duration::from_secs(20), rest).await.expect("the stream ends");
    assert!(since.elapsed() < times.fresh + Duration::from_secs(5), "{:?}", since.elapsed());
    server.with_token(JANE, Method::GET, &events).await.refuses(401, "");
    // The job of someone who has gone is still there.
    open.claim(JobKind::Generation).await;
}

#[tokio::test]
async fn an_account_has_one_rate_for_all_its_tokens() {
    let open = TestServer::with_checkpoint().await;
    let hub = FakeHub::start().await;
    hub.knows("hf_other", user("jane", &[]));
    let access = open.admits(hub.hub("jane:studio,joe:studio")).await;
    // One that does not fill up again during the test.
    let rate = Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::new(30).unwrap() };
    let server = open.with_rate(rate, access).await;
    let first = server.session(JANE).await;
    assert_eq!((first.status, first.header("ratelimit-policy")), (200, r#""account";q=30;w=30"#));
    let since = Instant::now();
    let tokens = [JANE, "hf_other"].into_iter().cycle().take(60);
    let answers = futures::future::join_all(tokens.map(|token| server.session(token))).await;
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    assert!((29..=30 + since.elapsed().as_secs() as usize).contains(&served), "{served}");
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        refused.refuses(429, "");
        assert!(text(&refused.body["detail"]).contains("account"), "{:#}", refused.body);
        assert_eq!(refused.header("ratelimit"), r#""account";r=0;t=1"#);
    }
    server.session(JOE).await.expect(200);
}

#[tokio::test]
async fn usage_is_counted_for_each_account() {
    let open = TestServer::with_checkpoint().await;
    sqlx::query("UPDATE models SET shared = true").execute(&open.pools.lease).await.unwrap();
    let hub = FakeHub::start().await;
    let server = open.admitting(hub.hub("jane:studio,joe:studio")).await;
    for token in [JANE, JANE, JOE] {
        let generate = server.request(Method::POST, "/v1/generations").json(&json!({"prompt": "a fox"}));
        server.send(generate.bearer_auth(token)).await.expect(202);
    }
    let usage = server.with_token(JANE, Method::GET, "/v1/usage?group_by=key").await.expect(200);
    let groups: Vec<_> = usage["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| {
            assert_eq!(group["key"], Value::Null);
            (text(&group["account"]), group["jobs"].as_i64().unwrap())
        })
        .collect();
    assert_eq!(groups, [("jane".to_owned(), 2), ("joe".to_owned(), 1)]);
}

#[tokio::test]
async fn the_audit_log_names_the_account() {
    let open = TestServer::new().await;
    let caller = Caller::new(ProjectId::DEFAULT, Principal::Hub("jane".into()), Scopes::ALL);
    let server = open.another(Access::open(caller)).await;
    server.post("/v1/projects", &json!({"name": "shop"})).await.expect(201);
    let entry = server.get("/v1/audit").await.expect(200)["items"][0].clone();
    assert_eq!(
        (&entry["action"], &entry["account"], &entry["key"], &entry["operator"]),
        (&json!("project.create"), &json!("jane"), &Value::Null, &json!(false))
    );
}
