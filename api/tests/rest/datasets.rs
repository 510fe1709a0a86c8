//! Pictures are added in three ways, all or nothing, and other files are refused.

use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::json;

use crate::test_server::{TestServer, archive_part, claimed_png, file_part, picture_part, png, text};

/// As clients send them that put all parts of one name together.
#[tokio::test]
async fn captions_beside_all_pictures_are_theirs_in_order() {
    let server = TestServer::new().await;
    let images = format!("/v1/datasets/{}/images", server.dataset(0).await);
    let pictures = || Form::new().part("image", picture_part(png(9, 9, 1))).part("image", picture_part(png(9, 9, 2)));
    let added = server.post_form(&images, pictures().text("caption", "one").text("caption", "two")).await.expect(201);
    assert_eq!((&added["items"][0]["caption"], &added["items"][1]["caption"]), (&json!("one"), &json!("two")));
    let before = Form::new().text("caption", "one").text("caption", "two");
    let before = before.part("image", picture_part(png(9, 9, 1))).part("image", picture_part(png(9, 9, 2)));
    let added = server.post_form(&images, before).await.expect(201);
    assert_eq!((&added["items"][0]["caption"], &added["items"][1]["caption"]), (&json!("one"), &json!("two")));
    let added = server.post_form(&images, pictures().text("caption", "of the last")).await.expect(201);
    assert_eq!((&added["items"][0]["caption"], &added["items"][1]["caption"]), (&json!(""), &json!("of the last")));
    let three = pictures().text("caption", "one").text("caption", "two").text("caption", "three");
    server.post_form(&images, three).await.refuses(422, "caption");
}

#[tokio::test]
async fn pictures_come_by_form_archive_and_presigned_put() {
    let server = TestServer::new().await;
    let created = server.post("/v1/datasets", &json!({"name": "foxes ✓"})).await;
    let path = created.header("location").to_owned();
    let created = created.expect(201);
    assert_eq!(path, format!("/v1/datasets/{}", text(&created["id"])));
    assert_eq!(created["example_count"], 0);

    // A caption belongs to the picture before it, or to the next one.
    let form = Form::new()
        .part("image", picture_part(png(40, 30, 0)))
        .text("caption", "zero")
        .text("caption", "one")
        .part("image", picture_part(png(40, 30, 1)))
        .part("image", picture_part(png(40, 30, 2)));
    let added = server.post_form(&format!("{path}/images"), form).await.expect(201);
    assert_eq!(added["items"].as_array().unwrap().len(), 3);
    let (three, four) = (png(8, 8, 3), png(8, 8, 4));
    let archive =
        archive_part(&[("in/4.png", &four), ("3.png", &three), ("3.txt", b"three\n"), ("__MACOSX/._3.png", b"x")]);
    server.post_form(&format!("{path}/images"), Form::new().part("archive", archive)).await.expect(201);

    let request = json!({"file_name": "5.png", "media_type": "image/png", "caption": "five"});
    let upload = server.post(&format!("{path}/uploads"), &request).await.expect(201);
    let complete = format!("{path}/uploads/{}/complete", text(&upload["id"]));
    server.post(&complete, &json!({})).await.refuses(409, "");
    let mut put =
        server.request(Method::from_bytes(text(&upload["method"]).as_bytes()).unwrap(), &text(&upload["url"]));
    for (name, value) in upload["headers"].as_object().unwrap() {
        put = put.header(name, text(value));
    }
    assert_eq!(server.send(put.body(png(8, 8, 5))).await.status, 200);
    let body = json!({});
    let at_once = (0..4).map(|_| server.post(&complete, &body));
    let first = futures::future::join_all(at_once).await.pop().unwrap().expect(201);
    let second = server.post(&complete, &body).await.expect(201);
    assert_eq!(first["id"], second["id"], "completing twice is the same as once");
    assert_eq!(first["id"], upload["id"]);

    let seen = server.get(&path).await.expect(200);
    let examples = seen["examples"].as_array().unwrap();
    let captions: Vec<_> = examples.iter().map(|example| text(&example["caption"])).collect();
    assert_eq!(captions, ["zero", "one", "", "three", "", "five"]);
    assert_eq!(seen["example_count"], 6);
    assert_eq!(server.download(&examples[3]["url"]).await, three);
    assert_eq!((examples[0]["width"].as_i64(), examples[0]["height"].as_i64()), (Some(40), Some(30)));

    let image = format!("{path}/images/{}", text(&examples[0]["id"]));
    server.delete(&image).await.expect(204);
    server.delete(&image).await.refuses(404, "");
    assert_eq!(server.objects(), 5);
    assert_eq!(server.get("/v1/datasets").await.expect(200)["items"][0]["example_count"], 5);
    server.delete(&path).await.expect(204);
    server.get(&path).await.refuses(404, "");
    assert_eq!((server.count("examples").await, server.objects()), (0, 0));
}

#[tokio::test]
async fn what_is_no_picture_leaves_nothing_behind() {
    let server = TestServer::new().await;
    let id = server.dataset(0).await;
    let images = format!("/v1/datasets/{id}/images");
    let half = png(64, 64, 0)[..200].to_vec();
    for (what, bytes, status) in [
        ("50 000 × 50 000 px", claimed_png(50_000, 50_000), 413),
        ("one side too long", claimed_png(8193, 1), 413),
        ("half a picture", half, 422),
        ("a text", b"no picture".to_vec(), 415),
        ("a GIF without a picture", b"GIF89a\x01\0\x01\0\0\0\0;".to_vec(), 422),
        ("nothing", Vec::new(), 415),
        ("26 MiB", vec![0; 26 << 20], 413),
    ] {
        let form = Form::new().part("image", picture_part(png(8, 8, 0))).part("image", picture_part(bytes));
        let answer = server.post_form(&images, form).await;
        assert_eq!(answer.status, status, "{what}");
        answer.refuses(status, "image");
    }
    let picture = || Form::new().part("image", picture_part(png(8, 8, 0)));
    server.post_form(&images, picture().text("caption", "a".repeat(1 << 20))).await.refuses(413, "caption");
    server.post_form(&images, picture().text("caption", "a".repeat(10_001))).await.refuses(422, "caption");
    server.post_form(&images, picture().text("caption", "a\0b")).await.refuses(422, "caption");
    server
        .post_form(&images, picture().text("caption", "one").text("caption", "two").text("caption", "three"))
        .await
        .refuses(422, "caption");
    server.post_form(&images, picture().text("label", "fox")).await.refuses(422, "label");
    server.post_form(&images, Form::new()).await.refuses(400, "");
    server.post_form(&images, Form::new().text("caption", "of nothing")).await.refuses(422, "caption");

    let zeros = vec![0; 8 << 20];
    for (what, entries) in [
        ("a zip bomb", vec![("a.png", &png(8, 8, 0)[..]), ("b.png", &zeros)]),
        ("a picture that is none", vec![("b.png", b"no")]),
        ("no picture", vec![("b.txt", b"b"), ("b.zip", b"PK")]),
    ] {
        let answer = server.post_form(&images, Form::new().part("archive", archive_part(&entries))).await;
        assert!(matches!(answer.status, 413 | 422), "{what}: {answer:?}");
        answer.refuses(answer.status, "archive");
    }
    let both = picture().part("archive", archive_part(&[("a.png", &png(8, 8, 0))]));
    server.post_form(&images, both).await.refuses(422, "archive");
    let nameless = Form::new().part("file", reqwest::multipart::Part::bytes(png(8, 8, 0)));
    server.post_form(&images, nameless).await.refuses(422, "file");
    let broken = Form::new().part("file", file_part("in/broken.png", b"no"));
    let refused = server.post_form(&images, broken).await;
    assert!(refused.body["detail"].as_str().unwrap().contains("`in/broken.png`"), "{:#}", refused.body);
    refused.refuses(422, "file");
    server.post_form(&images, picture().part("file", file_part("a.png", &png(8, 8, 0)))).await.refuses(422, "file");
    server.post(&images, &json!({})).await.refuses(415, "");
    let elsewhere = "/v1/datasets/00000000-0000-7000-8000-000000000000/images";
    server.post_form(elsewhere, picture()).await.refuses(404, "");
    assert_eq!((server.count("examples").await, server.objects()), (0, 0));
}

#[tokio::test]
async fn every_picture_that_is_refused_is_named() {
    let server = TestServer::new().await;
    let id = server.dataset(0).await;
    let part = |name: &str, bytes: Vec<u8>| reqwest::multipart::Part::bytes(bytes).file_name(name.to_owned());
    let form = Form::new()
        .part("image", part("good.png", png(8, 8, 0)))
        .part("image", part("cut.png", png(64, 64, 0)[..200].to_vec()))
        .text("caption", "of the one that is cut off")
        .part("image", part("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0".to_vec()))
        .part("image", part("large.png", vec![0; 26 << 20]))
        .part("image", part("good2.png", png(8, 8, 1)));
    let refused = server.post_form(&format!("/v1/datasets/{id}/images"), form).await;
    refused.refuses(422, "image");
    let errors = refused.body["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 3, "{errors:#?}");
    for (error, part) in errors.iter().zip(["`cut.png`", "`phone.jpg`: The file is a HEIC", "`large.png`"]) {
        assert!(error["message"].as_str().unwrap().starts_with(part), "{error}");
    }
    assert_eq!((server.count("examples").await, server.objects()), (0, 0));
}

#[tokio::test]
async fn captions_come_without_byte_order_mark_and_carriage_returns() {
    let server = TestServer::new().await;
    let id = server.dataset(0).await;
    let form = Form::new().part("image", picture_part(png(8, 8, 0))).text("caption", "\u{feff} a fox\r\nin snow\r\n");
    let added = server.post_form(&format!("/v1/datasets/{id}/images"), form).await.expect(201);
    assert_eq!((&added["items"][0]["caption"], &added["without_caption"]), (&json!("a fox\nin snow"), &json!(0)));

    let request = json!({"file_name": "5.bmp", "media_type": "image/bmp", "caption": "\u{feff}an owl\r\n"});
    let upload = server.post(&format!("/v1/datasets/{id}/uploads"), &request).await.expect(201);
    let mut bmp = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(6, 4).write_to(&mut bmp, image::ImageFormat::Bmp).unwrap();
    let put = server.request(Method::PUT, &text(&upload["url"])).header("content-type", "image/bmp");
    assert_eq!(server.send(put.body(bmp.into_inner())).await.status, 200);
    let complete = format!("/v1/datasets/{id}/uploads/{}/complete", text(&upload["id"]));
    let example = server.post(&complete, &json!({})).await.expect(201);
    assert_eq!((&example["caption"], &example["media_type"]), (&json!("an owl"), &json!("image/png")));
}

#[tokio::test]
async fn bad_bodies_and_queries_are_named() {
    let server = TestServer::new().await;
    for (body, status, field) in [
        (json!({"name": ""}), 422, "name"),
        (json!({"name": "x".repeat(201)}), 422, "name"),
        (json!({"name": 7}), 422, "name"),
        (json!({"name": "a\0b"}), 422, "name"),
        (json!({"name": "x", "colour": "red"}), 422, "colour"),
        (json!({}), 422, "name"),
        (json!([]), 422, ""),
    ] {
        server.post("/v1/datasets", &body).await.refuses(status, field);
    }
    let json = |body: &'static str| {
        server.request(Method::POST, "/v1/datasets").header("content-type", "application/json").body(body)
    };
    server.send(json("{\"name\":")).await.refuses(400, "");
    server.send(json("\u{0}")).await.refuses(400, "");
    server.send(server.request(Method::POST, "/v1/datasets").body("name=x")).await.refuses(415, "");
    server.post("/v1/datasets", &json!({"name": "x".repeat(2 << 20)})).await.refuses(413, "");
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=%00", "cursor"),
        ("page=2", "page"),
    ] {
        server.get(&format!("/v1/datasets?{query}")).await.refuses(422, field);
    }
    let answer = server.request(Method::PUT, "/v1/datasets");
    let answer = server.send(answer).await;
    answer.refuses(405, "");
    let mut allowed: Vec<_> = answer.header("allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    server.get("/v1/nothing").await.refuses(404, "");
    server.get("/v1/datasets/not-an-id").await.refuses(404, "");
    server.get("/v1/datasets/%00").await.refuses(404, "");
    assert_eq!(server.count("datasets").await, 0);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = TestServer::new().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.insert(0, server.dataset(0).await);
    }
    let (mut seen, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let page = server.get(&format!("/v1/datasets?{query}")).await.expect(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|dataset| text(&dataset["id"])));
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, ids);
}
