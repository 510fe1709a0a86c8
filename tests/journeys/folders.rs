//! One folder of pictures, as people have them, reaches a dataset by the command line, as files of a form and as a zip
//! archive: the same examples, and the same list of files that were left out.

use std::io::{Cursor, Write};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use journeys::client::text;
use journeys::stack::{Pace, Stack};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

fn encoded(width: u32, height: u32, shade: u8, format: ImageFormat) -> Vec<u8> {
    let picture =
        RgbImage::from_fn(width, height, |x, y| Rgb([shade, (x * 37 + y * 11) as u8, (x * 5) as u8 ^ (y * 91) as u8]));
    let mut out = Cursor::new(Vec::new());
    DynamicImage::from(picture).write_to(&mut out, format).unwrap();
    out.into_inner()
}

fn half(bytes: Vec<u8>) -> Vec<u8> {
    bytes[..bytes.len() / 2].to_vec()
}

/// Good pictures with captions of every kind, litter, and broken files.
fn folder() -> Vec<(&'static str, Vec<u8>)> {
    let png = |shade| encoded(40, 30, shade, ImageFormat::Png);
    vec![
        ("fox.png", png(1)),
        ("fox.txt", "\u{feff} a fox\r\nin the snow\r\n".into()),
        ("owl.JPG", encoded(33, 17, 2, ImageFormat::Jpeg)),
        ("owl.caption", "an owl".into()),
        ("hare.webp", encoded(20, 20, 3, ImageFormat::WebP)),
        ("both.jpg", encoded(16, 24, 4, ImageFormat::Jpeg)),
        ("both.png", png(5)),
        ("both.TXT", "two of them".into()),
        ("in/deer.gif", encoded(12, 10, 6, ImageFormat::Gif)),
        ("in/deer.gif.txt", b"\xff\xfea\0 \0d\0e\0e\0r\0".to_vec()),
        ("in/boar.bmp", encoded(10, 12, 7, ImageFormat::Bmp)),
        ("10_seal/seal.tiff", encoded(14, 15, 8, ImageFormat::Tiff)),
        ("table/metadata.jsonl", b"{\"file_name\": \"crow.png\", \"text\": \"a crow\"}\n{\"file_name\": 7}\n".to_vec()),
        ("table/crow.png", png(9)),
        // Litter.
        ("._fox.png", b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ".to_vec()),
        (".DS_Store", b"\0\0\0\x01Bud1".to_vec()),
        ("__MACOSX/._owl.JPG", b"\0\x05\x16\x07".to_vec()),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0".to_vec()),
        ("README.md", "About the pictures".into()),
        // Not read.
        ("phone.HEIC", b"\0\0\0\x18ftypheic".to_vec()),
        ("clip.mov", b"\0\0\0\x14ftypqt  ".to_vec()),
        ("notes.txt", "for myself".into()),
        // Broken.
        ("cut.jpg", half(encoded(64, 64, 10, ImageFormat::Jpeg))),
        ("cut.txt", "a caption of nothing".into()),
        ("renamed.png", b"\0\0\0\x18ftypheic\0\0\0\0".to_vec()),
        ("empty.png", Vec::new()),
        ("latin.png", png(11)),
        ("latin.txt", b"ein Fr\xfchling".to_vec()),
        ("in/cut.gif", half(encoded(30, 30, 12, ImageFormat::Gif))),
    ]
}

/// The examples of a dataset, without what differs between two of them.
async fn examples(stack: &Stack, dataset: &str) -> Vec<Value> {
    let seen = stack.client.get(&format!("/v1/datasets/{dataset}")).await.expect(200);
    let keep = |example: &Value| {
        let mut kept = json!({});
        for field in ["position", "sha256", "media_type", "width", "height", "bytes", "caption"] {
            kept[field] = example[field].clone();
        }
        kept
    };
    seen["examples"].as_array().unwrap().iter().map(keep).collect()
}

#[tokio::test]
async fn one_folder_is_the_same_dataset_by_every_way() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let files = folder();

    let on_disk = stack.folder().join("photos");
    for (path, bytes) in &files {
        let path = on_disk.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let by_hand = text(&stack.cli_json(&["datasets", "create", "by hand"])["id"]);
    let command_line = stack.cli_json(&["datasets", "add", "by hand", on_disk.to_str().unwrap()]);

    let form = files.iter().rev().fold(Form::new().percent_encode_noop(), |form, (path, bytes)| {
        form.part("file", Part::bytes(bytes.clone()).file_name(*path))
    });
    let by_form = client.empty_dataset("form").await;
    let form = client.add_form(&by_form, form).await.expect(201);

    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (path, bytes) in &files {
        zip.start_file(*path, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    let by_archive = client.empty_dataset("archive").await;
    let archive = client.add_archive_bytes(&by_archive, zip.finish().unwrap().into_inner()).await.expect(201);

    let expected = examples(&stack, &by_archive).await;
    let captions: Vec<_> = expected.iter().map(|example| text(&example["caption"])).collect();
    let of = ["", "two of them", "two of them", "a fox\nin the snow", "", "", "a deer", "an owl", "a crow"];
    assert_eq!(captions, of, "by path: {expected:#?}");
    assert_eq!(examples(&stack, &by_form).await, expected);
    assert_eq!(examples(&stack, &by_hand).await, expected);

    let left_out = archive["left_out"].as_array().unwrap();
    let names: Vec<_> = left_out.iter().map(|left| text(&left["file"])).collect();
    assert_eq!(
        names,
        [
            ".DS_Store",
            "._fox.png",
            "10_seal/",
            "README.md",
            "Thumbs.db",
            "__MACOSX/",
            "clip.mov",
            "cut.jpg",
            "empty.png",
            "in/cut.gif",
            "latin.png",
            "notes.txt",
            "phone.HEIC",
            "renamed.png",
            "table/metadata.jsonl",
        ],
        "{left_out:#?}"
    );
    for (file, part) in [
        ("cut.jpg", "cut off"),
        ("renamed.png", "HEIC"),
        ("phone.HEIC", "HEIC"),
        ("latin.png", "latin.txt"),
        ("table/metadata.jsonl", "line 2"),
    ] {
        let left = left_out.iter().find(|left| left["file"] == file).unwrap();
        assert!(text(&left["reason"]).contains(part), "{left:#}");
    }
    for field in ["left_out", "without_caption"] {
        assert_eq!(form[field], archive[field], "{field}");
        assert_eq!(command_line[field], archive[field], "{field}");
    }
    assert_eq!(archive["without_caption"], 3);

    // Training takes the same folder, and says the same. Nothing of a folder that holds no picture is kept.
    let output = stack.cli(&["datasets", "add", &by_hand, on_disk.to_str().unwrap()]);
    let message = String::from_utf8_lossy(&output.stderr);
    for line in ["left out phone.HEIC: ", "left out cut.jpg: ", "3 of 9 pictures without caption"] {
        assert!(message.contains(line), "{line}: {message}");
    }
    let broken = stack.folder().join("broken");
    std::fs::create_dir(&broken).unwrap();
    for name in ["cut.jpg", "renamed.png"] {
        std::fs::copy(on_disk.join(name), broken.join(name)).unwrap();
    }
    let datasets = stack.ledger.count("datasets").await;
    let output = stack.cli(&["train", broken.to_str().unwrap(), "--name", "x", "--model", "tiny"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{message}");
    assert!(message.contains("cut.jpg: ") && message.contains("renamed.png: "), "{message}");
    let kept = stack.ledger.count("datasets where deleted_at is null").await;
    assert_eq!(kept, datasets, "the new dataset was deleted again");
    stack.ledger.audit().await;
}

/// File systems allow names that a form cannot carry, and files that are none.
#[tokio::test]
async fn pictures_of_any_name_are_added_and_what_is_no_file_is_left_out() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let stack = Stack::start(Pace::Promised).await;
    let dir = stack.folder().join("named");
    std::fs::create_dir(&dir).unwrap();
    let names = [&b"a \"b\".png"[..], b"new\nline.png", b"back\\slash.png", b"\xff.png", b"\x1b[2J.png"];
    for (shade, name) in names.iter().enumerate() {
        std::fs::write(dir.join(OsStr::from_bytes(name)), encoded(20, 20, shade as u8, ImageFormat::Png)).unwrap();
    }
    std::fs::write(dir.join("a \"b\".txt"), "quoted").unwrap();
    std::fs::File::create(dir.join("large.png")).unwrap().set_len(3 << 30).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(dir.join("pipe.png")).status().unwrap().success());
    let dataset = stack.client.empty_dataset("named").await;
    let added = stack.cli_json(&["datasets", "add", &dataset, dir.to_str().unwrap()]);
    let examples = added["examples"].as_array().unwrap();
    assert_eq!(examples.len(), names.len(), "{added:#}");
    assert!(examples.iter().any(|example| example["caption"] == "quoted"), "{added:#}");
    let left: Vec<&str> =
        added["left_out"].as_array().unwrap().iter().map(|one| one["file"].as_str().unwrap()).collect();
    assert_eq!(left, ["large.png", "pipe.png"]);

    let quoted = dir.join("a \"b\".png");
    assert!(stack.cli(&["picture-info", quoted.to_str().unwrap()]).status.success());
    std::fs::write(dir.join("new\nline.png"), "not a picture").unwrap();
    let refused = stack.cli(&["picture-info", dir.join("new\nline.png").to_str().unwrap()]);
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(4) && message.contains(r"new\nline.png"), "{message}");
}

#[tokio::test]
async fn half_a_jpeg_is_refused_by_every_way() {
    use base64::Engine as _;

    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let whole = encoded(64, 64, 1, ImageFormat::Jpeg);
    let dataset = client.empty_dataset("cut").await;
    let before = stack.site.objects();
    for percent in [10, 50, 99] {
        let cut = whole[..whole.len() * percent / 100].to_vec();
        let part = || Part::bytes(cut.clone()).file_name("cut.jpg");
        let input = client.request(reqwest::Method::POST, "/v1/inputs").multipart(Form::new().part("image", part()));
        client.send(input).await.expect_problem(422, "image");
        client.add_form(&dataset, Form::new().part("image", part())).await.expect_problem(422, "image");
        client.add_form(&dataset, Form::new().part("file", part())).await.expect_problem(422, "file");
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("cut.jpg", zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&cut).unwrap();
        client.add_archive_bytes(&dataset, zip.finish().unwrap().into_inner()).await.expect_problem(422, "archive");
        let uri = format!("data:image/jpeg;base64,{}", base64::prelude::BASE64_STANDARD.encode(&cut));
        let body = json!({"prompt": "a fox", "model": "tiny", "image": uri});
        client.post("/v1/generations", &body).await.expect_problem(422, "image");

        let request = json!({"file_name": "cut.jpg", "media_type": "image/jpeg"});
        let upload = client.post(&format!("/v1/datasets/{dataset}/uploads"), &request).await.expect(201);
        assert_eq!(client.put_upload(&upload, cut.clone()).await, 200);
        let complete = format!("/v1/datasets/{dataset}/uploads/{}/complete", text(&upload["id"]));
        client.post(&complete, &json!({})).await.expect_problem(422, "upload");

        let file = stack.folder().join("cut.jpg");
        std::fs::write(&file, &cut).unwrap();
        let output = stack.cli(&["generate", "a fox", "--model", "tiny", "--image", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(stack.ledger.count("examples").await + stack.ledger.count("inputs").await, 0);
    // The three uploads wait for another try.
    assert_eq!(stack.site.objects(), before + 3);
}

#[tokio::test]
async fn a_dataset_of_the_server_is_trained_on_by_its_name() {
    let stack = Stack::start(Pace::Promised).await;
    let _worker = stack.worker("worker", "");
    let dataset = stack.client.dataset("discs", &journeys::picture::discs(2)).await;
    let train = |dataset: &str, name: &str| {
        stack.cli_json(&[
            "train",
            "--dataset",
            dataset,
            "--name",
            name,
            "--model",
            "tiny",
            "--steps",
            "1",
            "--rank",
            "2",
            "--resolution",
            "32",
        ])
    };
    let first = train("discs", "one");
    assert_eq!((&first["dataset_id"], &first["status"]), (&json!(dataset), &json!("succeeded")));
    train(&dataset, "two");
    assert_eq!(stack.ledger.count("datasets").await, 1, "nothing was uploaded");

    let failed = |dataset: &str, part: &str| {
        let output = stack.cli(&["train", "--dataset", dataset, "--name", "three", "--model", "tiny"]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(part), "{message}");
    };
    failed("nobody", "nobody");
    stack.client.empty_dataset("discs").await;
    failed("discs", "2 datasets");

    // An ended training can be removed; its LoRA stays.
    let id = text(&first["id"]);
    let removed = stack.cli_json(&["trainings", "remove", &id]);
    assert_eq!(removed["removed"], id);
    assert_eq!(stack.cli(&["trainings", "show", &id]).status.code(), Some(4));
    assert_eq!(stack.cli_json(&["models", "show", "one"])["name"], "one");
    stack.ledger.audit().await;
}
