//! Every operation of the contract × who may send it: the right key, one of another project, one without the scope, one
//! that is revoked or has expired, none, and a session from a page of another site. An operation without an example of
//! its request fails the test.

use std::collections::HashMap;

use api::{Access, Names};
use domain::job::JobKind;
use reqwest::header::{COOKIE, ORIGIN, SET_COOKIE};
use reqwest::multipart::Form;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::callers::{PROJECTS, PUBLIC, Rows, operations};
use crate::test_server::{Answer, TestServer, picture_part, png, text};

const SCOPES: [&str; 5] = ["read", "generate", "train", "models", "admin"];

/// An operation of the contract.
struct Operation {
    id: String,
    method: Method,
    path: String,
    /// `None`: it asks for no key.
    scope: Option<String>,
    takes_body: bool,
    /// Names of the parameters that its query must have.
    query: Vec<String>,
}

impl Operation {
    fn all(document: &Value) -> Vec<Self> {
        let read = |(method, path, operation): (String, String, &Value)| {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let required = parameters.filter(|parameter| parameter["in"] == "query" && parameter["required"] == true);
            Self {
                id: text(&operation["operationId"]),
                method: Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(),
                path,
                scope: operation["security"][0]["key"]
                    .as_array()
                    .map(|scopes| scopes.first().map(text).unwrap_or_default()),
                takes_body: operation.get("requestBody").is_some(),
                query: required.map(|parameter| text(&parameter["name"])).collect(),
            }
        };
        operations(document).into_iter().map(read).collect()
    }

    fn is_public(&self) -> bool {
        PUBLIC.contains(&(self.method.as_str().to_lowercase().as_str(), self.path.as_str()))
    }

    fn changes(&self) -> bool {
        self.method != Method::GET
    }

    /// Its addresses, each with what an owner of these rows has.
    fn addresses(&self, rows: &Rows) -> Vec<String> {
        let query: Vec<String> = self.query.iter().map(|name| example_of_query(&self.id, name)).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let paths = match self.path.contains('{') {
            false => vec![self.path.clone()],
            true if self.path.starts_with(PROJECTS) => vec![self.path.replace("{project}", "default")],
            true => rows.addresses(&self.path),
        };
        paths.into_iter().map(|path| path + &query).collect()
    }

    /// The address at which the example makes sense: only a checkpoint can be loaded, and only a LoRA be exported.
    fn address(&self, rows: &Rows) -> String {
        let mut addresses = self.addresses(rows);
        if ["load_model", "unload_model"].contains(&self.id.as_str()) {
            addresses.reverse();
        }
        addresses.swap_remove(0)
    }

    /// The example of its request.
    fn request(&self, server: &TestServer, address: &str, rows: &Rows, key: &str) -> RequestBuilder {
        let request = server.request(self.method.clone(), address);
        if !self.takes_body {
            return request;
        }
        let picture = || Form::new().part("image", picture_part(png(64, 64, 9)));
        let url = json!({"kind": "url", "url": "https://example.com/b.safetensors"});
        request.json(&match self.id.as_str() {
            "add_images" | "create_input" | "read_picture_info" => {
                return server.request(self.method.clone(), address).multipart(picture());
            }
            "log_in" => json!({"key": key}),
            "create_dataset" => json!({"name": "dogs"}),
            "create_upload" => json!({"file_name": "fox.png", "media_type": "image/png"}),
            "create_generation" => json!({"prompt": "a fox"}),
            "create_training" => json!({"name": "learned", "dataset": rows.id("dataset"), "steps": 5}),
            "import_model" => json!({"name": "brought", "source": url}),
            "change_model" => json!({"shared": true}),
            "load_model" | "unload_model" | "retry_job" => json!({}),
            "deliver_artifact" => json!({"upload_url": "https://example.com/fox"}),
            "create_model_upload" => json!({"bytes": 10}),
            "create_key" => json!({"name": "another"}),
            "change_key" => json!({"name": "renamed"}),
            "create_project" => json!({"name": "fresh"}),
            "create_webhook" => json!({"url": "https://example.com/hook"}),
            "change_webhook" => json!({"enabled": true}),
            "rotate_webhook_secret" => json!({}),
            "change_project" => json!({"retention": {"outputs_days": 30}}),
            other => panic!("no example of `{other}`: add one"),
        })
    }
}

fn example_of_query(operation: &str, name: &str) -> String {
    match (operation, name) {
        ("export_model", "format") => "format=kohya".to_owned(),
        ("delete_project", "confirm") => "confirm=default".to_owned(),
        _ => panic!("no example of `{name}` of `{operation}`: add one"),
    }
}

impl TestServer {
    /// Status and body of an answer; of one that succeeds only the status: it may be a stream without an end.
    async fn brief(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = if status < 300 { Value::Null } else { response.json().await.unwrap_or(Value::Null) };
        Answer { status, headers, body }
    }

    /// A key of this server's project. `server` asks for keys and has the first one, `admin`.
    async fn key_with(&self, name: &str, scopes: &[&str]) -> (String, String) {
        let made = self.post("/v1/keys", &json!({"name": name, "scopes": scopes})).await.expect(201);
        (text(&made["id"]), text(&made["key"]))
    }

    /// How many rows each table has.
    async fn counts(&self) -> HashMap<String, i64> {
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'",
        )
        .fetch_all(&self.pools.lease)
        .await
        .unwrap();
        let mut counts = HashMap::new();
        for table in tables {
            let count = self.count(&table).await;
            counts.insert(table, count);
        }
        counts
    }
}

/// Someone who sends a request, and what becomes of it.
struct Sender {
    name: &'static str,
    key: String,
    status: u16,
}

#[tokio::test]
async fn every_operation_and_everyone_who_may_send_it() {
    let owner = TestServer::new().await;
    let document = owner.get("/openapi.json").await.expect(200);
    let operations = Operation::all(&document);
    let rows = Rows::new(&owner).await;
    owner.worker("worker", &JobKind::ALL).await;
    // It has nothing: a name would lead to what it has itself.
    let strangers = owner.project("strangers").await;
    // The first look creates it.
    strangers.get("/v1/webhooks/secret").await.expect(200);
    // Each operation that deletes has a project with rows, so that the others keep theirs.
    let mut deleted = HashMap::new();
    for operation in operations.iter().filter(|operation| operation.method == Method::DELETE && !operation.is_public())
    {
        let project = owner.project(&operation.id).await;
        let rows = Rows::new(&project).await;
        let (_, key) = project.key_with("right", &SCOPES).await;
        deleted.insert(operation.id.clone(), (rows, key));
    }

    let (_, right) = owner.key_with("right", &SCOPES).await;
    let (_, stranger) = strangers.key_with("stranger", &SCOPES).await;
    let (revoked, revoked_key) = owner.key_with("revoked", &SCOPES).await;
    owner.delete(&format!("/v1/keys/{revoked}")).await.expect(204);
    let (expired, expired_key) = owner.key_with("expired", &SCOPES).await;
    sqlx::query("UPDATE keys SET expires_at = clock_timestamp() - interval '1 second' WHERE id = $1::uuid")
        .bind(expired)
        .execute(&owner.pools.lease)
        .await
        .unwrap();
    let mut lacking = HashMap::new();
    for scope in SCOPES {
        let others: Vec<&str> =
            if scope == "read" { vec!["admin"] } else { SCOPES.into_iter().filter(|other| *other != scope).collect() };
        lacking.insert(scope, owner.key_with(scope, &others).await.1);
    }
    // Its pages may call with a key.
    let app = "https://app.example.com";
    let names = Names { origins: vec![app.parse().unwrap()], ..Names::default() };
    let server = owner.with_names(names, Access::keys(owner.pools.api.clone())).await;
    let logged_in = server.post("/v1/session", &json!({"key": right})).await;
    let cookie = logged_in.headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();

    let before = owner.counts().await;
    for operation in &operations {
        let (id, address) = (&operation.id, operation.address(&rows));
        let request = || operation.request(&server, &address, &rows, &right);
        // A page of another site, with the cookie of the right key.
        if operation.changes() {
            for (header, value) in [
                (ORIGIN.as_str(), "https://evil.example"),
                (ORIGIN.as_str(), app),
                ("sec-fetch-site", "same-site"),
                ("sec-fetch-site", "cross-site"),
            ] {
                let answer = server.brief(request().header(COOKIE, &cookie).header(header, value)).await;
                assert_eq!(answer.status, 403, "{id} from a page elsewhere ({header}): {:#}", answer.body);
            }
            if !operation.is_public() {
                let answer = server.brief(request().header(COOKIE, &cookie)).await;
                assert_eq!(answer.status, 403, "{id} with a session, from nowhere: {:#}", answer.body);
            }
        }
        let Some(scope) = &operation.scope else {
            assert!(operation.is_public(), "{id} asks for no key");
            continue;
        };
        let answer = server.brief(request()).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{id} without a key");
        let mut senders = vec![
            Sender { name: "revoked", key: revoked_key.clone(), status: 401 },
            Sender { name: "expired", key: expired_key.clone(), status: 401 },
        ];
        // Any key may ask who it is.
        if id != "get_session" {
            senders.push(Sender { name: "without the scope", key: lacking[scope.as_str()].clone(), status: 403 });
        }
        for Sender { name, key, status } in senders {
            let answer = server.brief(request().bearer_auth(key)).await;
            assert_eq!(answer.status, status, "{id}, {name}: {:#}", answer.body);
        }
        // Projects belong to no project.
        if operation.path.contains('{') && !operation.path.starts_with(PROJECTS) {
            for address in operation.addresses(&rows) {
                let request = operation.request(&server, &address, &rows, &stranger);
                let answer = server.brief(request.bearer_auth(&stranger)).await;
                assert_eq!(answer.status, 404, "{id} of another project at {address}: {:#}", answer.body);
            }
        } else if !operation.changes() {
            let list = server.send(server.request(Method::GET, &address).bearer_auth(&stranger)).await.expect(200);
            let foreign = rows.ids().find(|id| list.to_string().contains(*id));
            assert_eq!(foreign, None, "{id} shows what another project has");
        }
    }
    assert_eq!(owner.counts().await, before, "a refused request has written something");

    for operation in &operations {
        let (rows, key) = deleted.get(&operation.id).map_or((&rows, &right), |(rows, key)| (rows, key));
        let request = operation.request(&server, &operation.address(rows), rows, key);
        let request = if operation.scope.is_some() { request.bearer_auth(key) } else { request };
        let answer = server.brief(request).await;
        // Jobs that are queued cannot be deleted or repeated.
        let is_done = answer.status < 300 || answer.status == 409;
        assert!(is_done, "{} with the right key: {} {:#}", operation.id, answer.status, answer.body);
    }
    assert!(operations.len() >= 67, "{}", operations.len());
}
