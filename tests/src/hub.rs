//! A server that speaks the Hugging Face Hub's protocol for one repository, with its CDN at another port, and serves
//! any file by URL. It can cut responses, stall in the middle of one, and require a token. It listens on 127.0.0.2, so
//! that an operator can allow it and nothing else on this machine.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path as Segments, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream;
use serde_json::json;

use crate::ground::runtime;
use crate::picture::sha256;

/// The commit of `main`.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The public repository, and the one that requires a token.
pub const OPEN: &str = "pyro/open";
pub const GATED: &str = "pyro/gated";
/// The token that gives access to it.
pub const TOKEN: &str = "hf_canaryTokenOfTheOperator";
/// A token of the user [`USER`], who has nothing but that.
pub const USER_TOKEN: &str = "hf_canaryTokenOfAUser";
pub const USER: &str = "jane";
/// Appears in signed URLs, and must not appear in any log.
pub const SIGNATURE: &str = "canarySignature";
/// The address that tests allow.
pub const HOST: &str = "127.0.0.2";
const PIECE: usize = 16 * 1024;

/// A running server.
pub struct Hub {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    files: BTreeMap<String, Bytes>,
    cdn: String,
    cuts: Mutex<VecDeque<usize>>,
    stall: Mutex<Option<usize>>,
    seen: Mutex<Vec<Seen>>,
}

/// A received request.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub token: bool,
    pub cdn: bool,
}

impl Hub {
    /// Serves `files` as both repositories, and each file below `/files/`.
    pub fn start(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let bind = || std::net::TcpListener::bind((HOST, 0)).expect("a port");
        let (main, cdn) = (bind(), bind());
        let address =
            |listener: &std::net::TcpListener| format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared {
            files: files.into_iter().map(|(path, bytes)| (path, bytes.into())).collect(),
            cdn: address(&cdn),
            cuts: Mutex::default(),
            stall: Mutex::default(),
            seen: Mutex::default(),
        });
        let url = address(&main);
        let hub = Router::new()
            .route("/api/models/{owner}/{name}/revision/{revision}", get(revision))
            .route("/{owner}/{name}/resolve/{revision}/{*path}", get(resolve))
            .route("/files/{*path}", get(file))
            .route("/to", get(redirect))
            .route("/api/whoami-v2", get(who_am_i))
            .with_state(shared.clone());
        let blobs = Router::new().route("/cdn/{sha256}", get(blob)).with_state(shared.clone());
        let _entered = runtime().enter();
        for (listener, app) in [(main, hub), (cdn, blobs)] {
            listener.set_nonblocking(true).expect("a listener");
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            tokio::spawn(async move { axum::serve(listener, app).await });
        }
        Self { url, shared }
    }

    /// Cuts the next responses with bytes after this many of them.
    pub fn cut(&self, after: impl IntoIterator<Item = usize>) {
        self.shared.cuts.lock().unwrap().extend(after);
    }

    /// Makes responses stall after this many bytes from now on; `None` lets new ones continue.
    pub fn stall(&self, after: Option<usize>) {
        *self.shared.stall.lock().unwrap() = after;
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Requests so far for bytes of large files.
    pub fn blobs(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.cdn).collect()
    }

    /// The bytes of a file.
    pub fn bytes(&self, path: &str) -> Bytes {
        self.shared.files[path].clone()
    }
}

impl Shared {
    fn note(&self, method: &Method, path: String, headers: &HeaderMap, cdn: bool) {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
        let token = headers.contains_key(header::AUTHORIZATION);
        let seen = Seen { method: method.to_string(), path, range: text(header::RANGE), token, cdn };
        self.seen.lock().unwrap().push(seen);
    }

    /// The bytes, or the requested range, cut or stalled as a test wants.
    fn send(&self, bytes: Bytes, headers: &HeaderMap) -> Response {
        let etag = format!("\"{}\"", sha256(&bytes));
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let same = text(header::IF_RANGE).is_none_or(|validator| validator == etag);
        let range = text(header::RANGE)
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let whole = bytes.len();
        let (status, first) = match range.filter(|_| same) {
            Some(first) if first >= whole => return StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
            Some(first) => (StatusCode::PARTIAL_CONTENT, first),
            None => (StatusCode::OK, 0),
        };
        let rest = bytes.slice(first..);
        let mut answer = Response::builder().status(status).header(header::ETAG, etag);
        answer = answer.header(header::CONTENT_LENGTH, rest.len());
        if status == StatusCode::PARTIAL_CONTENT {
            answer = answer.header(header::CONTENT_RANGE, format!("bytes {first}-{}/{whole}", whole - 1));
        }
        let cut = self.cuts.lock().unwrap().pop_front().filter(|cut| *cut < rest.len());
        let stall = self.stall.lock().unwrap().filter(|stall| *stall < rest.len());
        let body = stream::unfold(0, move |sent| {
            let rest = rest.clone();
            async move {
                if stall.is_some_and(|stall| sent >= stall) {
                    tokio::time::sleep(Duration::from_mins(10)).await;
                }
                if cut.is_some_and(|cut| sent >= cut) {
                    // Bytes already sent must arrive before the connection ends.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    return Some((Err(std::io::Error::other("cut")), sent));
                }
                if sent >= rest.len() {
                    return None;
                }
                let most = cut.into_iter().chain(stall).fold(rest.len(), usize::min);
                let end = (sent + PIECE).min(if sent < most { most } else { rest.len() });
                Some((Ok(rest.slice(sent..end)), end))
            }
        });
        answer.body(Body::from_stream(body)).expect("an answer")
    }
}

fn refuse(status: StatusCode, code: &'static str) -> Response {
    (status, [("x-error-code", code)], "no").into_response()
}

async fn revision(
    State(shared): State<Arc<Shared>>,
    Segments((owner, name, revision)): Segments<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    shared.note(&method, format!("/api/models/{owner}/{name}/revision/{revision}"), &headers, false);
    if ![OPEN, GATED].contains(&format!("{owner}/{name}").as_str()) {
        return refuse(StatusCode::UNAUTHORIZED, "RepoNotFound");
    }
    if !["main", "refs/pr/1", COMMIT].contains(&revision.as_str()) {
        return refuse(StatusCode::NOT_FOUND, "RevisionNotFound");
    }
    // As the Hub does: the file list of a gated repository is public, its bytes are not.
    let siblings: Vec<_> = shared.files.keys().map(|path| json!({"rfilename": path})).collect();
    Json(json!({"id": format!("{owner}/{name}"), "sha": COMMIT, "siblings": siblings})).into_response()
}

async fn resolve(
    State(shared): State<Arc<Shared>>,
    Segments((owner, name, revision, path)): Segments<(String, String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    shared.note(&method, format!("/{path}"), &headers, false);
    let token = headers.get(header::AUTHORIZATION).is_some_and(|token| token == format!("Bearer {TOKEN}").as_str());
    if format!("{owner}/{name}") == GATED && !token {
        return refuse(StatusCode::UNAUTHORIZED, "GatedRepo");
    }
    assert_eq!(revision, COMMIT, "files are asked for by commit");
    let Some(bytes) = shared.files.get(&path) else { return refuse(StatusCode::NOT_FOUND, "EntryNotFound") };
    if !path.ends_with(".safetensors") {
        let mut answer = bytes.clone().into_response();
        answer.headers_mut().insert("x-repo-commit", HeaderValue::from_static(COMMIT));
        return answer;
    }
    let hash = sha256(bytes);
    let answer = Response::builder()
        .status(StatusCode::FOUND)
        .header("x-repo-commit", COMMIT)
        .header("x-linked-size", bytes.len())
        .header("x-linked-etag", format!("\"{hash}\""))
        .header(header::LOCATION, format!("{}/cdn/{hash}?Signature={SIGNATURE}", shared.cdn));
    answer.body(Body::empty()).expect("an answer")
}

async fn blob(
    State(shared): State<Arc<Shared>>,
    Segments(hash): Segments<String>,
    Query(query): Query<BTreeMap<String, String>>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let found = shared.files.iter().find(|(_, bytes)| sha256(bytes) == hash);
    let Some((path, bytes)) = found else { return StatusCode::NOT_FOUND.into_response() };
    shared.note(&method, format!("/{path}"), &headers, true);
    if query.get("Signature").map(String::as_str) != Some(SIGNATURE) {
        return StatusCode::FORBIDDEN.into_response();
    }
    shared.send(bytes.clone(), &headers)
}

async fn file(
    State(shared): State<Arc<Shared>>,
    Segments(path): Segments<String>,
    Query(query): Query<BTreeMap<String, String>>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    shared.note(&method, format!("/files/{path}"), &headers, false);
    if query.get("Signature").is_some_and(|signature| signature != SIGNATURE) {
        return StatusCode::FORBIDDEN.into_response();
    }
    match shared.files.get(&path) {
        Some(bytes) => shared.send(bytes.clone(), &headers),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn who_am_i(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    shared.note(&Method::GET, "/api/whoami-v2".to_owned(), &headers, false);
    let token = format!("Bearer {USER_TOKEN}");
    if headers.get(header::AUTHORIZATION).is_none_or(|sent| sent != token.as_str()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let auth = json!({"type": "access_token", "accessToken": {"displayName": "x", "role": "read"}});
    Json(json!({"type": "user", "name": USER, "orgs": [], "auth": auth})).into_response()
}

async fn redirect(Query(query): Query<BTreeMap<String, String>>) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, query["url"].clone())]).into_response()
}

/// The built-in checkpoint as a repository: its weights changed a little, so that no model has them yet, together with
/// other files that such repositories contain.
pub fn repository() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/ember");
    let mut files = Vec::new();
    for folder in ["", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "vae"]
    {
        for entry in fs::read_dir(root.join(folder)).expect("ember") {
            let path = entry.expect("ember").path();
            if path.is_file() {
                let name = path.strip_prefix(&root).expect("inside").to_str().expect("UTF-8").to_owned();
                let mut bytes = fs::read(&path).expect("ember");
                if name.ends_with(".safetensors") {
                    // The lowest bits of the last number.
                    let at = bytes.len() - 2;
                    bytes[at] ^= 1;
                }
                files.push((name, bytes));
            }
        }
    }
    for (name, text) in [
        (".gitattributes", "*.safetensors filter=lfs"),
        ("LICENSE.md", "Do as you like.\n"),
        ("vae/diffusion_pytorch_model.bin", "\u{80}a pickle"),
        ("transformer/diffusion_pytorch_model.fp16.safetensors", "another variant"),
        ("safety_checker/model.safetensors", "not run here"),
    ] {
        files.push((name.to_owned(), text.as_bytes().to_vec()));
    }
    files
}

/// A LoRA for FLUX, valid in form, of about `kilobytes`.
pub fn lora(kilobytes: usize) -> Vec<u8> {
    let (width, bytes) = (kilobytes * 32, kilobytes * 32 * 4 * 4);
    let name = "transformer.transformer_blocks.0.attn.to_q";
    let header = json!({
        format!("{name}.lora_A.weight"): {"dtype": "F32", "shape": [4, width], "data_offsets": [0, bytes]},
        format!("{name}.lora_B.weight"): {"dtype": "F32", "shape": [width, 4], "data_offsets": [bytes, 2 * bytes]},
    });
    let header = header.to_string();
    let mut file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    file.extend((0..2 * bytes).map(|at| (at * 31 % 251) as u8));
    file
}
