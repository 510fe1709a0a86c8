//! Keys: which requests need one, what a key allows, and how it ends.

use std::time::{Duration, Instant};

use api::Access;
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::callers::{PUBLIC, operations};
use crate::test_server::{Answer, TestServer, text};

/// Longest time in which a change of a key takes effect.
const EFFECTIVE: Duration = Duration::from_secs(5);

impl TestServer {
    /// The same installation as a server that asks for keys.
    async fn asking(&self) -> TestServer {
        self.another(Access::keys(self.pools.api.clone())).await
    }

    /// Sends a request with a key.
    async fn with_key(&self, key: &str, method: Method, path: &str) -> Answer {
        self.send(self.request(method, path).bearer_auth(key)).await
    }

    /// A new key, made with `admin`.
    async fn key(&self, admin: &str, request: &Value) -> (String, String) {
        let made = self.send(self.request(Method::POST, "/v1/keys").bearer_auth(admin).json(request)).await.expect(201);
        (text(&made["id"]), text(&made["key"]))
    }

    /// The first key, which a program on the same machine makes.
    async fn first_key(&self) -> String {
        text(&self.post("/v1/keys", &json!({"name": "first"})).await.expect(201)["key"])
    }
}

/// Whether the key has the scope of an operation.
fn has(scopes: &[&str], wanted: &str) -> bool {
    scopes.contains(&wanted) || wanted == "read" && scopes.iter().any(|scope| *scope != "admin")
}

#[tokio::test]
async fn each_route_asks_for_its_scope() {
    let open = TestServer::with_checkpoint().await;
    let server = open.asking().await;
    let admin = server.first_key().await;
    let mut keys = Vec::new();
    for scope in ["read", "generate", "train", "models", "admin"] {
        let (_, key) = server.key(&admin, &json!({"name": scope, "scopes": [scope]})).await;
        keys.push((vec![scope], key));
    }
    let (revoked, revoked_key) = server.key(&admin, &json!({"name": "revoked"})).await;
    server.with_key(&admin, Method::DELETE, &format!("/v1/keys/{revoked}")).await.expect(204);
    let (expired, expired_key) = server.key(&admin, &json!({"name": "expired"})).await;
    sqlx::query("UPDATE keys SET expires_at = clock_timestamp() - interval '1 second' WHERE id = $1::uuid")
        .bind(expired)
        .execute(&server.pools.lease)
        .await
        .unwrap();
    let unknown = format!("pyro_{}_{}", "0".repeat(32), "0".repeat(64));
    let mut other_secret = admin.clone();
    let last = if other_secret.ends_with('0') { '1' } else { '0' };
    other_secret.replace_range(other_secret.len() - 1.., &last.to_string());

    let document = server.with_key(&admin, Method::GET, "/openapi.json").await.expect(200);
    let mut asked = 0;
    for (method, path, operation) in operations(&document) {
        let Some(scopes) = operation["security"][0]["key"].as_array() else {
            assert!(PUBLIC.contains(&(method.as_str(), path.as_str())), "{method} {path} asks for no key");
            continue;
        };
        let scope = scopes.first().map(text);
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        // It names nothing, and the body is none: only who asks is of interest.
        let address = path.replace(['{', '}'], "");
        let ask = |key: &str| {
            let request = server.request(method.clone(), &address).header("content-type", "text/plain").body("?");
            server.send(request.bearer_auth(key))
        };
        for (scopes, key) in &keys {
            let answer = ask(key).await;
            if scope.as_ref().is_none_or(|scope| has(scopes, scope)) {
                assert!(![401, 403].contains(&answer.status), "{method} {path} {scopes:?}: {:#}", answer.body);
            } else {
                assert_eq!(answer.status, 403, "{method} {path} {scopes:?}: {:#}", answer.body);
                let scope = scope.as_deref().unwrap_or_default();
                assert!(text(&answer.body["detail"]).contains(scope), "{:#}", answer.body);
            }
        }
        for key in [&revoked_key, &expired_key] {
            ask(key).await.refuses(401, "");
        }
        asked += 1;
    }
    assert!(asked >= 50, "{asked}");
    for key in [unknown.as_str(), &other_secret, "pyro_", "hf_abcdef"] {
        let answer = server.with_key(key, Method::GET, "/v1/models").await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{key}");
    }
    server.with_key(&admin, Method::GET, "/v1/models").await.expect(200);
}

#[tokio::test]
async fn jobs_and_files_of_the_disk_ask_for_more_than_their_route() {
    let server = TestServer::with_checkpoint().await;
    let job = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let server = server.asking().await;
    let admin = server.first_key().await;
    let (_, reader) = server.key(&admin, &json!({"name": "reader", "scopes": ["read"]})).await;
    let (_, trainer) = server.key(&admin, &json!({"name": "trainer", "scopes": ["train"]})).await;
    let (_, painter) = server.key(&admin, &json!({"name": "painter", "scopes": ["generate"]})).await;
    let cancel = format!("/v1/jobs/{}/cancel", text(&job["id"]));
    for key in [&reader, &trainer] {
        server.with_key(key, Method::POST, &cancel).await.refuses(403, "");
        server.with_key(key, Method::DELETE, &format!("/v1/jobs/{}", text(&job["id"]))).await.refuses(403, "");
    }
    assert_eq!(server.with_key(&painter, Method::POST, &cancel).await.expect(200)["status"], "canceled");

    let (_, keeper) = server.key(&admin, &json!({"name": "keeper", "scopes": ["models"]})).await;
    let path = json!({"name": "clay", "source": {"kind": "path", "path": "clay.safetensors"}});
    let import = |key: &str| server.send(server.request(Method::POST, "/v1/models").bearer_auth(key).json(&path));
    import(&keeper).await.refuses(403, "");
    assert_eq!(server.count("imports").await, 0);
    import(&admin).await.expect(202);
}

#[tokio::test]
async fn without_a_key_only_the_own_machine_is_served() {
    let open = TestServer::with_checkpoint().await;
    let server = open.asking().await;
    server.get("/v1/models").await.expect(200);
    // Some client libraries always send a key.
    server.with_key("anything", Method::GET, "/v1/models").await.expect(200);
    for path in ["/v1/models", "/openapi.json", "/docs/", "/"] {
        for (header, value) in [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=192.0.2.1"),
            ("host", "pictures.example.com"),
            ("origin", "https://evil.example"),
            ("referer", "https://evil.example/page"),
        ] {
            let answer = server.send(server.request(Method::GET, path).header(header, value)).await;
            assert_eq!(answer.status, 403, "{path} {header}: {value}");
            assert!(text(&answer.body["detail"]).contains("keys create"), "{:#}", answer.body);
        }
        for (version, status) in [("1.1", "200"), ("1.0", "403")] {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let host = server.address;
            let head = format!("GET {path} HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer);
            let line = answer.lines().next().unwrap_or_default().to_owned();
            // `/` leads to the documentation.
            let redirects = path == "/" && status == "200" && line.contains(" 30");
            assert!(redirects || line.contains(status), "HTTP/{version} {path}: {line}");
        }
    }
    for path in ["/healthz", "/readyz"] {
        let probe = server.request(Method::GET, path).header("host", "pod-7").header("x-forwarded-for", "192.0.2.1");
        server.send(probe).await.expect(200);
    }
    // Everyone is served where the operator says so.
    let everyone = open.another(Access::everyone(open.pools.api.clone())).await;
    let forwarded = everyone.request(Method::GET, "/v1/models").header("x-forwarded-for", "192.0.2.1");
    everyone.send(forwarded).await.expect(200);
    everyone.first_key().await;
    everyone.get("/v1/models").await.refuses(401, "");
    server.is_refused_soon(None, 401).await;
}

#[tokio::test]
async fn the_first_key_closes_the_installation_for_ever() {
    let open = TestServer::with_checkpoint().await;
    let [first, second] = [open.asking().await, open.asking().await];
    second.get("/v1/models").await.expect(200);
    let made = first.post("/v1/keys", &json!({"name": "first"})).await.expect(201);
    assert_eq!(made["scopes"], json!(["read", "generate", "train", "models", "admin"]));
    let (id, admin) = (text(&made["id"]), text(&made["key"]));
    first.get("/v1/models").await.refuses(401, "");
    second.is_refused_soon(None, 401).await;

    let usual =
        first.send(first.request(Method::POST, "/v1/keys").bearer_auth(&admin).json(&json!({"name": "b"}))).await;
    let usual = usual.expect(201);
    assert_eq!(usual["scopes"], json!(["read", "generate", "train", "models"]));
    // The forms in which clients send a key.
    for value in [format!("Key {}", text(&usual["key"])), format!("bearer {}", text(&usual["key"]))] {
        first.send(first.request(Method::GET, "/v1/models").header("authorization", value)).await.expect(200);
    }
    let basic = first.request(Method::GET, "/v1/models").basic_auth("x", Some(text(&usual["key"])));
    first.send(basic).await.expect(200);

    // A secret is shown once, and not stored.
    let listed = first.with_key(&admin, Method::GET, "/v1/keys").await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    let secret = admin.rsplit('_').next().unwrap();
    assert!(!listed.to_string().contains(secret));
    let stored: String =
        sqlx::query_scalar("SELECT string_agg(k::text, ' ') FROM keys k").fetch_one(&first.pools.lease).await.unwrap();
    assert!(!stored.contains(secret) && !stored.contains(&admin));

    first.with_key(&admin, Method::DELETE, &format!("/v1/keys/{}", text(&usual["id"]))).await.expect(204);
    first.with_key(&admin, Method::DELETE, &format!("/v1/keys/{id}")).await.expect(204);
    for server in [&first, &second] {
        server.is_refused_soon(Some(&admin), 401).await;
        server.get("/v1/models").await.refuses(401, "");
    }
    // Only the operator's own command makes another one.
    let caller = domain::Caller::operator(domain::ProjectId::DEFAULT);
    let request = serde_json::from_value(json!({"name": "again", "scopes": ["admin", "read"]})).unwrap();
    let (_, token) = domain::key::create(&caller, &first.pools.api, request).await.unwrap();
    first.with_key(&token.reveal(), Method::GET, "/v1/models").await.expect(200);
}

impl TestServer {
    /// Waits until requests with the key are refused, which takes five seconds at most.
    async fn is_refused_soon(&self, key: Option<&str>, status: u16) {
        let since = Instant::now();
        loop {
            let request = self.request(Method::GET, "/v1/models");
            let answer = self.send(key.into_iter().fold(request, |request, key| request.bearer_auth(key))).await;
            if answer.status == status {
                return;
            }
            assert!(since.elapsed() < EFFECTIVE, "it is still served: {}", answer.status);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn a_revoked_key_ends_its_streams() {
    let open = TestServer::with_checkpoint().await;
    let job = open.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let [server, another] = [open.asking().await, open.asking().await];
    let admin = server.first_key().await;
    let (id, key) = server.key(&admin, &json!({"name": "follower", "scopes": ["read"]})).await;
    let follow = another.request(Method::GET, &text(&job["urls"]["events"])).bearer_auth(&key);
    let response = follow.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut stream = response.bytes_stream();
    stream.next().await.unwrap().unwrap();

    // A key with fewer scopes follows on.
    let change = server.request(Method::PATCH, &format!("/v1/keys/{id}")).bearer_auth(&admin);
    let changed = server.send(change.json(&json!({"scopes": ["generate"], "expires_at": null}))).await.expect(200);
    assert_eq!((&changed["scopes"], &changed["name"]), (&json!(["generate"]), &json!("follower")));
    server.with_key(&admin, Method::DELETE, &format!("/v1/keys/{id}")).await.expect(204);
    let since = Instant::now();
    let rest = async { while let Some(Ok(_)) = stream.next().await {} };
    tokio::time::timeout(Duration::from_secs(20), rest).await.expect("the stream ends");
    assert!(since.elapsed() < EFFECTIVE, "{:?}", since.elapsed());
    let revoked = server.request(Method::PATCH, &format!("/v1/keys/{id}")).bearer_auth(&admin);
    server.send(revoked.json(&json!({"name": "x"}))).await.refuses(409, "");
    server.with_key(&admin, Method::DELETE, &format!("/v1/keys/{id}")).await.expect(204);
    server.with_key(&admin, Method::DELETE, &format!("/v1/keys/{job}", job = text(&job["id"]))).await.refuses(404, "");
}

#[tokio::test]
async fn failed_attempts_are_limited_by_address() {
    let server = TestServer::with_checkpoint().await.asking().await;
    let admin = server.first_key().await;
    let wrong = format!("pyro_{}_{}", "0".repeat(32), "0".repeat(64));
    server.with_key(&admin, Method::GET, "/v1/models").await.expect(200);
    let mut refused = 0;
    let limited = loop {
        let answer = server.with_key(&wrong, Method::GET, "/v1/models").await;
        if answer.status != 401 {
            break answer;
        }
        refused += 1;
        assert!(refused < 100, "nothing limits them");
    };
    limited.refuses(429, "");
    assert!(refused >= 10, "{refused}");
    let seconds: u64 = limited.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    // A valid key is served, also one that this server has not seen.
    let request = serde_json::from_value(json!({"name": "new"})).unwrap();
    let caller = domain::Caller::operator(domain::ProjectId::DEFAULT);
    let (_, new) = domain::key::create(&caller, &server.pools.api, request).await.unwrap();
    server.with_key(&new.reveal(), Method::GET, "/v1/models").await.expect(200);
    server.with_key(&admin, Method::GET, "/v1/models").await.expect(200);
}

#[tokio::test]
async fn keys_that_make_no_sense() {
    let server = TestServer::new().await.asking().await;
    let long = "x".repeat(64);
    let huge = "x".repeat(1 << 20);
    for (field, body) in [
        ("name", json!({})),
        ("name", json!({"name": ""})),
        ("name", json!({"name": long})),
        ("name", json!({"name": "a\nb"})),
        ("name", json!({"name": "a\u{0}b"})),
        ("name", json!({"name": 7})),
        ("scopes", json!({"name": "a", "scopes": []})),
        ("scopes[0]", json!({"name": "a", "scopes": ["root"]})),
        ("scopes", json!({"name": "a", "scopes": "read"})),
        ("expires_at", json!({"name": "a", "expires_at": "2020-01-01T00:00:00Z"})),
        ("expires_at", json!({"name": "a", "expires_at": "soon"})),
        ("expires_at", json!({"name": "a", "expires_at": "+10000-01-01T00:00:00Z"})),
        ("expires_at", json!({"name": "a", "expires_at": 30})),
        ("expires", json!({"name": "a", "expires": "30d"})),
    ] {
        server.post("/v1/keys", &body).await.refuses(422, field);
    }
    for unreadable in
        [json!("soon"), json!("30d"), json!(""), json!("2027-01-31"), json!("2027-13-01T00:00:00Z"), json!(30)]
    {
        let answer = server.post("/v1/keys", &json!({"name": "a", "expires_at": unreadable})).await;
        answer.refuses(422, "expires_at");
        let message = text(&answer.body["errors"][0]["message"]);
        assert!(message.contains("such as `2027-01-31T12:00:00Z` (RFC 3339)"), "{unreadable}: {message}");
    }
    server.post("/v1/keys", &json!({"name": huge})).await.refuses(413, "");
    let several =
        server.post("/v1/keys", &json!({"name": "", "scopes": [], "expires_at": "2020-01-01T00:00:00Z"})).await;
    several.refuses(422, "name");
    assert_eq!(several.body["errors"].as_array().unwrap().len(), 3, "{:#}", several.body);
    assert_eq!(server.count("keys").await, 0);
    server.get("/v1/models").await.expect(200);

    let admin = server.first_key().await;
    let (id, _) = server.key(&admin, &json!({"name": "a"})).await;
    for (field, body) in [
        ("name", json!({"name": ""})),
        ("name", json!({"name": null, "scopes": []})),
        ("scopes", json!({"scopes": []})),
        ("expires_at", json!({"expires_at": "2020-01-01T00:00:00Z"})),
        ("id", json!({"id": "x"})),
    ] {
        let change = server.request(Method::PATCH, &format!("/v1/keys/{id}")).bearer_auth(&admin).json(&body);
        let answer = server.send(change).await;
        let field = if body["name"].is_null() && body.get("name").is_some() { "scopes" } else { field };
        answer.refuses(422, field);
    }
    for (method, path) in
        [(Method::GET, "/v1/keys/x"), (Method::DELETE, "/v1/keys/0193796a-8e5a-7c3b-9d1f-0e2a4c6b8d9f")]
    {
        server.with_key(&admin, method, path).await.refuses(404, "");
    }
}

#[tokio::test]
async fn uses_are_recorded() {
    let server = TestServer::new().await;
    let access = Access::keys(server.pools.api.clone());
    let server = server.another(access.clone()).await;
    let admin = server.first_key().await;
    server.with_key(&admin, Method::GET, "/v1/models").await.expect(200);
    access.record_uses().await.unwrap();
    let listed = server.with_key(&admin, Method::GET, "/v1/keys").await.expect(200);
    assert!(listed["items"][0]["last_used_at"].is_string(), "{listed:#}");
}
