//! One address for API and bucket, also behind a proxy that serves it below a path and changes the host.

use std::net::SocketAddr;

use api::Names;
use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::test_server::{TestServer, picture_part, png, text};

/// Passes the request of a connection on to `server`: without `/pyro` at the start of the path, and under the server's
/// own address, as nginx does by default.
async fn pass_on(mut client: TcpStream, server: SocketAddr) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut changed = String::new();
    for line in head.trim_end().split("\r\n") {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        match name.as_str() {
            "host" => changed += &format!("Host: {server}\r\nAuthorization: Basic Zm94Om93bA==\r\n"),
            "connection" => {}
            _ => changed += &format!("{}\r\n", line.replacen(" /pyro/", " /", 1)),
        }
    }
    let mut upstream = TcpStream::connect(server).await?;
    upstream.write_all(format!("{changed}Connection: close\r\n\r\n").as_bytes()).await?;
    tokio::io::copy_bidirectional(&mut client, &mut upstream).await.map(drop)
}

#[tokio::test]
async fn pictures_are_read_and_written_through_the_public_address() {
    let first = TestServer::new().await;
    // The public address is only known when the proxy listens, and the proxy needs the server's.
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let public = format!("http://localhost:{}/pyro", reserved.local_addr().unwrap().port());
    let server = first.as_up(Names { public_url: Some(public.parse().unwrap()), ..Names::default() }).await;
    tokio::spawn(async move {
        while let Ok((client, _)) = reserved.accept().await {
            tokio::spawn(pass_on(client, server.address));
        }
    });
    let server = &first;

    let picture = png(8, 8, 1);
    let form = Form::new().part("image", picture_part(picture.clone()));
    let request = server.request(Method::POST, &format!("{public}/v1/inputs")).multipart(form);
    // A page of the public address, although the proxy changes the host.
    let request = request.header("origin", public.trim_end_matches("/pyro"));
    let input = server.send(request).await.expect(201);
    let url = text(&input["url"]);
    assert!(url.starts_with(&format!("{public}/s3/")), "{url}");
    assert_eq!(server.download(&input["url"]).await, picture);

    let part = server.request(Method::GET, &url).header("range", "bytes=1-3").send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-security-policy"], "sandbox; default-src 'none'");
    assert_eq!(part.bytes().await.unwrap(), &picture[1..4]);

    let refused = async |method: Method, url: &str, why: &str| {
        assert_eq!(server.request(method, url).body("x").send().await.unwrap().status(), 403, "{why}: {url}");
    };
    refused(Method::GET, url.split('?').next().unwrap(), "no signature").await;
    refused(Method::PUT, &url, "a signature for reading").await;
    refused(Method::GET, &url.replace("/inputs/", "/models/"), "another object").await;
    let last = if url.ends_with('0') { '1' } else { '0' };
    refused(Method::GET, &format!("{}{last}", &url[..url.len() - 1]), "another signature").await;

    let dataset = text(&server.post("/v1/datasets", &json!({"name": "put"})).await.expect(201)["id"]);
    let body = json!({"file_name": "fox.png", "media_type": "image/png", "caption": "a fox"});
    let uploads = format!("{public}/v1/datasets/{dataset}/uploads");
    let upload = server.post(&uploads, &body).await.expect(201);
    let put = server.request(Method::PUT, &text(&upload["url"])).header("content-type", "image/png");
    assert_eq!(put.body(picture).send().await.unwrap().status(), 200);
    let complete = format!("{uploads}/{}/complete", text(&upload["id"]));
    assert!(server.send(server.request(Method::POST, &complete)).await.status < 300);
}

#[tokio::test]
async fn without_a_public_address_urls_lead_where_the_request_was_sent() {
    let first = TestServer::new().await;
    let server = first.as_up(Names { bind: [0, 0, 0, 0].into(), ..Names::default() }).await;
    let form = Form::new().part("image", picture_part(png(8, 8, 1)));
    let input = server.post_form("/v1/inputs", form).await.expect(201);
    assert!(text(&input["url"]).starts_with(&format!("http://{}/s3/", server.address)), "{input:#}");
    server.download(&input["url"]).await;
    let path = format!("/v1/inputs/{}", text(&input["id"]));
    let elsewhere = server.send(server.request(Method::GET, &path).header("host", "192.168.1.5:99")).await.expect(200);
    assert!(text(&elsewhere["url"]).starts_with("http://192.168.1.5:99/s3/"), "{elsewhere:#}");
    // The name does not matter to the signature.
    let there = text(&elsewhere["url"]).replace("192.168.1.5:99", &server.address.to_string());
    assert_eq!(server.download(&json!(there)).await, server.download(&input["url"]).await);
}

#[tokio::test]
async fn a_file_is_read_as_http_says() {
    let first = TestServer::new().await;
    let server = first.as_up(Names { bind: [0, 0, 0, 0].into(), ..Names::default() }).await;
    let picture = png(8, 8, 1);
    let form = Form::new().part("image", picture_part(picture.clone()));
    let url = text(&server.post_form("/v1/inputs", form).await.expect(201)["url"]);
    let read = async |headers: &[(&str, &str)]| {
        let request =
            headers.iter().fold(server.request(Method::GET, &url), |it, (name, value)| it.header(*name, *value));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.headers().clone(), answer.bytes().await.unwrap())
    };
    // A range that is not understood is ignored (RFC 9110, section 14.2).
    let ignored = ["items=0-3", "bytes=5-2", "bytes=a-b", "bytes=", "bytes=0-1,4-5", "bytes=-", "nonsense"];
    for range in ignored {
        let (status, _, bytes) = read(&[("range", range)]).await;
        assert_eq!((status, &bytes[..]), (200, &picture[..]), "{range}");
    }
    let size = picture.len();
    for (range, part) in [
        ("bytes=1-3", &picture[1..4]),
        ("Bytes=1-3", &picture[1..4]),
        ("bytes=3-", &picture[3..]),
        ("bytes=-3", &picture[size - 3..]),
        ("bytes=3-99999", &picture[3..]),
    ] {
        let (status, _, bytes) = read(&[("range", range)]).await;
        assert_eq!((status, &bytes[..]), (206, part), "{range}");
    }
    let (status, headers, _) = read(&[("range", "bytes=99999-")]).await;
    assert_eq!((status, headers["content-range"].to_str().unwrap()), (416, format!("bytes */{size}").as_str()));

    let etag = read(&[]).await.1["etag"].to_str().unwrap().to_owned();
    for known in [etag.clone(), format!("\"x\", W/{etag}"), "*".to_owned()] {
        let (status, headers, bytes) = read(&[("if-none-match", &known)]).await;
        assert_eq!((status, bytes.len()), (304, 0), "{known}");
        assert_eq!(headers["etag"], etag);
    }
    let (status, _, bytes) = read(&[("if-none-match", &etag), ("range", "bytes=1-3")]).await;
    assert_eq!((status, bytes.len()), (304, 0));
    let (status, _, bytes) = read(&[("if-none-match", "\"x\"")]).await;
    assert_eq!((status, &bytes[..]), (200, &picture[..]));
}

#[tokio::test]
async fn a_server_without_a_bucket_of_its_own_has_no_gateway() {
    let server = TestServer::new().await;
    server.get("/s3/pyrograph/inputs/x.png?X-Amz-Signature=0").await.refuses(404, "");
}
