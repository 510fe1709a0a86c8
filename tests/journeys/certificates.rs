//! A company's certificate authority: `SSL_CERT_FILE` counts for Postgres, the bucket, the Hub and the command line,
//! and a refused certificate is reported as such.

use embedded::TemporaryOptions;
use journeys::authority::{Authority, Nginx};
use journeys::ground::Site;
use journeys::hub::{Hub, lora};
use journeys::stack::{Pace, Stack, run};
use journeys::wait::seconds;
use serde_json::json;

/// A Postgres that speaks TLS with a certificate of `authority`.
async fn site(authority: &Authority) -> Site {
    let issued = authority.issue(&["127.0.0.1", "localhost"]);
    let options = TemporaryOptions {
        settings: vec![
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", "../server.pem".to_owned()),
            ("ssl_key_file", "../server.key".to_owned()),
        ],
        files: vec![("server.pem", issued.certificate), ("server.key", issued.key)],
        ..Default::default()
    };
    Site::with_postgres(options).await
}

#[tokio::test]
async fn one_variable_makes_everything_trust_a_private_authority() {
    let authority = Authority::create();
    let trusted = authority.file();
    let trust = ("SSL_CERT_FILE", trusted.to_str().unwrap());
    let site = site(&authority).await;
    let environment = site.environment();
    let s3 = &environment.iter().find(|(name, _)| *name == "PYROGRAPH_S3_ENDPOINT").unwrap().1;
    let Some(bucket) = Nginx::start(&authority, &[], s3).await else { return };
    let hub = Hub::start([("lora.safetensors".to_owned(), lora(64))]);
    let Some(mirror) = Nginx::start(&authority, &[], &hub.url).await else { return };
    let endpoint = ("PYROGRAPH_S3_ENDPOINT", bucket.url.as_str());

    // Without trust, each refusal says why, and what helps.
    let explains = |output: std::process::Output, place: &str| {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains("SSL_CERT_FILE"), "{place}: {stderr}");
        assert!(!stderr.contains("Is it running?"), "{place}: {stderr}");
    };
    let checked = site.database_url.replace("sslmode=disable", "sslmode=verify-full");
    let database = ("DATABASE_URL", checked.as_str());
    explains(run(&site, &[database], &["migrate"]), "Postgres");
    explains(run(&site, &[endpoint], &["serve", "--bind", "127.0.0.1:0"]), "the bucket");
    let folder = ("SSL_CERT_DIR", trusted.parent().unwrap().to_str().unwrap());
    let migrated = run(&site, &[database, folder], &["migrate"]);
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    let missing = run(&site, &[database, ("SSL_CERT_FILE", "/nowhere.pem")], &["migrate"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nowhere.pem"));

    let everything = [database, trust, endpoint, ("PYROGRAPH_IMPORT_NETWORKS", "127.0.0.0/8")];
    let stack = Stack::start_on(site, Pace::Promised, &everything).await;
    let Some(api) = Nginx::start(&authority, &[], stack.client.base()).await else { return };
    explains(
        run(&stack.site, &[("SSL_CERT_FILE", ""), ("PYROGRAPH_SERVER", &api.url)], &["models", "list"]),
        "the command line",
    );
    let worker = stack.worker_with("worker", "", &[("HF_ENDPOINT", &mirror.url)]);
    let source = json!({"kind": "hugging_face", "repo": journeys::hub::OPEN});
    let import = stack.client.import("theirs", &source).await;
    stack.client.succeeded(&import, seconds(90)).await;
    let by_url = json!({"kind": "url", "url": format!("{}/files/lora.safetensors", mirror.url)});
    stack.client.succeeded(&stack.client.import("by-url", &by_url).await, seconds(90)).await;
    drop(worker);

    // A picture: the command line asks the API, and downloads from the bucket, through TLS.
    let _worker = stack.worker("another", "");
    let folder = stack.folder();
    let picture = folder.join("owl.png");
    let generate = ["generate", "an owl", "--model", "tiny", "--steps", "1", "--server", &api.url];
    let output = stack
        .cli(&[&generate[..], &["--width", "32", "--height", "32", "--output", picture.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
}

#[tokio::test]
async fn an_import_from_a_server_that_nobody_vouches_for_says_so() {
    let (authority, stranger) = (Authority::create(), Authority::create());
    let hub = Hub::start([("lora.safetensors".to_owned(), lora(64))]);
    let Some(mirror) = Nginx::start(&stranger, &[], &hub.url).await else { return };
    let trusted = authority.file();
    let environment = [("SSL_CERT_FILE", trusted.to_str().unwrap()), ("PYROGRAPH_IMPORT_NETWORKS", "127.0.0.0/8")];
    let stack = Stack::start_with(Pace::Promised, &environment).await;
    let _worker = stack.worker("worker", "");
    let source = json!({"kind": "url", "url": format!("{}/files/lora.safetensors", mirror.url)});
    let end = stack.client.settled(&stack.client.import("theirs", &source).await, seconds(60)).await;
    assert_eq!((&end["status"], &end["attempts"]), (&json!("failed"), &json!(1)), "{end:#}");
    assert!(end["error"]["message"].as_str().unwrap().contains("certificate"), "{end:#}");
}
