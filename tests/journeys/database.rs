//! The Postgres that people have: behind PgBouncer, with few connections, of several versions, with TLS.

use embedded::TemporaryOptions;
use journeys::client::text;
use journeys::ground::Site;
use journeys::pgbouncer::PgBouncer;
use journeys::process::sockets_to;
use journeys::programs::postgres;
use journeys::stack::{Pace, Stack, run};
use journeys::wait::{seconds, until};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

fn owl(seed: u32) -> Value {
    json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32, "seed": seed})
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_pooler_in_session_mode_needs_no_configuration() {
    let site = Site::create().await;
    let Some(pooler) = PgBouncer::start(&site.database_url, "session").await else { return };
    let stack = Stack::start_on(site, Pace::Promised, &[("DATABASE_URL", &pooler.url)]).await;
    let _worker = stack.worker("worker", "");
    let generation = stack.client.succeeded(&stack.client.generate(&owl(1)).await, seconds(90)).await;
    assert_eq!(stack.client.artifacts(&generation).await.len(), 1);
    // LISTEN works, too: an event arrives although nobody polls for it.
    assert!(!stack.logs().contains("cannot listen"), "{}", stack.logs());
    stack.ledger.audit().await;
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_recognised_and_the_direct_address_used() {
    let site = Site::create().await;
    let Some(pooler) = PgBouncer::start(&site.database_url, "transaction").await else { return };
    for command in [&["migrate"][..], &["serve", "--bind", "127.0.0.1:0"], &["worker", "--device", "cpu"]] {
        let output = run(&site, &[("DATABASE_URL", &pooler.url)], command);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        let stderr = stderr(&output);
        assert!(stderr.contains("transaction mode") && stderr.contains("PYROGRAPH_DATABASE_DIRECT_URL"), "{stderr}");
    }
    let both = [("DATABASE_URL", pooler.url.as_str()), ("PYROGRAPH_DATABASE_DIRECT_URL", pooler.url.as_str())];
    let output = run(&site, &both, &["migrate"]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("DIRECT_URL leads to"), "{}", stderr(&output));

    let direct = site.database_url.clone();
    let both = [("DATABASE_URL", pooler.url.as_str()), ("PYROGRAPH_DATABASE_DIRECT_URL", direct.as_str())];
    let mut stack = Stack::start_on(site, Pace::Promised, &both).await;
    let _worker = stack.worker("worker", "");
    stack.client.succeeded(&stack.client.generate(&owl(1)).await, seconds(90)).await;
    // Named prepared statements of an earlier process are not met again.
    stack.restart_api().await;
    stack.client.succeeded(&stack.client.generate(&owl(2)).await, seconds(90)).await;
}

/// A small managed database has few connections. Nobody exits for want of one.
#[tokio::test]
async fn fifteen_connections_suffice_for_several_workers_and_who_gets_none_waits() {
    let options = TemporaryOptions { settings: vec![("max_connections", "15".to_owned())], ..Default::default() };
    let site = Site::with_postgres(options).await;
    let (url, port) = (site.database_url.clone(), database_port(&site.database_url));
    let mut stack = Stack::start_on(site, Pace::Promised, &[]).await;
    let mut workers: Vec<_> = (0..4).map(|number| stack.worker(&format!("worker-{number}"), "")).collect();
    let mut most = 0;
    let mut generations = Vec::new();
    for seed in 0..12 {
        generations.push(stack.client.generate(&owl(seed)).await);
    }
    for generation in &generations {
        stack.client.succeeded(generation, seconds(180)).await;
        for worker in &mut workers {
            assert!(worker.is_alive(), "{}", worker.log());
            most = most.max(sockets_to(worker.id(), port));
        }
    }
    assert!((1..=3).contains(&most), "a worker held {most} connections");
    let server = sockets_to(stack.api().id(), port);
    assert!(server <= 10, "the server holds {server} connections");
    for worker in &mut workers {
        worker.kill();
    }

    // Someone takes every connection, also those of the server.
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let mut others = Vec::new();
    loop {
        sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pyrograph%'")
            .execute(&mut admin)
            .await
            .unwrap();
        while let Ok(other) = PgConnection::connect(&url).await {
            others.push(other);
        }
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pyrograph%'")
                .fetch_one(&mut admin)
                .await
                .unwrap();
        if left == 0 {
            break;
        }
    }
    let answer = stack.client.post("/v1/generations", &owl(20)).await;
    assert_eq!(answer.status, 503, "{:#}", answer.body);
    assert!(!answer.header("retry-after").is_empty());
    let mut late = stack.worker("late", "");
    until(seconds(30), "the worker waits", || {
        let waits = late.log().contains("waiting for the database");
        assert!(late.is_alive(), "{}", late.log());
        async move { waits.then_some(()) }
    })
    .await;
    // Waiting ends with a signal, too.
    let mut other = stack.worker("other", "");
    until(seconds(30), "the other worker waits", || {
        let waits = other.log().contains("waiting for the database");
        async move { waits.then_some(()) }
    })
    .await;
    assert!(other.end(journeys::process::Signal::TERM, seconds(10)).success());

    drop(others);
    let taken = until(seconds(60), "the request is taken", || async {
        let answer = stack.client.post("/v1/generations", &owl(21)).await;
        assert!(matches!(answer.status, 202 | 503), "{:#}", answer.body);
        (answer.status == 202).then_some(answer.body)
    })
    .await;
    stack.client.succeeded(&taken, seconds(120)).await;
    assert!(late.is_alive(), "{}", late.log());
}

fn database_port(url: &str) -> u16 {
    url.split(['@', '/']).find_map(|part| part.rsplit_once(':')?.1.parse().ok()).expect("a port")
}

#[tokio::test]
async fn versions_from_14_to_18_serve_and_13_is_refused_in_one_sentence() {
    let on = |programs| TemporaryOptions { programs: Some(programs), ..Default::default() };
    if let Some(programs) = postgres(13) {
        let site = Site::with_postgres(on(programs)).await;
        for command in [&["migrate"][..], &["worker", "--device", "cpu"]] {
            let output = run(&site, &[], command);
            let stderr = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains("PostgreSQL 13") && stderr.contains("14 or later"), "{stderr}");
        }
    }
    for major in [14, 18] {
        let Some(programs) = postgres(major) else { continue };
        let stack = Stack::start_on(Site::with_postgres(on(programs)).await, Pace::Promised, &[]).await;
        let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(stack.ledger.pool()).await.unwrap();
        assert!(version.starts_with(&major.to_string()), "{version}");
        let _worker = stack.worker("worker", "");
        let generation = stack.client.succeeded(&stack.client.generate(&owl(1)).await, seconds(90)).await;
        assert!(!text(&generation["id"]).is_empty());
        stack.ledger.audit().await;
    }
}

/// The parameter's value may be a password with a typing error in its name.
#[tokio::test]
async fn no_value_of_an_unknown_parameter_is_printed() {
    let site = Site::create().await;
    let url = format!("{}&pasword=canary", site.database_url);
    for command in [&["migrate"][..], &["serve", "--bind", "127.0.0.1:0"], &["worker", "--device", "cpu"]] {
        let output = run(&site, &[("DATABASE_URL", &url), ("PYROGRAPH_LOG", "trace")], command);
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("`pasword`") && !stderr.contains("canary"), "{stderr}");
        for secret in site.secrets() {
            assert!(!stderr.contains(&secret), "a secret is in a log");
        }
    }
}
