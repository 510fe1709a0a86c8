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

#[test]
fn defaults_are_of_the_type_beside_them() {
    fn check(place: &str, value: &Value, count: &mut usize) {
        if let (Some(default), Some(types)) = (value.get("default"), value.get("type").map(type_names)) {
            let fits = types.iter().any(|name| match *name {
                "string" => default.is_string(),
                "integer" => default.is_i64() || default.is_u64(),
                "number" => default.is_number(),
                "boolean" => default.is_boolean(),
                "array" => default.is_array(),
                "object" => default.is_object(),
                "null" => default.is_null(),
                _ => false,
            });
            // A property named `type` has a schema where a type has its name.
            assert!(fits || types.is_empty(), "{place}: the default {default} is not of the type {types:?}");
            *count += 1;
        }
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, field)| check(&format!("{place}/{name}"), field, count));
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, item)| check(&format!("{place}/{index}"), item, count));
            }
            _ => {}
        }
    }
    fn type_names(types: &Value) -> Vec<&str> {
        match types {
            Value::String(name) => vec![name],
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    let document = serde_json::to_value(api::openapi()).unwrap();
    let mut count = 0;
    check("", &document, &mut count);
    assert!(count > 5, "{count}");
    let parameters = document["paths"]["/v1/models/{model}/export"]["post"]["parameters"].as_array().unwrap();
    let dtype = parameters.iter().find(|parameter| parameter["name"] == "dtype").unwrap();
    assert_eq!((&dtype["required"], &dtype["schema"]["type"]), (&json!(false), &json!("string")));
    assert_eq!(
        (&dtype["schema"]["enum"], &dtype["schema"]["default"]),
        (&json!(["f32", "f16", "bf16"]), &json!("f32"))
    );
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
