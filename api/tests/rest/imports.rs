//! Imports by JSON: a mistake in a source is named by its field, and one in an upload by its part.

use bytes::Bytes;
use domain::StorageKey;
use domain::job::{self, ErrorClass, JobKind, LeasePolicy};
use serde_json::{Value, json};

use crate::test_server::{FLUX_MODULE, TestServer, lora, text};

/// The answer to an import of this source, with these parts.
async fn ask(server: &TestServer, source: &Value, parts: &Value) -> crate::test_server::Answer {
    server.post("/v1/models", &json!({"name": "x", "source": source, "parts": parts})).await
}

#[tokio::test]
async fn a_wrong_field_of_a_source_is_named_by_its_path() {
    let server = TestServer::new().await;
    let id = "00000000-0000-7000-8000-000000000000";
    for (source, field, says) in [
        (json!({"kind": "url", "url": null}), "source.url", "missing"),
        (json!({"kind": "url", "url": 5}), "source.url", "text"),
        (json!({"url": "https://a.b/c"}), "source.kind", "missing"),
        (json!({"kind": "ftp"}), "source.kind", "`hugging_face`"),
        (json!({"kind": 7}), "source.kind", "`hugging_face`"),
        (json!({"kind": "url", "url": "https://a.b/c", "repo": "a/b"}), "source.repo", "no such field"),
        (json!({"kind": "url", "url": "https://a.b/c", "colour": 1}), "source.colour", "no such field"),
        (json!({"kind": "url", "url": "https://a.b:99999/c"}), "source.url", "port"),
        (json!({"kind": "hugging_face", "repo": "a/b", "files": [7]}), "source.files[0]", "path"),
        (
            json!({"kind": "hugging_face", "repo": "a/b", "files": ["a", {"path": "b", "upload": id}]}),
            "source.files[1]",
            "path",
        ),
        (json!({"kind": "upload", "files": ["a"]}), "source.files[0]", "object"),
        (
            json!({"kind": "upload", "files": [{"path": "a", "upload": "u1"}]}),
            "source.files[0].upload",
            "Send the `id`",
        ),
        (json!({"kind": "upload", "files": [{"path": "a"}]}), "source.files[0].upload", "missing"),
        (json!({"kind": "upload", "files": [{"path": "a/../b", "upload": id}]}), "source.files[0].path", "`a/../b`"),
        (json!("https://a.b/c"), "source", "an object"),
    ] {
        let answer = ask(&server, &source, &Value::Null).await;
        answer.refuses(422, field);
        let message = text(&answer.body["errors"][0]["message"]);
        assert!(message.contains(says) && !message.contains("struct") && !message.contains("enum"), "{message}");
    }
    let good = json!({"kind": "url", "url": "https://a.b/c"});
    ask(&server, &good, &json!({"vae": {"kind": "path", "path": 5}})).await.refuses(422, "parts.vae.path");
    ask(&server, &good, &json!({"vae": {"kind": "path"}})).await.refuses(422, "parts.vae.path");
    ask(&server, &good, &json!({"unet": good})).await.refuses(422, "parts.unet");
    for url in ["https://x.invalid?y=1", "HTTPS://X.INVALID/x", "https://münchen.invalid/x"] {
        let source = json!({"kind": "url", "url": url});
        let import = server.post("/v1/models", &json!({"name": "x", "source": source})).await.expect(202);
        server.post(&text(&import["urls"]["cancel"]), &json!({})).await.expect(200);
    }
}

#[tokio::test]
async fn a_part_that_is_not_whole_is_named_with_its_size() {
    let server = TestServer::new().await;
    let file = lora(FLUX_MODULE);
    let upload = server.post("/v1/uploads", &json!({"bytes": file.len()})).await.expect(201);
    let id = text(&upload["id"]);
    let source = json!({"kind": "upload", "files": [{"path": "ü.safetensors", "upload": id}]});
    let refusal = async || {
        let answer = ask(&server, &source, &Value::Null).await;
        answer.refuses(409, "source.files[0].upload");
        text(&answer.body["errors"][0]["message"])
    };
    let missing = refusal().await;
    assert!(missing.contains("Part 1") && missing.contains("not there yet"), "{missing}");
    let key = StorageKey::UploadPart { upload: id.parse().unwrap(), number: 1 }.to_string();
    server.storage.put(&key, Bytes::from_static(b"five!"), "application/octet-stream").await.unwrap();
    let short = refusal().await;
    assert!(short.contains("has 5 bytes") && short.contains(&file.len().to_string()), "{short}");
    server.storage.delete(&key).await.unwrap();
    server.storage.put(&key, file.into(), "application/octet-stream").await.unwrap();
    ask(&server, &source, &Value::Null).await.expect(202);
}

/// The import that has made a model of an upload deletes it.
#[tokio::test]
async fn an_upload_belongs_to_one_import() {
    let server = TestServer::new().await;
    let file = lora(FLUX_MODULE);
    let upload = server.post("/v1/uploads", &json!({"bytes": file.len()})).await.expect(201);
    let id = text(&upload["id"]);
    let key = StorageKey::UploadPart { upload: id.parse().unwrap(), number: 1 }.to_string();
    server.storage.put(&key, file.into(), "application/octet-stream").await.unwrap();
    let source = json!({"kind": "upload", "files": [{"path": "a.safetensors", "upload": id}]});
    let import = async |name: &str| server.post("/v1/models", &json!({"name": name, "source": source})).await;

    let twice = json!({"kind": "upload", "files": [source["files"][0], {"path": "b.safetensors", "upload": id}]});
    ask(&server, &twice, &Value::Null).await.refuses(422, "source.files[1].upload");
    ask(&server, &source, &json!({"vae": source})).await.refuses(422, "parts.vae.files[0].upload");

    let answers = tokio::join!(import("a"), import("b"), import("c"));
    let (taken, refused): (Vec<_>, Vec<_>) =
        <[_; 3]>::from(answers).into_iter().partition(|answer| answer.status == 202);
    let Ok([taken]) = <[_; 1]>::try_from(taken) else { panic!("one of the three is taken") };
    let first = text(&taken.body["id"]);
    for refused in refused {
        refused.refuses(409, "source.files[0].upload");
        let message = text(&refused.body["errors"][0]["message"]);
        assert!(message.contains(&first) && message.contains("queued"), "{message}");
    }

    // A failed import has made nothing of it, so another may, and the first can be repeated only after that.
    let claim = server.claim(JobKind::Import).await;
    let policy = LeasePolicy::default();
    job::fail(&server.pools.lease, &claim, &policy, ErrorClass::InvalidInput, "It cannot be done.").await.unwrap();
    let second = import("d").await.expect(202);
    let retry = format!("/v1/jobs/{first}/retry");
    let refused = server.post(&retry, &json!({})).await;
    refused.refuses(409, "");
    assert!(text(&refused.body["detail"]).contains(&text(&second["id"])), "{:#}", refused.body);
    server.post(&text(&second["urls"]["cancel"]), &json!({})).await.expect(200);
    server.post(&retry, &json!({})).await.expect(202);
}
