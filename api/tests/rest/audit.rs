//! The audit log: each change to keys, projects and models has a row, which stays.

use api::Access;
use reqwest::Method;
use serde_json::{Value, json};

use crate::test_server::{FLUX_MODULE, TestServer, lora, text};

#[tokio::test]
async fn every_change_is_written_down_and_stays() {
    let open = TestServer::with_checkpoint().await;
    let server = open.another(Access::keys(open.pools.api.clone())).await;
    let first = server.post("/v1/keys", &json!({"name": "first"})).await.expect(201);
    let (admin, id) = (text(&first["key"]), text(&first["id"]));
    let send = async |method: Method, path: &str, body: Option<Value>| {
        let request = server.request(method, path).bearer_auth(&admin);
        server.send(body.iter().fold(request, |request, body| request.json(body))).await
    };
    let made = send(Method::POST, "/v1/keys", Some(json!({"name": "b", "scopes": ["read"]}))).await.expect(201);
    let path = format!("/v1/keys/{}", text(&made["id"]));
    send(Method::PATCH, &path, Some(json!({"scopes": ["train"], "expires_at": null}))).await.expect(200);
    send(Method::DELETE, &path, None).await.expect(204);
    // Again, which changes nothing.
    send(Method::DELETE, &path, None).await.expect(204);
    send(Method::PATCH, &path, Some(json!({"name": "c"}))).await.refuses(409, "");
    send(Method::POST, "/v1/projects", Some(json!({"name": "shop"}))).await.expect(201);
    send(Method::PATCH, "/v1/models/ember", Some(json!({"shared": true}))).await.expect(200);
    let form = reqwest::multipart::Form::new().text("name", "clay").text("base", "ember");
    let form = form.part("file", reqwest::multipart::Part::bytes(lora(FLUX_MODULE)).file_name("clay.safetensors"));
    let form = server.request(Method::POST, "/v1/models").bearer_auth(&admin).multipart(form);
    server.send(form).await.expect(201);
    send(Method::DELETE, "/v1/models/clay", None).await.expect(204);
    let url = json!({"kind": "url", "url": "https://example.com/a.safetensors?token=hunter2"});
    send(Method::POST, "/v1/models", Some(json!({"name": "ink", "source": url}))).await.expect(202);

    let listed = send(Method::GET, "/v1/audit", None).await.expect(200);
    let entries = listed["items"].as_array().unwrap();
    let actions: Vec<String> = entries.iter().rev().map(|entry| text(&entry["action"])).collect();
    let wanted = [
        "model.create",
        "key.create",
        "key.create",
        "key.change",
        "key.revoke",
        "project.create",
        "model.share",
        "model.create",
        "model.delete",
        "model.import",
    ];
    assert_eq!(actions, wanted, "{listed:#}");
    let of = |action: &str| entries.iter().find(|entry| entry["action"] == action).unwrap();
    assert_eq!(of("key.change")["details"], json!({"scopes": ["train"], "expires_at": null}));
    assert_eq!(of("key.revoke")["object"], made["id"]);
    assert_eq!(of("project.create")["details"], json!({"name": "shop"}));
    assert_eq!((&of("model.delete")["key"], &of("model.delete")["address"]), (&json!(id), &json!("127.0.0.1")));
    assert_eq!(entries[8]["key"], Value::Null, "the first key was made without one");
    for secret in [admin.rsplit('_').next().unwrap(), "hunter2", "example.com"] {
        assert!(!listed.to_string().contains(secret), "{secret}");
    }
    // What another project does is in its own log.
    let shop = server.request(Method::GET, "/v1/audit?limit=1").bearer_auth(&admin);
    let of_shop = server.send(shop.header("pyrograph-project", "shop")).await.expect(200);
    assert_eq!(of_shop["items"], json!([]));
    let page = send(Method::GET, "/v1/audit?limit=1", None).await.expect(200);
    assert!(page["next_cursor"].is_string() && page["items"][0] == entries[0]);

    for statement in ["UPDATE audit SET action = 'x'", "DELETE FROM audit", "TRUNCATE audit"] {
        let error = sqlx::query(statement).execute(&server.pools.lease).await.unwrap_err().to_string();
        assert!(error.contains("neither changed nor deleted"), "{statement}: {error}");
    }
    assert_eq!(server.count("audit").await, wanted.len() as i64);
}
