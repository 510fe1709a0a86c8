//! Previews: the newest of a running attempt, and nothing afterwards.

use domain::generation::{self, GenerationRequest};
use domain::job::{self, ErrorClass, LeasePolicy};
use domain::preview::{self, MAX_BYTES, Preview};
use domain::{Error, ModelId};

use super::World;

fn request() -> GenerationRequest {
    serde_json::from_value(serde_json::json!({ "prompt": "a fox", "preview_every": 2 })).unwrap()
}

fn at(step: i32) -> Preview {
    Preview { step, total_steps: 20, position: 0, width: 16, height: 8, jpeg: vec![step as u8; 3] }
}

#[tokio::test]
async fn only_the_newest_of_the_attempt_that_holds_the_lease() {
    let world = World::new().await;
    let created = world.generations.create(&world.caller, request()).await.unwrap();
    let stale = world.claim().await;
    for step in [2, 4] {
        preview::record(world.pool(), &stale, &at(step)).await.unwrap();
    }
    let after = async |revision| {
        preview::news(&world.caller, &world.pools.api, created.job_id, 0, revision).await.unwrap().preview
    };
    let (first, newest) = after(0).await.unwrap();
    assert_eq!(newest, at(4));
    assert_eq!(after(first).await, None);

    let current = world.take_over(&stale).await;
    let told = preview::record(world.pool(), &stale, &at(6)).await;
    assert!(matches!(told, Err(Error::LeaseLost)), "{told:?}");
    assert_eq!(after(0).await, None, "it was deleted with its attempt");
    preview::record(world.pool(), &current, &at(2)).await.unwrap();
    assert_eq!(after(first).await.map(|(_, preview)| preview), Some(at(2)), "newer than all of the attempt before");

    let large = Preview { jpeg: vec![0; MAX_BYTES + 1], ..at(4) };
    assert!(matches!(preview::record(world.pool(), &current, &large).await, Err(Error::Invalid { .. })));
}

#[tokio::test]
async fn none_is_left_however_the_attempt_ends() {
    for end in ["succeeded", "failed", "canceled", "queued"] {
        let world = World::new().await;
        let created = world.generations.create(&world.caller, request()).await.unwrap();
        let claim = world.claim().await;
        preview::record(world.pool(), &claim, &at(2)).await.unwrap();
        match end {
            "succeeded" => generation::finish(world.pool(), &claim, Vec::new(), &[]).await.unwrap(),
            "failed" => {
                let policy = LeasePolicy::default();
                job::fail(world.pool(), &claim, &policy, ErrorClass::InvalidInput, "no").await.map(drop).unwrap();
            }
            "queued" => drop(job::release(world.pool(), &claim, "the worker stops").await.unwrap()),
            _ => {
                generation::cancel(&world.caller, &world.pools.api, created.id).await.unwrap();
                job::canceled(world.pool(), &claim).await.unwrap();
            }
        }
        assert_eq!(
            generation::get(&world.caller, &world.pools.api, created.id).await.unwrap().report.status.as_str(),
            end
        );
        assert_eq!(world.count("SELECT count(*) FROM previews").await, 0, "{end}");
        let told = preview::record(world.pool(), &claim, &at(4)).await;
        assert!(matches!(told, Err(Error::LeaseLost)), "{end}: {told:?}");
    }
}

#[tokio::test]
async fn the_newest_decoder_of_the_family_makes_them() {
    let world = World::new().await;
    for (name, family, deleted) in
        [("older", "flux", false), ("newer", "flux", false), ("deleted", "flux", true), ("others", "sd15", false)]
    {
        sqlx::query(
            "INSERT INTO models
                 (project_id, id, name, kind, family, files, bytes, sha256, built_in, defaults, deleted_at)
             VALUES ('00000000-0000-7000-8000-000000000000', $1, $2, 'vae_approx', $3, '[]', 0,
                     repeat('a', 64), false, '{}', CASE WHEN $4 THEN clock_timestamp() END)",
        )
        .bind(ModelId::new().0)
        .bind(name)
        .bind(family)
        .bind(deleted)
        .execute(world.pool())
        .await
        .unwrap();
    }
    world.generations.create(&world.caller, request()).await.unwrap();
    let work = generation::load_work(world.pool(), &world.claim().await).await.unwrap();
    assert_eq!(work.vae_approx.map(|model| model.name).as_deref(), Some("newer"));
    let without = serde_json::from_value(serde_json::json!({ "prompt": "a fox" })).unwrap();
    world.generations.create(&world.caller, without).await.unwrap();
    let work = generation::load_work(world.pool(), &world.claim().await).await.unwrap();
    assert_eq!(work.vae_approx, None);
}
