//! Secrets of every kind are sent on usual paths and on paths that fail, with every line of the log on: none is in a
//! log, an answer, an output of the command line, a command line, or the database.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use journeys::client::{Answer, Client, text};
use journeys::hub::{GATED, Hub, SIGNATURE, TOKEN, USER, USER_TOKEN, repository};
use journeys::picture::discs;
use journeys::process::{Process, arguments};
use journeys::stack::{Pace, Stack, run as run_on};
use journeys::wait::seconds;
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::access::run;

const BASIC: &str = "canaryBasicPassword";
const BEARER: &str = "canaryBearerToken";
const DIGEST: &str = "canaryDigestResponse";
const COOKIE: &str = "canaryCookieValue";
const UNKNOWN_TOKEN: &str = "hf_canaryUnknownToken";
const USERINFO: &str = "canaryUserinfo";
const IDEMPOTENCY: &str = "canaryIdempotencyKey";
const QUERY: &str = "canaryQueryValue";
const LOGIN: &str = "canaryLoginText";
const BUCKET: &str = "canaryBucketSecret";
const DATABASE: &str = "canaryDatabasePassword";
const PROXY: &str = "canaryProxyPassword";
const COMMAND_KEY: &str = "pyro_canaryOfTheCommandLine";
const UPLOAD: &str = "canaryUploadSignature";
const UPLOAD_HEADER: &str = "canaryUploadHeader";
const OWN_HOOK: &str = "canaryWebhookOfARequest";
const HOOK: &str = "canaryWebhookOfTheProject";

/// What the server answered, but for the answers that are meant to show a secret.
#[derive(Default)]
struct Answers(String);

impl Answers {
    async fn send(&mut self, client: &Client, request: RequestBuilder) -> Answer {
        let answer = client.send(request).await;
        self.0 += &format!("{answer:?}\n");
        answer
    }
}

/// The secret part of a credential.
fn secret(credential: &str) -> String {
    credential.rsplit('_').next().unwrap().to_owned()
}

/// The signature of a presigned URL.
fn signature(url: &str) -> String {
    url.split("X-Amz-Signature=").nth(1).expect("a signed URL").split('&').next().unwrap().to_owned()
}

#[tokio::test]
async fn no_canary_is_seen_again_in_a_text_log() {
    no_canary_is_seen_again("text").await;
}

#[tokio::test]
async fn no_canary_is_seen_again_in_a_json_log() {
    no_canary_is_seen_again("json").await;
}

async fn no_canary_is_seen_again(format: &str) {
    let logs =
        [("PYROGRAPH_LOG", "trace"), ("PYROGRAPH_LOG_FORMAT", format), ("PYROGRAPH_OUTBOUND_NETWORKS", "127.0.0.2")];
    let stack = Stack::start_with(Pace::Promised, &logs).await;
    let hub = Hub::start(repository());
    let rules = format!("{USER}:default:train");
    let (api, client) = stack.another_api("closed", &[("HF_ENDPOINT", &hub.url), ("PYROGRAPH_HF_ALLOW", &rules)]).await;
    let worker = stack.worker_with(
        "worker",
        "",
        &[("HF_ENDPOINT", &hub.url), ("HF_TOKEN", TOKEN), ("PYROGRAPH_IMPORT_NETWORKS", "127.0.0.2")],
    );
    let mut answers = Answers::default();

    // Keys, sessions and links, right and wrong.
    let made = |name: &str| stack.operator_json(&["keys", "create", "--name", name, "--json"]);
    let [key, of_command] = ["first", "second"].map(|name| text(&made(name)["key"]));
    let list = || client.request(Method::GET, "/v1/models");
    let basic = |password: &str| format!("Basic {}", STANDARD.encode(format!("x:{password}")));
    let last = if key.ends_with('0') { '1' } else { '0' };
    let wrong = format!("{}{last}", &key[..key.len() - 1]);
    for (authorization, status) in [
        (format!("Bearer {key}"), 200),
        (format!("Key {key}"), 200),
        (basic(&key), 200),
        (format!("Bearer {USER_TOKEN}"), 200),
        (format!("Bearer {UNKNOWN_TOKEN}"), 401),
        (format!("Key {USER_TOKEN}"), 401),
        (format!("Bearer {wrong}"), 401),
        (format!("Bearer {BEARER}"), 401),
        (format!("Bearer pyro_{BEARER}"), 401),
        (basic(BASIC), 401),
        (format!("Basic {BASIC}"), 401),
        (format!("Digest response=\"{DIGEST}\""), 401),
    ] {
        let answer = answers.send(&client, list().header("authorization", &authorization)).await;
        assert_eq!(answer.status, status, "{authorization}");
    }
    let log_in = |body| client.request(Method::POST, "/v1/session").json(&body);
    let cookie = client.send(log_in(json!({"key": key}))).await;
    let cookie = cookie.header("set-cookie").split(';').next().unwrap().to_owned();
    answers.send(&client, list().header("cookie", &cookie)).await.expect(200);
    answers.send(&client, list().header("cookie", format!("pyrograph={COOKIE}"))).await.expect(401);
    let page = client.request(Method::POST, "/v1/datasets").header("cookie", &cookie).json(&json!({"name": "x"}));
    answers.send(&client, page).await.expect(403);
    let link = text(&stack.operator_json(&["login-link", "--json"])["url"]).split_once("#login=").unwrap().1.to_owned();
    client.send(log_in(json!({"link": link}))).await.expect(200);
    for body in [json!({"link": link}), json!({"key": LOGIN}), json!({"link": key}), json!({"key": [key]})] {
        let answer = answers.send(&client, log_in(body)).await;
        assert!([401, 422].contains(&answer.status), "{:#}", answer.body);
    }
    let odd = client.request(Method::GET, &format!("/v1/models?key={QUERY}&limit=0")).bearer_auth(&key);
    answers.send(&client, odd).await.expect_problem(422, "");

    // Imports: addresses with a password or a signature, and a repository that the server's own token opens.
    let import = |name: &str, source: serde_json::Value| {
        let body = json!({"name": name, "source": source});
        client.request(Method::POST, "/v1/models").bearer_auth(&key).header("idempotency-key", IDEMPOTENCY).json(&body)
    };
    let url = |url: String| json!({"kind": "url", "url": url});
    let userinfo = format!("https://user:{USERINFO}@example.com/x.safetensors");
    answers.send(&client, import("a", url(userinfo))).await.expect_problem(422, "source.url");
    let missing = format!("{}/files/missing.safetensors?Signature={SIGNATURE}", hub.url);
    let elsewhere = format!("{}/to?url=https://user:{USERINFO}@127.0.0.1:8443/%3FSignature%3D{SIGNATURE}", hub.url);
    let gated = json!({"kind": "hugging_face", "repo": GATED});
    for (name, source, succeeds) in [("b", url(missing), false), ("c", url(elsewhere), false), ("d", gated, true)] {
        let mut now = answers.send(&client, import(name, source)).await.expect(202);
        let path = text(&now["urls"]["self"]);
        let since = std::time::Instant::now();
        while ["queued", "running"].contains(&text(&now["status"]).as_str()) {
            assert!(since.elapsed() < seconds(120), "{now:#}");
            tokio::time::sleep(seconds(1)).await;
            now = answers.send(&client, client.request(Method::GET, &path).bearer_auth(&key)).await.expect(200);
        }
        assert_eq!(now["status"] == "succeeded", succeeds, "{now:#}");
    }
    assert!(hub.seen().iter().any(|seen| seen.token), "the server's own token was used");

    // An upload and webhooks, whose URLs are secrets. The answer to the request shows that of the upload.
    let endpoint = endpoint().await;
    let sent = |method, path: &str| client.request(method, path).bearer_auth(&key);
    let hook = sent(Method::POST, "/v1/webhooks").json(&json!({"url": format!("{endpoint}/hook?token={HOOK}")}));
    let hook = text(&answers.send(&client, hook).await.expect(201)["id"]);
    let signing = client.send(sent(Method::GET, "/v1/webhooks/secret")).await.expect(200);
    let signing = text(&signing["secret"]).trim_start_matches("whsec_").to_owned();
    let picture = json!({
        "prompt": "a disc", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32,
        "response_format": "upload", "upload_url": format!("{endpoint}/disc?Signature={UPLOAD}"),
        "upload_headers": {"x-amz-meta-a": UPLOAD_HEADER},
        "webhook": {"url": format!("{endpoint}/own?token={OWN_HOOK}")},
    });
    let picture = sent(Method::POST, "/v1/generations").header("prefer", "wait=60").json(&picture);
    let picture = client.send(picture).await.expect(201);
    let since = std::time::Instant::now();
    loop {
        let listed = answers.send(&client, sent(Method::GET, "/v1/webhook-deliveries")).await.expect(200);
        if listed["items"]
            .as_array()
            .is_some_and(|all| all.iter().filter(|one| one["status"] == "succeeded").count() >= 2)
        {
            break;
        }
        assert!(since.elapsed() < seconds(60), "{listed:#}");
        tokio::time::sleep(seconds(1)).await;
    }
    for path in [text(&picture["urls"]["self"]), "/v1/jobs".into(), "/v1/webhooks".into(), "/v1/audit".into()] {
        answers.send(&client, sent(Method::GET, &path)).await.expect(200);
    }
    let local = sent(Method::POST, "/v1/webhooks").json(&json!({"url": format!("http://127.0.0.1/?token={HOOK}")}));
    answers.send(&client, local).await.expect_problem(422, "url");
    // It keeps its URL as long as it is there.
    answers.send(&client, sent(Method::DELETE, &format!("/v1/webhooks/{hook}"))).await.expect(204);

    // Presigned URLs, right and forged.
    let dataset = json!({"name": "discs"});
    let dataset = client.request(Method::POST, "/v1/datasets").bearer_auth(USER_TOKEN).json(&dataset);
    let dataset = text(&answers.send(&client, dataset).await.expect(201)["id"]);
    let uploads = format!("/v1/datasets/{dataset}/uploads");
    let start = json!({"file_name": "disc.png", "media_type": "image/png"});
    let upload = client.send(client.request(Method::POST, &uploads).bearer_auth(USER_TOKEN).json(&start)).await;
    let upload = upload.expect(201);
    let put = text(&upload["url"]);
    let forged = put.replace(&signature(&put), &signature(&put).chars().rev().collect::<String>());
    assert_eq!(client.status(Method::PUT, &forged, Vec::new()).await, 403);
    assert_eq!(client.put_upload(&upload, discs(1)[0].bytes.clone()).await, 200);
    let complete = format!("{uploads}/{}/complete", text(&upload["id"]));
    let example = client.send(client.request(Method::POST, &complete).bearer_auth(USER_TOKEN)).await.expect(201);
    let get = text(&example["url"]);
    client.download(&get).await;

    // Commands, on usual paths and without a server, and servers whose services do not let them in.
    let folder = stack.folder();
    let mut outputs = String::new();
    let mut command = |arguments: &[&str], more: &[(&str, &str)]| {
        let output = run(&folder, arguments, &[&logs[..], more].concat());
        outputs += &String::from_utf8_lossy(&output.stdout);
        outputs += &String::from_utf8_lossy(&output.stderr);
        output.status.code()
    };
    let models = ["models", "list", "--server", client.base()];
    assert_eq!(command(&models, &[("PYROGRAPH_KEY", &of_command)]), Some(0));
    assert_eq!(command(&models, &[("PYROGRAPH_KEY", USER_TOKEN)]), Some(0));
    assert_eq!(command(&models, &[("PYROGRAPH_KEY", COMMAND_KEY)]), Some(4));
    assert_eq!(
        command(&["models", "list", "--server", "http://127.0.0.1:9"], &[("PYROGRAPH_KEY", COMMAND_KEY)]),
        Some(3)
    );
    let proxy = format!("http://user:{PROXY}@127.0.0.1:9");
    let outside = ["models", "list", "--server", "http://pictures.example"];
    assert_eq!(command(&outside, &[("HTTP_PROXY", &proxy), ("PYROGRAPH_KEY", COMMAND_KEY)]), Some(3));
    let password = &stack.site.secrets()[1];
    let closed = stack.site.database_url.replace(password.as_str(), DATABASE);
    for (variable, value, arguments) in [
        ("DATABASE_URL", closed.as_str(), &["serve", "--bind", "127.0.0.1:0"][..]),
        ("PYROGRAPH_S3_SECRET_ACCESS_KEY", BUCKET, &["sweep"]),
    ] {
        let output = run_on(&stack.site, &[&logs[..], &[(variable, value)]].concat(), arguments);
        assert!(!output.status.success(), "{variable}");
        outputs += &String::from_utf8_lossy(&output.stderr);
    }

    let mut seen = vec![("a log", stack.logs()), ("an answer", answers.0), ("an output", outputs)];
    seen.push(("the database", dump(&stack).await));
    for process in [&api, &worker] {
        seen.extend(processes(process).into_iter().map(|line| ("a command line", line)));
    }
    assert!(seen[0].1.len() > 10_000 && seen[3].1.len() > 10_000, "the logs are on, and the dump is one");
    let mut canaries = vec![
        secret(&key),
        secret(&of_command),
        secret(&wrong),
        secret(&cookie),
        secret(&link),
        STANDARD.encode(format!("x:{key}")),
        STANDARD.encode(format!("x:{BASIC}")),
        signature(&put),
        signature(&forged),
        signature(&get),
        signing,
    ];
    canaries.extend(stack.site.secrets());
    canaries.extend(
        [
            USER_TOKEN,
            UNKNOWN_TOKEN,
            TOKEN,
            BASIC,
            BEARER,
            DIGEST,
            COOKIE,
            USERINFO,
            SIGNATURE,
            IDEMPOTENCY,
            QUERY,
            LOGIN,
            BUCKET,
            DATABASE,
            PROXY,
            COMMAND_KEY,
            UPLOAD,
            UPLOAD_HEADER,
            OWN_HOOK,
            HOOK,
        ]
        .map(str::to_owned),
    );
    assert!(canaries.len() >= 12);
    for (place, text) in &seen {
        for canary in &canaries {
            let line = text.lines().find(|line| line.contains(canary.as_str()));
            assert!(line.is_none(), "`{canary}` is in {place}: {}", line.unwrap_or_default());
        }
    }
}

/// The URL of a server that answers 200 to everything.
async fn endpoint() -> String {
    async fn serve(mut stream: TcpStream) {
        let mut bytes = vec![0; 64 * 1024];
        while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        }
    }
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    url
}

/// The arguments of a process and its children.
fn processes(process: &Process) -> Vec<String> {
    process.children().into_iter().chain([process.id()]).map(|id| arguments(id).join(" ")).collect()
}

/// The whole database as `pg_dump` writes it, or each row as text where there is no `pg_dump`.
async fn dump(stack: &Stack) -> String {
    let folders = ["/usr/bin", "/usr/lib/postgresql/17/bin", "/usr/lib/postgresql/15/bin"];
    if let Some(program) = folders.iter().map(|folder| Path::new(folder).join("pg_dump")).find(|path| path.is_file()) {
        let output = Command::new(program).args(["--dbname", &stack.site.database_url]).output().unwrap();
        if output.status.success() {
            return String::from_utf8_lossy(&output.stdout).into_owned();
        }
    }
    let tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')",
    )
    .fetch_all(stack.ledger.pool())
    .await
    .unwrap();
    let mut all = String::new();
    for table in tables {
        let statement = format!(r#"select coalesce(string_agg(t::text, E'\n'), '') from "{table}" t"#);
        let rows: String =
            sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_one(stack.ledger.pool()).await.unwrap();
        all += &rows;
    }
    all
}
