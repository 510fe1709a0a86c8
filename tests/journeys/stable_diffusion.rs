//! Stable Diffusion through the whole product, where it goes beyond the FLUX.1 journeys: image to image, masks,
//! samplers, adapters of another family.

use journeys::client::{Client, text};
use journeys::model::{golden, pipeline_files, single_file};
use journeys::picture::{pixels, png, texts};
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

/// Side of the pictures in pixels: a multiple of these families' grid, but not of FLUX.1's.
const SIDE: u32 = 40;

async fn input(client: &Client, picture: &image::RgbImage) -> Value {
    let part = Part::bytes(png(picture)).file_name("photo.png").mime_str("image/png").unwrap();
    let request = client.request(Method::POST, "/v1/inputs").multipart(Form::new().part("image", part));
    client.send(request).await.expect(201)["id"].clone()
}

async fn make(client: &Client, changes: &Value) -> (Value, Vec<u8>) {
    let mut body = json!({"prompt": "a fox", "num_inference_steps": 3, "width": SIDE, "height": SIDE, "seed": 5});
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let made = client.succeeded(&client.generate(&body).await, seconds(90)).await;
    let picture = client.artifacts(&made).await.remove(0);
    (made, picture)
}

#[tokio::test]
async fn a_whole_model_in_one_file() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    let model = client.add_model("one", &[("v2-model.safetensors".into(), single_file())], None).await.expect(201);
    assert_eq!((&model["kind"], &model["family"]), (&json!("checkpoint"), &json!("sd21")));
    assert_eq!((&model["defaults"]["width"], &model["defaults"]["size_multiple"]), (&json!(192), &json!(8)));
    let _worker = stack.worker("worker", "");
    let (_, fox) = make(client, &json!({"model": "one"})).await;
    let (_, owl) = make(client, &json!({"model": "one", "prompt": "an owl"})).await;
    assert_ne!(pixels(&fox), pixels(&owl));
    let cut = single_file()[..200_000].to_vec();
    client.add_model("cut", &[("cut.safetensors".into(), cut)], None).await.expect_problem(422, "file");
    stack.ledger.audit().await;
}

#[tokio::test]
async fn pictures_from_prompts_pictures_and_masks() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    for (name, folder) in
        [("sd", "sd15-tiny"), ("inpainting", "sd15-inpaint-tiny"), ("v", "sd21-tiny"), ("xl", "sdxl-tiny")]
    {
        client.add_model(name, &pipeline_files(folder), None).await.expect(201);
    }
    let adapter = std::fs::read(golden("stable-diffusion-lora/sd15-tiny.safetensors")).unwrap();
    client.add_model("ink", &[("ink.safetensors".into(), adapter)], None).await.expect(201);
    let families = client.get("/v1/models").await.expect(200);
    let family = |name: &str| {
        let models = families["items"].as_array().unwrap();
        text(&models.iter().find(|model| model["name"] == name).unwrap()["family"])
    };
    assert_eq!(["sd", "inpainting", "v", "xl", "ink"].map(family), ["sd15", "sd15", "sd21", "sdxl", "sd15"]);
    let _worker = stack.worker("worker", "");

    for model in ["sd", "v", "xl"] {
        let (made, picture) = make(client, &json!({"model": model})).await;
        assert_eq!(make(client, &json!({"model": model})).await.1, picture, "{model}: the same seed, the same picture");
        assert_eq!(made["warnings"], json!([]));
    }
    let (_, plain) = make(client, &json!({"model": "sd"})).await;
    assert!(
        texts(&plain)["parameters"].contains("Sampler: PLMS, CFG scale: 7.5, Seed: 5"),
        "{}",
        texts(&plain)["parameters"]
    );
    let (made, sampled) = make(client, &json!({"model": "sd", "scheduler": "DPM++ 2M Karras", "clip_skip": 1})).await;
    assert_eq!(made["scheduler"], "dpmpp_2m_karras");
    assert!(texts(&sampled)["parameters"].contains("Sampler: DPM++ 2M Karras,"));
    assert_ne!(pixels(&plain), pixels(&sampled));

    // An adapter with convolutions and text encoders works, too; one of another family is refused at once.
    let (made, inked) = make(client, &json!({"model": "sd", "loras": [{"model": "ink"}]})).await;
    assert_eq!(made["warnings"], json!(["ink: alpha is not in the file; taken as the rank"]), "said once");
    assert_ne!(pixels(&plain), pixels(&inked));
    let stranger = json!({"prompt": "a fox", "model": "xl", "loras": [{"model": "ink"}]});
    client.post("/v1/generations", &stranger).await.expect_problem(422, "loras[0].model");

    // The black part of the mask stays as close as the autoencoder allows, with four channels and with nine.
    let photo = image::RgbImage::from_fn(SIDE, SIDE, |x, y| image::Rgb([(x * 5) as u8, (y * 5) as u8, 90]));
    let right = image::RgbImage::from_fn(SIDE, SIDE, |x, _| image::Rgb([if x < SIDE / 2 { 0 } else { 255 }; 3]));
    let (photo, mask) = (input(client, &photo).await, input(client, &right).await);
    let far = |one: &[u8], other: &[u8], left: bool| {
        let (one, other) = (pixels(one), pixels(other));
        let half = |x: u32| (x < SIDE / 2 - 8) == left && (left || x >= SIDE / 2 + 8);
        let differences = one.enumerate_pixels().filter(|(x, ..)| half(*x));
        differences
            .flat_map(|(x, y, pixel)| {
                let there = other.get_pixel(x, y).0;
                pixel.0.into_iter().zip(there).map(|(one, other)| u32::from(one.abs_diff(other))).collect::<Vec<_>>()
            })
            .sum::<u32>()
    };
    let (whole, repainted) =
        (json!({"model": "sd", "image": photo, "strength": 0.4}), json!({"model": "sd", "image": photo, "mask": mask}));
    let (made, begun) = make(client, &whole).await;
    assert_eq!((&made["strength"], &made["image"]["input"]), (&json!(0.4), &photo));
    assert_ne!(pixels(&begun), pixels(&plain));
    let (_, first) = make(client, &repainted).await;
    let mut again = repainted.clone();
    again["seed"] = json!(6);
    let (_, second) = make(client, &again).await;
    assert!(far(&first, &second, false) > 4 * far(&first, &second, true), "only the white half depends on the seed");
    make(client, &json!({"model": "inpainting", "image": photo, "mask": mask})).await;
    let bare = client.generate(&json!({"prompt": "a fox", "model": "inpainting", "width": SIDE, "height": SIDE})).await;
    let refused = client.settled(&bare, seconds(60)).await;
    assert_eq!(refused["error"]["class"], "invalid_input", "{refused:#}");

    // The first picture is the input of the next one.
    let (made, _) = make(client, &json!({"model": "sd"})).await;
    let (next, _) = make(client, &json!({"model": "xl", "image": made["artifacts"][0]["id"], "strength": 0.5})).await;
    assert_eq!(next["image"]["sha256"], made["artifacts"][0]["sha256"]);
    let dataset = client.dataset("discs", &journeys::picture::discs(1)).await;
    let training = json!({"name": "none", "dataset": dataset, "model": "sd", "steps": 1});
    client.post("/v1/trainings", &training).await.expect_problem(422, "model");
    stack.ledger.audit().await;
}
