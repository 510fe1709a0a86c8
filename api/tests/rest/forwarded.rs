//! Clients behind a proxy that the operator has named, and what the same headers of others change: nothing.

use api::{Access, Names, Proxies};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::test_server::{Answer, TestServer, text};

/// A server that asks for keys and believes `proxies`, and its first key.
async fn behind(proxies: &str) -> (TestServer, String) {
    let open = TestServer::with_checkpoint().await;
    let proxies: Proxies = proxies.parse().unwrap();
    let access = Access::keys(open.pools.api.clone());
    let names = Names { allowed: vec!["pictures.example.com".parse().unwrap()], ..Names::default() };
    let server = open.with(|state| state.with_access(access).with_names(names).with_proxies(proxies)).await;
    let made = server.post("/v1/keys", &json!({"name": "first"})).await.expect(201);
    (server, text(&made["key"]))
}

fn with(request: RequestBuilder, headers: &[(&str, &str)]) -> RequestBuilder {
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// Requests with a wrong key until they are limited.
async fn attempts(server: &TestServer, client: impl Fn(usize) -> Vec<(&'static str, String)>) -> usize {
    for attempt in 0..100 {
        let mut request = server.request(Method::GET, "/v1/models").bearer_auth("pyro_x");
        for (name, value) in client(attempt) {
            request = request.header(name, value);
        }
        match server.send(request).await.status {
            401 => {}
            429 => return attempt,
            other => panic!("{other}"),
        }
    }
    100
}

#[tokio::test]
async fn failed_attempts_count_for_the_client_behind_a_proxy() {
    let (server, _) = behind("127.0.0.1").await;
    let spoofing = |attempt| vec![("x-forwarded-for", format!("198.51.100.{attempt}, 203.0.113.7"))];
    assert_eq!(attempts(&server, spoofing).await, 20, "what the client sent itself changes nothing");
    assert_eq!(attempts(&server, |_| vec![("x-forwarded-for", "203.0.113.7".to_owned())]).await, 0);
    assert_eq!(attempts(&server, |_| vec![("forwarded", "for=203.0.113.7".to_owned())]).await, 0);
    assert_eq!(attempts(&server, |_| vec![("x-forwarded-for", "203.0.113.8".to_owned())]).await, 20, "another client");

    let (server, _) = behind("10.0.0.0/8").await;
    let spoofing = |attempt| vec![("x-forwarded-for", format!("203.0.113.{attempt}"))];
    assert_eq!(attempts(&server, spoofing).await, 20, "no proxy of ours");
}

#[tokio::test]
async fn the_audit_log_has_the_address_of_the_client() {
    for (proxies, address) in [("127.0.0.0/8", "203.0.113.7"), ("10.0.0.0/8", "127.0.0.1")] {
        let (server, admin) = behind(proxies).await;
        let request = server.request(Method::POST, "/v1/keys").bearer_auth(&admin).json(&json!({"name": "b"}));
        let request = with(request, &[("x-forwarded-for", "198.51.100.1, 203.0.113.7")]);
        server.send(request).await.expect(201);
        let entries = server.send(server.request(Method::GET, "/v1/audit").bearer_auth(&admin)).await.expect(200);
        assert_eq!(entries["items"][0]["address"], address, "{entries:#}");
    }
}

#[tokio::test]
async fn a_proxy_gives_scheme_and_host() {
    let forwarded = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "pictures.example.com"),
    ];
    let log_in = async |server: &TestServer, key: &str| -> Answer {
        let request = server.request(Method::POST, "/v1/session").json(&json!({"key": key}));
        server.send(with(request, &forwarded)).await
    };
    let (server, key) = behind("127.0.0.1").await;
    let answer = log_in(&server, &key).await;
    assert!(answer.header("set-cookie").starts_with("__Host-pyrograph="), "{:?}", answer.headers);
    assert_eq!(answer.header("strict-transport-security"), "max-age=31536000");
    // The page that the browser shows is one of the public address.
    let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
    let create = |origin: &str| {
        let request = server.request(Method::POST, "/v1/datasets").json(&json!({"name": "dogs"}));
        with(request, &forwarded).header("cookie", &cookie).header("origin", origin.to_owned())
    };
    server.send(create("https://pictures.example.com")).await.expect(201);
    server.send(create("https://evil.example")).await.refuses(403, "Origin");
    let renamed = with(server.request(Method::GET, "/v1/models"), &[("x-forwarded-host", "evil.example")]);
    server.send(renamed.bearer_auth(&key)).await.refuses(403, "Host");
    let renamed = with(server.request(Method::GET, "/v1/models"), &[("x-forwarded-host", "a b")]);
    server.send(renamed.bearer_auth(&key)).await.refuses(400, "Host");
    // Files have the address that the client knows.
    let endpoint = server.bucket_endpoint();
    let up = server
        .with(|state| {
            let names = Names { allowed: vec!["pictures.example.com".parse().unwrap()], ..Names::default() };
            state.with_names(names).with_proxies("127.0.0.1".parse().unwrap()).with_gateway(&endpoint).unwrap()
        })
        .await;
    let picture = crate::test_server::picture_part(crate::test_server::png(8, 8, 1));
    let form = reqwest::multipart::Form::new().part("image", picture);
    let request = with(up.request(Method::POST, "/v1/inputs").multipart(form), &forwarded);
    let url = text(&up.send(request).await.expect(201)["url"]);
    assert!(url.starts_with("https://pictures.example.com/s3/"), "{url}");

    let (server, key) = behind("10.0.0.0/8").await;
    let answer = log_in(&server, &key).await;
    assert!(answer.header("set-cookie").starts_with("pyrograph="), "{:?}", answer.headers);
    assert_eq!(answer.header("strict-transport-security"), "");
}

#[tokio::test]
async fn a_proxy_that_passes_on_a_header_of_the_client_is_noticed() {
    let (server, key) = behind("127.0.0.1").await;
    let both = [("x-forwarded-for", "203.0.113.7"), ("forwarded", "for=198.51.100.1")];
    let request = server.request(Method::POST, "/v1/datasets").bearer_auth(&key).json(&json!({"name": "dogs"}));
    server.send(with(request, &both)).await.refuses(400, "Forwarded");
    assert_eq!(server.count("datasets").await, 0);
    let same = [("x-forwarded-for", "203.0.113.7"), ("forwarded", "for=203.0.113.7")];
    server.send(with(server.request(Method::GET, "/v1/models").bearer_auth(&key), &same)).await.expect(200);
}

#[tokio::test]
async fn a_named_proxy_opens_no_installation_without_keys() {
    let open = TestServer::with_checkpoint().await;
    let access = Access::keys(open.pools.api.clone());
    let server = open.with(|state| state.with_access(access).with_proxies("127.0.0.1".parse().unwrap())).await;
    server.get("/v1/models").await.expect(200);
    for header in [("x-forwarded-for", "127.0.0.1"), ("forwarded", "for=127.0.0.1"), ("x-forwarded-proto", "http")] {
        server.send(with(server.request(Method::GET, "/v1/models"), &[header])).await.refuses(403, "");
    }
}
