//! Models from elsewhere: files that are recorded across attempts, the model that appears with success, and bytes that
//! are stored once, even if several models hold them.

use domain::import::{self, Import, ImportRequest};
use domain::job::{self, Claim, ErrorClass, JobStatus, LeasePolicy};
use domain::model::intake::{self, Intake};
use domain::model::{self, ModelFile};
use domain::{Error, ModelId, PageRequest, Result, audit};
use outgoing::Guard;
use serde_json::json;

use super::World;

async fn ask(world: &World, name: &str, base: Option<&str>) -> Result<Import> {
    let source = json!({"kind": "url", "url": "https://example.com/clay.safetensors?token=secret"});
    let request: ImportRequest = serde_json::from_value(json!({"name": name, "source": source, "base": base})).unwrap();
    import::create(&world.caller, &world.pools.api, &world.storage, &Guard::default(), request).await
}

/// A well-formed LoRA; another `salt` makes another file.
pub(super) fn lora(salt: u8) -> Vec<u8> {
    let name = "transformer.transformer_blocks.0.attn.to_q";
    let header = json!({
        format!("{name}.lora_A.weight"): {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        format!("{name}.lora_B.weight"): {"dtype": "F32", "shape": [2, 1], "data_offsets": [8, 16]},
    });
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[salt; 16]].concat()
}

async fn take(world: &World, claim: &Claim, salt: u8) -> (Intake, Result<ModelFile>) {
    let mut intake = Intake::new(&world.caller, &world.pools.api, &world.storage);
    let mut file = intake.file("clay.safetensors").await.unwrap();
    file.write(&lora(salt)).await.unwrap();
    let file = file.finish().await.unwrap();
    intake.keep(&file);
    let added = import::add_file(world.pool(), claim, &file).await;
    (intake, added.map(|()| file))
}

async fn finish(world: &World, claim: &Claim, intake: &Intake) -> Result<ModelId> {
    import::finish(world.pool(), &world.storage, claim, intake, Some("Mine.")).await
}

#[tokio::test]
async fn the_audit_log_has_the_request_and_the_model() {
    let world = World::new().await;
    let created = ask(&world, "clay", None).await.unwrap();
    let claim = world.claim().await;
    let (intake, file) = take(&world, &claim, 1).await;
    file.unwrap();
    let made = finish(&world, &claim, &intake).await.unwrap();
    let entries = audit::list(&world.caller, &world.pools.api, &PageRequest::default()).await.unwrap().items;
    let [model, request] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!((request.action.as_str(), request.object.clone()), ("model.import", created.id.to_string()));
    assert_eq!((model.action.as_str(), model.object.clone(), model.key), ("model.create", made.to_string(), None));
    assert_eq!(model.details, json!({"name": "clay", "import": created.id}));
}

#[tokio::test]
async fn another_attempt_goes_on_after_the_files_that_are_there() {
    let world = World::new().await;
    let created = ask(&world, "clay", None).await.unwrap();
    let stale = world.claim().await;
    import::pin_commit(world.pool(), &stale, None, "abc").await.unwrap();
    let (_, file) = take(&world, &stale, 1).await;
    let file = file.unwrap();
    // As if the reply had been lost.
    import::add_file(world.pool(), &stale, &file).await.unwrap();

    let current = world.take_over(&stale).await;
    assert!(matches!(take(&world, &stale, 2).await.1, Err(Error::LeaseLost)));
    assert!(matches!(import::pin_commit(world.pool(), &stale, None, "def").await, Err(Error::LeaseLost)));
    let work = import::load_work(world.pool(), &current).await.unwrap();
    assert_eq!((work.files.as_slice(), work.source_commit.as_deref()), (&[file.clone()][..], Some("abc")));
    assert_eq!(work.url_query.as_deref(), Some("token=secret"));

    let mut intake = Intake::new(&world.caller, &world.pools.api, &world.storage);
    intake.adopt(file.clone(), false).await.unwrap();
    assert!(matches!(finish(&world, &stale, &intake).await, Err(Error::LeaseLost)));
    assert!(matches!(model::get(&world.caller, &world.pools.api, "clay").await, Err(Error::NotFound { .. })));
    let made = finish(&world, &current, &intake).await.unwrap();
    assert_eq!(finish(&world, &current, &intake).await.unwrap(), made, "the reply to the commit may be lost");

    let (model, origin) = (
        model::get(&world.caller, &world.pools.api, "clay").await.unwrap(),
        model::origin(&world.caller, &world.pools.api, made).await.unwrap(),
    );
    assert_eq!((model.id, model.files.as_slice()), (made, &[file][..]));
    assert_eq!((origin.license.as_deref(), origin.source_commit.as_deref()), (Some("Mine."), Some("abc")));
    let seen = import::get(&world.caller, &world.pools.api, created.id).await.unwrap();
    assert_eq!((seen.report.status, seen.output_model.unwrap().id), (JobStatus::Succeeded, made));
    assert_eq!(world.count("SELECT count(*) FROM imports WHERE url_query IS NOT NULL OR files <> '[]'").await, 0);
    assert_eq!(world.count("SELECT count(*) FROM models m WHERE m::text LIKE '%secret%'").await, 0);
}

#[tokio::test]
async fn the_same_bytes_lie_in_the_bucket_once_and_go_with_their_last_model() {
    let world = World::new().await;
    let mut keys = Vec::new();
    for name in ["first", "second"] {
        ask(&world, name, None).await.unwrap();
        let claim = world.claim().await;
        let (intake, file) = take(&world, &claim, 1).await;
        finish(&world, &claim, &intake).await.unwrap();
        keys.push(file.unwrap().storage_key);
    }
    let held = |name: &'static str| async {
        model::get(&world.caller, &world.pools.api, name).await.unwrap().files[0].storage_key.clone()
    };
    assert_eq!((held("first").await, held("second").await), (keys[0].clone(), keys[0].clone()));
    assert!(world.storage.get(&keys[1]).await.is_err(), "the spare went");

    model::delete(&world.caller, &world.pools.api, &world.storage, "first").await.unwrap();
    assert!(world.storage.get(&keys[0]).await.is_ok(), "the other model needs it");
    model::delete(&world.caller, &world.pools.api, &world.storage, "second").await.unwrap();
    assert!(world.storage.get(&keys[0]).await.is_err());
}

#[tokio::test]
async fn a_borrowed_file_that_went_is_noticed() {
    let world = World::new().await;
    ask(&world, "first", None).await.unwrap();
    let claim = world.claim().await;
    let (intake, file) = take(&world, &claim, 1).await;
    finish(&world, &claim, &intake).await.unwrap();
    let file = file.unwrap();
    let held = async || {
        let held = intake::held_file(world.pool(), &world.storage, world.caller.project(), &file.sha256).await.unwrap();
        held.map(|held| (held.storage_key, held.bytes))
    };
    assert_eq!(held().await, Some((file.storage_key.clone(), file.bytes)));

    ask(&world, "second", None).await.unwrap();
    let claim = world.claim().await;
    let mut intake = Intake::new(&world.caller, &world.pools.api, &world.storage);
    intake.adopt(file.clone(), true).await.unwrap();
    model::delete(&world.caller, &world.pools.api, &world.storage, "first").await.unwrap();
    let told = finish(&world, &claim, &intake).await;
    assert!(matches!(told, Err(Error::Internal(_))), "{told:?}");
    assert_eq!(held().await, None);
    // Nothing has changed: another attempt stores its own file.
    let (intake, _) = take(&world, &claim, 1).await;
    finish(&world, &claim, &intake).await.unwrap();
}

/// A model whose object was lost is repaired by the next upload of the same bytes, and the loss is not handed on.
#[tokio::test]
async fn a_lost_object_is_stored_again_with_the_next_model_of_the_same_bytes() {
    let world = World::new().await;
    ask(&world, "first", None).await.unwrap();
    let claim = world.claim().await;
    let (intake, file) = take(&world, &claim, 1).await;
    finish(&world, &claim, &intake).await.unwrap();
    let file = file.unwrap();
    world.storage.delete(&file.storage_key).await.unwrap();
    let held = intake::held_file(world.pool(), &world.storage, world.caller.project(), &file.sha256).await.unwrap();
    assert_eq!(held, None, "a worker must not rely on it");

    ask(&world, "second", None).await.unwrap();
    let claim = world.claim().await;
    let (intake, own) = take(&world, &claim, 1).await;
    finish(&world, &claim, &intake).await.unwrap();
    for name in ["first", "second"] {
        let model = model::get(&world.caller, &world.pools.api, name).await.unwrap();
        assert_eq!(model.files[0].storage_key, file.storage_key);
        assert_eq!(world.storage.get(&model.files[0].storage_key).await.unwrap(), lora(1));
    }
    assert!(world.storage.get(&own.unwrap().storage_key).await.is_err(), "the spare went");
}

/// The reply to the record of a file may be lost, and then the lease: the next attempt has the file's row.
#[tokio::test]
async fn an_attempt_does_not_delete_a_file_that_the_row_may_name() {
    let world = World::new().await;
    ask(&world, "clay", None).await.unwrap();
    let stale = world.claim().await;
    let (intake, file) = take(&world, &stale, 1).await;
    let file = file.unwrap();
    intake.abandon().await;
    assert!(world.storage.get(&file.storage_key).await.is_ok());
    let current = world.take_over(&stale).await;
    assert_eq!(import::load_work(world.pool(), &current).await.unwrap().files, [file]);
}

#[tokio::test]
async fn an_import_without_a_model_leaves_nothing() {
    let world = World::new().await;
    ask(&world, "clay", None).await.unwrap();
    let claim = world.claim().await;
    let (_, file) = take(&world, &claim, 1).await;
    let key = file.unwrap().storage_key;
    import::discard_leftovers(world.pool(), &world.storage).await.unwrap();
    assert!(world.storage.get(&key).await.is_ok(), "it is at work");
    job::fail(world.pool(), &claim, &LeasePolicy::default(), ErrorClass::InvalidInput, "no").await.unwrap();
    import::discard_leftovers(world.pool(), &world.storage).await.unwrap();
    assert!(world.storage.get(&key).await.is_err());

    let queued = ask(&world, "clay", None).await.unwrap();
    let canceled = import::cancel(&world.caller, &world.pools.api, queued.id).await.unwrap();
    assert_eq!(canceled.report.status, JobStatus::Canceled);
    assert_eq!(world.count("SELECT count(*) FROM imports WHERE url_query IS NOT NULL").await, 0);
}

#[tokio::test]
async fn names_and_bases_are_held_while_a_job_needs_them() {
    let world = World::new().await;
    world.count("WITH kept AS (UPDATE models SET built_in = false RETURNING 1) SELECT count(*) FROM kept").await;
    let waiting = ask(&world, "clay", Some("ember")).await.unwrap();
    assert!(matches!(ask(&world, "clay", None).await, Err(Error::Conflict { .. })), "another import will make it");
    assert!(matches!(ask(&world, "ember", None).await, Err(Error::Conflict { .. })));
    assert!(matches!(ask(&world, "x", Some("nobody")).await, Err(Error::Unknown { .. })));
    let refused = model::delete(&world.caller, &world.pools.api, &world.storage, "ember").await;
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");

    // A name that was taken nevertheless gets a number.
    let claim = world.claim().await;
    world
        .count(
            "WITH made AS (INSERT INTO models (project_id, id, name, kind, family, files, bytes, sha256) \
             VALUES ('00000000-0000-7000-8000-000000000000', gen_random_uuid(), 'clay', 'lora', 'flux', '[]', 1, \
             repeat('0', 64)) RETURNING 1) SELECT count(*) FROM made",
        )
        .await;
    let (intake, _) = take(&world, &claim, 1).await;
    let made = finish(&world, &claim, &intake).await.unwrap();
    assert_eq!(model::get(&world.caller, &world.pools.api, "clay-2").await.unwrap().id, made);
    let seen = import::get(&world.caller, &world.pools.api, waiting.id).await.unwrap();
    assert!(matches!(&seen.report.warnings[..], [renamed] if renamed.contains("`clay-2`")), "{:?}", seen.report);
    assert_eq!(seen.output_model.unwrap().name, "clay-2");
    model::delete(&world.caller, &world.pools.api, &world.storage, "ember").await.unwrap();
}
