//! Replies to `COMMIT` that are lost, and clients that hang up: no row may be without its object, and the sweeper
//! removes the objects that are without a row.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::{StreamExt, stream};
use image::{Rgb, RgbImage};
use journeys::client::{Answer, Client, text};
use journeys::ground::Site;
use journeys::lossy::LossyPostgres;
use journeys::model::golden;
use journeys::picture::{Photo, archive, discs, png};
use journeys::stack::{Pace, Stack};
use journeys::wait::{milliseconds, seconds, until};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

/// Requests at the same time.
const AT_ONCE: usize = 6;
/// Part of the clients that hang up, in percent.
const HANG_UPS: u32 = 30;

/// The kinds of creations by which a client stores an object.
const KINDS: [&str; 6] = ["images", "archive", "upload", "input", "model", "generation"];

#[tokio::test]
async fn a_lost_reply_to_a_commit_costs_no_object() {
    lose_replies(20, 4, seconds(240)).await;
}

#[tokio::test]
#[ignore = "takes long; `./justw lost-replies`"]
async fn a_lost_reply_to_a_commit_costs_no_object_500_times() {
    lose_replies(500, 500, seconds(2 * 3600)).await;
}

/// Creates `count` of each kind, and `trainings`.
async fn lose_replies(count: usize, trainings: usize, limit: Duration) {
    let site = Site::create().await;
    let postgres = LossyPostgres::before(&site.database_url).await;
    let stack = Stack::start_on(site, Pace::Promised, &[("DATABASE_URL", &postgres.url)]).await;
    let _worker = stack.worker_with("worker", "", &[("PYROGRAPH_CHECKPOINT_EVERY", "1")]);
    let dataset = stack.client.empty_dataset("all").await;
    let discs = stack.client.dataset("discs", &discs(2)).await;
    let lora = std::fs::read(golden("lora-dialects/flux/kohya.safetensors")).unwrap();
    stack.client.add_model("ink", &[("ink.safetensors".to_owned(), lora.clone())], None).await.expect(201);

    postgres.lose(50);
    let (answered, hung_up) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let creations = (0..count).flat_map(|number| KINDS.map(|kind| (kind, number)));
    stream::iter(creations)
        .for_each_concurrent(AT_ONCE, |(kind, number)| {
            let creation =
                Creation { client: &stack.client, dataset: &dataset, lora: &lora, hung_up: &hung_up, number };
            let answered = &answered;
            async move {
                if let Some(answer) = creation.make(kind).await {
                    answered.fetch_add(1, Ordering::Relaxed);
                    assert!([201, 202, 503].contains(&answer.status), "{kind} {number}: {answer:?}");
                }
            }
        })
        .await;
    // A worker stores pictures of generations, imported files, exports, checkpoints and LoRAs.
    for number in 0..count {
        jobs(&stack.client, &lora, number).await;
    }
    for number in 0..trainings {
        let training = json!({"name": format!("trained-{number}"), "dataset": discs, "model": "tiny", "steps": 2,
                              "rank": 1, "resolution": 32, "seed": number});
        let _ = stack.client.try_send(stack.client.request(Method::POST, "/v1/trainings").json(&training)).await;
    }
    nothing_left(&stack, limit, "select count(*) from jobs where status in ('queued', 'running')").await;
    postgres.lose(0);
    let kinds = "select count(distinct kind) from jobs where status = 'succeeded'";
    let kinds: i64 = sqlx::query_scalar(kinds).fetch_one(stack.ledger.pool()).await.unwrap();
    assert_eq!(kinds, 4, "jobs of each kind were done");
    // Commits whose clients hung up may still be under way, and look up to ten seconds what became of them.
    tokio::time::sleep(seconds(12)).await;

    let (commits, lost) = postgres.count();
    assert!(lost * 5 > commits, "{lost} of {commits} replies were lost");
    let rows = stack.ledger.objects_of_rows().await;
    let objects = stack.site.keys();
    let missing: Vec<_> = rows.difference(&objects).collect();
    assert!(missing.is_empty(), "{} of {} rows are without objects: {missing:?}", missing.len(), rows.len());
    stack.ledger.audit().await;

    let looks = "select count(*) from leftovers where due_at < clock_timestamp() + interval '5 minutes'";
    nothing_left(&stack, seconds(90), looks).await;
    nothing_left(&stack, seconds(90), "select count(*) from deletions where done_at is null").await;
    let uploads = stack.ledger.uploads().await;
    let without_row = || {
        let mut objects = stack.site.keys();
        objects.retain(|key| !rows.contains(key) && !uploads.iter().any(|upload| key.starts_with(upload)));
        objects
    };
    println!(
        "{} creations of each kind: {commits} commits, {lost} replies lost, {} answers, {} clients hung up; \
         {} objects of rows, none of them missing, {} objects without a row",
        count,
        answered.load(Ordering::Relaxed),
        hung_up.load(Ordering::Relaxed),
        rows.len(),
        without_row().len(),
    );

    // Two days later.
    stack.site.age_objects(seconds(2 * 24 * 3600));
    let marked = stack.operator_json(&["sweep", "--accept", "--json"]);
    sqlx::query("update sweep_marks set marked_at = marked_at - interval '2 days'")
        .execute(stack.ledger.pool())
        .await
        .unwrap();
    let swept = stack.operator_json(&["sweep", "--json"]);
    println!("marked {}, deleted {}", marked["marked"], swept["deleted"]);
    assert_eq!(swept["deleted"], marked["strays"], "{marked:#} {swept:#}");
    stack.audit_bucket().await;
}

struct Creation<'a> {
    client: &'a Client,
    dataset: &'a str,
    lora: &'a [u8],
    hung_up: &'a AtomicUsize,
    number: usize,
}

impl Creation<'_> {
    /// Makes one; `None` if there was no answer.
    async fn make(&self, kind: &'static str) -> Option<Answer> {
        let images = format!("/v1/datasets/{}/images", self.dataset);
        let picture = |name: &str| Part::bytes(self.photo().bytes).file_name(name.to_owned());
        match kind {
            "images" => {
                let form = Form::new().part("image", picture("a.png")).part("image", picture("b.png"));
                self.send(self.post(&images).multipart(form)).await
            }
            "archive" => {
                let part = Part::bytes(archive(&[self.photo()])).file_name("photos.zip");
                self.send(self.post(&images).multipart(Form::new().part("archive", part))).await
            }
            "input" => self.send(self.post("/v1/inputs").multipart(Form::new().part("image", picture("a.png")))).await,
            "model" => {
                let form = Form::new().text("name", format!("lora-{}", self.number)).part("file", self.model());
                self.send(self.post("/v1/models").multipart(form)).await
            }
            "generation" => {
                let image = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(self.photo().bytes));
                let request = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32,
                                     "height": 32, "image": image, "mask": image});
                self.send(self.post("/v1/generations").json(&request)).await
            }
            "upload" => {
                let uploads = format!("/v1/datasets/{}/uploads", self.dataset);
                let body = json!({"file_name": "a.png", "media_type": "image/png"});
                let upload = self.client.try_send(self.post(&uploads).json(&body)).await.ok()?;
                if upload.status != 201 {
                    return Some(upload);
                }
                assert_eq!(self.client.put_upload(&upload.body, self.photo().bytes).await, 200);
                let complete = self.post(&format!("{uploads}/{}/complete", text(&upload.body["id"]))).json(&json!({}));
                self.send(complete).await
            }
            other => panic!("{other} is not a kind"),
        }
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.client.request(Method::POST, path)
    }

    /// Sends it, and hangs up soon in some cases.
    async fn send(&self, request: RequestBuilder) -> Option<Answer> {
        if fastrand::u32(0..100) >= HANG_UPS {
            return self.client.try_send(request).await.ok();
        }
        let answer = tokio::time::timeout(milliseconds(fastrand::u64(1..60)), self.client.try_send(request)).await;
        if answer.is_err() {
            self.hung_up.fetch_add(1, Ordering::Relaxed);
        }
        answer.ok()?.ok()
    }

    /// A picture that differs from all others.
    fn photo(&self) -> Photo {
        let [red, green, blue, _] = (self.number as u32).to_le_bytes();
        let bytes = png(&RgbImage::from_pixel(32, 32, Rgb([red, green, blue])));
        Photo { name: "photo.png".to_owned(), caption: String::new(), bytes }
    }

    fn model(&self) -> Part {
        Part::bytes(lora(self.lora, self.number / 3)).file_name("ink.safetensors")
    }
}

/// A LoRA that differs from others by one value. Each is sent about three times, so that files are shared.
fn lora(like: &[u8], number: usize) -> Vec<u8> {
    let mut bytes = like.to_vec();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&(number as f32 / 1000.0).to_le_bytes());
    bytes
}

/// Queues one job of each kind but trainings; its creation may fail.
async fn jobs(client: &Client, like: &[u8], number: usize) {
    let generation = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1,
                            "width": 32, "height": 32, "seed": number});
    let format = ["kohya", "peft", "comfy"][number % 3];
    let _ = client.try_send(client.request(Method::POST, "/v1/generations").json(&generation)).await;
    let export = format!("/v1/models/lora-{number}/export?format={format}&dtype=f32");
    let _ = client.try_send(client.request(Method::POST, &export)).await;
    let bytes = lora(like, 1000 + number / 3);
    let upload = client.request(Method::POST, "/v1/uploads").json(&json!({"bytes": bytes.len()}));
    let Ok(upload) = client.try_send(upload).await else { return };
    if upload.status != 201 {
        return;
    }
    assert_eq!(client.put_upload(&upload.body["parts"][0], bytes).await, 200);
    let files = json!([{"path": "ink.safetensors", "upload": upload.body["id"]}]);
    let import = json!({"name": format!("imported-{number}"), "source": {"kind": "upload", "files": files}});
    let _ = client.try_send(client.request(Method::POST, "/v1/models").json(&import)).await;
}

/// Waits until `count` is 0.
async fn nothing_left(stack: &Stack, limit: Duration, count: &'static str) {
    until(limit, count, || async {
        let left: i64 = sqlx::query_scalar(count).fetch_one(stack.ledger.pool()).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
}
