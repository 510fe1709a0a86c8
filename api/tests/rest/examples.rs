//! The examples of the OpenAPI document, sent as Swagger UI sends them: "Try it out", then "Execute".

use domain::job::JobKind;
use serde_json::json;

use crate::test_server::TestServer;

#[tokio::test]
async fn every_example_is_accepted() {
    let server = TestServer::with_checkpoint().await;
    server.worker("worker", &JobKind::ALL).await;
    let dataset = server.dataset(1).await;
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
        let answer = server.post(&path.replace("{model}", "ember").replace("{id}", &dataset), &body).await;
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
