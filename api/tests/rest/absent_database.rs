//! While the database is away, requests are refused, and the server is alive.

use std::time::Duration;

use domain::database::Presence;
use domain::event::Feed;
use domain::{Pools, Storage, StorageConfig};
use embedded::TemporaryPostgres;
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn requests_do_not_wait_for_a_database_that_is_away() {
    let mut postgres = TemporaryPostgres::start().await.unwrap();
    let pools = Pools::connect(&postgres.url("postgres").unwrap()).await.unwrap();
    domain::migrate(&pools.lease).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let s3 = embedded::S3::start(folder.path(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let storage = Storage::new(&StorageConfig {
        endpoint: s3.endpoint(),
        bucket: s3.bucket().to_owned(),
        region: "auto".to_owned(),
        keys: domain::storage::Keys::fixed(s3.access_key(), s3.secret_key()),
        public_endpoint: None,
    })
    .unwrap();
    let presence = Presence::watch(pools.lease.connect_options());
    let feed = Feed::start(pools.listen.clone()).await;
    let state = api::State::new(pools.api.clone(), feed, storage).with_presence(presence);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let root = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(api::serve(listener, state, CancellationToken::new()));
    // Below the time for which a pool waits for a connection.
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(6)).build().unwrap();
    let get = async |path: &str| http.get(format!("{root}{path}")).send().await.expect("an answer").status();
    assert_eq!((get("/readyz").await, get("/v1/models").await), (200.try_into().unwrap(), 200.try_into().unwrap()));

    // It comes back at another address, where this server does not look.
    postgres.crash().await.unwrap();
    assert_eq!(get("/healthz").await, 200);
    let nothing = "/v1/generations/00000000-0000-7000-8000-000000000000";
    for path in ["/readyz", "/v1/models", nothing, "/v1/jobs"] {
        assert_eq!(get(path).await, 503, "{path}");
    }
    let made = http.post(format!("{root}/v1/generations")).json(&json!({"prompt": "a fox"})).send().await.unwrap();
    assert_eq!((made.status().as_u16(), &made.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    let made = http.post(format!("{root}/v1/datasets")).json(&json!({"name": "a"})).send().await.unwrap();
    assert_eq!(made.status(), 503);
}
