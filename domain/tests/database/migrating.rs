//! An installation that is older than a migration is migrated with all its rows.

use domain::MIGRATIONS;
use embedded::TemporaryDatabase;
use sqlx::PgPool;
use sqlx::migrate::Migrator;

/// The schema before the migration with this number.
fn before(version: i64) -> Migrator {
    Migrator::with_migrations(MIGRATIONS.iter().filter(|one| one.version < version).cloned().collect())
}

/// As version 9 wrote it: `job` and noun have their own ids. Ids end in two digits, jobs in `1x`, their nouns in `2x`.
const ROWS: &str = "
    INSERT INTO models (id, name, kind, family, files, bytes, sha256) VALUES
        ('00000000-0000-7000-8000-000000000001', 'ember', 'checkpoint', 'flux', '[]', 0, repeat('a', 64)),
        ('00000000-0000-7000-8000-000000000002', 'clay', 'lora', 'flux', '[]', 0, repeat('b', 64));
    INSERT INTO datasets (id, name) VALUES ('00000000-0000-7000-8000-000000000003', 'clay');
    INSERT INTO jobs (id, kind) SELECT ('00000000-0000-7000-8000-0000000000' || n)::uuid, kind FROM (VALUES
        (11, 'generation'), (12, 'training'), (13, 'import'), (14, 'export'), (15, 'generation'),
        (16, 'import')) AS t(n, kind);
    INSERT INTO generations (id, job_id, model_id, params, seed, deleted_at) VALUES
        ('00000000-0000-7000-8000-000000000021', '00000000-0000-7000-8000-000000000011',
         '00000000-0000-7000-8000-000000000001', '{}', 1, NULL),
        ('00000000-0000-7000-8000-000000000025', '00000000-0000-7000-8000-000000000015',
         '00000000-0000-7000-8000-000000000001', '{}', 1, now());
    INSERT INTO generation_loras (generation_id, position, model_id, scale) VALUES
        ('00000000-0000-7000-8000-000000000021', 0, '00000000-0000-7000-8000-000000000002', 1),
        ('00000000-0000-7000-8000-000000000021', 1, '00000000-0000-7000-8000-000000000002', 2);
    INSERT INTO trainings (id, job_id, name, dataset_id, model_id, config, examples, dataset_sha256) VALUES
        ('00000000-0000-7000-8000-000000000022', '00000000-0000-7000-8000-000000000012', 'pot',
         '00000000-0000-7000-8000-000000000003',
         '00000000-0000-7000-8000-000000000001', '{}', '[]', repeat('c', 64));
    INSERT INTO imports (id, job_id, name, base_model_id, source, url_query) VALUES
        ('00000000-0000-7000-8000-000000000023', '00000000-0000-7000-8000-000000000013', 'jar',
         '00000000-0000-7000-8000-000000000001',
         '{\"kind\": \"path\", \"path\": \"jar\"}', NULL),
        ('00000000-0000-7000-8000-000000000026', '00000000-0000-7000-8000-000000000016', 'cup', NULL,
         '{\"kind\": \"url\", \"url\": \"https://a.b/c\"}', 'token=secret');
    INSERT INTO exports (id, job_id, model_id, format, dtype) VALUES
        ('00000000-0000-7000-8000-000000000024', '00000000-0000-7000-8000-000000000014',
         '00000000-0000-7000-8000-000000000002', 'peft', 'f32');
    UPDATE jobs SET status = 'canceled', cancel_requested_at = now(), finished_at = now()
    WHERE id::text LIKE '%15' OR id::text LIKE '%16';";

#[tokio::test]
async fn jobs_of_an_older_installation_get_their_public_ids_and_needs() {
    let database = TemporaryDatabase::create(&MIGRATIONS).await.unwrap();
    let pool = PgPool::connect(database.url()).await.unwrap();
    sqlx::raw_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").execute(&pool).await.unwrap();
    before(10).run(&pool).await.unwrap();
    sqlx::raw_sql(ROWS).execute(&pool).await.unwrap();
    domain::migrate(&pool).await.unwrap();

    let jobs: Vec<(String, String, Option<String>, bool)> = sqlx::query_as(
        "SELECT right(id::text, 2), right(subject::text, 2), makes, deleted_at IS NOT NULL FROM jobs ORDER BY id",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let job = |id: &str, subject: &str, makes: Option<&str>, deleted| {
        (id.to_owned(), subject.to_owned(), makes.map(str::to_owned), deleted)
    };
    assert_eq!(
        jobs,
        [
            job("11", "21", None, false),
            job("12", "22", Some("pot"), false),
            job("13", "23", Some("jar"), false),
            job("14", "24", None, false),
            job("15", "25", None, true),
            job("16", "26", Some("cup"), false),
        ]
    );
    let needs: Vec<(String, String)> =
        sqlx::query_as("SELECT right(job_id::text, 2), right(model_id::text, 2) FROM job_needs ORDER BY 1, 2")
            .fetch_all(&pool)
            .await
            .unwrap();
    let expected = [("11", "01"), ("11", "02"), ("12", "01"), ("13", "01"), ("14", "02"), ("15", "01")]
        .map(|(job, model)| (job.to_owned(), model.to_owned()));
    assert_eq!(needs, expected);
    let forgotten: Vec<(String, bool)> =
        sqlx::query_as("SELECT right(id::text, 2), query_forgotten FROM imports ORDER BY id")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(forgotten, [("23".to_owned(), false), ("26".to_owned(), true)]);
    // The guard is in place again.
    let changed = sqlx::query("UPDATE jobs SET priority = 1 WHERE status = 'canceled'").execute(&pool).await;
    assert!(changed.is_err());
}

#[tokio::test]
async fn a_migration_has_no_time_limit() {
    let database = TemporaryDatabase::create(&MIGRATIONS).await.unwrap();
    let pool = PgPool::connect(database.url()).await.unwrap();
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&pool).await.unwrap();
    let prepare = format!(
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public;
         ALTER DATABASE \"{name}\" SET statement_timeout = '1ms'; ALTER DATABASE \"{name}\" SET lock_timeout = '1ms'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(prepare)).execute(&pool).await.unwrap();
    let pool = PgPool::connect(database.url()).await.unwrap();
    assert!(sqlx::query("SELECT pg_sleep(1)").execute(&pool).await.is_err(), "the limit holds for new sessions");
    domain::migrate(&pool).await.unwrap();
}
