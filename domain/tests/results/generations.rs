//! Pictures appear once, whole, and from the attempt that holds the lease.

use domain::artifact::{NewArtifact, OutputKind};
use domain::generation::{self, GenerationRequest};
use domain::job::{Claim, JobStatus};
use domain::{Error, StorageKey};

use super::{MD5, SHA256, World};

fn pictures(claim: &Claim, count: i32) -> Vec<NewArtifact> {
    let picture = |position| NewArtifact {
        kind: OutputKind::Image,
        position,
        storage_key: StorageKey::Artifact { job: claim.job, epoch: claim.epoch, position, extension: "png" }
            .to_string(),
        media_type: "image/png".to_owned(),
        width: Some(64),
        height: Some(64),
        bytes: 100,
        sha256: SHA256.to_owned(),
        md5: MD5.to_owned(),
        seed: Some(7 + i64::from(position)),
    };
    (0..count).map(picture).collect()
}

fn request() -> GenerationRequest {
    serde_json::from_value(serde_json::json!({ "prompt": "a fox", "num_images": 2, "seed": 7 })).unwrap()
}

#[tokio::test]
async fn they_come_with_success_and_a_lost_reply_doubles_nothing() {
    let world = World::new().await;
    let created = world.generations.create(&world.caller, request()).await.unwrap();
    let claim = world.claim().await;
    let work = generation::load_work(world.pool(), &claim).await.unwrap();
    assert_eq!((work.id, work.seed, work.params.num_images), (created.id, 7, 2));
    assert_eq!(work.base.name, "ember");

    let warnings = ["the LoRA matches in part".to_owned()];
    generation::finish(world.pool(), &claim, pictures(&claim, 2), &warnings).await.unwrap();
    // As if the reply to the commit had been lost.
    generation::finish(world.pool(), &claim, pictures(&claim, 2), &warnings).await.unwrap();

    assert_eq!(world.count("SELECT count(*) FROM artifacts").await, 2);
    assert_eq!(world.count("SELECT count(*) FROM job_events WHERE kind = 'succeeded'").await, 1);
    let seen = generation::get(&world.caller, &world.pools.api, created.id).await.unwrap();
    assert_eq!(seen.report.status, JobStatus::Succeeded);
}

#[tokio::test]
async fn a_stale_attempt_leaves_nothing() {
    let world = World::new().await;
    world.generations.create(&world.caller, request()).await.unwrap();
    let stale = world.claim().await;
    let current = world.take_over(&stale).await;
    for _ in 0..2 {
        let told = generation::finish(world.pool(), &stale, pictures(&stale, 2), &[]).await;
        assert!(matches!(told, Err(Error::LeaseLost)), "{told:?}");
    }
    assert_eq!(world.count("SELECT count(*) FROM artifacts").await, 0);
    generation::finish(world.pool(), &current, pictures(&current, 2), &[]).await.unwrap();
    let told = generation::finish(world.pool(), &stale, pictures(&stale, 2), &[]).await;
    assert!(matches!(told, Err(Error::LeaseLost)), "{told:?}");
    assert_eq!(world.count("SELECT count(*) FROM artifacts WHERE epoch = 2").await, 2);
    assert_eq!(world.count("SELECT count(*) FROM artifacts").await, 2);
}

#[tokio::test]
async fn results_that_cannot_be_written_make_no_success() {
    let world = World::new().await;
    let created = world.generations.create(&world.caller, request()).await.unwrap();
    let claim = world.claim().await;
    let mut twice = pictures(&claim, 2);
    twice[1].position = 0;
    assert!(generation::finish(world.pool(), &claim, twice, &[]).await.is_err());
    let seen = generation::get(&world.caller, &world.pools.api, created.id).await.unwrap();
    assert_eq!(seen.report.status, JobStatus::Running);
    assert_eq!(world.count("SELECT count(*) FROM artifacts").await, 0);
    generation::finish(world.pool(), &claim, pictures(&claim, 2), &[]).await.unwrap();
}

#[tokio::test]
async fn what_is_asked_together_is_answered_apart() {
    let world = World::new().await;
    for (name, seed) in [("kept", "aa"), ("gone", "bb")] {
        sqlx::query(
            "INSERT INTO models (project_id, id, name, kind, family, files, bytes, sha256, built_in, defaults)
             VALUES ('00000000-0000-7000-8000-000000000000', $1, $2, 'lora', 'flux', '[]', 0, $3, false, '{}')",
        )
        .bind(domain::ModelId::new().0)
        .bind(name)
        .bind(seed.repeat(32))
        .execute(world.pool())
        .await
        .unwrap();
        // From here on the service has it in its cache.
        world.generations.create(&world.caller, request_with(name, 0)).await.unwrap();
    }
    sqlx::query("UPDATE models SET deleted_at = clock_timestamp() WHERE name = 'gone'")
        .execute(world.pool())
        .await
        .unwrap();
    let before = world.count("SELECT count(*) FROM generations").await;

    let asked = (1..=60).map(|seed| {
        let name = if seed % 20 == 0 { "gone" } else { "kept" };
        world.generations.create(&world.caller, request_with(name, seed))
    });
    let mut made = Vec::new();
    for (seed, answer) in (1..=60).zip(futures::future::join_all(asked).await) {
        match answer {
            Ok(generation) => made.push((seed, generation)),
            Err(error) => assert!(seed % 20 == 0 && !error.is_transient(), "{seed}: {error}"),
        }
    }
    assert_eq!(made.len(), 57);
    assert_eq!(
        world.count("SELECT count(*) FROM generations").await,
        before + 57,
        "those of a deleted model left nothing"
    );
    assert_eq!(world.count("SELECT count(*) FROM jobs WHERE status = 'queued'").await, before + 57);
    assert_eq!(world.count("SELECT count(*) FROM job_events WHERE kind = 'queued'").await, before + 57);

    let looks = made.iter().map(|(_, generation)| world.generations.get(&world.caller, generation.id));
    for ((seed, created), seen) in made.iter().zip(futures::future::join_all(looks).await) {
        let seen = seen.unwrap();
        assert_eq!((seen.id, seen.seed, seen.created_at), (created.id, *seed, created.created_at));
        assert_eq!(seen.params.prompt, format!("fox {seed}"));
        assert_eq!(seen.loras, created.loras);
        assert_eq!(seen.loras[0].scale, *seed as f64 / 10.0);
    }
    let nobody = world.generations.get(&world.caller, domain::GenerationId::new()).await;
    assert!(matches!(nobody, Err(Error::NotFound { .. })), "{nobody:?}");
}

fn request_with(lora: &str, seed: i64) -> GenerationRequest {
    let loras = [serde_json::json!({ "model": lora, "scale": seed as f64 / 10.0 })];
    serde_json::from_value(serde_json::json!({ "prompt": format!("fox {seed}"), "seed": seed, "loras": loras }))
        .unwrap()
}

#[tokio::test]
async fn outputs_of_every_kind_are_kept() {
    let world = World::new().await;
    let created = world.generations.create(&world.caller, request()).await.unwrap();
    let claim = world.claim().await;
    let output = |position: i32, kind: OutputKind, media_type: &str, size: Option<i32>| NewArtifact {
        kind,
        media_type: media_type.to_owned(),
        width: size,
        height: size,
        ..pictures(&claim, position + 1).pop().unwrap()
    };
    for (kind, media_type, size) in [
        (OutputKind::Image, "image/png", None),
        (OutputKind::Mask, "image/png", None),
        (OutputKind::Json, "application/json", Some(64)),
        (OutputKind::Adapter, "application/octet-stream", Some(64)),
        (OutputKind::Image, "audio/wav", Some(64)),
        (OutputKind::Audio, "image/png", None),
    ] {
        let wrong = vec![output(0, kind, media_type, size)];
        assert!(generation::finish(world.pool(), &claim, wrong, &[]).await.is_err(), "{kind:?} {media_type} {size:?}");
    }
    let made = [
        (OutputKind::Image, "image/webp", Some(64)),
        (OutputKind::Mask, "image/png", Some(64)),
        (OutputKind::Video, "video/mp4", Some(64)),
        (OutputKind::Video, "video/mp4", None),
        (OutputKind::Audio, "audio/wav", None),
        (OutputKind::Adapter, "application/octet-stream", None),
        (OutputKind::Json, "application/json", None),
    ];
    let artifacts = (0..).zip(made).map(|(at, (kind, media_type, size))| output(at, kind, media_type, size)).collect();
    generation::finish(world.pool(), &claim, artifacts, &[]).await.unwrap();
    let kept = generation::get(&world.caller, &world.pools.api, created.id).await.unwrap().report.artifacts;
    let kept: Vec<_> = kept.iter().map(|one| (one.kind, one.media_type.as_str(), one.width)).collect();
    assert_eq!(kept, made);
}
