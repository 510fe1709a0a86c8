//! All bytes outside the rows are in an S3 bucket: puts that overwrite no small file, gets, deletes and presigned URLs,
//! which are made at read time without a network call and never stored. Not here: what the bytes mean, or which rows
//! refer to them.

mod client;
mod cors;
mod keys;
pub(crate) mod layout;
mod open_uploads;
mod writer;

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderValue, Method, header::CONTENT_TYPE};
use object_store::aws::AmazonS3;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{Attribute, Attributes, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use self::client::{Expiry, connect};
pub use self::cors::{Cors, CorsRule};
pub use self::keys::Keys;
pub use self::layout::is_own_folder;
pub use self::open_uploads::OpenUpload;
pub use self::writer::ObjectWriter;
use crate::{
    DatasetId, Error, ExampleId, GenerationId, ImportId, InputId, JobId, ModelId, Result, TrainingId, Unusable,
    UploadId,
};

/// How long a presigned URL for reading is valid.
pub const READ_TTL: Duration = Duration::from_hours(1);
/// Files up to this size in bytes are put in one request, so that the put can refuse to overwrite.
const SINGLE_PUT_BYTES: u64 = 64 * 1024 * 1024;
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Longest wait for the next bytes of a response. A whole response has no limit, since it may be a file of 64 GiB.
const SILENCE: Duration = Duration::from_mins(1);
/// The same when an upload in parts is completed: a server may copy all of it before it responds.
const COMPLETION: Duration = Duration::from_hours(1);

/// Address of the bucket and keys to sign with.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// Base URL of the S3 service, such as `https://<account>.r2.cloudflarestorage.com`.
    pub endpoint: String,
    pub bucket: String,
    /// `auto` for R2.
    pub region: String,
    pub keys: Keys,
    /// Base URL by which clients reach the service, if it is not `endpoint`; presigned URLs use it.
    pub public_endpoint: Option<String>,
}

/// The name of an object. It consists of ids and the attempt's epoch, so two writers never use the same name. A
/// `Source` is a picture that a request carried itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageKey {
    DatasetExample {
        dataset: DatasetId,
        example: ExampleId,
        extension: &'static str,
    },
    Upload {
        upload: UploadId,
    },
    Input {
        input: InputId,
        extension: &'static str,
    },
    Source {
        generation: GenerationId,
        role: &'static str,
        extension: &'static str,
    },
    UploadPart {
        upload: UploadId,
        number: i32,
    },
    ModelFile {
        model: ModelId,
        path: String,
    },
    /// A file of a model that an attempt at an import is fetching.
    ImportedFile {
        import: ImportId,
        epoch: i64,
        path: String,
    },
    Artifact {
        job: JobId,
        epoch: i64,
        position: i32,
        extension: &'static str,
    },
    TrainingCheckpoint {
        training: TrainingId,
        epoch: i64,
        step: i32,
    },
}

impl fmt::Display for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DatasetExample { dataset, example, extension } => {
                write!(f, "datasets/{dataset}/{example}.{extension}")
            }
            Self::Upload { upload } => write!(f, "uploads/{upload}"),
            Self::Input { input, extension } => write!(f, "inputs/{input}.{extension}"),
            Self::Source { generation, role, extension } => write!(f, "sources/{generation}/{role}.{extension}"),
            Self::UploadPart { upload, number } => write!(f, "uploads/{upload}/{number}"),
            Self::ModelFile { model, path } => write!(f, "models/{model}/{path}"),
            Self::ImportedFile { import, epoch, path } => write!(f, "models/{import}/{epoch}/{path}"),
            Self::Artifact { job, epoch, position, extension } => {
                write!(f, "artifacts/{}/{epoch}/{position}.{extension}", job.0)
            }
            Self::TrainingCheckpoint { training, epoch, step } => {
                write!(f, "checkpoints/{training}/{epoch}/{step}.safetensors")
            }
        }
    }
}

/// A presigned request and the headers that must be sent with it.
#[derive(Clone, Debug)]
pub struct PresignedPut {
    pub url: Url,
    pub content_type: String,
    /// How long the URL is valid.
    pub ttl: Duration,
}

/// Metadata of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectHead {
    pub bytes: u64,
}

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub stored_at: DateTime<Utc>,
}

/// The result of `put_file` or an [`ObjectWriter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
}

/// A handle on the bucket; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Storage {
    /// Of the bucket.
    name: Arc<str>,
    bucket: Arc<AmazonS3>,
    /// The same bucket, with a longer time limit.
    completion: Arc<AmazonS3>,
    signer: Arc<AmazonS3>,
    /// Where presigned URLs lead instead; see [`Storage::through`].
    gateway: Option<Arc<Url>>,
    /// The bucket's folder, if it is on this machine.
    objects: Option<Arc<Path>>,
    /// When the keys of all three expire.
    expiry: Expiry,
    origin: Arc<str>,
}

impl Storage {
    /// Makes the client, without a network call (`check` makes one).
    pub fn new(config: &StorageConfig) -> Result<Self> {
        Self::with_patience(config, SILENCE, COMPLETION)
    }

    fn with_patience(config: &StorageConfig, silence: Duration, completion: Duration) -> Result<Self> {
        let expiry = Expiry::default();
        let bucket = Arc::new(connect(config, &config.endpoint, silence, &expiry, None)?);
        let shared = || Some(bucket.credentials().clone());
        let completion = Arc::new(connect(config, &config.endpoint, completion, &expiry, shared())?);
        let signer = match &config.public_endpoint {
            Some(endpoint) => Arc::new(connect(config, endpoint, silence, &expiry, shared())?),
            None => bucket.clone(),
        };
        let name = config.bucket.as_str().into();
        let origin = Url::parse(config.public_endpoint.as_ref().unwrap_or(&config.endpoint));
        let origin = origin.map_err(Error::internal)?.origin().ascii_serialization().into();
        Ok(Self { name, bucket, completion, signer, gateway: None, objects: None, expiry, origin })
    }

    /// Where clients reach the bucket without a gateway, as a browser writes it: `https://s3.example`.
    pub fn origin(&self) -> String {
        self.origin.to_string()
    }

    /// The same bucket behind a gateway: presigned URLs lead to `gateway`, which passes each request on to the address
    /// that was signed. So the signature holds even if a proxy changes host and path.
    pub fn through(&self, gateway: Url) -> Self {
        Self { gateway: Some(Arc::new(gateway)), ..self.clone() }
    }

    fn through_gateway(&self, signed: Url) -> Url {
        let Some(gateway) = &self.gateway else { return signed };
        let mut url = Url::clone(gateway);
        url.set_path(&format!("{}{}", gateway.path().trim_end_matches('/'), signed.path()));
        url.set_query(signed.query());
        url
    }

    /// The same, for a bucket that is a folder on this machine, with one file for each object.
    #[must_use]
    pub fn with_objects(self, folder: &Path) -> Self {
        Self { objects: Some(folder.into()), ..self }
    }

    /// The file of an object in a bucket on this machine. It must never be changed.
    pub fn local_file(&self, key: &str) -> Option<PathBuf> {
        let is_plain = Path::new(key).components().all(|part| matches!(part, Component::Normal(_)));
        let file = self.objects.as_ref()?.join(key);
        (is_plain && file.is_file()).then_some(file)
    }

    /// Writes an object that must not exist. If it exists with the same bytes, an earlier reply was lost, and that is
    /// success.
    pub async fn put(&self, key: &str, bytes: Bytes, media_type: &str) -> Result<()> {
        let options = PutOptions { mode: PutMode::Create, attributes: attributes(media_type), ..PutOptions::default() };
        match self.bucket.put_opts(&key.into(), bytes.clone().into(), options).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {
                let there = self.get(key).await?;
                if Sha256::digest(&there) == Sha256::digest(&bytes) {
                    return Ok(());
                }
                Err(Error::internal(format!("object {key} is there already with other bytes")))
            }
            Err(error) => Err(from_object_store(key, error)),
        }
    }

    /// Writes a file from local disk and returns its size and SHA-256.
    pub async fn put_file(&self, key: &str, path: &Path, media_type: &str) -> Result<Written> {
        let mut file = tokio::fs::File::open(path).await.map_err(Error::unavailable)?;
        let length = file.metadata().await.map_err(Error::unavailable)?.len();
        if length <= SINGLE_PUT_BYTES {
            let mut bytes = Vec::with_capacity(length as usize);
            file.read_to_end(&mut bytes).await.map_err(Error::unavailable)?;
            let written = Written { bytes: bytes.len() as u64, sha256: hex::encode(Sha256::digest(&bytes)) };
            self.put(key, bytes.into(), media_type).await?;
            return Ok(written);
        }
        let mut writer = self.writer(key, media_type).await?;
        let mut part = vec![0; PART_BYTES];
        loop {
            let count = file.read(&mut part).await.map_err(Error::unavailable)?;
            if count == 0 {
                return writer.finish().await;
            }
            writer.write(&part[..count]).await?;
        }
    }

    /// Reads the whole object into memory.
    pub async fn get(&self, key: &str) -> Result<Bytes> {
        let found = self.bucket.get(&key.into()).await.map_err(|error| from_object_store(key, error))?;
        found.bytes().await.map_err(|error| from_object_store(key, error))
    }

    /// Reads a range of an object.
    pub async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        self.bucket.get_range(&key.into(), range).await.map_err(|error| from_object_store(key, error))
    }

    /// Streams an object to a new file and returns its size and SHA-256, for the caller to compare with the row. Adds
    /// the bytes to `received` as they arrive.
    pub async fn get_to_file(&self, key: &str, path: &Path, received: &AtomicU64) -> Result<Written> {
        let found = self.bucket.get(&key.into()).await.map_err(|error| from_object_store(key, error))?;
        let mut chunks = found.into_stream();
        let mut file = tokio::fs::File::create(path).await.map_err(Error::unavailable)?;
        let (mut bytes, mut sha256) = (0, Sha256::new());
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| from_object_store(key, error))?;
            bytes += chunk.len() as u64;
            received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            sha256.update(&chunk);
            file.write_all(&chunk).await.map_err(Error::unavailable)?;
        }
        file.flush().await.map_err(Error::unavailable)?;
        file.sync_all().await.map_err(Error::unavailable)?;
        Ok(Written { bytes, sha256: hex::encode(sha256.finalize()) })
    }

    pub async fn head(&self, key: &str) -> Result<ObjectHead> {
        let meta = self.bucket.head(&key.into()).await.map_err(|error| from_object_store(key, error))?;
        Ok(ObjectHead { bytes: meta.size })
    }

    /// Key and size of each object below `prefix`, a folder.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        let found = self.bucket.list(Some(&prefix.into()));
        let found = found.map_ok(|object| (object.location.to_string(), object.size)).try_collect().await;
        found.map_err(|error| from_object_store(prefix, error))
    }

    /// Every object below `prefix`, a folder, page by page.
    pub(crate) fn listing(&self, prefix: &'static str) -> BoxStream<'static, Result<Listed>> {
        let listed = self.bucket.list(Some(&prefix.into()));
        let listed = listed.map_ok(|object| Listed { key: object.location.into(), stored_at: object.last_modified });
        listed.map_err(move |error| from_object_store(prefix, error)).boxed()
    }

    /// Writes a small object unless it exists. Returns whether it was written.
    pub(crate) async fn create(&self, key: &str, bytes: Bytes, media_type: &str) -> Result<bool> {
        let options = PutOptions { mode: PutMode::Create, attributes: attributes(media_type), ..PutOptions::default() };
        match self.bucket.put_opts(&key.into(), bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(from_object_store(key, error)),
        }
    }

    /// Writes a small object, or replaces it. The objects of rows never change, unless they are repaired.
    pub async fn replace(&self, key: &str, bytes: Bytes, media_type: &str) -> Result<()> {
        let options = PutOptions { attributes: attributes(media_type), ..PutOptions::default() };
        let put = self.bucket.put_opts(&key.into(), bytes.into(), options).await;
        put.map(drop).map_err(|error| from_object_store(key, error))
    }

    /// Copies an object within the bucket. Most services refuse more than 5 GB.
    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.bucket.copy(&from.into(), &to.into()).await.map_err(|error| from_object_store(from, error))
    }

    /// Whether the object exists with this size.
    pub(crate) async fn holds(&self, key: &str, bytes: i64) -> Result<bool> {
        match self.head(key).await {
            Ok(head) => Ok(head.bytes == bytes.unsigned_abs()),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object. It is no error if it does not exist.
    pub async fn delete(&self, key: &str) -> Result<()> {
        match self.bucket.delete(&key.into()).await {
            Ok(()) => Ok(()),
            // It may also be the bucket that is missing, and then nothing was deleted.
            Err(object_store::Error::NotFound { .. }) => self.check().await.map_err(Error::unavailable),
            Err(error) => Err(from_object_store(key, error)),
        }
    }

    /// Deletes objects that certainly never got a row. A failure is logged and leaves them for the sweeper. Objects
    /// whose rows are deleted are not for this, but for `deletion`.
    pub(crate) async fn discard(&self, keys: impl IntoIterator<Item = String>) {
        for key in keys {
            if let Err(error) = self.delete(&key).await {
                tracing::warn!(key, %error, "an object without a row could not be deleted");
            }
        }
    }

    /// A URL to read one object with, valid for `ttl`, or as long as temporary keys. No network, unless the keys have
    /// to be renewed.
    pub async fn presign_get(&self, key: &str, ttl: Duration) -> Result<Url> {
        let ttl = self.lifetime(key, ttl).await?;
        let url = self.signer.signed_url(Method::GET, &key.into(), ttl).await;
        url.map(|url| self.through_gateway(url)).map_err(|error| from_object_store(key, error))
    }

    /// As [`Self::presign_get`], with the name under which a browser, or curl with `-J`, saves the file. `file_name`
    /// consists of letters, digits, `.`, `_` and `-`.
    pub async fn presign_get_as(&self, key: &str, file_name: &str, ttl: Duration) -> Result<Url> {
        let ttl = self.lifetime(key, ttl).await?;
        let disposition = format!("inline; filename=\"{file_name}\"");
        let options = SignedUrlOptions::default().with_query([("response-content-disposition", disposition)]);
        let url = self.signer.signed_url_opts(Method::GET, &key.into(), ttl, &options).await;
        url.map(|url| self.through_gateway(url)).map_err(|error| from_object_store(key, error))
    }

    /// A URL to write one object with, for this content type only. It is valid as one to read with.
    pub async fn presign_put(&self, key: &str, content_type: &str, ttl: Duration) -> Result<PresignedPut> {
        let ttl = self.lifetime(key, ttl).await?;
        let value = HeaderValue::from_str(content_type).map_err(Error::internal)?;
        let options = SignedUrlOptions::default().with_signed_header(CONTENT_TYPE, value);
        let url = self
            .signer
            .signed_url_opts(Method::PUT, &key.into(), ttl, &options)
            .await
            .map_err(|error| from_object_store(key, error))?;
        Ok(PresignedPut { url: self.through_gateway(url), content_type: content_type.to_owned(), ttl })
    }

    /// A URL that outlives the keys it is signed with would promise too much.
    async fn lifetime(&self, key: &str, ttl: Duration) -> Result<Duration> {
        // Renews keys that are about to expire.
        let renewed = self.signer.credentials().get_credential().await;
        renewed.map_err(|error| from_object_store(key, error))?;
        Ok(self.expiry.left().min(ttl).max(Duration::from_secs(1)))
    }

    /// Lists a folder that never exists: an empty answer proves address, bucket and keys. Keys that may not list ask
    /// for an object that never exists instead, whose absence does not prove that there is a bucket.
    ///
    /// # Errors
    /// `Permanent` if there is no such bucket or the keys do not open it.
    pub async fn check(&self) -> Result<(), Unusable> {
        let nothing = "readiness".into();
        let error = match self.bucket.list(Some(&nothing)).next().await {
            None | Some(Ok(_)) => return Ok(()),
            // `object_store` gives no other sign of a list that is refused.
            Some(Err(error)) if error.to_string().contains("403 Forbidden") => match self.bucket.head(&nothing).await {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(()),
                Err(error) => error,
            },
            Some(Err(error)) => error,
        };
        let (name, cause) = (&self.name, cause(&unreached(&error)).to_owned());
        Err(match error {
            error if error.to_string().contains("NoSuchBucket") => Unusable::Permanent(format!(
                "there is no bucket `{name}`. Create it, or name another with PYROGRAPH_S3_BUCKET."
            )),
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Unusable::Permanent(format!("the bucket `{name}` cannot be used with these keys: {cause}"))
            }
            _ => Unusable::Silent(format!("the bucket `{name}` cannot be used: {cause}")),
        })
    }
}

fn attributes(media_type: &str) -> Attributes {
    Attributes::from_iter([(Attribute::ContentType, media_type.to_owned())])
}

fn from_object_store(key: &str, error: object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } => Error::not_found("object", key),
        other => Error::unavailable(unreached(&other)),
    }
}

fn unreached(error: &object_store::Error) -> String {
    match outgoing::refused_certificate(error) {
        Some(refusal) => format!("the bucket's server is not trusted: {refusal}"),
        None => {
            let (whole, root) = (error.to_string(), outgoing::root_cause(error).to_string());
            // The client names the kind of its error only, such as "error sending request".
            if whole.contains(&root) { whole } else { format!("{}: {root}", cause(&whole)) }
        }
    }
}

/// The cause in the client's error: the end of its first line, after the request and its retries.
fn cause(error: &str) -> &str {
    let line = error.lines().next().unwrap_or_default();
    line.split_once(" - ").map_or(line, |(_, cause)| cause).trim_end_matches([':', ' '])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage() -> Storage {
        Storage::new(&config()).unwrap()
    }

    #[test]
    fn a_cause_is_one_line_without_the_request() {
        let long = "Generic S3 error: Error performing HEAD http://h/b/k in 1.4s, after 5 retries  - HTTP error: error \
                    sending request\nmore\nand more";
        assert_eq!(cause(long), "HTTP error: error sending request");
        assert_eq!(cause("the clock is wrong"), "the clock is wrong");
    }

    pub(super) fn config() -> StorageConfig {
        StorageConfig {
            endpoint: "http://127.0.0.1:9".into(),
            bucket: "pyrograph".into(),
            region: "auto".into(),
            keys: Keys::fixed("key", "canary-secret"),
            public_endpoint: Some("https://pictures.example".into()),
        }
    }

    #[test]
    fn debug_hides_the_secret() {
        assert!(!format!("{:?}", config()).contains("canary-secret"));
    }

    #[tokio::test]
    async fn presigned_urls_carry_the_public_endpoint_and_need_no_network() {
        let url = storage().presign_get("artifacts/a/1/0.png", READ_TTL).await.unwrap();
        assert!(url.as_str().starts_with("https://pictures.example/pyrograph/artifacts/a/1/0.png?"));
        assert!(url.query_pairs().any(|(name, value)| name == "X-Amz-Expires" && value == "3600"));
        let put = storage().presign_put("uploads/u", "image/png", READ_TTL).await.unwrap();
        assert!(
            put.url.query_pairs().any(|(name, value)| name == "X-Amz-SignedHeaders" && value.contains("content-type"))
        );
    }

    #[tokio::test]
    async fn a_gateway_changes_the_address_and_not_the_signature() {
        let config = StorageConfig { public_endpoint: None, ..config() };
        let storage = Storage::new(&config).unwrap().through("https://pictures.example/pyro/s3".parse().unwrap());
        let url = storage.presign_get("inputs/a b+c.png", READ_TTL).await.unwrap();
        assert!(url.as_str().starts_with("https://pictures.example/pyro/s3/pyrograph/inputs/a%20b%2Bc.png?"), "{url}");
        assert!(url.query().unwrap().contains("X-Amz-Signature="));
        let named = storage.presign_get_as("inputs/a.png", "ember-7-1a2b3c4d-0.png", READ_TTL).await.unwrap();
        assert!(named.as_str().starts_with("https://pictures.example/pyro/s3/pyrograph/inputs/a.png?"), "{named}");
        let name = ("response-content-disposition".into(), "inline; filename=\"ember-7-1a2b3c4d-0.png\"".into());
        assert!(named.query_pairs().any(|pair| pair == name), "{named}");
    }

    #[test]
    fn a_local_file_is_inside_the_bucket() {
        let folder = tempfile::tempdir().unwrap();
        let objects = folder.path().join("objects");
        std::fs::create_dir_all(objects.join("models/m")).unwrap();
        for file in ["objects/models/m/a", "secret"] {
            std::fs::write(folder.path().join(file), "x").unwrap();
        }
        assert_eq!(storage().local_file("models/m/a"), None);
        let storage = storage().with_objects(&objects);
        assert_eq!(storage.local_file("models/m/a"), Some(objects.join("models/m/a")));
        let secret = folder.path().join("secret").display().to_string();
        for key in ["models/m", "models/m/b", "../secret", "models/../../secret", &secret] {
            assert_eq!(storage.local_file(key), None, "{key}");
        }
    }

    #[test]
    fn keys_are_ids_and_epochs() {
        let (job, training) = (JobId::new(), TrainingId::new());
        let key = StorageKey::Artifact { job, epoch: 3, position: 1, extension: "png" };
        assert_eq!(key.to_string(), format!("artifacts/{}/3/1.png", job.0));
        let key = StorageKey::TrainingCheckpoint { training, epoch: 2, step: 50 };
        assert_eq!(key.to_string(), format!("checkpoints/{training}/2/50.safetensors"));
    }
}
