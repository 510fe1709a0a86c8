//! `/v1/jobs`: every kind in one list, filters, one job by its public id, cancel and retry.

use domain::artifact::{ADAPTER_MEDIA_TYPE, NewArtifact, OutputKind};
use domain::job::{self, Claim, ErrorClass, JobKind, LeasePolicy};
use domain::{JobId, StorageKey};
use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::test_server::{FLUX_MODULE, TestServer, lora, picture_part, png, text};

impl TestServer {
    /// Lets the next job of this kind fail for good; returns its claim.
    pub(crate) async fn fail(&self, kind: JobKind) -> Claim {
        let claim = self.claim(kind).await;
        let (pool, policy) = (&self.pools.lease, LeasePolicy::default());
        job::fail(pool, &claim, &policy, ErrorClass::InvalidInput, "It cannot be done.").await.unwrap();
        claim
    }

    /// A generation that failed; returns its id.
    async fn failed_generation(&self, body: &Value) -> String {
        let id = text(&self.post("/v1/generations", body).await.expect(202)["id"]);
        self.fail(JobKind::Generation).await;
        id
    }

    async fn retry(&self, id: &str) -> crate::test_server::Answer {
        self.send(self.request(Method::POST, &format!("/v1/jobs/{id}/retry"))).await
    }
}

fn ids(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|job| text(&job["id"])).collect()
}

/// One job of each kind, oldest first: generation, training, import, export.
async fn one_of_each(server: &TestServer) -> Vec<String> {
    server.import("clay", Some("ember"), &[("clay.safetensors", lora(FLUX_MODULE))]).await.expect(201);
    let dataset = server.dataset(1).await;
    let generation = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let training = server.post("/v1/trainings", &json!({"name": "pot", "dataset": dataset})).await.expect(202);
    let source = json!({"kind": "url", "url": "https://example.com/jar.safetensors?token=secret"});
    let import =
        server.post("/v1/models", &json!({"name": "jar", "source": source, "base": "ember"})).await.expect(202);
    let export = server.post("/v1/models/clay/export?format=peft", &json!({})).await.expect(202);
    [generation, training, import, export].iter().map(|noun| text(&noun["id"])).collect()
}

#[tokio::test]
async fn every_kind_is_one_list_with_filters() {
    let server = TestServer::with_checkpoint().await;
    let made = one_of_each(&server).await;
    let all = server.get("/v1/jobs").await.expect(200);
    assert_eq!(ids(&all), made.iter().rev().cloned().collect::<Vec<_>>(), "newest first");
    for (id, kind) in made.iter().zip(JobKind::ALL) {
        let job = server.get(&format!("/v1/jobs/{id}")).await.expect(200);
        assert_eq!(all["items"].as_array().unwrap().iter().find(|one| one["id"] == **id), Some(&job));
        assert_eq!((&job["kind"], &job["status"]), (&json!(kind), &json!("queued")));
        let noun = server.get(&text(&job["urls"]["subject"])).await.expect(200);
        assert_eq!(noun["id"], **id);
        // The events of the job are those of its noun.
        let canceled = server.post(&text(&job["urls"]["cancel"]), &json!({})).await.expect(200);
        assert_eq!((&canceled["status"], &canceled["id"]), (&json!("canceled"), &json!(id)));
        for events in [&job["urls"]["events"], &noun["urls"]["events"]] {
            let over = server.send(server.request(Method::GET, &text(events)).header("last-event-id", "2")).await;
            assert_eq!(over.status, 204, "{events}");
        }
        // It does not exist at another kind's address.
        let other = JobKind::ALL[(kind as usize + 1) % JobKind::ALL.len()];
        server.get(&format!("{}/events", other.path(id))).await.refuses(404, "");
    }
    let [generation, training, import, export] = made.as_slice() else { panic!("{made:?}") };
    let training_at = text(&server.get(&format!("/v1/jobs/{training}")).await.expect(200)["created_at"]);
    let late = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let late = text(&late["id"]);
    let ember = text(&server.get("/v1/models/ember").await.expect(200)["id"]);
    for (query, expected) in [
        ("kind=generation".to_owned(), vec![&late, generation]),
        ("kind=import".to_owned(), vec![import]),
        ("status=queued".to_owned(), vec![&late]),
        ("status=canceled&kind=export".to_owned(), vec![export]),
        ("model=ember".to_owned(), vec![&late, import, training, generation]),
        (format!("model={}", ember.to_uppercase()), vec![&late, import, training, generation]),
        ("model=clay".to_owned(), vec![export]),
        ("model=nobody".to_owned(), vec![]),
        (format!("created_after={training_at}"), vec![&late, export, import, training]),
        (format!("created_before={training_at}"), vec![generation]),
        ("created_after=2020-01-01T00:00:00%2B02:00&limit=1".to_owned(), vec![&late]),
    ] {
        let page = server.get(&format!("/v1/jobs?{query}")).await.expect(200);
        assert_eq!(ids(&page).iter().collect::<Vec<_>>(), expected, "{query}");
    }
    let first = server.get("/v1/jobs?limit=3").await.expect(200);
    let rest = server.get(&format!("/v1/jobs?limit=3&cursor={}", text(&first["next_cursor"]))).await.expect(200);
    assert_eq!([ids(&first), ids(&rest)].concat(), [&[late.clone()][..], &ids(&all)].concat());
    assert_eq!(rest["next_cursor"], Value::Null);
}

/// A name means the model that has it today; if none has, those that had it.
#[tokio::test]
async fn a_filter_by_a_reused_name_means_the_model_of_today() {
    let server = TestServer::with_checkpoint().await;
    let listed = async || ids(&server.get("/v1/jobs?model=clay").await.expect(200)).len();
    for (before, after) in [(0, 1), (0, 1)] {
        server.import("clay", None, &[("clay.safetensors", lora(FLUX_MODULE))]).await.expect(201);
        assert_eq!(listed().await, before, "jobs of the earlier model of that name are not listed");
        let body = json!({"prompt": "a fox", "loras": [{"model": "clay"}]});
        let made = server.post("/v1/generations", &body).await.expect(202);
        assert_eq!(listed().await, after);
        server.post(&text(&made["urls"]["cancel"]), &json!({})).await.expect(200);
        server.delete("/v1/models/clay").await.expect(204);
    }
    assert_eq!(listed().await, 2, "the name that both had");
}

#[tokio::test]
async fn queries_that_make_no_sense_are_named() {
    let server = TestServer::with_checkpoint().await;
    for (query, field) in [
        ("kind=upscale", "kind"),
        ("kind=", "kind"),
        ("status=done", "status"),
        ("model=", "model"),
        ("model=a%20b", "model"),
        ("model=%00", "model"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-01-31", "created_after"),
        ("created_before=2026-02-30T00:00:00Z", "created_before"),
        ("created_before=%2B262143-01-01T00:00:00Z", "created_before"),
        ("limit=0", "limit"),
        ("cursor=x", "cursor"),
        ("family=flux", "family"),
    ] {
        server.get(&format!("/v1/jobs?{query}")).await.refuses(422, field);
    }
    let told = server.get("/v1/jobs?kind=upscale").await.body.to_string();
    assert!(JobKind::ALL.iter().all(|kind| told.contains(kind.as_str())), "{told}");
    for path in ["/v1/jobs/x", "/v1/jobs/00000000-0000-7000-8000-000000000000"] {
        server.get(path).await.refuses(404, "");
        server.get(&format!("{path}/events")).await.refuses(404, "");
        server.post(&format!("{path}/cancel"), &json!({})).await.refuses(404, "");
        server.post(&format!("{path}/retry"), &json!({})).await.refuses(404, "");
    }
}

#[tokio::test]
async fn a_failed_generation_is_repeated_with_its_own_picture() {
    let server = TestServer::with_checkpoint().await;
    server.import("clay", Some("ember"), &[("clay.safetensors", lora(FLUX_MODULE))]).await.expect(201);
    let form = Form::new().part("image", picture_part(png(64, 64, 255)));
    let mask = server.post_form("/v1/inputs", form).await.expect(201)["id"].clone();
    let picture = "data:image/png;base64,".to_owned() + &base64(&png(64, 32, 3));
    let body = json!({
        "prompt": "a fox", "image": picture, "mask": mask, "seed": 5, "loras": [{"model": "clay", "scale": 0.5}],
        "width": 64, "height": 32,
    });
    let failed = server.failed_generation(&body).await;
    let answer = server.retry(&failed).await;
    let location = answer.header("location").to_owned();
    let again = answer.expect(202);
    let id = text(&again["id"]);
    assert_eq!(location, format!("/v1/jobs/{id}"));
    assert_eq!(
        (&again["retry_of"], &again["status"], &again["attempts"]),
        (&json!(failed), &json!("queued"), &json!(0))
    );
    assert_eq!(server.get(&format!("/v1/jobs/{failed}")).await.expect(200)["retried_as"], *id);
    server.retry(&failed).await.refuses(409, "");
    server.retry(&id).await.refuses(409, "");

    let (old, new) = (
        server.get(&format!("/v1/generations/{failed}")).await.expect(200),
        server.get(&format!("/v1/generations/{id}")).await.expect(200),
    );
    for field in ["prompt", "seed", "loras", "model", "width", "height", "strength", "num_inference_steps"] {
        assert_eq!(old[field], new[field], "{field}");
    }
    // The picture that the request carried is kept when the failed generation is deleted.
    let bytes = server.download(&old["image"]["url"]).await;
    server.delete(&format!("/v1/generations/{failed}")).await.expect(204);
    assert_eq!(server.download(&new["image"]["url"]).await, bytes);
    server.get(&format!("/v1/jobs/{failed}")).await.refuses(404, "");
    assert_eq!(ids(&server.get("/v1/jobs").await.expect(200)), std::slice::from_ref(&id));
    server.retry(&failed).await.refuses(404, "");
    // What it needs cannot be deleted while it is queued.
    server.delete("/v1/models/clay").await.refuses(409, "");
    server.delete(&format!("/v1/inputs/{}", text(&mask))).await.refuses(409, "");

    // If something that it needs is deleted, it cannot be repeated, and no object is left behind.
    server.fail(JobKind::Generation).await;
    server.delete("/v1/models/clay").await.expect(204);
    let objects = server.objects();
    server.retry(&id).await.refuses(404, "");
    assert_eq!((server.objects(), server.count("jobs WHERE status = 'queued'").await), (objects, 0));
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}

#[tokio::test]
async fn failed_jobs_of_the_other_kinds() {
    let server = TestServer::with_checkpoint().await;
    let made = one_of_each(&server).await;
    let [generation, training, import, export] = made.as_slice() else { panic!("{made:?}") };
    for id in &made {
        server.retry(id).await.refuses(409, "");
    }
    server.claim(JobKind::Generation).await;
    let running = server.retry(generation).await;
    assert!(running.body["detail"].as_str().unwrap().contains("is running"), "{:#}", running.body);

    server.fail(JobKind::Export).await;
    let again = server.retry(export).await.expect(202);
    assert_eq!(server.get(&text(&again["urls"]["subject"])).await.expect(200)["format"], "peft");
    server.delete("/v1/models/clay").await.refuses(409, "");
    // The same export was requested again in the meantime: it is made once.
    server.fail(JobKind::Export).await;
    server.post("/v1/models/clay/export?format=peft", &json!({})).await.expect(202);
    server.retry(&text(&again["id"])).await.refuses(409, "");
    assert_eq!(server.count("jobs WHERE kind = 'export' AND status = 'queued'").await, 1);
    server.delete("/v1/models/clay").await.refuses(409, "");

    server.fail(JobKind::Training).await;
    let again = server.retry(training).await.expect(202);
    let noun = server.get(&text(&again["urls"]["subject"])).await.expect(200);
    assert_eq!(
        (&noun["name"], &again["output_name"], &again["progress"]["total_steps"]),
        (&json!("pot"), &json!("pot"), &noun["steps"])
    );
    // A name that was taken meanwhile, and pictures that were deleted.
    server.fail(JobKind::Training).await;
    server.import("pot", None, &[("x.safetensors", lora(FLUX_MODULE))]).await.expect(201);
    server.retry(&text(&again["id"])).await.refuses(409, "name");
    server.delete("/v1/models/pot").await.expect(204);
    server.delete(&format!("/v1/datasets/{}", text(&noun["dataset_id"]))).await.expect(204);
    server.retry(&text(&again["id"])).await.refuses(409, "");

    server.fail(JobKind::Import).await;
    let refused = server.retry(import).await;
    assert!(refused.body["detail"].as_str().unwrap().contains("query string"), "{:#}", refused.body);
    refused.refuses(409, "");
    let source = json!({"kind": "hugging_face", "repo": "owner/name"});
    let body = json!({"name": "cup", "source": source, "base": "ember"});
    let plain = text(&server.post("/v1/models", &body).await.expect(202)["id"]);
    server.fail(JobKind::Import).await;
    let again = server.retry(&plain).await.expect(202);
    let noun = server.get(&text(&again["urls"]["subject"])).await.expect(200);
    assert_eq!((&noun["source"]["repo"], &noun["name"]), (&json!("owner/name"), &json!("cup")));
    assert_eq!(again["models"][0]["name"], "ember");
}

#[tokio::test]
async fn a_deleted_retry_is_forgotten() {
    let server = TestServer::with_checkpoint().await;
    let failed = server.failed_generation(&json!({"prompt": "a fox"})).await;
    let first = text(&server.retry(&failed).await.expect(202)["id"]);
    let claim = server.claim(JobKind::Generation).await;
    server.paint(&claim).await;
    server.retry(&failed).await.refuses(409, "");

    server.delete(&format!("/v1/generations/{first}")).await.expect(204);
    assert_eq!(server.get(&format!("/v1/jobs/{failed}")).await.expect(200)["retried_as"], json!(null));
    let second = server.retry(&failed).await.expect(202);
    server.delete(&format!("/v1/generations/{failed}")).await.expect(204);
    let path = format!("/v1/jobs/{}", text(&second["id"]));
    assert_eq!(server.get(&path).await.expect(200)["retry_of"], json!(null));
}

#[tokio::test]
async fn what_has_ended_can_be_deleted() {
    let server = TestServer::with_checkpoint().await;
    let made = one_of_each(&server).await;
    let objects = server.objects();
    for (id, kind) in made.iter().zip(JobKind::ALL) {
        for path in [format!("/v1/jobs/{id}"), kind.path(id)] {
            let refused = server.delete(&path).await;
            assert!(refused.body["detail"].as_str().unwrap().contains("cancel it first"), "{:#}", refused.body);
            refused.refuses(409, "");
        }
    }
    // The export has a file, and the other jobs ended in other ways.
    let [generation, training, import, export] = made.as_slice() else { panic!("{made:?}") };
    let claim = server.claim(JobKind::Export).await;
    let key = StorageKey::Artifact { job: claim.job, epoch: claim.epoch, position: 0, extension: "safetensors" };
    let key = key.to_string();
    server.storage.put(&key, bytes::Bytes::from_static(b"a LoRA"), ADAPTER_MEDIA_TYPE).await.unwrap();
    let artifact = NewArtifact {
        kind: OutputKind::Adapter,
        position: 0,
        storage_key: key,
        media_type: ADAPTER_MEDIA_TYPE.to_owned(),
        width: None,
        height: None,
        bytes: 6,
        sha256: "0".repeat(64),
        md5: "0".repeat(32),
        seed: None,
    };
    domain::export::finish(&server.pools.lease, &claim, &artifact).await.unwrap();
    server.fail(JobKind::Import).await;
    for id in [generation, training] {
        server.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await.expect(200);
    }
    assert_eq!(server.objects(), objects + 1);

    server.delete(&format!("/v1/exports/{export}")).await.expect(204);
    server.delete(&format!("/v1/imports/{import}")).await.expect(204);
    server.delete(&format!("/v1/jobs/{training}")).await.expect(204);
    server.delete(&format!("/v1/jobs/{generation}")).await.expect(204);
    assert_eq!((server.objects(), ids(&server.get("/v1/jobs").await.expect(200))), (objects, vec![]));
    for (id, kind) in made.iter().zip(JobKind::ALL) {
        for path in [format!("/v1/jobs/{id}"), kind.path(id)] {
            server.get(&path).await.refuses(404, "");
            server.delete(&path).await.refuses(404, "");
        }
        let all = server.get(kind.path("").trim_end_matches('/')).await.expect(200);
        assert_eq!(all["items"], json!([]), "{all:#}");
    }
    // The same export is made again, and the name of the import is free.
    let again = server.post("/v1/models/clay/export?format=peft", &json!({})).await.expect(202);
    assert_ne!(again["id"], **export);
    server.import("jar", None, &[("x.safetensors", lora(FLUX_MODULE))]).await.expect(201);
}

#[tokio::test]
async fn two_retries_at_once_make_one_job() {
    let server = TestServer::with_checkpoint().await;
    let failed = server.failed_generation(&json!({"prompt": "a fox"})).await;
    let (one, two) = tokio::join!(server.retry(&failed), server.retry(&failed));
    let mut told = [one.status, two.status];
    told.sort_unstable();
    assert_eq!((told, server.count("jobs").await), ([202, 409], 2));
}

#[tokio::test]
async fn a_job_whose_retry_failed_is_retried_again() {
    let server = TestServer::with_checkpoint().await;
    let failed = server.failed_generation(&json!({"prompt": "a fox"})).await;
    server.retry(&failed).await.expect(202);
    server.retry(&failed).await.refuses(409, "");
    server.fail(JobKind::Generation).await;
    let third = server.retry(&failed).await.expect(202);
    assert_eq!(third["retry_of"], json!(failed));
    server.retry(&failed).await.refuses(409, "");
}

#[tokio::test]
async fn a_job_of_an_older_version_is_known_by_its_noun_alone() {
    let server = TestServer::with_checkpoint().await;
    let id = text(&server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202)["id"]);
    // As version 9 wrote it: the job has its own id.
    let own = JobId::new();
    let mut connection = server.pools.lease.acquire().await.unwrap();
    for statement in [
        "SET session_replication_role = replica",
        "UPDATE job_events SET job_id = $1 WHERE job_id = $2",
        "UPDATE job_needs SET job_id = $1 WHERE job_id = $2",
        "UPDATE generations SET job_id = $1 WHERE id = $2",
        "UPDATE jobs SET id = $1 WHERE subject = $2",
        "SET session_replication_role = origin",
    ] {
        let query = sqlx::query(statement);
        let query =
            if statement.contains("$1") { query.bind(own.0).bind(id.parse::<uuid::Uuid>().unwrap()) } else { query };
        query.execute(&mut *connection).await.unwrap();
    }
    let claim = server.claim(JobKind::Generation).await;
    assert_eq!((claim.job, claim.subject.to_string()), (own, id.clone()));
    server.paint(&claim).await;
    let mut told = Vec::new();
    for path in [format!("/v1/jobs/{id}"), "/v1/jobs".into(), format!("/v1/generations/{id}"), "/v1/workers".into()] {
        told.push(server.get(&path).await.expect(200).to_string());
    }
    let events =
        server.request(Method::GET, &format!("/v1/jobs/{id}/events")).send().await.unwrap().text().await.unwrap();
    assert!(events.contains("event: succeeded"), "{events}");
    told.push(events);
    // Except keys of the bucket, which were signed with the queue's id.
    let own = own.0.to_string();
    assert!(told.iter().all(|answer| !answer.replace(&format!("/artifacts/{own}/"), "").contains(&own)), "{told:#?}");
    server.get(&format!("/v1/jobs/{own}")).await.refuses(404, "");
}
