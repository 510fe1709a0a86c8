//! Keys as containers and clouds give them: Amazon's variables, a role behind a metadata service, a container's
//! endpoint, a web identity, and secrets in files.

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use journeys::authority::{Authority, Nginx};
use journeys::client::text;
use journeys::ground::{Site, runtime};
use journeys::stack::{Pace, Stack, run};
use journeys::wait::seconds;
use serde_json::json;

const ROLE: &str = "pyrograph-role";
const TOKEN: &str = "canarySessionToken";

/// A platform that hands out the bucket's keys, which expire in twenty minutes.
struct Platform {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct Shared {
    access_key: String,
    secret_key: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Platform {
    fn start(site: &Site) -> Self {
        let of = |name| site.environment().into_iter().find(|(found, _)| *found == name).unwrap().1;
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let shared = Shared {
            access_key: of("PYROGRAPH_S3_ACCESS_KEY_ID"),
            secret_key: of("PYROGRAPH_S3_SECRET_ACCESS_KEY"),
            seen: seen.clone(),
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        let app = Router::new().fallback(answer).with_state(shared);
        let _entered = runtime().enter();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, seen }
    }

    fn seen(&self, needle: &str) -> bool {
        self.seen.lock().unwrap().iter().any(|request| request.contains(needle))
    }
}

async fn answer(State(shared): State<Shared>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    shared.seen.lock().unwrap().push(format!("{method} {uri} {authorization}"));
    let expires = in_twenty_minutes();
    let keys = json!({"Code": "Success", "AccessKeyId": shared.access_key, "SecretAccessKey": shared.secret_key,
                      "Token": TOKEN, "Expiration": expires});
    match (method.as_str(), uri.path()) {
        ("PUT", "/latest/api/token") => "metadata-token".into_response(),
        ("GET", "/latest/meta-data/iam/security-credentials/") => ROLE.into_response(),
        ("GET", path) if path.ends_with(ROLE) || path == "/container" => Json(keys).into_response(),
        ("POST", "/") => format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><SessionToken>{TOKEN}\
             </SessionToken><SecretAccessKey>{}</SecretAccessKey><Expiration>{expires}</Expiration><AccessKeyId>{}\
             </AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
            shared.secret_key, shared.access_key
        )
        .into_response(),
        _ => axum::http::StatusCode::NOT_FOUND.into_response(),
    }
}

fn in_twenty_minutes() -> String {
    let output = std::process::Command::new("date").args(["-u", "-d", "+20 minutes", "+%Y-%m-%dT%H:%M:%SZ"]).output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
}

/// Our own pair of keys is not set.
const NO_KEYS: [(&str, &str); 2] = [("PYROGRAPH_S3_ACCESS_KEY_ID", ""), ("PYROGRAPH_S3_SECRET_ACCESS_KEY", "")];

/// Makes a picture and returns its URL, after reading it.
async fn picture(site: Site, environment: &[(&str, &str)]) -> String {
    let environment = [&NO_KEYS[..], &[("PYROGRAPH_S3_REGION", ""), ("PYROGRAPH_LOG", "debug")], environment].concat();
    let stack = Stack::start_on(site, Pace::Promised, &environment).await;
    let _worker = stack.worker("worker", "");
    let request = json!({"prompt": "an owl", "model": "tiny", "num_inference_steps": 1, "width": 32, "height": 32});
    let generation = stack.client.succeeded(&stack.client.generate(&request).await, seconds(90)).await;
    assert_eq!(stack.client.artifacts(&generation).await.len(), 1);
    let logs = stack.logs();
    for secret in stack.site.secrets() {
        assert!(!logs.contains(&secret), "a secret is in a log");
    }
    text(&generation["artifacts"][0]["url"])
}

/// The URL carries the token, and ends with the keys.
fn is_temporary(url: &str) {
    assert!(url.contains(&format!("X-Amz-Security-Token={TOKEN}")), "{url}");
    let lifetime = url.split(['?', '&']).find_map(|pair| pair.strip_prefix("X-Amz-Expires=")).unwrap();
    let lifetime: u32 = lifetime.parse().unwrap();
    assert!((1..=1200).contains(&lifetime), "the keys end before the URL: {lifetime}");
}

#[tokio::test]
async fn amazons_own_variables_open_the_bucket() {
    let site = Site::create().await;
    let of = |name| site.environment().into_iter().find(|(found, _)| *found == name).unwrap().1;
    let (id, key) = (of("PYROGRAPH_S3_ACCESS_KEY_ID"), of("PYROGRAPH_S3_SECRET_ACCESS_KEY"));
    let endpoint = of("PYROGRAPH_S3_ENDPOINT");
    let url = picture(
        site,
        &[
            ("AWS_ACCESS_KEY_ID", &id),
            ("AWS_SECRET_ACCESS_KEY", &key),
            ("AWS_SESSION_TOKEN", TOKEN),
            ("AWS_DEFAULT_REGION", "eu-central-1"),
            ("AWS_ENDPOINT_URL_S3", &endpoint),
            ("PYROGRAPH_S3_ENDPOINT", ""),
        ],
    )
    .await;
    assert!(url.contains("eu-central-1") && url.contains(TOKEN), "{url}");
}

#[tokio::test]
async fn the_role_of_an_instance_opens_the_bucket() {
    let site = Site::create().await;
    let platform = Platform::start(&site);
    let url = picture(site, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &platform.url)]).await;
    assert!(platform.seen(ROLE));
    is_temporary(&url);
}

#[tokio::test]
async fn the_endpoint_of_a_container_opens_the_bucket() {
    let site = Site::create().await;
    let platform = Platform::start(&site);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a-pods-token").unwrap();
    let url = picture(
        site,
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/container", platform.url)),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.path().to_str().unwrap()),
        ],
    )
    .await;
    assert!(platform.seen("a-pods-token"));
    is_temporary(&url);
}

#[tokio::test]
async fn a_web_identity_opens_the_bucket() {
    let authority = Authority::create();
    let site = Site::create().await;
    let platform = Platform::start(&site);
    let Some(sts) = Nginx::start(&authority, &[], &platform.url).await else { return };
    let (trusted, file) = (authority.file(), tempfile::NamedTempFile::new().unwrap());
    std::fs::write(file.path(), "an-identity").unwrap();
    let url = picture(
        site,
        &[
            ("SSL_CERT_FILE", trusted.to_str().unwrap()),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", file.path().to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/pyrograph"),
            ("AWS_ENDPOINT_URL_STS", &sts.url),
        ],
    )
    .await;
    assert!(platform.seen("WebIdentityToken=an-identity"));
    is_temporary(&url);
}

#[tokio::test]
async fn secrets_come_from_files() {
    let site = Site::create().await;
    let folder = tempfile::tempdir().unwrap();
    let of = |name| site.environment().into_iter().find(|(found, _)| *found == name).unwrap().1;
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let database = file("database", &format!("{}\n", site.database_url));
    let id = file("id", &of("PYROGRAPH_S3_ACCESS_KEY_ID"));
    let key = file("key", &format!("{}\r\n", of("PYROGRAPH_S3_SECRET_ACCESS_KEY")));
    let empty = file("empty", "\n");

    // A file that cannot be used is refused by its variable, before anything starts.
    for (variable, path, says) in [
        ("DATABASE_URL_FILE", "/nowhere", "/nowhere"),
        ("DATABASE_URL_FILE", empty.as_str(), "empty"),
        ("PYROGRAPH_S3_SECRET_ACCESS_KEY_FILE", "/nowhere", "/nowhere"),
    ] {
        let emptied = variable.trim_end_matches("_FILE");
        let output = run(&site, &[(emptied, ""), (variable, path)], &["serve", "--bind", "127.0.0.1:0"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(variable) && stderr.contains(says), "{stderr}");
    }
    let output = run(&site, &[("DATABASE_URL_FILE", &database)], &["migrate"]);
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("both set"));

    picture(
        site,
        &[
            ("DATABASE_URL", ""),
            ("DATABASE_URL_FILE", &database),
            ("PYROGRAPH_S3_ACCESS_KEY_ID_FILE", &id),
            ("PYROGRAPH_S3_SECRET_ACCESS_KEY_FILE", &key),
        ],
    )
    .await;
}
