//! Requests that a page in a browser makes: of another origin, under another name, and of our pages.

use api::Names;
use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::json;

use crate::test_server::{TestServer, picture_part, png};

#[tokio::test]
async fn a_page_of_another_origin_leaves_nothing_behind() {
    let server = TestServer::with_checkpoint().await;
    let form = || Form::new().part("image", picture_part(png(8, 8, 1)));
    let before = (server.objects(), server.count("models").await);
    for (name, value) in [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        let request = server.request(Method::POST, "/v1/inputs").multipart(form()).header(name, value);
        server.send(request).await.refuses(403, "Origin");
        let request = server.request(Method::DELETE, "/v1/models/ember").header(name, value);
        server.send(request).await.refuses(403, "Origin");
        let request = server.request(Method::POST, "/v1/generations").json(&json!({"prompt": "a fox"}));
        server.send(request.header(name, value)).await.refuses(403, "Origin");
    }
    assert_eq!(server.count("inputs").await + server.count("generations").await, 0);
    assert_eq!((server.objects(), server.count("models").await), before);

    // Our own page, as Swagger UI sends it.
    let own = format!("http://{}", server.address);
    let request = server.request(Method::POST, "/v1/inputs").multipart(form()).header("origin", own);
    server.send(request.header("sec-fetch-site", "same-origin")).await.expect(201);
}

#[tokio::test]
async fn only_probes_answer_under_a_strange_name() {
    let server = TestServer::new().await;
    let under =
        async |host: &str, path: &str| server.send(server.request(Method::GET, path).header("host", host)).await;
    for path in ["/v1/models", "/v1/nothing", "/docs/", "/openapi.json", "/"] {
        let answer = under("rebound.example:8080", path).await;
        answer.refuses(403, "Host");
        assert!(answer.body["detail"].as_str().unwrap().contains("PYROGRAPH_ALLOWED_HOSTS"), "{:#}", answer.body);
    }
    for path in ["/healthz", "/readyz"] {
        under("rebound.example:8080", path).await.expect(200);
    }
    under("localhost:9", "/v1/models").await.expect(200);

    let names = Names { allowed: vec!["*.example".parse().unwrap()], ..Names::default() };
    let allowing = server.as_up(names).await;
    let request = allowing.request(Method::GET, "/v1/models").header("host", "rebound.example:8080");
    allowing.send(request).await.expect(200);
}

#[tokio::test]
async fn the_docs_are_our_page_with_relative_addresses() {
    let server = TestServer::new().await;
    let text = async |path: &str| {
        let response = server.request(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        (response.headers()["content-type"].to_str().unwrap().to_owned(), response.text().await.unwrap())
    };
    for path in ["/", "/docs", "/docs/"] {
        let (media_type, page) = text(path).await;
        assert!(media_type.starts_with("text/html") && page.contains("<title>Pyrograph API</title>"), "{path}: {page}");
        let addresses = page.split(['"']).filter(|part| part.ends_with(".js") || part.ends_with(".css"));
        let addresses: Vec<_> = addresses.collect();
        assert!(addresses.len() >= 3 && addresses.iter().all(|address| !address.starts_with('/')), "{addresses:?}");
        for address in addresses {
            let (media_type, script) = text(&format!("/docs/{address}")).await;
            assert!(media_type.starts_with("text/") && !script.is_empty(), "{address}");
        }
    }
    server.get("/docs/nothing.js").await.refuses(404, "");
    let redirect = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
    for path in ["/", "/docs"] {
        let answer = redirect.get(format!("http://{}{path}", server.address)).send().await.unwrap();
        assert_eq!(answer.headers()["location"], "docs/", "relative, for a proxy that serves us below a path");
    }
}
