//! Callers of several projects share statements and the cache of models, and nothing else.

use domain::generation::GenerationRequest;
use domain::{Caller, Error, ModelId, Principal, ProjectId, Scopes};
use futures::future::join_all;
use serde_json::json;

use super::{SHA256, World};

fn request() -> GenerationRequest {
    serde_json::from_value(json!({ "prompt": "a fox" })).unwrap()
}

async fn stranger(world: &World) -> Caller {
    let project = ProjectId::new();
    sqlx::query("INSERT INTO projects (id, name) VALUES ($1, 'strangers')")
        .bind(project.0)
        .execute(world.pool())
        .await
        .unwrap();
    Caller::new(project, Principal::Anonymous, Scopes::ALL)
}

#[tokio::test]
async fn a_batch_answers_each_caller_for_its_own_project() {
    let world = World::new().await;
    let (owner, stranger) = (Caller::anonymous(), stranger(&world).await);
    // Both look the name up at the same time, and only one of them has the model.
    let created = join_all([&owner, &stranger].map(|caller| world.generations.create(caller, request()))).await;
    let [Ok(made), Err(Error::Unknown { field, .. })] = created.as_slice() else { panic!("{created:?}") };
    assert_eq!(field, "model");

    let own = ModelId::new();
    sqlx::query(
        "INSERT INTO models (id, project_id, name, kind, family, files, bytes, sha256, defaults)
         VALUES ($1, $2, 'ember', 'checkpoint', 'flux', '[]', 0, $3, '{\"size_multiple\": 16}')",
    )
    .bind(own.0)
    .bind(stranger.project().0)
    .bind(SHA256)
    .execute(world.pool())
    .await
    .unwrap();
    let callers: Vec<&Caller> = [&owner, &stranger].into_iter().cycle().take(100).collect();
    let created = join_all(callers.iter().map(|caller| world.generations.create(caller, request()))).await;
    for (caller, created) in callers.iter().zip(&created) {
        let created = created.as_ref().unwrap();
        assert_eq!(created.model.id == own, *caller == &stranger);
        let project: ProjectId = sqlx::query_scalar("SELECT project_id FROM generations WHERE id = $1")
            .bind(created.id.0)
            .fetch_one(world.pool())
            .await
            .unwrap();
        assert_eq!(project, caller.project());
    }
    assert_eq!(
        world
            .count(
                "SELECT count(*) FROM jobs j JOIN generations g ON g.job_id = j.id WHERE g.project_id <> j.project_id"
            )
            .await,
        0
    );

    // The same id for both at once: it exists for one of them.
    let looks = join_all(callers.iter().map(|caller| world.generations.get(caller, made.id))).await;
    for (caller, look) in callers.iter().zip(looks) {
        match look {
            Ok(found) => assert_eq!((found.id, *caller), (made.id, &owner)),
            Err(error) => assert!(*caller == &stranger && matches!(error, Error::NotFound { .. }), "{error}"),
        }
    }
}
