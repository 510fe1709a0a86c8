//! Checkpoints from which another attempt continues, and the LoRA that appears as model and artifact at once.

use outgoing::Guard;
use std::time::Duration;

use domain::artifact::{ADAPTER_MEDIA_TYPE, NewArtifact, OutputKind};
use domain::job::{self, Claim, ErrorClass, JobStatus, LeasePolicy};
use domain::training::{self, NewCheckpoint, TrainingRequest};
use domain::{Caller, Error, KeyId, PageRequest, Principal, Scopes, StorageKey, TrainingId, audit, model};

use super::{MD5, SHA256, World};

fn request(world: &World, name: &str) -> TrainingRequest {
    serde_json::from_value(
        serde_json::json!({ "name": name, "dataset": world.dataset, "steps": 30, "trigger_word": "clay" }),
    )
    .unwrap()
}

fn adapter(claim: &Claim) -> NewArtifact {
    let key = StorageKey::Artifact { job: claim.job, epoch: claim.epoch, position: 0, extension: "safetensors" };
    NewArtifact {
        kind: OutputKind::Adapter,
        position: 0,
        storage_key: key.to_string(),
        media_type: ADAPTER_MEDIA_TYPE.to_owned(),
        width: None,
        height: None,
        bytes: 100,
        sha256: SHA256.to_owned(),
        md5: MD5.to_owned(),
        seed: None,
    }
}

async fn checkpoint(world: &World, training: TrainingId, claim: &Claim, step: i32) -> domain::Result<String> {
    let storage_key = StorageKey::TrainingCheckpoint { training, epoch: claim.epoch, step }.to_string();
    world.put(&storage_key).await;
    let row = NewCheckpoint { step, storage_key: storage_key.clone(), sha256: SHA256.to_owned(), bytes: 5 };
    training::add_checkpoint(world.pool(), &world.storage, claim, row).await?;
    Ok(storage_key)
}

#[tokio::test]
async fn another_attempt_goes_on_from_the_highest_checkpoint() {
    let world = World::new().await;
    let created = training::create(
        &world.caller,
        &world.pools.api,
        &world.catalog,
        &world.capacity,
        &Guard::default(),
        request(&world, "clay"),
    )
    .await
    .unwrap();
    let first = world.claim().await;
    let work = training::load_work(world.pool(), &first).await.unwrap();
    assert_eq!((work.examples.len(), work.params.steps, work.checkpoint.is_none()), (2, 30, true));

    let oldest = checkpoint(&world, created.id, &first, 5).await.unwrap();
    checkpoint(&world, created.id, &first, 10).await.unwrap();
    checkpoint(&world, created.id, &first, 15).await.unwrap();
    assert!(world.storage.get(&oldest).await.is_err(), "only the last two are kept");

    let second = world.take_over(&first).await;
    let resumed = training::load_work(world.pool(), &second).await.unwrap().checkpoint.unwrap();
    assert_eq!((resumed.step, resumed.epoch), (15, 1));
    // The first attempt wakes up and continues to write, without effect.
    let told = checkpoint(&world, created.id, &first, 20).await;
    assert!(matches!(told, Err(Error::LeaseLost)), "{told:?}");
    checkpoint(&world, created.id, &second, 18).await.unwrap();
    let third = world.take_over(&second).await;
    let resumed = training::load_work(world.pool(), &third).await.unwrap().checkpoint.unwrap();
    assert_eq!((resumed.step, resumed.epoch), (18, 2));
}

/// A training that gets further with each attempt is not ended by the number of crashes.
#[tokio::test]
async fn a_new_checkpoint_restores_the_budgets() {
    let world = World::new().await;
    let created = training::create(
        &world.caller,
        &world.pools.api,
        &world.catalog,
        &world.capacity,
        &Guard::default(),
        request(&world, "clay"),
    )
    .await
    .unwrap();
    let spent = async || {
        let job = job::get(&world.caller, &world.pools.api, created.job_id).await.unwrap();
        [job.failures, job.crashes, job.releases]
    };
    let policy = LeasePolicy { crash_backoff: Duration::ZERO, ..LeasePolicy::default() };
    let mut claim = world.claim().await;
    for round in 1..=4 {
        checkpoint(&world, created.id, &claim, 5 * round).await.unwrap();
        assert_eq!(spent().await, [0, 0, 0], "round {round}");
        job::crash(world.pool(), &claim, &policy, "signal 9").await.unwrap();
        claim = world.claim().await;
        claim = world.take_over(&claim).await;
        assert_eq!(spent().await, [0, 1, 1], "round {round}");
    }
    // The same step once more is not progress.
    checkpoint(&world, created.id, &claim, 20).await.unwrap();
    assert_eq!(spent().await, [0, 1, 1]);
}

#[tokio::test]
async fn the_lora_appears_once_with_success_and_checkpoints_go() {
    let world = World::new().await;
    let created = training::create(
        &world.caller,
        &world.pools.api,
        &world.catalog,
        &world.capacity,
        &Guard::default(),
        request(&world, "clay"),
    )
    .await
    .unwrap();
    let stale = world.claim().await;
    let current = world.take_over(&stale).await;
    let key = checkpoint(&world, created.id, &current, 10).await.unwrap();

    let told = training::finish(world.pool(), &world.storage, &stale, adapter(&stale), &[]).await;
    assert!(matches!(told, Err(Error::LeaseLost)), "{told:?}");
    assert!(matches!(model::get(&world.caller, &world.pools.api, "clay").await, Err(Error::NotFound { .. })));

    let made = training::finish(world.pool(), &world.storage, &current, adapter(&current), &[]).await.unwrap();
    // As if the reply to the commit had been lost.
    assert_eq!(training::finish(world.pool(), &world.storage, &current, adapter(&current), &[]).await.unwrap(), made);
    assert_eq!(world.count("SELECT count(*) FROM models WHERE kind = 'lora'").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM artifacts").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM training_checkpoints").await, 0);
    assert!(world.storage.get(&key).await.is_err());

    let lora = model::get(&world.caller, &world.pools.api, "clay").await.unwrap();
    assert_eq!((lora.id, lora.family.as_str(), lora.trigger_word.as_deref()), (made, "flux", Some("clay")));
    let seen = training::get(&world.caller, &world.pools.api, created.id).await.unwrap();
    assert_eq!(seen.report.status, JobStatus::Succeeded);
    assert_eq!(seen.output_model.unwrap().id, made);
}

#[tokio::test]
async fn the_audit_log_has_the_lora_and_who_asked_for_it() {
    let mut world = World::new().await;
    let key = KeyId::new();
    world.caller = Caller::new(world.caller.project(), Principal::Key(key), Scopes::ALL);
    let guard = Guard::default();
    let asked = training::create(
        &world.caller,
        &world.pools.api,
        &world.catalog,
        &world.capacity,
        &guard,
        request(&world, "clay"),
    );
    let created = asked.await.unwrap();
    let claim = world.claim().await;
    let entries = async || audit::list(&world.caller, &world.pools.api, &PageRequest::default()).await.unwrap().items;
    assert!(entries().await.is_empty(), "there is no model yet");
    let made = training::finish(world.pool(), &world.storage, &claim, adapter(&claim), &[]).await.unwrap();
    training::finish(world.pool(), &world.storage, &claim, adapter(&claim), &[]).await.unwrap();
    let entries = entries().await;
    let [entry] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!((entry.action.as_str(), entry.object.clone()), ("model.create", made.to_string()));
    assert_eq!(entry.details, serde_json::json!({"name": "clay", "training": created.id}));
    assert_eq!((entry.key, &entry.address, entry.by_operator), (Some(key), &None, false));
}

#[tokio::test]
async fn a_name_that_was_taken_meanwhile_gets_a_number() {
    let world = World::new().await;
    training::create(
        &world.caller,
        &world.pools.api,
        &world.catalog,
        &world.capacity,
        &Guard::default(),
        request(&world, "clay"),
    )
    .await
    .unwrap();
    let claim = world.claim().await;
    sqlx::query(
        "INSERT INTO models (project_id, id, name, kind, family, files, bytes, sha256)
         VALUES ('00000000-0000-7000-8000-000000000000', gen_random_uuid(), 'clay', 'lora', 'flux', '[]', 1, $1)",
    )
    .bind(SHA256)
    .execute(world.pool())
    .await
    .unwrap();
    let made = training::finish(world.pool(), &world.storage, &claim, adapter(&claim), &[]).await.unwrap();
    assert_eq!(model::get(&world.caller, &world.pools.api, "clay-2").await.unwrap().id, made);
}

#[tokio::test]
async fn checkpoints_that_nobody_can_use_go() {
    let world = World::new().await;
    let mut kept = Vec::new();
    for (name, ends) in [("failed", true), ("canceled", true), ("running", false)] {
        let created = training::create(
            &world.caller,
            &world.pools.api,
            &world.catalog,
            &world.capacity,
            &Guard::default(),
            request(&world, name),
        )
        .await
        .unwrap();
        let claim = world.claim().await;
        let key = checkpoint(&world, created.id, &claim, 10).await.unwrap();
        match name {
            "failed" => {
                job::fail(world.pool(), &claim, &LeasePolicy::default(), ErrorClass::InvalidInput, "no").await.unwrap();
            }
            "canceled" => {
                training::cancel(&world.caller, &world.pools.api, created.id).await.unwrap();
                job::canceled(world.pool(), &claim).await.unwrap();
            }
            _ => {}
        }
        kept.push((key, !ends));
    }
    training::discard_leftovers(world.pool(), &world.storage).await.unwrap();
    for (key, kept) in kept {
        assert_eq!(world.storage.get(&key).await.is_ok(), kept, "{key}");
    }
    assert_eq!(world.count("SELECT count(*) FROM training_checkpoints").await, 1);
}
