//! A quota is exact for requests that arrive together, and so share statements.

use domain::generation::{GenerationRequest, GenerationService};
use domain::{Caller, Error, Principal, ProjectId, Scopes};
use futures::future::join_all;
use serde_json::json;

use super::World;

fn request() -> GenerationRequest {
    serde_json::from_value(json!({ "prompt": "a fox" })).unwrap()
}

#[tokio::test]
async fn batches_of_two_services_admit_exactly_the_quota_and_spoil_no_other_project() {
    let world = World::new().await;
    let other = Caller::new(ProjectId::new(), Principal::Anonymous, Scopes::ALL);
    sqlx::query("INSERT INTO projects (id, name) VALUES ($1, 'other')")
        .bind(other.project().0)
        .execute(world.pool())
        .await
        .unwrap();
    for statement in
        ["UPDATE projects SET max_queued_jobs = 100 WHERE name = 'default'", "UPDATE models SET shared = true"]
    {
        sqlx::query(statement).execute(world.pool()).await.unwrap();
    }
    let second = GenerationService::new(world.pools.api.clone(), world.catalog.clone(), world.storage.clone());
    let created = join_all((0..600).map(|number| {
        let service = if number % 2 == 0 { &world.generations } else { &second };
        let caller = if number % 6 == 0 { &other } else { &world.caller };
        async move { (caller.project(), service.create(caller, request()).await) }
    }))
    .await;
    let mut admitted = 0;
    for (project, created) in created {
        match created {
            Ok(_) if project == ProjectId::DEFAULT => admitted += 1,
            Ok(_) => {}
            Err(Error::OverQuota { quota: "queued_jobs", .. }) if project == ProjectId::DEFAULT => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(admitted, 100);
    assert_eq!(world.count("SELECT count(*) FROM jobs").await, 200);
    assert_eq!(world.count("SELECT count(*) FROM generations WHERE params <> '{}'").await, 200);
}
