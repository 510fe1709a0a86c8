//! Quotas that hold jobs back: the claim skips projects that have used one up.

use domain::job::{self, Claim, JobKind, NewJob};
use domain::{Caller, JobId, Principal, ProjectId, Scopes, WorkerId};
use futures::future::join_all;
use sqlx::PgPool;

use super::{Database, claim, patient, succeed};

async fn enqueue_in(pool: &PgPool, project: ProjectId) -> JobId {
    let caller = Caller::new(project, Principal::Anonymous, Scopes::ALL);
    let mut tx = pool.begin().await.unwrap();
    let job = job::enqueue(&mut tx, NewJob::new(&caller, JobKind::Generation, JobId::new())).await.unwrap();
    tx.commit().await.unwrap();
    job
}

async fn project(pool: &PgPool) -> ProjectId {
    let id = ProjectId::new();
    sqlx::query("INSERT INTO projects (id, name) VALUES ($1, 'other')").bind(id.0).execute(pool).await.unwrap();
    id
}

async fn execute(pool: &PgPool, statement: &'static str) {
    sqlx::query(statement).execute(pool).await.unwrap();
}

/// The project of a claimed job.
async fn owner(pool: &PgPool, claim: &Claim) -> ProjectId {
    sqlx::query_scalar("SELECT project_id FROM jobs WHERE id = $1").bind(claim.job.0).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn however_many_workers_ask_no_more_jobs_run_than_the_quota_says() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let other = project(pool).await;
    for _ in 0..20 {
        enqueue_in(pool, ProjectId::DEFAULT).await;
    }
    let free = enqueue_in(pool, other).await;
    execute(pool, "UPDATE projects SET max_running_jobs = 3 WHERE name = 'default'").await;
    let policy = patient();
    let ask = async || join_all((0..12).map(|_| job::claim(pool, &JobKind::ALL, WorkerId::new(), &[], &policy))).await;
    let claims: Vec<Claim> = ask().await.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(claims.len(), 4, "three, and the one of the other project");
    assert!(claims.iter().any(|claim| claim.job == free));

    let held = claims.iter().find(|claim| claim.job != free).unwrap();
    succeed(pool, held).await.unwrap();
    assert_eq!(ask().await.into_iter().filter_map(Result::unwrap).count(), 1);
    execute(pool, "UPDATE projects SET max_running_jobs = NULL").await;
    assert_eq!(ask().await.into_iter().filter_map(Result::unwrap).count(), 12);
}

#[tokio::test]
async fn used_up_device_time_holds_jobs_back_until_the_next_day() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let other = project(pool).await;
    for _ in 0..3 {
        enqueue_in(pool, ProjectId::DEFAULT).await;
    }
    execute(pool, "UPDATE projects SET max_gpu_seconds_per_day = 1000 WHERE name = 'default'").await;
    let running = claim(pool, &patient()).await.unwrap();
    assert_eq!(owner(pool, &running).await, ProjectId::DEFAULT);
    // What runs counts, too.
    execute(pool, "UPDATE attempts SET started_at = started_at - interval '1001 seconds'").await;
    enqueue_in(pool, other).await;
    let next = claim(pool, &patient()).await.unwrap();
    assert_eq!(owner(pool, &next).await, other);
    assert_eq!(claim(pool, &patient()).await, None);
    succeed(pool, &running).await.unwrap();
    assert_eq!(claim(pool, &patient()).await, None);
    execute(
        pool,
        "UPDATE attempts SET started_at = started_at - interval '1 day', ended_at = ended_at - interval '1 day'",
    )
    .await;
    assert_eq!(owner(pool, &claim(pool, &patient()).await.unwrap()).await, ProjectId::DEFAULT);
}
