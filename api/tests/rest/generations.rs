//! Generations: the whole life of one, what is refused, and that a stale worker changes nothing.

use std::time::Duration;

use domain::job::{Claim, JobKind};
use domain::{Error, WorkerId, generation};
use reqwest::Method;
use serde_json::{Value, json};

use crate::test_server::{FLUX_MODULE, SDXL_MODULE, TestServer, hex, lora, text};
use sha2::{Digest, Sha256};

#[tokio::test]
async fn from_request_to_picture() {
    let server = TestServer::with_checkpoint().await;
    server.import("clay", Some("ember"), &[("clay.safetensors", lora(FLUX_MODULE))]).await.expect(201);
    let body =
        json!({"prompt": "a fox 🦊", "loras": [{"model": "clay", "scale": 0.5}], "seed": 5, "num_inference_steps": 3});
    let created = server.post("/v1/generations", &body).await;
    let path = created.header("location").to_owned();
    let created = created.expect(202);
    assert_eq!(
        created["urls"],
        json!({"self": path, "cancel": format!("{path}/cancel"), "events": format!("{path}/events")})
    );
    assert_eq!(created["status"], "queued");
    assert_eq!(
        (&created["width"], &created["true_cfg_scale"], &created["num_inference_steps"]),
        (&json!(64), &json!(3.0), &json!(3))
    );
    assert_eq!(created["loras"][0]["model"]["name"], "clay");
    assert_eq!(created, server.get(&path).await.expect(200), "the answer to the creation is that to a later request");

    let claim = server.claim(JobKind::Generation).await;
    let work = generation::load_work(&server.pools.lease, &claim).await.unwrap();
    assert_eq!((work.params.prompt.as_str(), work.seed, work.loras[0].scale), ("a fox 🦊", 5, 0.5));
    assert_eq!(work.base.files.len(), 16);
    assert_eq!(server.get(&path).await.expect(200)["status"], "running");
    server.delete(&path).await.refuses(409, "");
    server.delete("/v1/models/clay").await.refuses(409, "");
    let picture = server.paint(&claim).await;

    let done = server.get(&path).await.expect(200);
    assert_eq!(
        (&done["status"], &done["attempts"], &done["progress"]["step"]),
        (&json!("succeeded"), &json!(1), &json!(3))
    );
    assert_eq!(done["warnings"], json!(["a warning"]));
    let artifact = &done["artifacts"][0];
    let response = reqwest::get(text(&artifact["url"])).await.unwrap();
    let name = response.headers()["content-disposition"].to_str().unwrap();
    let id = text(&artifact["id"]);
    assert_eq!(name, format!("inline; filename=\"ember-5-{}-0.png\"", &id[id.len() - 8..]), "as curl -OJ saves it");
    assert_eq!(server.download(&artifact["url"]).await, picture);
    assert_eq!(text(&artifact["sha256"]), hex(&Sha256::digest(&picture)));
    assert_eq!((&artifact["seed"], &artifact["media_type"]), (&json!(5), &json!("image/png")));

    // The reply was lost: the same attempt may report again, another one may not.
    generation::finish(&server.pools.lease, &claim, Vec::new(), &[]).await.unwrap();
    let stranger = Claim { worker: WorkerId::new(), ..claim };
    let refused = generation::finish(&server.pools.lease, &stranger, Vec::new(), &[]).await;
    assert!(matches!(refused, Err(Error::LeaseLost)), "{refused:?}");
    assert_eq!(
        server.get("/v1/generations").await.expect(200)["items"][0],
        done_without_signature(&server, &path).await
    );

    let before = server.objects();
    server.delete(&path).await.expect(204);
    server.get(&path).await.refuses(404, "");
    assert_eq!(server.objects(), before - 1);
    server.delete("/v1/models/clay").await.expect(204);
}

/// The list and the item are signed in the same second, or the test looks again.
async fn done_without_signature(server: &TestServer, path: &str) -> Value {
    for _ in 0..20 {
        let (item, list) = (server.get(path).await.expect(200), server.get("/v1/generations").await.expect(200));
        if list["items"][0] == item {
            return server.get("/v1/generations").await.expect(200)["items"][0].clone();
        }
    }
    panic!("the list shows another generation than the item")
}

#[tokio::test]
async fn what_makes_no_sense_is_named_and_not_queued() {
    let server = TestServer::with_checkpoint().await;
    server.import("clay", None, &[("clay.safetensors", lora(FLUX_MODULE))]).await.expect(201);
    server.import("stranger", None, &[("x.safetensors", lora(SDXL_MODULE))]).await.expect(201);
    let good = json!({"prompt": "a fox"});
    for (field, value, status, named) in [
        ("prompt", json!(""), 422, "prompt"),
        ("prompt", json!("a".repeat(10_001)), 422, "prompt"),
        ("prompt", json!("a\0"), 422, "prompt"),
        ("prompt", json!(null), 422, "prompt"),
        ("promt", json!("x"), 422, "promt"),
        ("width", json!(65), 422, "width"),
        ("width", json!("64"), 422, "width"),
        ("width", json!(64.5), 422, "width"),
        ("height", json!(4096), 422, "height"),
        ("height", json!(-64), 422, "height"),
        ("height", json!(1e30), 422, "height"),
        ("num_images", json!(5), 422, "num_images"),
        ("num_inference_steps", json!(0), 422, "num_inference_steps"),
        ("guidance_scale", json!(31), 422, "guidance_scale"),
        ("true_cfg_scale", json!(-0.1), 422, "true_cfg_scale"),
        ("output_format", json!("gif"), 422, "output_format"),
        ("output_format", json!("PNG"), 422, "output_format"),
        ("output_quality", json!(90), 422, "output_quality"),
        ("seed", json!(-2), 422, "seed"),
        ("seed", json!(u64::MAX), 422, "seed"),
        ("model", json!("no-such-model"), 404, "model"),
        ("model", json!("clay"), 422, "model"),
        ("loras", json!([{"model": "no-such-lora"}]), 404, "loras[0].model"),
        ("loras", json!([{"model": "clay"}, {"model": "ember"}]), 422, "loras[1].model"),
        ("loras", json!([{"model": "stranger"}]), 422, "loras[0].model"),
        ("loras", json!([{"model": "clay", "scale": 11}]), 422, "loras[0].scale"),
        ("loras", json!([{"model": "clay", "weight": 1}]), 422, "loras[0].weight"),
        ("loras", json!(vec![json!({"model": "clay"}); 9]), 422, "loras"),
    ] {
        let mut body = good.clone();
        body[field] = value.clone();
        let answer = server.post("/v1/generations", &body).await;
        assert_eq!(answer.status, status, "{field}: {value}: {:#}", answer.body);
        answer.refuses(status, named);
    }
    for (format, quality) in [("png", json!(100)), ("jpeg", json!(0)), ("webp", json!(101)), ("jpeg", json!(8.5))] {
        let body = json!({"prompt": "a fox", "output_format": format, "output_quality": quality});
        server.post("/v1/generations", &body).await.refuses(422, "output_quality");
    }
    assert_eq!((server.count("generations").await, server.count("jobs").await), (0, 0));
    let drawn = server.post("/v1/generations", &json!({"prompt": "a fox", "seed": -1})).await.expect(202);
    assert!(drawn["seed"].as_i64().is_some_and(|seed| seed >= 0));
}

#[tokio::test]
async fn cancel_and_wait() {
    let server = TestServer::with_checkpoint().await;
    let queued = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let canceled = server.post(&text(&queued["urls"]["cancel"]), &json!({})).await.expect(200);
    assert_eq!(canceled["status"], "canceled");
    assert_eq!(server.post(&text(&queued["urls"]["cancel"]), &json!({})).await.expect(200)["status"], "canceled");
    server.delete(&text(&queued["urls"]["self"])).await.expect(204);

    // There is no worker: the wait times out.
    let request =
        server.request(Method::POST, "/v1/generations").header("prefer", "wait=1").json(&json!({"prompt": "a fox"}));
    let waited = server.send(request).await;
    assert_eq!(waited.header("preference-applied"), "wait=1");
    waited.expect(202);

    // There is a worker: the response is the finished generation. The previous one is first in the queue.
    let claim = server.claim(JobKind::Generation).await;
    server.paint(&claim).await;
    let request = server
        .request(Method::POST, "/v1/generations")
        .header("prefer", "respond-async; wait=30")
        .json(&json!({"prompt": "a fox"}));
    let (waited, ()) = tokio::join!(server.send(request), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let claim = server.claim(JobKind::Generation).await;
        server.paint(&claim).await;
    });
    assert_eq!(waited.header("preference-applied"), "wait=30");
    assert!(waited.header("location").starts_with("/v1/generations/"));
    assert_eq!(waited.expect(201)["status"], "succeeded");
}

#[tokio::test]
async fn formats_of_pictures() {
    let server = TestServer::with_checkpoint().await;
    for (format, quality, told) in [
        (json!("png"), Value::Null, Value::Null),
        (json!("jpeg"), Value::Null, json!(90)),
        (json!("webp"), Value::Null, json!(90)),
        (json!("jpeg"), json!(1), json!(1)),
        (json!("webp"), json!(100), json!(100)),
    ] {
        let body = json!({"prompt": "a fox", "output_format": format, "output_quality": quality});
        let created = server.post("/v1/generations", &body).await.expect(202);
        assert_eq!((&created["output_format"], &created["output_quality"]), (&format, &told));
    }
}

/// As version 0.1 wrote it: absent options were left out, and there were no output formats.
#[tokio::test]
async fn a_row_of_an_older_version_is_answered_in_full() {
    let server = TestServer::with_checkpoint().await;
    let created = server.post("/v1/generations", &json!({"prompt": "a fox", "seed": 5})).await.expect(202);
    let row = json!({
        "prompt": "a fox", "negative_prompt": null, "num_images": 1, "num_inference_steps": 12, "guidance_scale": 1.0,
        "true_cfg_scale": 3.0, "width": 64, "height": 64,
    });
    sqlx::query("UPDATE generations SET params = $1").bind(row).execute(&server.pools.lease).await.unwrap();
    let read = server.get(&text(&created["urls"]["self"])).await.expect(200);
    assert_eq!(read, created);
    for field in ["negative_prompt", "image", "mask", "strength", "scheduler", "clip_skip", "preview_every"] {
        assert!(read.as_object().unwrap().contains_key(field) && read[field].is_null(), "{field}");
    }
    assert_eq!((&read["output_format"], &read["output_quality"]), (&json!("png"), &Value::Null));
}

#[tokio::test]
async fn a_lora_that_another_server_deleted_is_named_by_its_field() {
    let server = TestServer::with_checkpoint().await;
    for name in ["clay", "ink", "oil"] {
        server.import(name, Some("ember"), &[("x.safetensors", lora(FLUX_MODULE))]).await.expect(201);
    }
    let another = server.another(api::Access::open(domain::Caller::anonymous())).await;
    let mut body = json!({"prompt": "a fox <lora:oil:1>", "loras": [{"model": "clay"}, {"model": "ink"}], "seed": -5});
    for (name, field) in [("oil", "prompt"), ("ink", "loras[1].model")] {
        // The first server caches the models, and nothing needs them.
        body["seed"] = json!(-5);
        server.post("/v1/generations", &body).await.refuses(422, "seed");
        another.delete(&format!("/v1/models/{name}")).await.expect(204);
        body["seed"] = json!(5);
        server.post("/v1/generations", &body).await.refuses(404, field);
        body["prompt"] = json!("a fox");
    }
    assert_eq!(server.count("generations").await, 0);
}
