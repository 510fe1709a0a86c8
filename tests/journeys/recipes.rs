//! A picture's own file is enough to make it again, byte for byte: through `/v1/picture-info` and a request.

use journeys::client::Client;
use journeys::model::{golden, pipeline_files};
use journeys::picture::{pixels, png, texts};
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

async fn info(client: &Client, picture: &[u8]) -> Value {
    let form = Form::new().part("image", Part::bytes(picture.to_vec()).file_name("picture"));
    client.send(client.request(Method::POST, "/v1/picture-info").multipart(form)).await.expect(200)
}

async fn make(client: &Client, request: &Value) -> (Value, Vec<u8>) {
    let made = client.succeeded(&client.generate(request).await, seconds(90)).await;
    let picture = client.artifacts(&made).await.remove(0);
    (made, picture)
}

/// Makes a picture, and makes it again from its file. Returns the picture and the request in the file.
async fn made_again(client: &Client, request: &Value) -> (Vec<u8>, Value) {
    let (_, picture) = make(client, request).await;
    let info = info(client, &picture).await;
    assert_eq!((&info["program"], &info["unmapped"]), (&json!("pyrograph"), &json!([])), "{request}: {info:#}");
    let (_, again) = make(client, &info["request"]).await;
    assert!(again == picture, "{request} became {:#}", info["request"]);
    (picture, info["request"].clone())
}

async fn input(client: &Client, picture: &image::RgbImage) -> Value {
    let part = Part::bytes(png(picture)).file_name("photo.png").mime_str("image/png").unwrap();
    let request = client.request(Method::POST, "/v1/inputs").multipart(Form::new().part("image", part));
    client.send(request).await.expect(201)["id"].clone()
}

#[tokio::test]
async fn a_picture_of_every_family_is_made_again_from_its_file() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    for (name, folder) in [("sd", "sd15-tiny"), ("v", "sd21-tiny"), ("xl", "sdxl-tiny")] {
        client.add_model(name, &pipeline_files(folder), None).await.expect(201);
    }
    for (name, file) in [
        ("ink", "stable-diffusion-lora/sd15-tiny.safetensors"),
        ("ink-xl", "stable-diffusion-lora/sdxl-tiny.safetensors"),
        ("clay", "lora/peft.safetensors"),
    ] {
        let bytes = std::fs::read(golden(file)).unwrap();
        client.add_model(name, &[(format!("{name}.safetensors"), bytes)], None).await.expect(201);
    }
    let _worker = stack.worker("worker", "");
    let photo = image::RgbImage::from_fn(48, 32, |x, y| image::Rgb([(x * 5) as u8, (y * 5) as u8, 90]));
    let half = image::RgbImage::from_fn(48, 32, |x, _| image::Rgb([if x < 24 { 0 } else { 255 }; 3]));
    let (photo, mask) = (input(client, &photo).await, input(client, &half).await);

    for (model, lora) in [("tiny", "clay"), ("sd", "ink"), ("v", ""), ("xl", "ink-xl")] {
        let request = |changes: Value| {
            let mut body = json!({"prompt": "a (red:1.2) fox, 狐", "model": model, "num_inference_steps": 2, "width": 48,
                                  "height": 32, "seed": 5});
            body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            body
        };
        let (plain, _) = made_again(client, &request(json!({}))).await;
        for (format, quality) in [("jpeg", 80), ("webp", 100)] {
            made_again(client, &request(json!({"output_format": format, "output_quality": quality}))).await;
        }
        made_again(client, &request(json!({"prompt_syntax": "plain", "negative_prompt": "blurry"}))).await;
        made_again(client, &request(json!({"image": photo, "strength": 0.6}))).await;
        made_again(client, &request(json!({"image": photo, "mask": mask}))).await;
        if model != "tiny" {
            let changes = json!({"scheduler": "DPM++ 2M Karras", "clip_skip": 1, "guidance_scale": 3.5});
            made_again(client, &request(changes)).await;
        }
        if !lora.is_empty() {
            let stated = json!({"loras": [{"model": lora, "scale": 0.5, "text_encoder_scale": 0.25}]});
            let (stated, _) = made_again(client, &request(stated)).await;
            let prompt = format!("<lora:{lora}:0.25:0.5> a (red:1.2) fox, 狐");
            let (named, again) = made_again(client, &request(json!({"prompt": prompt}))).await;
            assert_eq!(again["prompt"], prompt, "as it was written");
            assert!(
                pixels(&stated) == pixels(&named) && pixels(&named) != pixels(&plain),
                "{model}: the LoRA is applied"
            );
            let notation = texts(&named)["parameters"].clone();
            assert!(notation.starts_with(&format!("a (red:1.2) fox, 狐 <lora:{lora}:0.25:0.5>\n")), "{notation}");
        }
    }
    stack.ledger.audit().await;
}

/// A LoRA acts on the text encoders with its own strength, and A1111's text alone is enough, too.
#[tokio::test]
async fn the_notation_of_a1111_makes_the_same_picture() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    client.add_model("sd", &pipeline_files("sd15-tiny"), None).await.expect(201);
    let adapter = std::fs::read(golden("stable-diffusion-lora/sd15-tiny.safetensors")).unwrap();
    client.add_model("ink", &[("ink.safetensors".into(), adapter)], None).await.expect(201);
    let _worker = stack.worker("worker", "");
    let request = |prompt: &str| {
        json!({"prompt": prompt, "model": "sd", "num_inference_steps": 2, "width": 40, "height": 40, "seed": 5,
               "scheduler": "euler", "clip_skip": 1})
    };
    let mut pictures = Vec::new();
    for tag in ["", "<lora:ink:1>", "<lora:ink:0:1>", "<lora:ink:1:0>"] {
        pictures.push(make(client, &request(format!("a fox {tag}").trim_end())).await.1);
    }
    for (at, one) in pictures.iter().enumerate() {
        assert!(pictures[..at].iter().all(|other| pixels(other) != pixels(one)), "{at}");
    }

    for picture in &pictures {
        let notation = texts(picture)["parameters"].clone();
        let bare = with_parameters(&notation);
        let info = info(client, &bare).await;
        assert_eq!(info["unmapped"], json!([]), "{notation}: {info:#}");
        let (_, again) = make(client, &info["request"]).await;
        assert_eq!(pixels(&again), pixels(picture), "{notation}");
        assert_eq!(texts(&again)["parameters"], notation);
    }

    // What the command line prints and repeats.
    let file = stack.folder().join("fox.png");
    std::fs::write(&file, &pictures[1]).unwrap();
    let path = file.to_str().unwrap();
    assert_eq!(stack.cli_json(&["picture-info", path])["request"]["seed"], 5);
    stack.cli_json(&["generate", "--from", path, "--output", "again.png"]);
    assert!(std::fs::read(stack.folder().join("again.png")).unwrap() == pictures[1]);
    let other = stack.cli_json(&["generate", "an owl", "--from", path, "--output", "owl.png"]);
    assert_eq!((&other["prompt"], &other["seed"], &other["clip_skip"]), (&json!("an owl"), &json!(5), &json!(1)));
}

/// A PNG that holds only A1111's text.
fn with_parameters(notation: &str) -> Vec<u8> {
    let bare = png(&image::RgbImage::new(8, 8));
    let (head, rest) = bare.split_at(8 + 25);
    let data = [&b"parameters\0"[..], notation.as_bytes()].concat();
    let chunk = [&(data.len() as u32).to_be_bytes(), &b"tEXt"[..], &data, &[0; 4]].concat();
    [head, &chunk, rest].concat()
}
