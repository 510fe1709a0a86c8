//! Start, stop, crash and restart, with the programs installed on this machine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use embedded::{Postgres, S3};
use sqlx::{Connection, PgConnection};

async fn answer(url: &str) -> i32 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar("SELECT 41 + 1").fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn a_cluster_is_found_again_after_stop_crash_and_stale_pid() {
    let folder = tempfile::Builder::new().permissions(open()).tempdir_in("/tmp").unwrap();
    let folder = folder.path().join("postgres");

    let first = Postgres::own(&folder).await.unwrap();
    assert!(first.is_own());
    let mut connection = PgConnection::connect(first.url()).await.unwrap();
    sqlx::query("CREATE TABLE kept AS SELECT 7 AS number").execute(&mut connection).await.unwrap();
    let url = first.url().to_owned();

    // The process that started it ended without stopping it: the next one finds the same server.
    drop(first);
    let found = Postgres::own(&folder).await.unwrap();
    assert_eq!(found.url(), url);
    found.stop().await.unwrap();

    // A stale file names a process that has ended and is still listed, since its parent (we) did not ask for its end.
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    let zombie = format!("{}\n{}\n0\n1\n\n127.0.0.1\n\nready\n", ended.id(), folder.join("data").display());
    std::fs::write(folder.join("data/postmaster.pid"), zombie).unwrap();
    Postgres::own(&folder).await.unwrap().stop().await.unwrap();
    ended.wait().unwrap();

    // Another one names a process that is not Postgres (ours).
    let stale = format!("{}\n{}\n0\n1\n\n127.0.0.1\n\nready\n", std::process::id(), folder.join("data").display());
    std::fs::write(folder.join("data/postmaster.pid"), stale).unwrap();
    let since = Instant::now();
    let again = Postgres::own(&folder).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(20), "took {:?}", since.elapsed());
    let mut connection = PgConnection::connect(again.url()).await.unwrap();
    let number: i32 = sqlx::query_scalar("SELECT number FROM kept").fetch_one(&mut connection).await.unwrap();
    assert_eq!(number, 7);

    // Without the password, no connection is accepted.
    let strangers = again.url().replacen(|c: char| c.is_ascii_digit(), "x", 1);
    assert!(PgConnection::connect(&strangers).await.is_err());
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_temporary_cluster_survives_its_own_crash_and_leaves_nothing() {
    let mut postgres = embedded::TemporaryPostgres::start().await.unwrap();
    assert_eq!(answer(&postgres.url("postgres").unwrap()).await, 42);
    postgres.crash().await.unwrap();
    assert_eq!(answer(&postgres.url("postgres").unwrap()).await, 42);

    let folder = postgres.folder().to_owned();
    drop(postgres);
    let since = Instant::now();
    while folder.exists() {
        assert!(since.elapsed() < Duration::from_secs(30), "{} is still there", folder.display());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn s3_keeps_its_keys_and_refuses_strangers() {
    let folder = tempfile::tempdir().unwrap();
    let bind = "127.0.0.1:0".parse().unwrap();
    let first = S3::start(folder.path(), bind).await.unwrap();
    let keys = (first.access_key().to_owned(), first.secret_key().to_owned());
    let address = first.endpoint().trim_start_matches("http://").to_owned();
    assert!(unsigned(&address).await.starts_with("HTTP/1.1 403"));
    first.stop().await;
    assert!(tokio::net::TcpStream::connect(&address).await.is_err());

    let second = S3::start(folder.path(), bind).await.unwrap();
    assert_eq!(keys, (second.access_key().to_owned(), second.secret_key().to_owned()));
}

async fn unsigned(address: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /pyrograph/secret HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

fn open() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o755)
}

#[tokio::test]
async fn a_cluster_is_told_to_end_without_waiting() {
    let folder = tempfile::Builder::new().permissions(open()).tempdir_in("/tmp").unwrap();
    let folder = folder.path().join("postgres");
    // Nothing runs there, and that is not an error.
    Postgres::quit(&folder);
    let postgres = Postgres::own(&folder).await.unwrap();
    Postgres::quit(&folder);
    let since = Instant::now();
    while PgConnection::connect(postgres.url()).await.is_ok() || folder.join("data/postmaster.pid").exists() {
        assert!(since.elapsed() < Duration::from_secs(30), "it still runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_server_is_started_again_at_its_address() {
    let folder = tempfile::Builder::new().permissions(open()).tempdir_in("/tmp").unwrap();
    let folder = folder.path().join("postgres");
    let mut postgres = Postgres::own(&folder).await.unwrap();
    postgres.keep();
    let pid = || -> Option<i32> {
        std::fs::read_to_string(folder.join("data/postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
    };
    for _ in 0..2 {
        let killed = pid().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(killed).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
        let since = Instant::now();
        while pid() == Some(killed) || PgConnection::connect(postgres.url()).await.is_err() {
            assert!(since.elapsed() < Duration::from_mins(1), "it does not run");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let url = postgres.url().to_owned();
    postgres.stop().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(PgConnection::connect(&url).await.is_err(), "it stays stopped");
}
