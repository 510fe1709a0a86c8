//! A company's proxy: imports and the bucket go through it, this machine does not, and it opens no way into the network
//! around the worker.

use journeys::authority::{Authority, Nginx};
use journeys::connect_proxy::ConnectProxy;
use journeys::ground::Site;
use journeys::hub::{Hub, lora};
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use serde_json::json;

#[tokio::test]
async fn imports_and_the_bucket_go_through_the_proxy_and_nothing_inside_does() {
    let authority = Authority::create();
    let site = Site::create().await;
    let environment = site.environment();
    let s3 = &environment.iter().find(|(name, _)| *name == "PYROGRAPH_S3_ENDPOINT").unwrap().1;
    let hub = Hub::start([("lora.safetensors".to_owned(), lora(64))]);
    let Some(bucket) = Nginx::start(&authority, &["bucket.weights.example"], s3).await else { return };
    let Some(weights) = Nginx::start(&authority, &["hub.weights.example"], &hub.url).await else { return };
    let proxy =
        ConnectProxy::start(&[("bucket.weights.example:443", bucket.port), ("hub.weights.example:443", weights.port)])
            .await;
    let (trusted, through) = (authority.file(), format!("http://worker:canary@127.0.0.1:{}", proxy.port));
    let stack = Stack::start_on(
        site,
        Pace::Promised,
        &[
            ("SSL_CERT_FILE", trusted.to_str().unwrap()),
            ("PYROGRAPH_S3_ENDPOINT", "https://bucket.weights.example"),
            ("https_proxy", &through),
            ("HTTP_PROXY", &through),
            ("NO_PROXY", "unrelated.example"),
            ("PYROGRAPH_LOG", "debug"),
            // Where the tests' Hub sends clients for large files.
            ("PYROGRAPH_IMPORT_NETWORKS", journeys::hub::HOST),
        ],
    )
    .await;
    let _worker = stack.worker_with("worker", "", &[("HF_ENDPOINT", "https://hub.weights.example")]);
    let by_url = json!({"kind": "url", "url": "https://hub.weights.example/files/lora.safetensors"});
    stack.client.succeeded(&stack.client.import("by-url", &by_url).await, seconds(90)).await;
    let of_hub = json!({"kind": "hugging_face", "repo": journeys::hub::OPEN});
    stack.client.succeeded(&stack.client.import("of-hub", &of_hub).await, seconds(90)).await;

    for inside in ["https://169.254.169.254/x", "https://10.0.0.1/x", "https://intranet/x", "https://printer.local/x"] {
        let source = json!({"kind": "url", "url": format!("{inside}.safetensors")});
        let end = stack.client.settled(&stack.client.import("inside", &source).await, seconds(60)).await;
        assert_eq!(
            (&end["status"], &end["error"]["class"]),
            (&json!("failed"), &json!("invalid_input")),
            "{inside}: {end:#}"
        );
    }

    let seen = proxy.seen();
    for host in ["bucket", "hub"] {
        let asked = format!("CONNECT {host}.weights.example:443 ");
        assert!(seen.iter().any(|head| head.starts_with(&asked)), "{host} was reached past the proxy: {seen:?}");
    }
    for head in &seen {
        assert!(head.contains(".weights.example:443 "), "this went through the proxy: {head}");
        assert!(head.to_lowercase().contains("proxy-authorization: basic"), "{head}");
    }
    assert!(!stack.logs().contains("canary"), "the proxy's password is in a log");

    // The command line on the same machine reaches the server past the proxy.
    let before = proxy.seen().len();
    assert!(stack.cli(&["models", "list"]).status.success());
    assert_eq!(proxy.seen().len(), before);
}
