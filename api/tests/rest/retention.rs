//! Retention of a project: old things are deleted kind by kind, and shown before that.

use domain::artifact::{ADAPTER_MEDIA_TYPE, NewArtifact, OutputKind};
use domain::job::JobKind;
use domain::{StorageKey, export, sweep};
use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::projects::Site;
use crate::test_server::{FLUX_MODULE, TestServer, file_part, lora, png, text};

const DEFAULT: &str = "/v1/projects/default";

impl Site {
    async fn upload(&self, path: &str, form: Form) -> Value {
        let request = self.server.request(Method::POST, path).bearer_auth(&self.admin).multipart(form);
        self.server.send(request).await.expect(201)
    }

    async fn generate_from(&self, input: &Value) -> String {
        let request = json!({"prompt": "a fox", "image": input["id"], "strength": 0.9});
        let made = self.post(&self.admin, None, "/v1/generations", &request).await.expect(202);
        format!("/v1/jobs/{}", text(&made["id"]))
    }

    async fn status(&self, path: &str) -> u16 {
        self.get(&self.admin, None, path).await.status
    }

    /// What `retention` would delete, which is not deleted by that.
    async fn would_delete(&self, retention: &Value) -> Value {
        let path = format!("{DEFAULT}?dry_run=true");
        let before = self.get(&self.admin, None, DEFAULT).await.expect(200);
        let changes = json!({"retention": retention, "quotas": {"queued_jobs": 7}});
        let would = self.send(&self.admin, None, Method::PATCH, &path, Some(&changes)).await.expect(200);
        assert_eq!(self.get(&self.admin, None, DEFAULT).await.expect(200), before);
        would
    }

    async fn keep(&self, retention: &Value) {
        let changes = json!({"retention": retention});
        self.send(&self.admin, None, Method::PATCH, DEFAULT, Some(&changes)).await.expect(200);
        sweep::tidy(&self.server.pools.lease, &self.server.storage).await.unwrap();
    }
}

impl TestServer {
    /// Makes an exported file, and returns its size.
    async fn export(&self) -> i64 {
        let claim = self.claim(JobKind::Export).await;
        let key = StorageKey::Artifact { job: claim.job, epoch: 1, position: 0, extension: "safetensors" }.to_string();
        let bytes = lora(FLUX_MODULE);
        self.storage.put(&key, bytes.clone().into(), ADAPTER_MEDIA_TYPE).await.unwrap();
        let made = NewArtifact {
            kind: OutputKind::Adapter,
            position: 0,
            storage_key: key,
            media_type: ADAPTER_MEDIA_TYPE.to_owned(),
            width: None,
            height: None,
            bytes: bytes.len() as i64,
            sha256: "0".repeat(64),
            md5: "0".repeat(32),
            seed: None,
        };
        export::finish(&self.pools.lease, &claim, &made).await.unwrap();
        bytes.len() as i64
    }

    /// Makes everything 31 days older that has ended or was uploaded.
    async fn age(&self) {
        for statement in [
            "ALTER TABLE jobs DISABLE TRIGGER USER",
            "ALTER TABLE inputs DISABLE TRIGGER USER",
            "UPDATE jobs SET finished_at = finished_at - interval '31 days' WHERE finished_at IS NOT NULL",
            "UPDATE inputs SET created_at = created_at - interval '31 days'",
            "ALTER TABLE jobs ENABLE TRIGGER USER",
            "ALTER TABLE inputs ENABLE TRIGGER USER",
        ] {
            sqlx::query(statement).execute(&self.pools.lease).await.unwrap();
        }
    }
}

fn amount(count: i64, bytes: i64) -> Value {
    json!({"count": count, "bytes": bytes})
}

#[tokio::test]
async fn old_things_are_deleted_kind_by_kind_and_shown_before() {
    let site = Site::new().await;
    let (server, admin) = (&site.server, &site.admin);
    // A generation and an export that succeeded, a job of each of three kinds that did not, and others that are not old
    // or not done.
    let used = site.input(1).await.expect(201);
    let made = site.generate_from(&used).await;
    let picture = server.paint(&server.claim(JobKind::Generation).await).await.len() as i64;
    let form = Form::new().text("name", "clay").text("base", "ember");
    site.upload("/v1/models", form.part("file", file_part("clay.safetensors", &lora(FLUX_MODULE)))).await;
    let export = site.post(admin, None, "/v1/models/clay/export?format=kohya", &json!({})).await.expect(202);
    let export = format!("/v1/jobs/{}", text(&export["id"]));
    let file = server.export().await;
    let uri = format!("data:image/png;base64,{}", {
        use base64::Engine as _;
        base64::prelude::BASE64_STANDARD.encode(png(40, 30, 9))
    });
    let carried = json!({"prompt": "a fox", "image": uri, "strength": 0.9});
    let failed = site.post(admin, None, "/v1/generations", &carried).await.expect(202);
    server.fail(JobKind::Generation).await;
    let import = json!({"name": "ink", "source": {"kind": "url", "url": "https://example.com/clay.safetensors"}});
    let import = site.post(admin, None, "/v1/models", &import).await.expect(202);
    server.fail(JobKind::Import).await;
    let canceled = site.post(admin, None, "/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    site.post(admin, None, &text(&canceled["urls"]["cancel"]), &json!({})).await.expect(200);
    let without = [&failed, &import, &canceled].map(|job| format!("/v1/jobs/{}", text(&job["id"])));
    let needed = site.input(2).await.expect(201);
    let waiting = site.generate_from(&needed).await;
    server.age().await;
    let young_input = site.input(3).await.expect(201);
    let young = site.post(admin, None, "/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let young = format!("/v1/jobs/{}", text(&young["id"]));
    let path = |input: &Value| format!("/v1/inputs/{}", text(&input["id"]));
    let everything = [&made, &export, &waiting, &young].into_iter().chain(&without).cloned();
    let inputs = [path(&used), path(&needed), path(&young_input)];
    let everything: Vec<String> = everything.chain(inputs.clone()).collect();

    sweep::tidy(&server.pools.lease, &server.storage).await.unwrap();
    let all = json!({"outputs_days": 30, "inputs_days": 30, "events_days": 30, "failed_jobs_days": 30});
    let would = site.would_delete(&all).await;
    assert_eq!(would["outputs"], amount(2, picture + file));
    assert_eq!(would["inputs"], amount(1, png(40, 30, 1).len() as i64));
    assert_eq!(would["failed_jobs"], amount(3, png(40, 30, 9).len() as i64));
    let events: i64 = would["events"]["count"].as_i64().unwrap();
    assert!(events >= 9 && would["events"]["bytes"] == 0, "{would}");
    let later = json!({"outputs_days": 32, "inputs_days": 32, "events_days": 32, "failed_jobs_days": 32});
    let nothing = amount(0, 0);
    let empty = json!({"outputs": nothing, "inputs": nothing, "events": nothing, "failed_jobs": nothing});
    assert_eq!(site.would_delete(&later).await, empty);
    site.keep(&later).await;
    for path in &everything {
        assert_eq!(site.status(path).await, 200, "{path}");
    }
    let objects = server.objects();

    // The events first: the rows of the jobs stay.
    let rows = server.count("job_events").await;
    site.keep(&json!({"events_days": 30})).await;
    assert_eq!(server.count("job_events").await, rows - events);
    let last = "job_events e JOIN jobs j ON j.id = e.job_id AND e.sequence = j.last_sequence";
    assert_eq!(server.count(last).await, server.count("jobs").await, "the last event stays");
    site.keep(&json!({"inputs_days": 30})).await;
    assert_eq!(
        [site.status(&inputs[0]).await, site.status(&inputs[1]).await, site.status(&inputs[2]).await],
        [404, 200, 200]
    );
    assert_eq!(server.objects(), objects - 1);
    site.keep(&json!({"failed_jobs_days": 30})).await;
    for path in &without {
        assert_eq!(site.status(path).await, 404, "{path}");
    }
    assert_eq!(server.objects(), objects - 2, "a picture that a request carried is deleted with it");
    for path in [&made, &export, &waiting, &young] {
        assert_eq!(site.status(path).await, 200, "{path}");
    }
    site.keep(&json!({"outputs_days": 30})).await;
    for (path, status) in [(&made, 404), (&export, 404), (&waiting, 200), (&young, 200)] {
        assert_eq!(site.status(path).await, status, "{path}");
    }
    assert_eq!(server.objects(), objects - 4);
    assert_eq!(site.status("/v1/models/clay").await, 200, "models are not deleted by age");
    assert_eq!(site.would_delete(&all).await, empty);
}

#[tokio::test]
async fn a_new_project_may_have_a_retention_and_another_one_is_not_affected() {
    let site = Site::new().await;
    let request = json!({"name": "shop", "retention": {"outputs_days": 1, "inputs_days": 1, "events_days": null}});
    let shop = site.post(&site.admin, None, "/v1/projects", &request).await.expect(201);
    let kept = json!({"outputs_days": 1, "inputs_days": 1, "events_days": null, "failed_jobs_days": null});
    assert_eq!(shop["retention"], kept);
    assert_eq!(site.get(&site.admin, None, "/v1/projects/shop").await.expect(200), shop);
    let log = site.get(&site.admin, None, "/v1/audit").await.expect(200);
    assert_eq!(log["items"][0]["details"], json!({"name": "shop", "retention": request["retention"]}));

    let input = site.input(1).await.expect(201);
    site.server.age().await;
    sweep::tidy(&site.server.pools.lease, &site.server.storage).await.unwrap();
    assert_eq!(site.status(&format!("/v1/inputs/{}", text(&input["id"]))).await, 200);
}
