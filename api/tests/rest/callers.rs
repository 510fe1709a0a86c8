//! Every route requires a caller, and rows of one project do not exist for another.

use std::collections::BTreeMap;

use api::Access;
use domain::job::JobKind;
use domain::{Caller, Principal, ProjectId, Scopes};
use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::test_server::{FLUX_MODULE, TestServer, checkpoint, lora, picture_part, png, text};

/// Operations that need no caller. `/docs`, `/openapi.json` and `/` are not part of the document.
pub(crate) const PUBLIC: [(&str, &str); 4] =
    [("get", "/healthz"), ("get", "/readyz"), ("post", "/v1/session"), ("delete", "/v1/session")];

/// Projects belong to no project: a caller who manages the installation sees all.
pub(crate) const PROJECTS: &str = "/v1/projects";

pub(crate) fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (method.clone(), path.clone(), operation))
    });
    operations.collect()
}

#[tokio::test]
async fn every_route_asks_who_the_caller_is() {
    let open = TestServer::with_checkpoint().await;
    let request = serde_json::from_value(json!({"name": "first"})).unwrap();
    domain::key::create(&Caller::anonymous(), &open.pools.api, request).await.unwrap();
    let closed = open.another(Access::keys(open.pools.api.clone())).await;
    let document = closed.get("/openapi.json").await.expect(200);
    let mut public = Vec::new();
    for (method, path, _) in operations(&document) {
        // Neither the path nor the body can be parsed, so a route that looks at one of them first responds differently.
        let address = path.replace(['{', '}'], "");
        let request = closed.request(Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), &address);
        let answer = closed.send(request.header("content-type", "text/plain").body("?")).await;
        if PUBLIC.contains(&(method.as_str(), path.as_str())) {
            assert_ne!(answer.status, 401, "{method} {path}");
            public.push(path);
        } else {
            assert_eq!(answer.status, 401, "{method} {path} is served without a caller: {:#}", answer.body);
            assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
        }
    }
    assert_eq!(public.len(), PUBLIC.len(), "{public:?}");
    assert_eq!(closed.request(Method::GET, "/docs/").send().await.unwrap().status(), 200);
}

impl TestServer {
    /// The same installation, as a caller of another project sees it.
    pub(crate) async fn project(&self, name: &str) -> TestServer {
        let id = ProjectId::new();
        sqlx::query("INSERT INTO projects (id, name) VALUES ($1, $2)")
            .bind(id.0)
            .bind(name)
            .execute(&self.pools.lease)
            .await
            .unwrap();
        self.another(Access::open(Caller::new(id, Principal::Anonymous, Scopes::ALL))).await
    }

    /// The ids of all rows of a list.
    async fn ids(&self, collection: &str) -> Vec<String> {
        let page = self.get(&format!("/v1/{collection}")).await.expect(200);
        page["items"].as_array().unwrap().iter().map(|item| text(&item["id"])).collect()
    }
}

/// One row of each noun, with its path.
pub(crate) struct Rows(BTreeMap<&'static str, String>);

impl Rows {
    pub(crate) async fn new(server: &TestServer) -> Self {
        server.import("ember", None, &checkpoint()).await.expect(201);
        let clay = server.import("clay", Some("ember"), &[("clay.safetensors", lora(FLUX_MODULE))]).await.expect(201);
        let input = server.post_form("/v1/inputs", Form::new().part("image", picture_part(png(64, 64, 1)))).await;
        let hook = server.post("/v1/webhooks", &json!({"url": "https://example.com/hook"})).await.expect(201);
        let made = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
        server.paint(&server.claim(JobKind::Generation).await).await;
        let made = server.get(&text(&made["urls"]["self"])).await.expect(200);
        let dataset = server.dataset(1).await;
        let example = server.get(&format!("/v1/datasets/{dataset}")).await.expect(200)["examples"][0]["id"].clone();
        let put = json!({"file_name": "fox.png", "media_type": "image/png"});
        let upload = server.post(&format!("/v1/datasets/{dataset}/uploads"), &put).await.expect(201);
        let training = json!({"name": "trained", "dataset": dataset, "steps": 5});
        let training = server.post("/v1/trainings", &training).await.expect(202);
        let source = json!({"kind": "url", "url": "https://example.com/a.safetensors"});
        let import = server.post("/v1/models", &json!({"name": "imported", "source": source})).await.expect(202);
        let export = server.post("/v1/models/clay/export?format=kohya", &json!({})).await.expect(202);
        let key = server.post("/v1/keys", &json!({"name": "a key"})).await.expect(201);
        let model_upload = server.post("/v1/uploads", &json!({"bytes": 10})).await.expect(201);
        let told = server.get("/v1/webhook-deliveries").await.expect(200)["items"][0]["id"].clone();
        let rows = [
            ("webhook", &hook["id"]),
            ("webhook_delivery", &told),
            ("model", &clay["id"]),
            ("input", &input.expect(201)["id"]),
            ("generation", &made["id"]),
            ("artifact", &made["artifacts"][0]["id"]),
            ("dataset", &json!(dataset)),
            ("example", &example),
            ("upload", &upload["id"]),
            ("training", &training["id"]),
            ("import", &import["id"]),
            ("export", &export["id"]),
            ("model_upload", &model_upload["id"]),
            ("key", &key["id"]),
        ]
        .map(|(noun, id)| (noun, text(id)));
        Self(rows.into())
    }

    pub(crate) fn id(&self, noun: &str) -> &str {
        &self.0[noun]
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }

    /// The URLs of a path of the document, filled in with these rows.
    pub(crate) fn addresses(&self, path: &str) -> Vec<String> {
        let path = path.replace("{image_id}", self.id("example")).replace("{upload_id}", self.id("upload"));
        let (parameter, values) = match path.split('/').nth(2).unwrap_or_default() {
            "artifacts" => ("{id}", vec![self.id("artifact")]),
            "generations" => ("{id}", vec![self.id("generation")]),
            "trainings" => ("{id}", vec![self.id("training")]),
            "imports" => ("{id}", vec![self.id("import")]),
            "exports" => ("{id}", vec![self.id("export")]),
            "jobs" => ("{id}", ["generation", "training", "import", "export"].map(|kind| self.id(kind)).to_vec()),
            "datasets" => ("{id}", vec![self.id("dataset")]),
            "inputs" => ("{id}", vec![self.id("input")]),
            "uploads" => ("{id}", vec![self.id("model_upload")]),
            "keys" => ("{id}", vec![self.id("key")]),
            "webhooks" => ("{id}", vec![self.id("webhook")]),
            "webhook-deliveries" => ("{id}", vec![self.id("webhook_delivery")]),
            "models" => ("{model}", vec![self.id("model"), "clay", "ember"]),
            other => panic!("no row for `{path}`: add one of `{other}` to `Rows`"),
        };
        values.into_iter().map(|value| path.replace(parameter, value)).collect()
    }
}

#[tokio::test]
async fn rows_of_one_project_do_not_exist_for_another() {
    let owner = TestServer::new().await;
    let rows = Rows::new(&owner).await;
    let stranger = owner.project("strangers").await;
    let document = owner.get("/openapi.json").await.expect(200);
    let collections: Vec<String> = operations(&document)
        .iter()
        .filter(|(method, path, _)| method == "get" && path.starts_with("/v1/") && path.matches('/').count() == 2)
        .filter(|(_, path, _)| ![PROJECTS, "/v1/session", "/v1/usage", "/v1/outbox"].contains(&path.as_str()))
        .map(|(_, path, _)| path.trim_start_matches("/v1/").to_owned())
        .collect();
    let mut before = Vec::new();
    for collection in &collections {
        before.push(owner.ids(collection).await);
        assert_eq!(stranger.ids(collection).await, [""; 0], "{collection}");
    }

    let mut asked = 0;
    for (method, path, operation) in operations(&document) {
        if !path.contains('{') || path.starts_with(PROJECTS) {
            continue;
        }
        for address in rows.addresses(&path) {
            let address = match operation["operationId"].as_str() {
                Some("export_model") => format!("{address}?format=kohya"),
                _ => address,
            };
            let mut request = stranger.request(Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), &address);
            let content = &operation["requestBody"]["content"];
            if content.get("multipart/form-data").is_some() {
                request = request.multipart(Form::new().part("image", picture_part(png(8, 8, 1))));
            } else if operation["operationId"] == "change_model" {
                request = request.json(&json!({"shared": true}));
            } else if operation["operationId"] == "create_upload" {
                request = request.json(&json!({"file_name": "fox.png", "media_type": "image/png"}));
            } else if content.get("application/json").is_some() {
                request = request.json(&json!({}));
            }
            stranger.send(request).await.refuses(404, "");
            asked += 1;
        }
    }
    assert!(asked >= 30, "{asked}");

    // The owner's rows are unchanged.
    for (collection, before) in collections.iter().zip(before) {
        assert_eq!(owner.ids(collection).await, before, "{collection}");
    }
    for noun in ["trainings", "imports", "exports"] {
        let listed = owner.get(&format!("/v1/{noun}")).await.expect(200);
        assert_eq!(listed["items"][0]["status"], "queued", "{noun}");
    }
}

#[tokio::test]
async fn requests_cannot_name_what_another_project_has() {
    let owner = TestServer::new().await;
    let rows = Rows::new(&owner).await;
    let stranger = owner.project("strangers").await;
    let generation = async |body: Value| stranger.post("/v1/generations", &body).await;
    generation(json!({"prompt": "a"})).await.refuses(404, "model");

    // A name is free in each project, and refers to the project's own model.
    let own = stranger.import("ember", None, &checkpoint()).await.expect(201);
    assert_ne!(owner.get("/v1/models/ember").await.expect(200)["id"], own["id"]);
    assert_eq!(stranger.get("/v1/models/ember").await.expect(200)["id"], own["id"]);
    let made = generation(json!({"prompt": "a"})).await.expect(202);
    assert_eq!(made["model"]["id"], own["id"]);
    owner.get(&text(&made["urls"]["self"])).await.refuses(404, "");

    generation(json!({"prompt": "a", "model": rows.id("model")})).await.refuses(404, "model");
    generation(json!({"prompt": "a", "loras": [{"model": "clay"}]})).await.refuses(404, "loras[0].model");
    for picture in ["input", "artifact"] {
        let body = json!({"prompt": "a", "image": rows.id(picture)});
        generation(body.clone()).await.refuses(404, "image");
        owner.post("/v1/generations", &body).await.expect(202);
    }
    let training = json!({"name": "trained", "dataset": rows.id("dataset"), "steps": 5});
    stranger.post("/v1/trainings", &training).await.refuses(404, "dataset");

    let url = json!({"kind": "url", "url": "https://example.com/a.safetensors"});
    let upload = json!({"kind": "upload", "files": [{"path": "a.safetensors", "upload": rows.id("model_upload")}]});
    for (field, body) in [
        ("base", json!({"name": "x", "source": url, "base": "clay"})),
        ("parts_of", json!({"name": "x", "source": url, "parts_of": rows.id("model")})),
        ("source.files[0].upload", json!({"name": "x", "source": upload})),
    ] {
        stranger.post("/v1/models", &body).await.refuses(404, field);
    }
    stranger.import("x", Some("clay"), &[("x.safetensors", lora(FLUX_MODULE))]).await.refuses(404, "base");

    // Names that the owner's queued jobs will take are free in this project, and taken in the owner's.
    stranger.post("/v1/models", &json!({"name": "imported", "source": url})).await.expect(202);
    owner.post("/v1/models", &json!({"name": "imported", "source": url})).await.refuses(409, "name");
}

#[tokio::test]
async fn workers_show_the_callers_jobs_and_models() {
    let owner = TestServer::with_checkpoint().await;
    let stranger = owner.project("strangers").await;
    let worker = owner.worker("first", &JobKind::ALL).await;
    let ember = owner.get("/v1/models/ember").await.expect(200);
    owner.post("/v1/models/ember/load", &json!({})).await.expect(202);
    owner.loads(worker, &text(&ember["sha256"])).await;
    let job = owner.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    owner.claim_as(JobKind::Generation, worker).await;

    let seen = owner.get("/v1/workers").await.expect(200)["items"][0].clone();
    assert_eq!((seen["jobs"].as_array().unwrap().len(), seen["swaps"].as_array().unwrap().len()), (1, 1));
    assert_eq!((&seen["resident"][0]["model"]["id"], &seen["other_jobs"]), (&ember["id"], &json!(0)));
    let seen = stranger.get("/v1/workers").await.expect(200)["items"][0].clone();
    assert_eq!((&seen["id"], &seen["jobs"], &seen["swaps"]), (&json!(worker), &json!([]), &json!([])));
    assert_eq!(
        (&seen["resident"], &seen["other_jobs"]),
        (&json!([{"model": null, "sha256": null, "bytes": 1}]), &json!(1))
    );
    for hidden in [&job["id"], &ember["sha256"]] {
        assert!(!seen.to_string().contains(&text(hidden)), "{seen:#}");
    }
    let pool = &owner.pools.lease;
    sqlx::query("UPDATE models SET shared = true").execute(pool).await.unwrap();
    let seen = stranger.get("/v1/workers").await.expect(200)["items"][0]["resident"][0].clone();
    assert_eq!((&seen["model"]["name"], &seen["sha256"]), (&json!("ember"), &ember["sha256"]));

    // The digest of a deleted model is known to those who had it.
    sqlx::query("UPDATE models SET shared = false, deleted_at = now()").execute(pool).await.unwrap();
    for (server, sha256) in [(&owner, &ember["sha256"]), (&stranger, &Value::Null)] {
        let seen = server.get("/v1/workers").await.expect(200)["items"][0]["resident"].clone();
        assert_eq!(seen, json!([{"model": null, "sha256": sha256, "bytes": 1}]));
    }
}
