//! The bytes that a project has stored are known exactly.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use domain::artifact::{ADAPTER_MEDIA_TYPE, NewArtifact, OutputKind};
use domain::generation::GenerationRequest;
use domain::job::Claim;
use domain::{StorageKey, dataset, generation, input, model, training, usage};
use outgoing::Guard;
use serde_json::json;

use super::sweep::png;
use super::{MD5, SHA256, World};

impl World {
    /// The sum of the ledger, which must be that of the rows.
    async fn stored(&self) -> i64 {
        let rows = self
            .count(
                "SELECT coalesce(sum(bytes), 0)::bigint FROM (
                     SELECT c.bytes FROM inputs, counted(inputs) c
                     UNION ALL SELECT c.bytes FROM examples, counted(examples) c
                     UNION ALL SELECT c.bytes FROM artifacts, counted(artifacts) c
                     UNION ALL SELECT c.bytes FROM models, counted(models) c
                     UNION ALL SELECT c.bytes FROM model_uploads, counted(model_uploads) c
                     UNION ALL SELECT c.bytes FROM generations, counted(generations) c) AS stored",
            )
            .await;
        let ledger = usage::stored_bytes(&self.caller, &self.pools.api).await.unwrap();
        assert_eq!(ledger, rows);
        ledger
    }
}

/// A result of a thousand bytes.
fn result(claim: &Claim, kind: OutputKind, extension: &'static str, media_type: &str) -> NewArtifact {
    let side = (kind == OutputKind::Image).then_some(64);
    NewArtifact {
        kind,
        position: 0,
        storage_key: StorageKey::Artifact { job: claim.job, epoch: claim.epoch, position: 0, extension }.to_string(),
        media_type: media_type.to_owned(),
        width: side,
        height: side,
        bytes: 1000,
        sha256: SHA256.to_owned(),
        md5: MD5.to_owned(),
        seed: None,
    }
}

#[tokio::test]
async fn stored_bytes_follow_every_change() {
    let world = World::new().await;
    let (caller, database, storage) = (&world.caller, &world.pools.api, &world.storage);
    assert_eq!(world.stored().await, 200, "two examples");

    let source = world.input(1).await;
    assert_eq!(world.stored().await, 200 + source.bytes);
    let carried = png(2);
    let uri = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(&carried));
    let request = |image: &str| -> GenerationRequest {
        serde_json::from_value(json!({ "prompt": "a fox", "image": image, "mask": image, "strength": 0.9 })).unwrap()
    };
    world.generations.create(caller, request(&source.id.to_string())).await.unwrap();
    assert_eq!(world.stored().await, 200 + source.bytes, "the input is there already");
    let claim = world.claim().await;
    generation::finish(world.pool(), &claim, vec![result(&claim, OutputKind::Image, "png", "image/png")], &[])
        .await
        .unwrap();
    let created = world.generations.create(caller, request(&uri)).await.unwrap();
    let with_carried = world.stored().await;
    assert_eq!(with_carried, 1200 + source.bytes + 2 * carried.len() as i64);
    let claim = world.claim().await;
    generation::finish(world.pool(), &claim, vec![result(&claim, OutputKind::Image, "png", "image/png")], &[])
        .await
        .unwrap();
    assert_eq!(world.stored().await, with_carried + 1000);
    generation::delete(caller, database, storage, created.id).await.unwrap();
    assert_eq!(world.stored().await, 1200 + source.bytes);

    let learn = serde_json::from_value(json!({ "name": "clay", "dataset": world.dataset, "steps": 30 })).unwrap();
    training::create(caller, database, &world.catalog, &world.capacity, &Guard::default(), learn).await.unwrap();
    let claim = world.claim().await;
    let adapter = result(&claim, OutputKind::Adapter, "safetensors", ADAPTER_MEDIA_TYPE);
    training::finish(world.pool(), storage, &claim, adapter, &[]).await.unwrap();
    assert_eq!(world.stored().await, 2200 + source.bytes, "artifact and model are one file");
    model::share(caller, database, "clay", true).await.unwrap();
    assert_eq!(world.stored().await, 1200 + source.bytes, "a shared model is everyone's");
    model::share(caller, database, "clay", false).await.unwrap();

    usage::merge_ledger(world.pool()).await.unwrap();
    assert_eq!(world.count("SELECT count(*) FROM stored_bytes").await, 1);
    assert_eq!(world.stored().await, 2200 + source.bytes);

    model::delete(caller, database, storage, "clay").await.unwrap();
    input::delete(caller, database, storage, source.id).await.unwrap();
    dataset::delete(caller, database, storage, world.dataset).await.unwrap();
    assert_eq!(world.stored().await, 1000, "the picture of the first generation");
}
