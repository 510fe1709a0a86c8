//! Headers that every route understands: ids of requests, and encodings of bodies.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::json;

use crate::test_server::{TestServer, picture_part, png};

#[tokio::test]
async fn a_request_keeps_its_ids() {
    let server = TestServer::new().await;
    let with = async |headers: &[(&str, &str)], path: &str| {
        let request = headers
            .iter()
            .fold(server.request(Method::GET, path), |request, (name, value)| request.header(*name, *value));
        server.send(request).await
    };
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for path in ["/healthz", "/v1/models", "/v1/nothing"] {
        let answer = with(&[("x-request-id", "order-17:3"), ("traceparent", trace)], path).await;
        assert_eq!(answer.header("x-request-id"), "order-17:3", "{path}");
        let answered = answer.header("traceparent");
        assert!(answered.starts_with(&trace[..36]) && answered.ends_with("-01") && answered != trace, "{answered}");
    }
    let answer = with(&[("x-request-id", "two words"), ("traceparent", "00-nonsense")], "/healthz").await;
    assert_eq!(answer.header("x-request-id").len(), 36, "a new one");
    assert_eq!(answer.header("traceparent"), "");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

#[tokio::test]
async fn packed_bodies_are_read_or_refused() {
    let server = TestServer::with_checkpoint().await;
    let send = async |coding: &str, body: Vec<u8>| {
        let request = server.request(Method::POST, "/v1/generations").header("content-type", "application/json");
        server.send(request.header("content-encoding", coding).body(body)).await
    };
    let json = json!({"prompt": "a fox", "seed": 7}).to_string().into_bytes();
    for coding in ["gzip", "GZIP", "x-gzip", "identity, gzip"] {
        assert_eq!(send(coding, gzip(&json)).await.expect(202)["seed"], 7, "{coding}");
    }
    send("identity", json.clone()).await.expect(202);
    let generations = server.count("generations").await;
    for coding in ["br", "deflate", "zstd", "gzip, gzip", "nonsense"] {
        send(coding, json.clone()).await.refuses(415, "Content-Encoding");
    }
    send("gzip", json.clone()).await.refuses(400, "");
    let packed = gzip(&json);
    send("gzip", packed[..packed.len() - 9].to_vec()).await.refuses(400, "");
    // 64 MiB in 64 kB.
    send("gzip", gzip(&vec![b' '; 64 << 20])).await.refuses(413, "");
    assert_eq!(server.count("generations").await, generations);

    let form = Form::new().part("image", picture_part(png(8, 8, 1)));
    let request = server.request(Method::POST, "/v1/inputs").multipart(form).header("content-encoding", "gzip");
    server.send(request).await.refuses(415, "Content-Encoding");
}

#[tokio::test]
async fn events_ask_proxies_to_pass_them_on() {
    let server = TestServer::with_checkpoint().await;
    let generation = server.post("/v1/generations", &json!({"prompt": "a fox"})).await.expect(202);
    let response = server.request(Method::GET, generation["urls"]["events"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert_eq!(response.headers()["cache-control"], "no-cache, no-transform");
}
