//! While the database is away, requests are refused, and the server is alive.

use std::time::{Duration, Instant};

use domain::database::Presence;
use domain::event::Feed;
use domain::{Pools, Storage, StorageConfig};
use embedded::TemporaryPostgres;
use reqwest::multipart::Form;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::test_server::picture_part;

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
    let state = state.with_access(api::Access::keys(pools.api.clone()));
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
    let nobody = "00000000-0000-7000-8000-000000000000";
    for path in ["/readyz", "/v1/models", &format!("/v1/generations/{nobody}"), "/v1/jobs"] {
        assert_eq!(get(path).await, 503, "{path}");
    }
    let made = http.post(format!("{root}/v1/generations")).json(&json!({"prompt": "a fox"})).send().await.unwrap();
    assert_eq!((made.status().as_u16(), &made.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    let made = http.post(format!("{root}/v1/datasets")).json(&json!({"name": "a"})).send().await.unwrap();
    assert_eq!(made.status(), 503);
    // A form that begins now is not read either, however large it is.
    for path in ["/v1/inputs", &format!("/v1/datasets/{nobody}/images"), "/v1/models", "/v1/picture-info"] {
        for bytes in [100, 4 << 20] {
            let form = Form::new().part("image", picture_part(vec![0; bytes]));
            let began = Instant::now();
            let answer = http.post(format!("{root}{path}")).multipart(form).send().await.expect(path);
            assert_eq!(answer.status(), 503, "{path}");
            assert!(began.elapsed() < Duration::from_secs(2), "{path}: {:?}", began.elapsed());
        }
    }
}
