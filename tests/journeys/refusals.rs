//! What the API refuses: a 4xx that names the field, and no row or object left behind.

use journeys::client::text;
use journeys::picture::{Photo, claimed_png, discs, zip_bomb};
use journeys::stack::{Pace, Stack};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

fn png_part(bytes: Vec<u8>) -> Part {
    Part::bytes(bytes).file_name("photo.png").mime_str("image/png").unwrap()
}

/// An unknown name is 404, a wrong value is 422; both name the field.
fn status_for(value: &Value) -> u16 {
    let text = value.to_string();
    if text.contains("no-such-") || text.contains("00000000-") { 404 } else { 422 }
}

#[tokio::test]
async fn generations_that_make_no_sense() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let good = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32});
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    for (field, value) in [
        ("prompt", json!("")),
        ("prompt", json!("a".repeat(10_001))),
        ("prompt", json!(7)),
        ("model", json!("no-such-model")),
        ("num_images", json!(0)),
        ("num_images", json!(5)),
        ("num_inference_steps", json!(0)),
        ("num_inference_steps", json!(201)),
        ("guidance_scale", json!(-1)),
        ("true_cfg_scale", json!(31)),
        ("width", json!(33)),
        ("height", json!(4096)),
        ("width", json!("64")),
        ("seed", json!(-2)),
        ("seed", json!(1.5)),
        ("loras", json!([{"model": "no-such-lora"}])),
        ("loras", json!([{"model": "tiny"}])),
        ("loras", json!([{"model": "tiny", "scale": 11}])),
        ("steps", json!(20)),
    ] {
        client.post("/v1/generations", &with(field, value.clone())).await.expect_problem(status_for(&value), field);
    }
    assert_eq!(client.post("/v1/generations", &json!([])).await.status, 422);
    let broken = client
        .request(reqwest::Method::POST, "/v1/generations")
        .header("content-type", "application/json")
        .body("{\"prompt\":");
    assert_eq!(client.send(broken).await.status, 400);
    let plain =
        client.request(reqwest::Method::POST, "/v1/generations").header("content-type", "text/plain").body("{}");
    assert_eq!(client.send(plain).await.status, 415);
    let huge = with("prompt", json!("a".repeat(26 << 20)));
    assert_eq!(client.post("/v1/generations", &huge).await.status, 413);
    assert_eq!(client.get("/v1/generations/00000000-0000-7000-8000-000000000000").await.status, 404);
    assert!(matches!(client.get("/v1/generations/not-an-id").await.status, 400 | 404 | 422));

    assert_eq!(stack.ledger.count("generations").await, 0);
    assert_eq!(stack.ledger.count("jobs").await, 0);
}

#[tokio::test]
async fn trainings_that_make_no_sense() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let (empty, dataset) = (client.empty_dataset("empty").await, client.dataset("discs", &discs(2)).await);
    let good = json!({"name": "discs", "dataset": dataset, "model": "tiny", "steps": 2, "rank": 2, "resolution": 32});
    let mut nothing = good.clone();
    nothing["dataset"] = json!(empty);
    client.post("/v1/trainings", &nothing).await.expect_problem(409, "dataset");
    for (field, value) in [
        ("dataset", json!("00000000-0000-7000-8000-000000000000")),
        ("name", json!("Not A Name")),
        ("name", json!("x".repeat(64))),
        ("model", json!("no-such-model")),
        ("steps", json!(0)),
        ("rank", json!(513)),
        ("learning_rate", json!(2)),
        ("batch_size", json!(65)),
        ("resolution", json!(33)),
        ("optimizer", json!("adamw")),
    ] {
        let mut body = good.clone();
        body[field] = value.clone();
        client.post("/v1/trainings", &body).await.expect_problem(status_for(&value), field);
    }
    assert_eq!(stack.ledger.count("trainings").await, 0);
    assert_eq!(stack.ledger.count("jobs").await, 0);
}

#[tokio::test]
async fn pictures_that_are_none() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let dataset = client.empty_dataset("gate").await;
    let before = stack.site.objects();
    let good = discs(1).remove(0);

    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("a text", b"this is no picture".to_vec()),
        ("nothing", Vec::new()),
        ("50 000 x 50 000 pixels in 60 bytes", claimed_png(50_000, 50_000)),
        ("wider than 8192", claimed_png(8_193, 8)),
        ("half a picture", good.bytes[..good.bytes.len() / 2].to_vec()),
        ("a GIF without a picture", b"GIF89a\x01\0\x01\0\0\0\0;".to_vec()),
    ];
    for (what, bytes) in bad {
        // All or nothing: the good picture of the same request is not kept either.
        let form = Form::new().part("image", png_part(good.bytes.clone())).part("image", png_part(bytes));
        let answer = client.add_form(&dataset, form).await;
        assert!(matches!(answer.status, 413 | 415 | 422), "{what}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{what}: {:#}", answer.body);
    }

    let form = Form::new().part("image", png_part(good.bytes.clone())).text("caption", "a".repeat(1 << 20));
    let answer = client.add_form(&dataset, form).await;
    assert!(matches!(answer.status, 413 | 422), "a caption of 1 MiB: {answer:?}");
    assert!(
        matches!(client.add_archive_bytes(&dataset, zip_bomb("bomb.png", 40)).await.status, 413 | 422),
        "a zip bomb"
    );
    assert!(
        matches!(client.add_archive_bytes(&dataset, b"PK\x03\x04 no zip".to_vec()).await.status, 415 | 422),
        "no zip"
    );
    let sneaky = Photo { name: "../../escape.png".to_owned(), ..good.clone() };
    let answer = client.add_archive(&dataset, &[sneaky]).await;
    assert!(matches!(answer.status, 201 | 422), "a path that climbs is refused or is only a name: {answer:?}");
    let taken = usize::from(answer.status == 201);

    let seen = client.get(&format!("/v1/datasets/{dataset}")).await.expect(200);
    assert_eq!(seen["examples"].as_array().unwrap().len(), taken, "{seen:#}");
    assert_eq!(stack.ledger.count("examples").await, taken as i64);
    assert_eq!(stack.site.objects(), before + taken, "nothing half-written is left in the bucket");

    // A presigned upload is checked when it is completed.
    let upload = client.start_upload(&dataset, &good).await;
    let complete = format!("/v1/datasets/{dataset}/uploads/{}/complete", text(&upload["id"]));
    assert!(matches!(client.post(&complete, &json!({})).await.status, 404 | 409 | 422), "nothing was put");
    client.put_upload(&upload, b"this is no picture".to_vec()).await;
    assert!(matches!(client.post(&complete, &json!({})).await.status, 415 | 422), "no picture was put");
    assert_eq!(stack.ledger.count("examples").await, taken as i64);
}

#[tokio::test]
async fn models_that_are_none() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let (models, before) = (stack.ledger.count("models").await, stack.site.objects());
    let header = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    for (what, bytes) in [
        ("a pickle", b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x08builtins".to_vec()),
        ("a torch zip", b"PK\x03\x04\x14\0\0\0\0\0archive/data.pkl".to_vec()),
        ("a header of 16 EiB", u64::MAX.to_le_bytes().to_vec()),
        ("a header that is no JSON", header("{\"a\":")),
        ("a tensor that is not there", header(r#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#)),
        ("no LoRA", [header(r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#), vec![0; 4]].concat()),
    ] {
        let answer = client.add_model("bad", &[("lora.safetensors".to_owned(), bytes)], None).await;
        assert!(matches!(answer.status, 400 | 415 | 422), "{what}: {answer:?}");
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{what}: {:#}", answer.body);
    }
    let answer = client.add_model("tiny", &journeys::model::tiny_files(), None).await;
    assert_eq!(answer.status, 409, "the name is taken: {answer:?}");
    assert_eq!(stack.ledger.count("models").await, models);
    assert_eq!(stack.site.objects(), before, "nothing half-written is left in the bucket");
}
