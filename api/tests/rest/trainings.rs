//! Trainings: a snapshot that nothing changes, a result that is a model, and what is refused.

use bytes::Bytes;
use domain::artifact::{ADAPTER_MEDIA_TYPE, NewArtifact, OutputKind};
use domain::job::{Claim, JobKind};
use domain::training::{self, NewCheckpoint};
use domain::{Error, StorageKey, WorkerId};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::test_server::{FLUX_MODULE, TestServer, hex, lora, text};

#[tokio::test]
async fn from_dataset_to_model() {
    let server = TestServer::with_checkpoint().await;
    let dataset = server.dataset(2).await;
    let body = json!({"name": "clay", "dataset": dataset, "steps": 20, "trigger_word": "clay style", "seed": 9});
    let created = server.post("/v1/trainings", &body).await;
    let path = created.header("location").to_owned();
    let created = created.expect(202);
    assert_eq!((&created["rank"], &created["alpha"], &created["resolution"]), (&json!(16), &json!(16.0), &json!(64)));
    server.post("/v1/trainings", &body).await.refuses(409, "name");
    server.delete(&format!("/v1/datasets/{dataset}")).await.refuses(409, "");

    let claim = server.claim(JobKind::Training).await;
    let (pool, storage) = (&server.pools.lease, &server.storage);
    let work = training::load_work(pool, &claim).await.unwrap();
    assert_eq!((work.examples.len(), work.checkpoint), (2, None));
    for step in [5, 10, 15] {
        let key = StorageKey::TrainingCheckpoint { training: work.id, epoch: claim.epoch, step }.to_string();
        storage.put(&key, Bytes::from_static(b"state"), "application/octet-stream").await.unwrap();
        let checkpoint = NewCheckpoint { step, storage_key: key, sha256: "0".repeat(64), bytes: 5 };
        training::add_checkpoint(pool, storage, &claim, checkpoint).await.unwrap();
    }
    let work = training::load_work(pool, &claim).await.unwrap();
    assert_eq!(work.checkpoint.unwrap().step, 15, "another attempt goes on from the last");
    assert_eq!(server.count("training_checkpoints").await, 2, "the last two are kept");

    // The name is the training's.
    server.import("clay", None, &[("x.safetensors", lora(FLUX_MODULE))]).await.refuses(409, "name");
    let source = json!({"kind": "url", "url": "https://example.com/x.safetensors"});
    server.post("/v1/models", &json!({"name": "clay", "source": source})).await.refuses(409, "name");
    let bytes = lora(FLUX_MODULE);
    let key =
        StorageKey::Artifact { job: claim.job, epoch: claim.epoch, position: 0, extension: "safetensors" }.to_string();
    storage.put(&key, Bytes::from(bytes.clone()), "application/octet-stream").await.unwrap();
    let adapter = NewArtifact {
        kind: OutputKind::Adapter,
        position: 0,
        storage_key: key,
        media_type: ADAPTER_MEDIA_TYPE.to_owned(),
        width: None,
        height: None,
        bytes: bytes.len() as i64,
        sha256: hex(&Sha256::digest(&bytes)),
        md5: "0".repeat(32),
        seed: None,
    };
    let objects = server.objects();
    training::finish(pool, storage, &claim, adapter.clone(), &[]).await.unwrap();
    let stranger = Claim { worker: WorkerId::new(), ..claim };
    assert!(matches!(training::finish(pool, storage, &stranger, adapter, &[]).await, Err(Error::LeaseLost)));
    assert_eq!(server.objects(), objects - 2, "checkpoints are discarded");

    let done = server.get(&path).await.expect(200);
    assert_eq!((&done["status"], &done["output_model"]["name"]), (&json!("succeeded"), &json!("clay")));
    assert_eq!(server.download(&done["artifacts"][0]["url"]).await, bytes);
    let model = server.get("/v1/models/clay").await.expect(200);
    assert_eq!(
        (&model["kind"], &model["family"], &model["trigger_word"]),
        (&json!("lora"), &json!("flux"), &json!("clay style"))
    );
    assert_eq!(model["training_id"], done["id"]);
    server.post("/v1/generations", &json!({"prompt": "a fox", "loras": [{"model": "clay"}]})).await.expect(202);

    // The model outlives its training and its dataset.
    server.delete(&path).await.expect(204);
    server.delete(&format!("/v1/datasets/{dataset}")).await.expect(204);
    assert_eq!(server.download(&server.get("/v1/models/clay").await.expect(200)["url"]).await, bytes);
}

/// Trainings, imports and forms at the same moment: one has the name.
#[tokio::test]
async fn one_of_many_has_the_name() {
    let server = TestServer::with_checkpoint().await;
    let dataset = server.dataset(1).await;
    let source = json!({"kind": "url", "url": "https://example.com/x.safetensors"});
    for round in 0..8 {
        let name = format!("clay-{round}");
        let (training, import) = (json!({"name": name, "dataset": dataset}), json!({"name": name, "source": source}));
        let form = [("x.safetensors", lora(FLUX_MODULE))];
        let answers = tokio::join!(
            server.post("/v1/trainings", &training),
            server.post("/v1/models", &import),
            server.import(&name, None, &form),
            server.post("/v1/trainings", &training),
            server.post("/v1/models", &import),
        );
        let (first, second, third, fourth, fifth) = answers;
        let refused = [first, second, third, fourth, fifth].into_iter().filter(|answer| answer.status == 409);
        assert_eq!(refused.inspect(|answer| answer.refuses(409, "name")).count(), 4, "{name}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_named_and_not_queued() {
    let server = TestServer::with_checkpoint().await;
    let (empty, dataset) = (server.dataset(0).await, server.dataset(1).await);
    let good = json!({"name": "clay", "dataset": dataset});
    for (field, value, status) in [
        ("dataset", json!(empty), 409),
        ("dataset", json!("00000000-0000-7000-8000-000000000000"), 404),
        ("dataset", json!("foxes"), 422),
        ("name", json!("Not A Name"), 422),
        ("name", json!("x".repeat(64)), 422),
        ("name", json!("ember"), 409),
        ("model", json!("no-such-model"), 404),
        ("steps", json!(0), 422),
        ("steps", json!(100_001), 422),
        ("rank", json!(513), 422),
        ("alpha", json!(0), 422),
        ("learning_rate", json!(2), 422),
        ("batch_size", json!(65), 422),
        ("resolution", json!(33), 422),
        ("trigger_word", json!(""), 422),
        ("optimizer", json!("adamw"), 422),
    ] {
        let mut body = good.clone();
        body[field] = value.clone();
        let answer = server.post("/v1/trainings", &body).await;
        assert_eq!(answer.status, status, "{field}: {value}: {:#}", answer.body);
        answer.refuses(status, field);
    }
    assert_eq!((server.count("trainings").await, server.count("jobs").await), (0, 0));
    let training = server.post("/v1/trainings", &good).await.expect(202);
    assert_eq!(server.post(&text(&training["urls"]["cancel"]), &json!({})).await.expect(200)["status"], "canceled");
    assert_eq!(server.get("/v1/trainings").await.expect(200)["items"].as_array().unwrap().len(), 1);
    server.delete(&text(&training["urls"]["self"])).await.expect(204);
}
