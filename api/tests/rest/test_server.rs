//! An API with its own database and bucket, a client for it, and a stand-in for the worker.

use std::io::{Cursor, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::{Access, Names, Rate};
use bytes::Bytes;
use domain::artifact::{NewArtifact, OutputKind};
use domain::database::{Addresses, PoolSizes};
use domain::event::Feed;
use domain::job::{self, Claim, JobKind, LeasePolicy};
use domain::{Pools, Storage, StorageConfig, StorageKey, WorkerId, generation};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::tiny_flux;

pub(crate) struct TestServer {
    http: reqwest::Client,
    base: String,
    pub pools: Pools,
    pub storage: Storage,
    pub stop: CancellationToken,
    /// Where it listens.
    pub address: SocketAddr,
    services: Arc<Services>,
}

/// What one or more servers share.
struct Services {
    objects: tempfile::TempDir,
    s3: embedded::S3,
    _database: embedded::TemporaryDatabase,
}

/// Status, headers and JSON body of a response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:#}", self.body);
        self.body
    }

    /// A problem of this status whose errors name the field.
    #[track_caller]
    pub(crate) fn refuses(&self, status: u16, field: &str) {
        assert_eq!(self.status, status, "{:#}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], status);
        assert!(self.body["detail"].as_str().is_some_and(|detail| detail.len() > 12), "{:#}", self.body);
        if !field.is_empty() {
            assert_eq!(self.body["errors"][0]["field"], field, "{:#}", self.body);
            assert!(
                self.body["errors"][0]["message"].as_str().is_some_and(|message| message.len() > 8),
                "{:#}",
                self.body
            );
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl TestServer {
    pub(crate) async fn new() -> Self {
        let database = embedded::TemporaryDatabase::create(&domain::MIGRATIONS).await.unwrap();
        // One connection for requests: none may need a second one while it holds the first.
        let addresses = Addresses { url: database.url().to_owned(), direct_url: None };
        let pools = Pools::open(&addresses, PoolSizes { api: 1, lease: 8, listen: 4 }).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let s3 = embedded::S3::start(folder.path(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let storage = Storage::new(&StorageConfig {
            endpoint: s3.endpoint(),
            bucket: s3.bucket().to_owned(),
            region: "auto".to_owned(),
            keys: domain::storage::Keys::fixed(s3.access_key(), s3.secret_key()),
            public_endpoint: None,
        })
        .unwrap();
        let services = Arc::new(Services { objects: folder, s3, _database: database });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = api::State::new(pools.api.clone(), Feed::start(pools.listen.clone()).await, storage.clone());
        Self::serve(listener, state, services, pools, storage)
    }

    /// Another server on the same database and bucket.
    pub(crate) async fn another(&self, access: Access) -> Self {
        self.with(|state| state.with_access(access)).await
    }

    /// Another server on the same database and bucket, under these names.
    pub(crate) async fn with_names(&self, names: Names, access: Access) -> Self {
        self.with(|state| state.with_names(names).with_access(access)).await
    }

    /// Another server on the same database and bucket, with another state.
    pub(crate) async fn with(&self, change: impl FnOnce(api::State) -> api::State) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.on(listener, change).await
    }

    /// The same on this listener.
    pub(crate) async fn on(
        &self,
        listener: tokio::net::TcpListener,
        change: impl FnOnce(api::State) -> api::State,
    ) -> Self {
        let state = change(self.state().await);
        Self::serve(listener, state, self.services.clone(), self.pools.clone(), self.storage.clone())
    }

    /// Another server on the same database and bucket, which limits the requests of each key.
    pub(crate) async fn with_rate(&self, rate: Rate, access: Access) -> Self {
        self.with(|state| state.with_rate(rate).with_access(access)).await
    }

    /// The state of a server on the same database and bucket.
    pub(crate) async fn state(&self) -> api::State {
        let feed = Feed::start(self.pools.listen.clone()).await;
        api::State::new(self.pools.api.clone(), feed, self.storage.clone())
    }

    /// The address of the bucket.
    pub(crate) fn bucket_endpoint(&self) -> String {
        self.services.s3.endpoint()
    }

    /// Another server on the same database and bucket, as `up` runs it: clients reach the bucket through it.
    pub(crate) async fn as_up(&self, names: Names) -> Self {
        let endpoint = self.bucket_endpoint();
        self.with(|state| state.with_names(names).with_gateway(&endpoint).unwrap()).await
    }

    fn serve(
        listener: tokio::net::TcpListener,
        state: api::State,
        services: Arc<Services>,
        pools: Pools,
        storage: Storage,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(api::serve(listener, state, stop.clone()));
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(1)).build().unwrap();
        Self { http, base: format!("http://{address}"), pools, storage, stop, address, services }
    }

    /// With the smallest checkpoint that passes the gate, named `ember`.
    pub(crate) async fn with_checkpoint() -> Self {
        let server = Self::new().await;
        server.import("ember", None, &checkpoint()).await.expect(201);
        server
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        self.http.request(method, url)
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.expect("a whole answer");
        Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
    }

    /// As [`Self::send`], again as long as the server asks for patience: on a busy machine, the database may be slower
    /// than its time limits.
    pub(crate) async fn send_patiently(&self, request: impl Fn() -> RequestBuilder) -> Answer {
        loop {
            let answer = self.send(request()).await;
            if answer.status != 503 {
                return answer;
            }
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn post_form(&self, path: &str, form: Form) -> Answer {
        self.send(self.request(Method::POST, path).multipart(form)).await
    }

    /// Bytes behind a presigned URL.
    pub(crate) async fn download(&self, url: &Value) -> Vec<u8> {
        let response = self.http.get(url.as_str().unwrap()).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.bytes().await.unwrap().to_vec()
    }

    pub(crate) async fn dataset(&self, pictures: usize) -> String {
        let id = text(&self.post("/v1/datasets", &json!({"name": "a dataset"})).await.expect(201)["id"]);
        if pictures > 0 {
            let form = (0..pictures as u8)
                .fold(Form::new(), |form, shade| form.part("image", picture_part(png(40, 30, shade))));
            self.post_form(&format!("/v1/datasets/{id}/images"), form).await.expect(201);
        }
        id
    }

    pub(crate) async fn import(&self, name: &str, base: Option<&str>, files: &[(&str, Vec<u8>)]) -> Answer {
        let mut form = Form::new().text("name", name.to_owned());
        if let Some(base) = base {
            form = form.text("base", base.to_owned());
        }
        for (path, bytes) in files {
            form = form.part("file", Part::bytes(bytes.clone()).file_name((*path).to_owned()));
        }
        self.post_form("/v1/models", form).await
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(&self.pools.lease)
            .await
            .unwrap()
    }

    /// Objects in the bucket.
    pub(crate) fn objects(&self) -> usize {
        fn count(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries
                .map(|entry| {
                    if entry.file_type().unwrap().is_dir() {
                        count(&entry.path())
                    } else {
                        usize::from(
                            entry.path().to_string_lossy().contains("/pyrograph/")
                                && !entry.file_name().to_string_lossy().starts_with('.'),
                        )
                    }
                })
                .sum()
        }
        count(self.services.objects.path())
    }

    /// Every file and folder of the S3 server below its root, with its mode.
    pub(crate) fn bucket(&self) -> Vec<(String, u32)> {
        use std::os::unix::fs::PermissionsExt;
        fn list(root: &Path, folder: &Path, all: &mut Vec<(String, u32)>) {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                all.push((name, entry.metadata().unwrap().permissions().mode() & 0o777));
                if path.is_dir() {
                    list(root, &path, all);
                }
            }
        }
        let root = self.services.objects.path().join("objects");
        let mut all = Vec::new();
        list(&root, &root, &mut all);
        all.sort();
        all
    }

    /// Takes the next job, as a worker does.
    pub(crate) async fn claim(&self, kind: JobKind) -> Claim {
        self.claim_as(kind, WorkerId::new()).await
    }

    pub(crate) async fn claim_as(&self, kind: JobKind, worker: WorkerId) -> Claim {
        job::claim(&self.pools.lease, &[kind], worker, &[], &LeasePolicy::default())
            .await
            .unwrap()
            .expect("a job is queued")
    }

    /// Finishes a claimed generation with one picture; returns its bytes.
    pub(crate) async fn paint(&self, claim: &Claim) -> Vec<u8> {
        let bytes = png(32, 32, 7);
        let key =
            StorageKey::Artifact { job: claim.job, epoch: claim.epoch, position: 0, extension: "png" }.to_string();
        self.storage.put(&key, Bytes::from(bytes.clone()), "image/png").await.unwrap();
        let artifact = NewArtifact {
            kind: OutputKind::Image,
            position: 0,
            storage_key: key,
            media_type: "image/png".to_owned(),
            width: Some(32),
            height: Some(32),
            bytes: bytes.len() as i64,
            sha256: hex(&Sha256::digest(&bytes)),
            md5: "0".repeat(32),
            seed: Some(5),
        };
        generation::finish(&self.pools.lease, claim, vec![artifact], &["a warning".to_owned()]).await.unwrap();
        bytes
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn png(width: u32, height: u32, shade: u8) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let picture = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([shade, x as u8, y as u8]));
    image::DynamicImage::from(picture).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

/// A PNG whose header claims a size that its few bytes cannot have.
pub(crate) fn claimed_png(width: u32, height: u32) -> Vec<u8> {
    let mut png = png(1, 1, 0);
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = !png[12..29].iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    });
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    png
}

pub(crate) fn picture_part(bytes: Vec<u8>) -> Part {
    Part::bytes(bytes).file_name("picture.png").mime_str("image/png").unwrap()
}

/// A file of a folder, by its path within it.
pub(crate) fn file_part(path: &str, bytes: &[u8]) -> Part {
    Part::bytes(bytes.to_vec()).file_name(path.to_owned())
}

pub(crate) fn archive_part(entries: &[(&str, &[u8])]) -> Part {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    Part::bytes(zip.finish().unwrap().into_inner()).file_name("pictures.zip")
}

/// A safetensors file of one pair of tensors.
pub(crate) fn safetensors(first: &str, second: &str) -> Vec<u8> {
    let header = json!({
        first: {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        second: {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
    })
    .to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 64]].concat()
}

pub(crate) fn lora(module: &str) -> Vec<u8> {
    safetensors(&format!("{module}.lora_A.weight"), &format!("{module}.lora_B.weight"))
}

pub(crate) const FLUX_MODULE: &str = "transformer.transformer_blocks.0.attn.to_q";
pub(crate) const SDXL_MODULE: &str = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q";

pub(crate) fn checkpoint() -> Vec<(&'static str, Vec<u8>)> {
    tiny_flux::files(
        r#"{"num_inference_steps": 12, "guidance_scale": 1.0, "true_cfg_scale": 3.0, "width": 64, "height": 64}"#,
    )
}
