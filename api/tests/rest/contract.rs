//! The OpenAPI document against the running server: every operation exists and responds as documented.

use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::test_server::TestServer;

#[tokio::test]
async fn every_operation_answers_as_documented() {
    let server = TestServer::with_checkpoint().await;
    let document = server.get("/openapi.json").await.expect(200);
    assert_eq!(document, serde_json::to_value(api::openapi()).unwrap());
    let nothing = "00000000-0000-7000-8000-000000000000";
    let mut count = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let address = ["id", "image_id", "upload_id"]
                .iter()
                .fold(path.clone(), |path, name| path.replace(&format!("{{{name}}}"), nothing));
            let address = address.replace("{model}", "nobody");
            let mut request = server.request(Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), &address);
            let content = &operation["requestBody"]["content"];
            if content.get("application/json").is_some() {
                request = request.json(&json!({
                    "name": "a", "dataset": nothing, "prompt": "a", "file_name": "a", "media_type": "image/png",
                }));
            } else if content.get("multipart/form-data").is_some() {
                request = request.multipart(Form::new().text("name", "a"));
            }
            let answer = server.send(request).await;
            let documented = &operation["responses"][answer.status.to_string()];
            assert!(
                documented.is_object(),
                "{method} {path} answers {} and does not say so: {:#}",
                answer.status,
                answer.body
            );
            if answer.status != 204 {
                let media_type = answer.header("content-type");
                assert!(documented["content"].get(media_type).is_some(), "{method} {path} answers {media_type}");
            }
            assert!(answer.status < 500, "{method} {path}: {:#}", answer.body);
            assert_eq!(answer.header("x-request-id").len(), 36);
            count += 1;
        }
    }
    assert!(count >= 24, "{count}");
}

#[tokio::test]
async fn requests_refuse_unknown_fields_by_contract() {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let schemas = &document["components"]["schemas"];
    for name in [
        "DatasetRequest",
        "UploadRequest",
        "GenerationRequest",
        "LoraRequest",
        "PictureInfoRequest",
        "PictureInfoForm",
        "TrainingRequest",
        "SwapRequest",
        "ImagesForm",
        "ModelForm",
    ] {
        assert_eq!(schemas[name]["additionalProperties"], Value::Bool(false), "{name}");
    }
    assert!(schemas["Problem"]["required"].as_array().unwrap().len() == 5);
}

#[tokio::test]
async fn the_documentation_needs_no_other_site() {
    let server = TestServer::new().await;
    let page = server.request(Method::GET, "/docs/").send().await.unwrap();
    assert_eq!(page.status(), 200);
    let page = page.text().await.unwrap();
    assert!(page.contains("swagger-ui") && !page.contains("https://"), "{page}");
    assert_eq!(server.get("/healthz").await.expect(200)["status"], "ok");
    assert_eq!(server.get("/readyz").await.expect(200)["status"], "ok");
}
