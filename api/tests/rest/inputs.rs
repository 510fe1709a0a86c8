//! Inputs, and generations that start from a picture: uploaded, taken from an earlier generation, or carried by the
//! request.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use domain::generation;
use domain::job::JobKind;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::test_server::{TestServer, picture_part, png, text};

impl TestServer {
    async fn input(&self, bytes: Vec<u8>) -> Value {
        self.post_form("/v1/inputs", Form::new().part("image", picture_part(bytes))).await.expect(201)
    }
}

#[tokio::test]
async fn an_input_lives_until_it_is_deleted() {
    let server = TestServer::with_checkpoint().await;
    let before = server.objects();
    let input = server.input(png(40, 30, 1)).await;
    assert_eq!(
        (&input["width"], &input["height"], &input["media_type"]),
        (&json!(40), &json!(30), &json!("image/png"))
    );
    assert_eq!(server.download(&input["url"]).await, png(40, 30, 1));
    let path = format!("/v1/inputs/{}", text(&input["id"]));
    assert_eq!(server.get(&path).await.expect(200)["sha256"], input["sha256"]);
    assert_eq!(server.get("/v1/inputs").await.expect(200)["items"][0]["id"], input["id"]);

    let body = json!({"prompt": "a fox", "image": input["id"]});
    let created = server.post("/v1/generations", &body).await.expect(202);
    assert_eq!(created["image"]["input"], input["id"]);
    server.delete(&path).await.refuses(409, "");
    server.post(&text(&created["urls"]["cancel"]), &json!({})).await.expect(200);
    server.delete(&path).await.expect(204);
    server.get(&path).await.refuses(404, "");
    server.post("/v1/generations", &body).await.refuses(404, "image");
    assert_eq!(server.objects(), before);
}

#[tokio::test]
async fn a_generation_begins_with_a_picture() {
    let server = TestServer::with_checkpoint().await;
    let mask = server.input(png(64, 64, 255)).await;
    let picture = png(70, 35, 3);
    let body = json!({
        "prompt": "a fox", "image": format!("data:image/png;base64,{}", BASE64_STANDARD.encode(&picture)),
        "mask": mask["id"],
    });
    let created = server.post("/v1/generations", &body).await.expect(202);
    // The area that the model usually makes, with the proportions of the picture, rounded to the grid.
    assert_eq!((&created["width"], &created["height"], &created["strength"]), (&json!(88), &json!(48), &json!(1.0)));
    assert_eq!((&created["image"]["input"], &created["mask"]["input"]), (&Value::Null, &mask["id"]));
    assert_eq!(server.download(&created["image"]["url"]).await, picture);

    let claim = server.claim(JobKind::Generation).await;
    let work = generation::load_work(&server.pools.lease, &claim).await.unwrap();
    assert_eq!(work.params.image.unwrap().sha256, text(&created["image"]["sha256"]));
    let painted = server.paint(&claim).await;
    let done = server.get(&text(&created["urls"]["self"])).await.expect(200);

    // Its result is the input of the next one, which keeps it if the first is deleted; pictures that the first request
    // carried are deleted.
    let next =
        json!({"prompt": "a fox", "image": done["artifacts"][0]["id"], "strength": 0.5, "width": 64, "height": 48});
    let next = server.post("/v1/generations", &next).await.expect(202);
    assert_eq!((&next["strength"], &next["height"], &next["mask"]), (&json!(0.5), &json!(48), &Value::Null));
    let before = server.objects();
    server.delete(&text(&created["urls"]["self"])).await.expect(204);
    assert_eq!(server.objects(), before - 2);
    assert_eq!(server.download(&next["image"]["url"]).await, painted);
}

#[tokio::test]
async fn a_carried_picture_may_be_written_as_people_write_it() {
    let server = TestServer::with_checkpoint().await;
    let picture = png(32, 32, 3);
    let base64 = BASE64_STANDARD.encode(&picture);
    let lines: Vec<&str> = base64.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
    for uri in [
        format!("data:image/png;base64,{}\r\n", lines.join("\r\n")),
        format!("data:image/png;base64,{}", base64.trim_end_matches('=')),
        format!("data:image/png;base64,{}", base64.replace('+', "-").replace('/', "_")),
        // The bytes say what it is.
        format!("data:image/jpeg;name=fox.jpg;base64,{base64}"),
    ] {
        let created = server.post("/v1/generations", &json!({"prompt": "a fox", "image": uri})).await.expect(202);
        assert_eq!(server.download(&created["image"]["url"]).await, picture);
    }
}

#[tokio::test]
async fn a_picture_of_any_size_is_made_as_large_as_the_model_usually_does() {
    let server = TestServer::with_checkpoint().await;
    let wide = server.input(png(4096, 1000, 1)).await;
    let created = server.post("/v1/generations", &json!({"prompt": "a fox", "image": wide["id"]})).await.expect(202);
    assert_eq!((&created["width"], &created["height"], &created["strength"]), (&json!(128), &json!(32), &json!(0.6)));
    let thin = server.input(png(8000, 1, 1)).await;
    let created = server.post("/v1/generations", &json!({"prompt": "a fox", "image": thin["id"]})).await.expect(202);
    assert_eq!((&created["width"], &created["height"]), (&json!(2048), &json!(16)), "within the limits");
    // If only one of `width` and `height` is given, the other keeps the aspect ratio, rounded to the grid.
    for (stated, pixels, width, height) in
        [("width", 512, 512, 128), ("width", 64, 64, 16), ("height", 256, 1048, 256), ("height", 2048, 2048, 2048)]
    {
        let mut body = json!({"prompt": "a fox", "image": wide["id"]});
        body[stated] = pixels.into();
        let created = server.post("/v1/generations", &body).await.expect(202);
        assert_eq!((&created["width"], &created["height"]), (&json!(width), &json!(height)));
    }
    let nearly_square = server.input(png(1000, 1001, 1)).await;
    let body = json!({"prompt": "a fox", "image": nearly_square["id"], "height": 32});
    let created = server.post("/v1/generations", &body).await.expect(202);
    assert_eq!((&created["width"], &created["height"]), (&json!(32), &json!(32)));
}

#[tokio::test]
async fn pictures_that_make_no_sense_leave_nothing() {
    let server = TestServer::with_checkpoint().await;
    let input = server.input(png(32, 32, 1)).await;
    let before = server.objects();
    let good = json!({"prompt": "a fox", "image": input["id"]});
    let carried = |bytes: &[u8]| json!(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes)));
    for (changes, status, named) in [
        (json!({"image": "a fox.png"}), 422, "image"),
        (json!({"image": "00000000-0000-0000-0000-000000000000"}), 404, "image"),
        (json!({"image": "data:image/png,plain"}), 422, "image"),
        (json!({"image": "data:image/png;base64,###"}), 422, "image"),
        (json!({"image": carried(b"%PDF-1.7")}), 415, "image"),
        (json!({"image": "data:image/png;base64,"}), 422, "image"),
        (json!({"image": "https://example.com/fox.png"}), 422, "image"),
        (json!({"image": carried(&png(32, 32, 1)[..60])}), 422, "image"),
        (json!({"image": null, "mask": input["id"]}), 422, "mask"),
        (json!({"image": null, "strength": 0.5}), 422, "strength"),
        (json!({"strength": -0.1}), 422, "strength"),
        (json!({"strength": 1.1}), 422, "strength"),
        (json!({"strength": 0}), 422, "strength"),
        (json!({"image": carried(&png(32, 32, 1)), "mask": "no mask"}), 422, "mask"),
        (json!({"image": "a".repeat(12_000_001)}), 413, "image"),
        (json!({"scheduler": "Euler Z"}), 422, "scheduler"),
        (json!({"scheduler": "DPM++ 2M Karras"}), 422, "scheduler"),
        (json!({"clip_skip": 1}), 422, "clip_skip"),
    ] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let answer = server.post("/v1/generations", &body).await;
        assert_eq!(answer.status, status, "{named}: {:#}", answer.body);
        answer.refuses(status, named);
    }
    assert_eq!((server.count("generations").await, server.objects()), (0, before));

    let none = Form::new().text("caption", "x");
    server.post_form("/v1/inputs", none).await.refuses(422, "caption");
    let two = Form::new().part("image", picture_part(png(8, 8, 1))).part("image", picture_part(png(8, 8, 2)));
    server.post_form("/v1/inputs", two).await.refuses(422, "image");
    let text = Form::new().part("image", picture_part(b"no picture".to_vec()));
    server.post_form("/v1/inputs", text).await.refuses(415, "image");
    assert_eq!(server.objects(), before);
}
