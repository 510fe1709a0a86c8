//! Previews: over SSE while a generation runs, decoded by the model's own autoencoder or by an imported tiny one, and
//! as a file on the command line.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use journeys::client::text;
use journeys::model::{golden, pipeline_files};
use journeys::sse::{Event, Events};
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use serde_json::json;

/// The pictures of the previews among `events`.
fn shown(events: &[Event]) -> Vec<image::RgbImage> {
    let previews = events.iter().filter(|event| event.kind == "preview");
    previews
        .map(|event| {
            assert_eq!(event.id, None, "a preview is not told again");
            let image = text(&event.data["image"]);
            let bytes = STANDARD.decode(image.strip_prefix("data:image/jpeg;base64,").expect("a data URI")).unwrap();
            let picture = image::load_from_memory_with_format(&bytes, image::ImageFormat::Jpeg).unwrap().to_rgb8();
            assert_eq!(
                (&event.data["width"], &event.data["height"]),
                (&json!(picture.width()), &json!(picture.height()))
            );
            picture
        })
        .collect()
}

#[tokio::test]
async fn a_generation_shows_its_pictures_at_work() {
    let stack = Stack::start(Pace::Promised).await;
    let client = &stack.client;
    client.add_model("sd", &pipeline_files("sd15-tiny"), None).await.expect(201);
    let _worker = stack.worker("worker", "step_delay_ms=300");
    let body =
        json!({"prompt": "an owl", "model": "sd", "num_inference_steps": 8, "width": 48, "height": 32, "seed": 3});
    let plain = client.generate(&body).await;
    let mut body = body;
    body["preview_every"] = 2.into();

    // First by the nearest linear map, then by a tiny autoencoder that was imported meanwhile.
    let mut looks = Vec::new();
    let mut made = vec![client.artifacts(&client.succeeded(&plain, seconds(60)).await).await.remove(0)];
    for decoder in [None, Some("taesd")] {
        if let Some(name) = decoder {
            let file = std::fs::read(golden("taesd-tiny/diffusion_pytorch_model.safetensors")).unwrap();
            let taesd = client.add_model(name, &[("taesd.safetensors".into(), file)], None).await.expect(201);
            assert_eq!((&taesd["kind"], &taesd["family"]), (&json!("vae_approx"), &json!("sd15")));
            let about = client.get("/v1/models/taesd/inspect").await.expect(200);
            assert_eq!(about, json!({"kind": "vae_approx", "family": "sd15", "latent_channels": 4, "warnings": []}));
        }
        let generation = client.generate(&body).await;
        assert_eq!(generation["preview_every"], 2);
        let path = text(&generation["urls"]["events"]);
        let events = Events::open(client, &path, None).await.rest(seconds(60)).await;
        let last = events.last().expect("events");
        assert_eq!(last.kind, "succeeded");
        let steps: Vec<_> =
            events.iter().filter(|event| event.kind == "preview").map(|event| event.data["step"].as_i64()).collect();
        assert!(steps.len() >= 2 && steps.is_sorted() && steps.iter().flatten().all(|step| step % 2 == 0), "{steps:?}");
        let pictures = shown(&events);
        assert!(pictures.iter().all(|picture| picture.dimensions() == (48, 32)));
        looks.push(pictures.last().cloned().expect("previews"));

        let again = Events::open(client, &path, None).await.rest(seconds(10)).await;
        assert!(again.iter().all(|event| event.kind != "preview"), "they are deleted when the job ends");
        let done = client.get(&text(&generation["urls"]["self"])).await.expect(200);
        assert_eq!(done["warnings"], json!([]));
        made.push(client.artifacts(&done).await.remove(0));
    }
    assert_ne!(looks[0], looks[1], "each decoder sees it in its own way");
    assert!(made.iter().all(|picture| *picture == made[0]), "who looks changes nothing");
    for (wrong, field) in [(json!(0), "preview_every"), (json!(201), "preview_every"), (json!("all"), "preview_every")]
    {
        body["preview_every"] = wrong;
        client.post("/v1/generations", &body).await.expect_problem(422, field);
    }
    stack.ledger.audit().await;
}
