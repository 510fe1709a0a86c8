//! Models that a job needs cannot be deleted while it is queued or running, and a name that it will make is taken.

use domain::job::{self, ErrorClass, JobKind, LeasePolicy, NewJob};
use domain::{Caller, Error, JobId, ModelId, ProjectId};
use sqlx::PgPool;

use super::{Database, claim, patient, succeed};

async fn model(pool: &PgPool, name: &str) -> ModelId {
    let id = ModelId::new();
    sqlx::query(
        "INSERT INTO models (id, project_id, name, kind, family, files, bytes, sha256)
         VALUES ($1, $3, $2, 'lora', 'flux', '[]', 1, repeat('0', 64))",
    )
    .bind(id.0)
    .bind(name)
    .bind(ProjectId::DEFAULT.0)
    .execute(pool)
    .await
    .unwrap();
    id
}

async fn enqueue(pool: &PgPool, kind: JobKind, needs: &[ModelId]) -> domain::Result<JobId> {
    let mut tx = pool.begin().await.unwrap();
    let job = job::enqueue(&mut tx, NewJob { needs, ..NewJob::new(&Caller::anonymous(), kind, JobId::new()) }).await?;
    tx.commit().await.unwrap();
    Ok(job)
}

/// A bucket that is never asked: these models have no files.
fn storage() -> domain::Storage {
    domain::Storage::new(&domain::StorageConfig {
        endpoint: "http://127.0.0.1:9".into(),
        bucket: "none".into(),
        region: "auto".into(),
        keys: domain::storage::Keys::fixed("none", "none"),
        public_endpoint: None,
    })
    .unwrap()
}

#[tokio::test]
async fn a_needed_model_stays_until_the_job_ends() {
    let database = Database::fresh().await;
    let pool = database.pool();
    for (kind, ends_well) in JobKind::ALL.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
        let (first, second) = (model(pool, "first").await, model(pool, "second").await);
        // Naming the same model twice is one need.
        enqueue(pool, kind, &[first, second, first]).await.unwrap();
        let refused = async |when: &str| {
            for name in ["first", "second"] {
                let told =
                    domain::model::delete(&Caller::anonymous(), &domain::Database::new(pool.clone()), &storage(), name)
                        .await;
                assert!(matches!(told, Err(Error::Conflict { .. })), "{kind:?} {when}: {told:?}");
            }
        };
        refused("queued").await;
        let held = claim(pool, &patient()).await.unwrap();
        refused("running").await;
        if ends_well {
            succeed(pool, &held).await.unwrap();
        } else {
            job::fail(pool, &held, &LeasePolicy::default(), ErrorClass::InvalidInput, "no").await.unwrap();
        }
        for name in ["first", "second"] {
            domain::model::delete(&Caller::anonymous(), &domain::Database::new(pool.clone()), &storage(), name)
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn a_job_that_needs_a_deleted_model_is_not_enqueued() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let (there, gone) = (model(pool, "there").await, model(pool, "gone").await);
    domain::model::delete(&Caller::anonymous(), &domain::Database::new(pool.clone()), &storage(), "gone")
        .await
        .unwrap();
    let told = enqueue(pool, JobKind::Export, &[there, gone]).await;
    assert!(matches!(told, Err(Error::Unknown { .. })), "{told:?}");
    assert_eq!(claim(pool, &patient()).await, None);
}

#[tokio::test]
async fn a_hidden_job_is_found_no_more_and_never_changes() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let job = enqueue(pool, JobKind::Training, &[]).await.unwrap();
    assert_eq!(
        job::find(&Caller::anonymous(), &domain::Database::new(pool.clone()), job.0, Some(JobKind::Training))
            .await
            .unwrap(),
        job
    );
    assert!(matches!(
        job::find(&Caller::anonymous(), &domain::Database::new(pool.clone()), job.0, Some(JobKind::Import)).await,
        Err(Error::NotFound { noun: "import", .. })
    ));
    let held = claim(pool, &patient()).await.unwrap();
    succeed(pool, &held).await.unwrap();
    job::hide(&mut pool.acquire().await.unwrap(), job).await.unwrap();
    assert!(matches!(
        job::find(&Caller::anonymous(), &domain::Database::new(pool.clone()), job.0, None).await,
        Err(Error::NotFound { .. })
    ));
    for statement in ["UPDATE jobs SET deleted_at = NULL", "UPDATE jobs SET deleted_at = now(), priority = 1"] {
        assert!(sqlx::query(statement).execute(pool).await.is_err(), "{statement}");
    }
}
