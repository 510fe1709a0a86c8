//! Databases that cannot serve: each is reported in one sentence, with the statement that helps.

use domain::{Addresses, MIGRATIONS, PoolSizes, Pools, Unusable, migrate};
use embedded::{TemporaryDatabase, TemporaryPostgres};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

async fn open(url: &str) -> Result<Pools, Unusable> {
    Pools::open(&Addresses { url: url.to_owned(), direct_url: None }, PoolSizes::WORKER).await
}

/// Expects a permanent error with all these words, and none of the password.
async fn refused(url: &str, words: &[&str]) {
    let Err(Unusable::Permanent(why)) = open(url).await else { panic!("not refused for good: {words:?}") };
    for word in words {
        assert!(why.contains(word), "{word}: {why}");
    }
    let password = url.split([':', '@']).nth(2).unwrap_or("none");
    assert!(password.is_empty() || !why.contains(password), "{why}");
}

/// The URL with another role and database.
fn of(url: &str, role: &str, database: &str) -> String {
    let (_, rest) = url.split_once('@').unwrap();
    let server = rest.split('/').next().unwrap();
    format!("postgres://{role}:canary-password@{server}/{database}?sslmode=disable")
}

#[tokio::test]
async fn roles_without_rights_are_told_which_statement_helps() {
    let database = TemporaryDatabase::empty(&MIGRATIONS).await.unwrap();
    let name = database.url().rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
    let role = format!("role_{}", &name[name.len() - 12..]);
    let mut owner = PgConnection::connect(database.url()).await.unwrap();
    let mut run = async |statement: String| {
        owner.execute(AssertSqlSafe(statement)).await.unwrap();
    };
    let url = of(database.url(), &role, &name);

    refused(&url, &["password", &role]).await;
    run(format!("CREATE ROLE {role} LOGIN PASSWORD 'canary-password'; REVOKE CONNECT ON DATABASE {name} FROM public"))
        .await;
    refused(&url, &["GRANT CONNECT ON DATABASE", &name, &role]).await;
    run(format!("GRANT CONNECT ON DATABASE {name} TO {role}; REVOKE ALL ON SCHEMA public FROM public")).await;
    refused(&url, &["GRANT USAGE, CREATE ON SCHEMA \"public\"", &role]).await;
    let elsewhere = format!("{url}&options=-c%20search_path%3Dfoo");
    refused(&elsewhere, &["CREATE SCHEMA \"foo\" AUTHORIZATION", &role]).await;
    run(format!("GRANT USAGE ON SCHEMA public TO {role}")).await;
    refused(&url, &["GRANT CREATE ON SCHEMA", "pyrograph migrate", &role]).await;

    // Another role migrates; this one needs the tables only.
    migrate(&open(database.url()).await.unwrap().lease).await.unwrap();
    refused(&url, &["attempts", "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES"]).await;
    run(format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}"
    ))
    .await;
    let pools = open(&url).await.unwrap();
    migrate(&pools.lease).await.unwrap();
    sqlx::query("SELECT count(*) FROM jobs").execute(&pools.lease).await.unwrap();

    run(format!("ALTER ROLE {role} SET default_transaction_read_only = on")).await;
    refused(&url, &["default_transaction_read_only = off", &role]).await;
    run(format!("ALTER ROLE {role} RESET default_transaction_read_only; ALTER ROLE {role} PASSWORD 'another'")).await;
    refused(&url, &["ALTER ROLE", "PASSWORD", &role]).await;
    run(format!("ALTER ROLE {role} NOLOGIN PASSWORD 'canary-password'")).await;
    refused(&url, &["LOGIN", &role]).await;
    pools.close().await;
    run(format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn databases_that_cannot_hold_our_rows_are_told_which_can() {
    let database = TemporaryDatabase::empty(&MIGRATIONS).await.unwrap();
    let name = database.url().rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
    let missing = database.url().replace(&name, "pyrograph_missing");
    refused(&missing, &["CREATE DATABASE \"pyrograph_missing\""]).await;

    let ascii = format!("{name}_ascii");
    let mut owner = PgConnection::connect(database.url()).await.unwrap();
    let statement =
        format!("CREATE DATABASE {ascii} ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
    owner.execute(AssertSqlSafe(statement)).await.unwrap();
    refused(&database.url().replace(&name, &ascii), &["SQL_ASCII", "ENCODING 'UTF8'"]).await;

    refused("postgres://h/d?user=u&pasword=canary", &["`pasword`"]).await;
    refused(&database.url().replace("sslmode=disable", "sslmode=require"), &["sslmode", "DATABASE_URL"]).await;
}

/// What the session must not lose on the way: its limits are set after connecting.
#[tokio::test]
async fn every_connection_has_the_limits_of_a_session() {
    let database = TemporaryDatabase::create(&MIGRATIONS).await.unwrap();
    let pools = open(database.url()).await.unwrap();
    for (setting, value) in [
        ("statement_timeout", "15s"),
        ("lock_timeout", "3s"),
        ("idle_in_transaction_session_timeout", "10s"),
        ("client_connection_check_interval", "5s"),
    ] {
        let found: String =
            sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(&pools.lease).await.unwrap();
        assert_eq!(found, value, "{setting}");
    }
    // A migration has none, and leaves them as they were.
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)")
        .execute(&pools.lease)
        .await
        .unwrap();
    let _ = migrate(&pools.lease).await;
    let found: String = sqlx::query_scalar("SHOW statement_timeout").fetch_one(&pools.lease).await.unwrap();
    assert_eq!(found, "15s");
}

#[tokio::test]
async fn a_replica_is_refused() {
    let mut postgres = TemporaryPostgres::start().await.unwrap();
    open(&postgres.url("postgres").unwrap()).await.unwrap().close().await;
    // Without a primary it replays what it has, and then waits for ever.
    std::fs::write(postgres.folder().join("data/standby.signal"), "").unwrap();
    postgres.crash().await.unwrap();
    refused(&postgres.url("postgres").unwrap(), &["replica", "primary"]).await;
}

/// A server that starts, or has no free connection, says so, and is waited for.
#[tokio::test]
async fn a_server_that_is_not_ready_yet_is_waited_for() {
    let database = TemporaryDatabase::create(&MIGRATIONS).await.unwrap();
    let real = database.url().split(['@', '/']).find(|part| part.starts_with("127.0.0.1:")).unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = database.url().replace(&real, &listener.local_addr().unwrap().to_string());
    let server = tokio::spawn(async move {
        for refusal in ["57P03\0Mthe database system is starting up", "53300\0Msorry, too many clients already"] {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut startup = vec![0; client.read_u32().await.unwrap() as usize - 4];
            client.read_exact(&mut startup).await.unwrap();
            let body = format!("SFATAL\0VFATAL\0C{refusal}\0\0");
            client.write_all(b"E").await.unwrap();
            client.write_u32(body.len() as u32 + 4).await.unwrap();
            client.write_all(body.as_bytes()).await.unwrap();
        }
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut postgres = TcpStream::connect(&real).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut postgres).await });
        }
    });
    let pools = open(&url).await.unwrap();
    sqlx::query("SELECT count(*) FROM jobs").execute(&pools.lease).await.unwrap();
    pools.close().await;
    server.abort();
}
