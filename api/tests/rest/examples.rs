//! The examples of the OpenAPI document, sent as Swagger UI sends them: "Try it out", then "Execute".

use domain::job::{self, ErrorClass, JobKind, LeasePolicy};
use serde_json::json;

use crate::test_server::{TestServer, text};

#[tokio::test]
async fn every_example_is_accepted() {
    let server = TestServer::with_checkpoint().await;
    server.worker("worker", &JobKind::ALL).await;
    let dataset = server.dataset(1).await;
    let made = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    server.paint(&server.claim(JobKind::Generation).await).await;
    let artifact = text(&server.get(&text(&made["urls"]["self"])).await.expect(200)["artifacts"][0]["id"]);
    let failed = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let (claim, policy) = (server.claim(JobKind::Generation).await, LeasePolicy::default());
    job::fail(&server.pools.lease, &claim, &policy, ErrorClass::InvalidInput, "no").await.unwrap();
    let document = server.get("/openapi.json").await.expect(200);
    let mut count = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let content = &item["post"]["requestBody"]["content"]["application/json"];
        if content.is_null() {
            continue;
        }
        let mut body = content["example"].clone();
        assert!(body.is_object(), "POST {path} has no example");
        if body.get("dataset").is_some() {
            body["dataset"] = json!(dataset);
        }
        let id = match path.split('/').nth(2) {
            Some("artifacts") => artifact.clone(),
            Some("jobs") => text(&failed["id"]),
            _ => dataset.clone(),
        };
        let answer = server.post(&path.replace("{model}", "ember").replace("{id}", &id), &body).await;
        if path == "/v1/session" {
            // The example is a key of no server, and this one asks for none.
            answer.refuses(409, "");
            continue;
        }
        assert!((200..300).contains(&answer.status), "POST {path} {body}: {:#}", answer.body);
        count += 1;
    }
    assert!(count >= 8, "{count}");
}
