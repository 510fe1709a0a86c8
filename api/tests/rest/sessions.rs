//! Browsers that log in: the cookie, the pages that may use it, and the pages of other origins that may call with a key.

use api::{Access, Names};
use reqwest::Method;
use reqwest::header::{HeaderMap, SET_COOKIE};
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::test_server::{TestServer, picture_part, png, text};

/// A server that asks for keys, and its first key.
async fn site() -> (TestServer, String, Value) {
    let open = TestServer::with_checkpoint().await;
    let server = open.another(Access::keys(open.pools.api.clone())).await;
    let made = server.post("/v1/keys", &json!({"name": "first"})).await.expect(201);
    (server, text(&made["key"]), made)
}

/// The cookie that an answer sets, as a browser sends it, and its attributes.
fn cookie(headers: &HeaderMap) -> (String, String) {
    let set = headers[SET_COOKIE].to_str().unwrap();
    let (cookie, attributes) = set.split_once("; ").unwrap();
    (cookie.to_owned(), attributes.to_owned())
}

#[tokio::test]
async fn a_key_becomes_a_cookie_that_ends_with_it() {
    let (server, key, made) = site().await;
    let answer = server.post("/v1/session", &json!({"key": key})).await;
    let (cookie, attributes) = cookie(&answer.headers);
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000");
    assert!(cookie.starts_with("pyrograph=session_") && !cookie.contains(key.rsplit('_').next().unwrap()), "{cookie}");
    assert_eq!(answer.expect(200)["scopes"].as_array().unwrap().len(), 5);
    let with = |method: Method, path: &str| server.request(method, path).header("cookie", format!("a=b; {cookie}"));
    server.send(with(Method::GET, "/v1/models")).await.expect(200);
    server.send(with(Method::GET, "/v1/session")).await.expect(200);

    // What changes something comes from a page of this server.
    let own = format!("http://{}", server.address);
    let create = || with(Method::POST, "/v1/datasets").json(&json!({"name": "dogs"}));
    server.send(create()).await.refuses(403, "Origin");
    server.send(create().header("origin", "https://evil.example")).await.refuses(403, "Origin");
    server.send(create().header("sec-fetch-site", "cross-site")).await.refuses(403, "Origin");
    assert_eq!(server.count("datasets").await, 0);
    server.send(create().header("origin", &own)).await.expect(201);
    server.send(create().header("sec-fetch-site", "same-origin")).await.expect(201);
    // A key that is wrong is not replaced by the cookie.
    server.send(with(Method::GET, "/v1/models").bearer_auth("pyro_x")).await.refuses(401, "");

    let out = server.send(with(Method::DELETE, "/v1/session").header("origin", &own)).await;
    assert!(out.headers[SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    server.send(with(Method::GET, "/v1/models")).await.refuses(401, "");

    let again = server.post("/v1/session", &json!({"key": key})).await;
    let (cookie, _) = self::cookie(&again.headers);
    let path = format!("/v1/keys/{}", text(&made["id"]));
    server.send(server.request(Method::DELETE, &path).bearer_auth(&key)).await.expect(204);
    server.send(server.request(Method::GET, "/v1/models").header("cookie", cookie)).await.refuses(401, "");
    server.post("/v1/session", &json!({"key": key})).await.refuses(401, "");
}

#[tokio::test]
async fn over_tls_the_cookie_is_bound_to_the_host() {
    let (server, key, _) = site().await;
    let names = Names { public_url: Some("https://pictures.example.com".parse().unwrap()), ..Names::default() };
    let public = server.with_names(names, Access::keys(server.pools.api.clone())).await;
    let log_in = |host: &str| {
        public.request(Method::POST, "/v1/session").header("host", host.to_owned()).json(&json!({"key": key}))
    };
    let (cookie, attributes) = cookie(&public.send(log_in("pictures.example.com")).await.headers);
    assert!(cookie.starts_with("__Host-pyrograph=") && attributes.ends_with("; Secure"), "{cookie} {attributes}");
    let request = public.request(Method::GET, "/v1/models").header("cookie", cookie);
    public.send(request).await.expect(200);
    // In the local network it is reached without TLS, too.
    let (_, attributes) = self::cookie(&public.send(log_in("127.0.0.1")).await.headers);
    assert!(!attributes.contains("Secure"), "{attributes}");
}

#[tokio::test]
async fn logins_that_make_no_sense() {
    let (server, key, _) = site().await;
    let link = format!("login_{}_{}", "0".repeat(32), "0".repeat(64));
    for (status, field, body) in [
        (422, "key", json!({})),
        (422, "key", json!({"key": "hf_x"})),
        (422, "key", json!({"key": 7})),
        (422, "link", json!({"link": key})),
        (422, "link", json!({"key": key, "link": link})),
        (422, "password", json!({"password": "x"})),
        (401, "", json!({"link": link})),
        (401, "", json!({"key": format!("pyro_{}_{}", "0".repeat(32), "0".repeat(64))})),
        (413, "", json!({"key": "x".repeat(1 << 20)})),
    ] {
        let answer = server.post("/v1/session", &body).await;
        assert!(answer.headers.get(SET_COOKIE).is_none());
        answer.refuses(status, field);
    }
    for cookie in ["pyrograph=", "pyrograph=x", "__Host-pyrograph=session_1_2"] {
        let request = server.request(Method::GET, "/v1/models").header("cookie", cookie);
        server.send(request).await.refuses(401, "");
    }
    assert_eq!(server.count("sessions").await, 0);
    let open = TestServer::new().await;
    open.post("/v1/session", &json!({"key": key})).await.refuses(409, "");
}

#[tokio::test]
async fn pages_of_allowed_origins_call_with_a_key() {
    let (server, key, _) = site().await;
    let names = Names { origins: vec!["https://app.example.com".parse().unwrap()], ..Names::default() };
    let server = server.with_names(names, Access::keys(server.pools.api.clone())).await;
    let preflight = |origin: &str| {
        let request = server.request(Method::OPTIONS, "/v1/datasets").header("origin", origin.to_owned());
        let request = request.header("access-control-request-method", "POST");
        request.header("access-control-request-headers", "authorization,content-type")
    };
    let answer = server.send(preflight("https://app.example.com")).await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example.com");
    assert_eq!(answer.header("access-control-allow-headers"), "authorization,content-type");
    assert_eq!(answer.header("access-control-allow-credentials"), "", "cookies are for our own pages");
    let answer = server.send(preflight("https://evil.example")).await;
    assert_eq!(answer.header("access-control-allow-origin"), "");

    let create = |origin: &str| {
        let request = server.request(Method::POST, "/v1/datasets").json(&json!({"name": "dogs"}));
        request.header("origin", origin.to_owned())
    };
    let answer = server.send(create("https://app.example.com").bearer_auth(&key)).await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example.com");
    answer.expect(201);
    // A page that has a key got it from its user; the browser does not let it read the answer.
    let answer = server.send(create("https://evil.example").bearer_auth(&key)).await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
    answer.expect(201);
    // Browsers send Basic by themselves.
    server.send(create("https://evil.example").basic_auth("x", Some(&key))).await.refuses(403, "Origin");
    server.send(create("https://app.example.com").basic_auth("x", Some(&key))).await.expect(201);
}

/// A form or a request without a body is sent without a preflight, and an origin of the same site sends the cookie.
#[tokio::test]
async fn pages_of_allowed_origins_do_not_use_the_session() {
    let (server, key, _) = site().await;
    let names = Names { origins: vec!["https://app.example.com".parse().unwrap()], ..Names::default() };
    let server = server.with_names(names, Access::keys(server.pools.api.clone())).await;
    let log_in = || server.request(Method::POST, "/v1/session").json(&json!({"key": key}));
    let (cookie, _) = cookie(&server.send(log_in()).await.headers);
    let own = format!("http://{}", server.address);
    let app = "https://app.example.com";
    let made = server.request(Method::POST, "/v1/datasets").header("cookie", &cookie).header("origin", &own);
    let made = server.send(made.json(&json!({"name": "dogs"}))).await.expect(201);

    let dataset = format!("/v1/datasets/{}", text(&made["id"]));
    let picture = || Form::new().part("image", picture_part(png(64, 64, 1)));
    for headers in [
        &[("origin", app)][..],
        &[("origin", app), ("sec-fetch-site", "same-site")],
        &[("origin", app), ("sec-fetch-site", "cross-site")],
        &[("origin", own.as_str()), ("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site")],
    ] {
        let from = |request: reqwest::RequestBuilder| {
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
        };
        let with = |method: Method, path: &str| from(server.request(method, path).header("cookie", &cookie));
        server.send(with(Method::POST, "/v1/inputs").multipart(picture())).await.refuses(403, "Origin");
        server.send(with(Method::POST, "/v1/models/ember/load")).await.refuses(403, "Origin");
        server.send(with(Method::DELETE, &dataset)).await.refuses(403, "Origin");
        // Nor do they begin or end a session, also with a key beside the cookie.
        server.send(with(Method::DELETE, "/v1/session")).await.refuses(403, "Origin");
        server.send(with(Method::DELETE, "/v1/session").bearer_auth(&key)).await.refuses(403, "Origin");
        server.send(from(log_in())).await.refuses(403, "Origin");
        server.send(from(log_in()).bearer_auth(&key)).await.refuses(403, "Origin");
        // A key counts before the cookie.
        server.send(with(Method::POST, "/v1/inputs").bearer_auth(&key).multipart(picture())).await.expect(201);
    }
    assert_eq!((server.count("sessions").await, server.count("inputs").await), (1, 6));
    let with_basic = server.request(Method::DELETE, &dataset).header("cookie", &cookie).header("origin", app);
    server.send(with_basic.basic_auth("x", Some(&key))).await.expect(204);
    server.send(server.request(Method::GET, "/v1/session").header("cookie", &cookie)).await.expect(200);
}

/// Files of `up` are below the address of the API, and a page reads and writes them by presigned URLs.
#[tokio::test]
async fn pages_of_allowed_origins_read_and_write_files() {
    let open = TestServer::new().await;
    let names = Names { origins: vec!["https://app.example.com".parse().unwrap()], ..Names::default() };
    for (names, opens) in [(Names::default(), false), (names, true)] {
        let server = open.as_up(names).await;
        let dataset = server.dataset(1).await;
        let read = text(&server.get(&format!("/v1/datasets/{dataset}")).await.expect(200)["examples"][0]["url"]);
        let start = json!({"file_name": "fox.png", "media_type": "image/png"});
        let write = server.post(&format!("/v1/datasets/{dataset}/uploads"), &start).await.expect(201);
        let write = text(&write["url"]);
        for (origin, opens) in [("https://app.example.com", opens), ("https://evil.example", false)] {
            let allowed = if opens { origin } else { "" };
            for (method, url) in [("POST", "/v1/generations"), ("GET", &read), ("PUT", &write)] {
                let preflight = server.request(Method::OPTIONS, url).header("origin", origin);
                let preflight = preflight.header("access-control-request-method", method);
                let answer = server.send(preflight.header("access-control-request-headers", "content-type")).await;
                assert_eq!(answer.header("access-control-allow-origin"), allowed, "{method} {url}");
                assert!(!opens || answer.header("access-control-allow-methods").contains(method), "{method} {url}");
            }
            let request = server.request(Method::GET, &read).header("origin", origin).send().await.unwrap();
            let header = request.headers().get("access-control-allow-origin");
            assert_eq!(header.map_or("", |value| value.to_str().unwrap()), allowed);
            assert_eq!(request.status(), 200, "the signature protects it");
            let request = server.request(Method::PUT, &write).header("origin", origin);
            let request = request.header("content-type", "image/png").body(png(8, 8, 1)).send().await.unwrap();
            assert_eq!(request.status(), 200);
            assert_eq!(request.headers().contains_key("access-control-allow-origin"), opens);
        }
    }
}
