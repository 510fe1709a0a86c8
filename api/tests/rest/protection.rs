//! Headers that protect browsers, and files of users that they show.

use api::Names;
use reqwest::Method;

use crate::test_server::{TestServer, png};

#[tokio::test]
async fn every_answer_has_a_policy() {
    let server = TestServer::new().await;
    for path in ["/", "/docs/", "/docs/swagger-ui.css", "/openapi.json", "/healthz", "/v1/models", "/v1/nothing"] {
        let answer = server.get(path).await;
        let policy = answer.header("content-security-policy");
        let bucket = server.bucket_endpoint();
        assert_eq!(
            policy,
            format!(
                "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob: \
                 {bucket}; connect-src 'self' data: blob: {bucket}; frame-ancestors 'none'"
            ),
            "{path}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("strict-transport-security"), "", "{path}: plain HTTP");
    }
    let refused = server.send(server.request(Method::GET, "/v1/models").header("host", "evil.example")).await;
    assert!(refused.status == 403 && refused.header("content-security-policy").contains("frame-ancestors 'none'"));

    // Where the API leads to the bucket, files have its own address.
    let up = server.as_up(Names::default()).await;
    let policy = up.get("/docs/").await.header("content-security-policy").to_owned();
    assert!(policy.contains("img-src 'self' data: blob:; connect-src 'self' data: blob:;"), "{policy}");
    let names = Names { public_url: Some("https://pictures.example.com/pyro".parse().unwrap()), ..Names::default() };
    let public = server.as_up(names).await;
    let policy = public.get("/docs/").await.header("content-security-policy").to_owned();
    assert!(policy.contains("img-src 'self' data: blob: https://pictures.example.com;"), "{policy}");
    let over_tls = public.request(Method::GET, "/healthz").header("host", "pictures.example.com");
    assert_eq!(public.send(over_tls).await.header("strict-transport-security"), "max-age=31536000");
}

#[tokio::test]
async fn files_of_users_are_shown_as_pictures_or_saved() {
    let first = TestServer::new().await;
    let server = first.as_up(Names::default()).await;
    let page = b"<script>fetch('/v1/models', {method: 'POST'})</script>".to_vec();
    let through = server.storage.through(format!("http://{}/s3", server.address).parse().unwrap());
    let picture = png(8, 8, 1);
    for (key, stored_as, bytes, shown_as, disposition) in [
        ("inputs/a.png", "image/png", &picture, "image/png", "inline"),
        ("inputs/b.png", "image/png", &page, "image/png", "inline"),
        ("inputs/a.html", "text/html", &page, "application/octet-stream", "attachment"),
        ("inputs/a.svg", "image/svg+xml", &page, "application/octet-stream", "attachment"),
        ("inputs/a.xml", "application/xhtml+xml; charset=utf-8", &page, "application/octet-stream", "attachment"),
        ("models/a", "application/octet-stream", &page, "application/octet-stream", "attachment"),
    ] {
        server.storage.put(key, bytes.clone().into(), stored_as).await.unwrap();
        let hour = std::time::Duration::from_hours(1);
        let url = through.presign_get(key, hour).await.unwrap();
        let named = through.presign_get_as(key, "fox.png", hour).await.unwrap();
        for (url, disposition) in
            [(url, disposition.to_owned()), (named, format!("{disposition}; filename=\"fox.png\""))]
        {
            let answer =
                server.request(Method::GET, url.as_str()).header("cookie", "pyrograph=x").send().await.unwrap();
            let headers = answer.headers().clone();
            assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap()), (200, bytes.clone().into()), "{key}");
            assert_eq!(headers["content-type"], shown_as, "{key}");
            assert_eq!(headers["content-disposition"], disposition.as_str(), "{key}");
            assert_eq!(headers["content-security-policy"], "sandbox; default-src 'none'", "{key}");
            assert_eq!(headers["x-content-type-options"], "nosniff", "{key}");
            assert!(!headers.contains_key("set-cookie"));
            let known = server.request(Method::GET, url.as_str()).header("if-none-match", &headers["etag"]);
            let known = known.send().await.unwrap();
            assert_eq!(known.status(), 304);
            assert_eq!(known.headers()["content-security-policy"], "sandbox; default-src 'none'", "{key}");
        }
    }
    let url = through.presign_get("inputs/<b>gone", std::time::Duration::from_hours(1)).await.unwrap();
    let gone = server.request(Method::GET, url.as_str()).send().await.unwrap();
    assert_eq!(
        (gone.status().as_u16(), &gone.headers()["content-type"]),
        (404, &"text/plain; charset=utf-8".parse().unwrap())
    );
    assert_eq!(gone.headers()["content-security-policy"], "sandbox; default-src 'none'");
}
