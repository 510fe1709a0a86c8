//! The deletion of a project: what it had is gone, and nothing else.

use std::time::{Duration, Instant};

use api::Access;
use domain::artifact::{ADAPTER_MEDIA_TYPE, NewArtifact, OutputKind};
use domain::job::{JobKind, LeasePolicy};
use domain::{StorageKey, job, project, training};
use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::projects::Site;
use crate::test_server::{Answer, FLUX_MODULE, lora, picture_part, png, text};

impl Site {
    async fn with_shop() -> (Self, String) {
        let site = Self::new().await;
        site.post(&site.admin, None, "/v1/projects", &json!({"name": "shop"})).await.expect(201);
        site.send(&site.admin, None, Method::PATCH, "/v1/models/ember", Some(&json!({"shared": true})))
            .await
            .expect(200);
        let key = site.key_of("shop").await;
        (site, key)
    }

    async fn delete_shop(&self, query: &str) -> Answer {
        self.send(&self.admin, None, Method::DELETE, &format!("/v1/projects/shop{query}"), None).await
    }

    async fn form(&self, key: &str, path: &str, form: Form) -> Value {
        self.server.send(self.server.request(Method::POST, path).bearer_auth(key).multipart(form)).await.expect(201)
    }

    /// Waits until nothing of deleted projects is left.
    async fn purged(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            project::purge_deleted(&self.server.pools.lease, &self.server.storage).await.unwrap();
            let of_deleted = "ON p.id = project_id WHERE p.deleted_at IS NOT NULL";
            let jobs = self.server.count(&format!("jobs JOIN projects p {of_deleted}")).await;
            if jobs + self.server.count(&format!("stored_bytes JOIN projects p {of_deleted}")).await == 0 {
                return;
            }
            assert!(Instant::now() < until, "something stays");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn fill(site: &Site, key: &str) -> Value {
    let picture = || Form::new().part("image", picture_part(png(40, 30, 5)));
    let input = site.form(key, "/v1/inputs", picture()).await;
    let dataset = site.post(key, None, "/v1/datasets", &json!({"name": "clay"})).await.expect(201);
    let images = format!("/v1/datasets/{}/images", text(&dataset["id"]));
    site.form(key, &images, picture()).await;
    site.post(key, None, "/v1/uploads", &json!({"bytes": 100})).await.expect(201);
    let upload = json!({"file_name": "a.png", "media_type": "image/png"});
    site.post(key, None, &images.replace("images", "uploads"), &upload).await.expect(201);

    let server = &site.server;
    let finished = json!({"prompt": "a fox", "image": input["id"], "strength": 0.9});
    site.post(key, None, "/v1/generations", &finished).await.expect(202);
    server.paint(&server.claim(JobKind::Generation).await).await;
    let uri = format!("data:image/png;base64,{}", {
        use base64::Engine as _;
        base64::prelude::BASE64_STANDARD.encode(png(40, 30, 9))
    });
    let carried = json!({"prompt": "a fox", "image": uri, "strength": 0.9});
    let failed = site.post(key, None, "/v1/generations", &carried).await.expect(202);
    let claim = server.claim(JobKind::Generation).await;
    let class = job::ErrorClass::InvalidInput;
    job::fail(&server.pools.lease, &claim, &LeasePolicy::default(), class, "no").await.unwrap();
    site.post(key, None, &format!("/v1/jobs/{}/retry", text(&failed["id"])), &json!({})).await.expect(202);
    server.paint(&server.claim(JobKind::Generation).await).await;

    let learn = json!({"name": "style", "dataset": dataset["id"], "steps": 10});
    site.post(key, None, "/v1/trainings", &learn).await.expect(202);
    let claim = server.claim(JobKind::Training).await;
    let storage_key =
        StorageKey::Artifact { job: claim.job, epoch: claim.epoch, position: 0, extension: "safetensors" }.to_string();
    server.storage.put(&storage_key, lora(FLUX_MODULE).into(), ADAPTER_MEDIA_TYPE).await.unwrap();
    let adapter = NewArtifact {
        kind: OutputKind::Adapter,
        position: 0,
        storage_key,
        media_type: ADAPTER_MEDIA_TYPE.to_owned(),
        width: None,
        height: None,
        bytes: 100,
        sha256: "0".repeat(64),
        md5: "0".repeat(32),
        seed: None,
    };
    training::finish(&server.pools.lease, &server.storage, &claim, adapter, &[]).await.unwrap();
    site.post(key, None, "/v1/models/style/export?format=kohya", &json!({})).await.expect(202);
    let import = json!({"name": "clay", "source": {"kind": "url", "url": "https://example.com/clay.safetensors"}});
    site.post(key, None, "/v1/models", &import).await.expect(202);
    dataset
}

#[tokio::test]
async fn everything_goes_and_other_projects_keep_theirs() {
    let (site, shop) = Site::with_shop().await;
    let (server, nobody) = (&site.server, None);
    let kept = site.post(&site.admin, nobody, "/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    server.paint(&server.claim(JobKind::Generation).await).await;
    let objects = server.objects();
    let dataset = fill(&site, &shop).await;
    assert!(server.objects() > objects + 5);
    // Another server must notice, too.
    let other = server.another(Access::keys(server.pools.api.clone())).await;

    site.delete_shop("").await.refuses(422, "confirm");
    site.delete_shop("?confirm=store").await.refuses(422, "confirm");
    site.get(&shop, nobody, "/v1/datasets").await.expect(200);
    assert_eq!(site.delete_shop("?confirm=shop").await.status, 204);

    site.get(&shop, nobody, "/v1/datasets").await.refuses(401, "");
    tokio::time::sleep(Duration::from_secs(2)).await;
    other.send(other.request(Method::GET, "/v1/datasets").bearer_auth(&shop)).await.refuses(401, "");
    site.get(&site.admin, nobody, "/v1/projects/shop").await.refuses(404, "");
    site.get(&site.admin, Some("shop"), "/v1/datasets").await.refuses(404, "");
    site.get(&site.admin, nobody, &format!("/v1/datasets/{}", text(&dataset["id"]))).await.refuses(404, "");
    site.delete_shop("?confirm=shop").await.refuses(404, "");
    let listed = site.get(&site.admin, nobody, "/v1/projects").await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);

    site.purged().await;
    for (table, left) in [
        ("jobs", 1),
        ("generations", 1),
        ("trainings", 0),
        ("imports", 0),
        ("exports", 0),
        ("inputs", 0),
        ("datasets", 0),
        ("examples", 0),
        ("uploads", 0),
        ("model_uploads", 0),
        ("artifacts", 1),
        ("stored_bytes s JOIN projects p ON p.id = s.project_id WHERE p.deleted_at IS NOT NULL", 0),
        ("models WHERE deleted_at IS NULL", 1),
    ] {
        assert_eq!(server.count(table).await, left, "{table}");
    }
    assert_eq!(server.objects(), objects, "objects of the project are gone, and no others");
    let kept = site.get(&site.admin, nobody, &format!("/v1/generations/{}", text(&kept["id"]))).await.expect(200);
    server.download(&kept["artifacts"][0]["url"]).await;

    // The name is free, and the log knows what happened.
    site.post(&site.admin, nobody, "/v1/projects", &json!({"name": "shop"})).await.expect(201);
    let log = site.get(&site.admin, nobody, "/v1/audit").await.expect(200);
    let deleted = |entry: &&Value| entry["action"] == "project.delete";
    assert_eq!(log["items"].as_array().unwrap().iter().find(deleted).unwrap()["details"]["name"], "shop");
}

#[tokio::test]
async fn a_running_job_is_canceled_and_goes_when_it_has_ended() {
    let (site, shop) = Site::with_shop().await;
    site.post(&shop, None, "/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    site.post(&shop, None, "/v1/generations", &json!({"prompt": "a cat"})).await.expect(202);
    let pool = &site.server.pools.lease;
    let claim = site.server.claim(JobKind::Generation).await;
    assert_eq!(site.delete_shop("?confirm=shop").await.status, 204);
    assert!(job::beat(pool, &claim, &LeasePolicy::default()).await.unwrap().cancel, "the worker learns of it");
    assert_eq!(site.server.count("jobs WHERE status = 'canceled'").await, 1);
    job::canceled(pool, &claim).await.unwrap();
    site.purged().await;
    assert_eq!(site.server.count("jobs").await, 0);
}

#[tokio::test]
async fn shared_models_go_to_another_project_or_hold_it_back() {
    let (site, shop) = Site::with_shop().await;
    let form = || {
        let form = Form::new().text("name", "clay").text("base", "ember");
        form.part("file", reqwest::multipart::Part::bytes(lora(FLUX_MODULE)).file_name("clay.safetensors"))
    };
    site.form(&shop, "/v1/models", form()).await;
    let share = json!({"shared": true});
    site.send(&site.admin, Some("shop"), Method::PATCH, "/v1/models/clay", Some(&share)).await.expect(200);
    let refused = site.delete_shop("?confirm=shop").await;
    refused.refuses(409, "move_shared_to");
    assert!(text(&refused.body["detail"]).contains("`clay`"));
    site.delete_shop("?confirm=shop&move_shared_to=nowhere").await.refuses(404, "move_shared_to");
    site.delete_shop("?confirm=shop&move_shared_to=shop").await.refuses(422, "move_shared_to");
    site.form(&site.admin, "/v1/models", form()).await;
    site.delete_shop("?confirm=shop&move_shared_to=default").await.refuses(409, "move_shared_to");
    site.post(&site.admin, None, "/v1/projects", &json!({"name": "other"})).await.expect(201);
    assert_eq!(site.delete_shop("?confirm=shop&move_shared_to=other").await.status, 204);
    let other = site.key_of("other").await;
    let model = site.get(&other, None, "/v1/models/clay").await.expect(200);
    assert_eq!(model["shared"], true);
    site.purged().await;
    site.get(&other, None, "/v1/models/clay/inspect").await.expect(200);
}

#[tokio::test]
async fn deletions_that_make_no_sense() {
    let (site, shop) = Site::with_shop().await;
    let (admin, nobody) = (&site.admin, None);
    let default = "/v1/projects/default?confirm=default";
    site.send(admin, nobody, Method::DELETE, default, None).await.refuses(409, "");
    for (query, field) in [
        ("?confirm=shop&force=true", "force"),
        ("?confirm=a%00b", "confirm"),
        ("?confirm=shop&move_shared_to=a%00b", "move_shared_to"),
        ("?confirm=shop&confirm=shop", "confirm"),
    ] {
        site.delete_shop(query).await.refuses(422, field);
    }
    let long = site.delete_shop(&format!("?confirm={}", "x".repeat(60_000))).await;
    assert!((400..500).contains(&long.status), "{}", long.status);
    let path = "/v1/projects/shop?confirm=shop";
    site.send(&shop, nobody, Method::DELETE, path, None).await.refuses(403, "");
    site.get(admin, nobody, "/v1/projects/shop").await.expect(200);
    site.get(&shop, nobody, "/v1/models").await.expect(200);
}
