//! A server with a public name: behind Caddy and nginx with TLS, configured as the documentation shows.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use journeys::authority::{Authority, Caddy, Nginx};
use journeys::client::text;
use journeys::ground::Site;
use journeys::process::{Process, Signal, binary};
use journeys::stack::{free_port, run};
use journeys::wait::{seconds, until};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tempfile::TempDir;

const NAME: &str = "pictures.example.com";

/// The only example of this language in the documentation.
fn example(language: &str) -> &'static str {
    let page = include_str!("../../docs/proxy.md");
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("an example");
    let (example, rest) = rest.split_once("```").expect("its end");
    assert!(!rest.contains(&format!("```{language}\n")), "a second example");
    assert!(example.starts_with("# Create a key first: pyrograph keys create"), "{example}");
    example
}

/// The example with other places for the public address, the API, the certificate and its key.
fn adapted(example: &str, changes: &[(&str, String)]) -> String {
    changes.iter().fold(example.to_owned(), |example, (from, to)| {
        assert!(example.contains(from), "the example has no `{from}`");
        example.replace(from, to)
    })
}

fn serve(site: &Site, folder: &Path, port: u16, bind: &str) -> Process {
    let mut command = Command::new(binary());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", folder);
    command.envs(site.environment()).env("PYROGRAPH_PROXIES", "127.0.0.1");
    command.env("PYROGRAPH_PUBLIC_URL", format!("https://{NAME}:{port}"));
    command.args(["serve", "--bind", bind]);
    Process::start("serve", &folder.join(format!("serve-{port}.log")), command)
}

/// A folder with a certificate for the public name.
fn certificate(authority: &Authority) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let issued = authority.issue(&[NAME]);
    std::fs::write(folder.path().join("site.pem"), issued.certificate).unwrap();
    std::fs::write(folder.path().join("site.key"), issued.key).unwrap();
    folder
}

/// What a team does through the proxy at `port`.
async fn works(authority: &Authority, port: u16, key: &str) {
    let pem = std::fs::read(authority.file()).unwrap();
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
        .resolve(NAME, ([127, 0, 0, 1], port).into())
        .timeout(seconds(60))
        .build()
        .unwrap();
    let base = format!("https://{NAME}:{port}");
    let send = async |method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>| {
        let mut request = http.request(method, format!("{base}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = body.iter().fold(request, |request, body| request.json(body)).send().await.unwrap();
        let (status, headers): (u16, HeaderMap) = (answer.status().as_u16(), answer.headers().clone());
        (status, headers, answer.text().await.unwrap())
    };
    until(seconds(180), "the server is ready behind its proxy", || async {
        let answer = http.get(format!("{base}/readyz")).timeout(seconds(5)).send().await;
        answer.is_ok_and(|answer| answer.status() == 200).then_some(())
    })
    .await;
    let (status, headers, _) = send(Method::GET, "/docs/", &[], None).await;
    assert_eq!((status, headers["strict-transport-security"].to_str().unwrap()), (200, "max-age=31536000"));
    assert!(headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));

    let bearer = format!("Bearer {key}");
    let authorization = ("authorization", bearer.as_str());
    assert_eq!(send(Method::GET, "/v1/models", &[], None).await.0, 401);
    // What a client says about itself changes nothing.
    let spoofed = [authorization, ("forwarded", "for=198.51.100.1;proto=http;host=evil.example")];
    assert_eq!(send(Method::GET, "/v1/models", &spoofed, None).await.0, 200);
    let spoofed = [authorization, ("x-forwarded-for", "198.51.100.1"), ("x-forwarded-host", "evil.example")];
    let made = send(Method::POST, "/v1/keys", &spoofed, Some(json!({"name": "shop", "scopes": ["train"]}))).await;
    assert_eq!(made.0, 201, "{}", made.2);
    let (_, _, entries) = send(Method::GET, "/v1/audit", &[authorization], None).await;
    let entries: Value = serde_json::from_str(&entries).unwrap();
    assert_eq!(entries["items"][0]["address"], "127.0.0.1", "{entries:#}");

    // A browser.
    let (status, headers, _) = send(Method::POST, "/v1/session", &[], Some(json!({"key": key}))).await;
    let cookie = headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(status == 200 && cookie.starts_with("__Host-pyrograph=") && cookie.ends_with("; Secure"), "{cookie}");
    let cookie = ("cookie", cookie.split(';').next().unwrap());
    let create = json!({"name": format!("dogs {port}")});
    let evil = [cookie, ("origin", "https://evil.example")];
    assert_eq!(send(Method::POST, "/v1/datasets", &evil, Some(create.clone())).await.0, 403);
    let own = [cookie, ("origin", base.as_str())];
    assert_eq!(send(Method::POST, "/v1/datasets", &own, Some(create)).await.0, 201);

    // More than nginx takes by default.
    let noise: Vec<u8> = (0..3 * 700 * 700).map(|_| fastrand::u8(..)).collect();
    let mut png = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_raw(700, 700, noise).unwrap();
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let png = png.into_inner();
    assert!(png.len() > 1 << 20);
    let part = reqwest::multipart::Part::bytes(png).file_name("noise.png").mime_str("image/png").unwrap();
    let upload = http.post(format!("{base}/v1/inputs")).bearer_auth(key);
    let upload = upload.multipart(reqwest::multipart::Form::new().part("image", part)).send().await.unwrap();
    assert_eq!(upload.status(), 201);

    // Events arrive while the stream is open.
    let body = json!({"prompt": "a fox"});
    let (status, _, job) = send(Method::POST, "/v1/generations", &[authorization], Some(body)).await;
    assert_eq!(status, 202, "{job}");
    let job: Value = serde_json::from_str(&job).unwrap();
    let events = http.get(format!("{base}{}", text(&job["urls"]["events"]))).bearer_auth(key);
    let since = Instant::now();
    let mut events = events.send().await.unwrap();
    let first = events.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(b"id: 1\nevent: queued"), "{first:?}");
    // A comment follows every 15 seconds; a proxy that collected events would wait for it.
    assert!(since.elapsed() < seconds(14), "{:?}", since.elapsed());
}

#[tokio::test]
async fn the_examples_for_proxies_work() {
    let authority = Authority::create();
    let site = Site::create().await;
    let folder = tempfile::tempdir().unwrap();
    let created = run(&site, &[], &["keys", "create", "--name", "operator", "--json"]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let key = text(&serde_json::from_slice::<Value>(&created.stdout).unwrap()["key"]);

    // nginx reaches the server by its port.
    let (port, api) = (free_port(), free_port());
    let certificates = certificate(&authority);
    let text = adapted(
        example("nginx"),
        &[
            ("listen 443", format!("listen 127.0.0.1:{port}")),
            ("http://127.0.0.1:8080", format!("http://127.0.0.1:{api}")),
            ("/etc/ssl/certs/pictures.example.com.pem", "site.pem".to_owned()),
            ("/etc/ssl/private/pictures.example.com.key", "site.key".to_owned()),
        ],
    );
    let mut server = serve(&site, folder.path(), port, &format!("127.0.0.1:{api}"));
    if let Some(_nginx) = Nginx::of_example(certificates, port, &text).await {
        works(&authority, port, &key).await;
    }
    assert!(server.end(Signal::TERM, seconds(60)).success());

    // Caddy does so by a Unix socket.
    let (port, socket) = (free_port(), folder.path().join("api.sock"));
    let certificates = certificate(&authority);
    let text = adapted(
        example("caddyfile"),
        &[
            ("pictures.example.com {", format!("https://pictures.example.com:{port} {{\n    tls site.pem site.key")),
            ("127.0.0.1:8080", format!("unix/{}", socket.display())),
        ],
    );
    let bind = format!("unix:{}", socket.display());
    let mut server = serve(&site, folder.path(), port, &bind);
    if let Some(_caddy) = Caddy::of_example(certificates, port, &text).await {
        works(&authority, port, &key).await;
    }
    // The file of a killed server is replaced, and that of a running one is not.
    until(seconds(180), "the socket", || async { socket.exists().then_some(()) }).await;
    let second = run(&site, &[], &["serve", "--bind", &bind]);
    let message = String::from_utf8_lossy(&second.stderr);
    assert!(second.status.code() == Some(2) && message.contains("another process listens"), "{message}");
    server.kill();
    assert!(socket.exists());
    let mut server = serve(&site, folder.path(), port, &bind);
    until(seconds(180), "the server listens again", || async {
        std::os::unix::net::UnixStream::connect(&socket).ok().map(drop)
    })
    .await;
    until(seconds(180), "it serves", || async { server.log().contains("serving unix:").then_some(()) }).await;
    assert!(server.end(Signal::TERM, seconds(60)).success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn the_doctor_says_what_to_change() {
    let site = Site::create().await;
    let examine = |environment: &[(&str, &str)]| {
        let output = run(&site, environment, &["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let state = |name: &str| {
            let checks = report["checks"].as_array().cloned().unwrap_or_default();
            checks.iter().find(|check| check["name"] == name).map_or(Value::Null, |check| check["state"].clone())
        };
        let states = ["database", "clock", "access", "bucket", "CORS rule"].map(state);
        (output.status.code(), states, report["cors_rule"].clone(), output)
    };
    let (code, [database, ..], _, output) = examine(&[]);
    assert_eq!((code, database), (Some(1), json!("failed")), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(run(&site, &[], &["migrate"]).status.success());
    let (code, states, rule, _) = examine(&[("PYROGRAPH_CORS_ORIGINS", "https://app.example.com")]);
    // The bucket of the tests has no rules.
    let expected = ["ok", "ok", "warning", "ok", "warning"].map(|state| json!(state));
    assert_eq!((code, states), (Some(0), expected));
    let origins = &rule["CORSRules"][0]["AllowedOrigins"];
    assert_eq!(*origins, json!(["http://127.0.0.1:8080", "http://localhost:8080", "https://app.example.com"]));
    let created = run(&site, &[], &["keys", "create", "--name", "operator"]);
    assert!(created.status.success());
    let (code, [_, _, access, bucket, _], ..) = examine(&[("PYROGRAPH_S3_BUCKET", "nowhere")]);
    assert_eq!((code, access, bucket), (Some(1), json!("ok"), json!("failed")));
}

#[tokio::test]
async fn places_that_make_no_sense() {
    let folder = crate::embedded_stack::open_folder();
    let socket = folder.path().join("api.sock");
    let bind = format!("unix:{}", socket.display());
    let refused = crate::embedded_stack::up_command_at(folder.path(), &bind).output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(2) && message.contains("serve"), "{message}");
    assert!(!socket.exists() && !folder.path().join("data").exists());

    let site = Site::create().await;
    std::fs::write(&socket, "a file").unwrap();
    let refuses = |environment: &[(&str, &str)], arguments: &[&str], why: &str| {
        let output = run(&site, environment, &[&["serve"], arguments].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && message.contains(why), "{arguments:?}: {message}");
    };
    refuses(&[], &["--bind", &bind], "is no socket");
    assert_eq!(std::fs::read(&socket).unwrap(), b"a file");
    refuses(&[], &["--bind", "unix:"], "names no file");
    refuses(&[], &["--bind", &format!("unix:/tmp/{}", "x".repeat(200))], "could not listen");
    refuses(&[], &["--bind", "unix:/nowhere/api.sock"], "could not listen");
    refuses(&[], &["--bind", &bind, "--socket-mode", "rw"], "no mode");
    refuses(&[], &["--proxies", "proxy.example"], "no address or network");
    refuses(&[("PYROGRAPH_PROXIES", "10.0.0.0/33")], &[], "no address or network");
    refuses(&[("PYROGRAPH_PROXIES", "0.0.0.0/0")], &[], "contains every address");
}
