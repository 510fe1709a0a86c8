//! Requests per second of a key.

use std::num::NonZeroU32;
use std::time::Instant;

use api::{Access, Rate};
use futures::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::projects::Site;
use crate::test_server::{Answer, TestServer, text};

/// One that never fills up again during a test.
fn rate(burst: u32) -> Rate {
    Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::new(burst).unwrap() }
}

async fn list(server: &TestServer, key: &str, claimed: u8) -> Answer {
    let request = || {
        let request = server.request(Method::GET, "/v1/models").bearer_auth(key);
        request.header("x-forwarded-for", format!("192.0.2.{claimed}"))
    };
    server.send_patiently(request).await
}

#[tokio::test]
async fn a_key_that_asks_too_often_waits_and_no_other_does() {
    let site = Site::new().await;
    let made = site.post(&site.admin, None, "/v1/keys", &json!({"name": "other"})).await.expect(201);
    let other = text(&made["key"]);
    let server = site.server.with_rate(rate(20), Access::keys(site.server.pools.api.clone())).await;
    let since = Instant::now();
    let first = list(&server, &site.admin, 0).await;
    assert_eq!((first.status, first.header("ratelimit-policy")), (200, r#""key";q=20;w=20"#));
    assert_eq!(first.header("ratelimit"), r#""key";r=19;t=1"#);
    // The address that a request claims to come from changes nothing.
    let answers = join_all((0..60).map(|number| list(&server, &site.admin, number))).await;
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    let most = 20 + since.elapsed().as_secs() as usize;
    assert!((19..=most).contains(&served), "{served}");
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        refused.refuses(429, "");
        assert!((1..=2).contains(&refused.header("retry-after").parse::<u64>().unwrap()));
        assert_eq!(refused.header("ratelimit"), r#""key";r=0;t=1"#);
    }
    list(&server, &other, 0).await.expect(200);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.get(path).await.header("ratelimit"), "", "{path} asks for no key");
    }
    // A wrong key is not counted.
    let unknown = format!("pyro_{}_{}", "0".repeat(32), "0".repeat(64));
    let answer = list(&server, &unknown, 0).await;
    assert_eq!((answer.status, answer.header("ratelimit")), (401, ""));
}

#[tokio::test]
async fn callers_without_a_key_and_commands_of_up_are_not_limited() {
    let open = TestServer::with_checkpoint().await;
    let server = open.with_rate(rate(2), Access::keys(open.pools.api.clone())).await;
    for _ in 0..10 {
        let answer = server.get("/v1/models").await;
        assert_eq!((answer.status, answer.header("ratelimit")), (200, ""));
    }
    server.post("/v1/keys", &json!({"name": "first"})).await.expect(201);
    let local = domain::key::create_local(&server.pools.api).await.unwrap().reveal();
    for _ in 0..10 {
        list(&server, &local, 0).await.expect(200);
    }
}
