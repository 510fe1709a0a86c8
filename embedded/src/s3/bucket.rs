//! What the S3 server stores: objects as files, by `s3s-fs`, which would keep a body that it refuses, files beside a
//! deleted object, and files that every account of the machine may read. None of that happens here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use s3s::dto;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::sync::RwLock;
use uuid::Uuid;

use super::disk::Disk;
use super::meanwhile::{LISTINGS, is_internal, settled};
use super::verified::{promised_trailers, verified};
use crate::{Error, stale_uploads};

/// Only the owner may enter a folder, or read a file.
const FOLDER: u32 = 0o700;
const FILE: u32 = 0o600;

/// The folder with all buckets.
pub(super) struct Buckets {
    files: FileSystem,
    root: PathBuf,
    disk: Disk,
    /// Held while an object is stored, which makes folders that must not vanish under it.
    storing: RwLock<()>,
    /// Uploads in parts that could not be completed, and why: `s3s-fs` has used up their parts, and does not know them
    /// when the client tries again.
    broken: Mutex<BTreeMap<String, String>>,
    /// Folders that lost an object and may be empty.
    thinned: Mutex<BTreeSet<PathBuf>>,
}

impl Buckets {
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let files = FileSystem::new(root).map_err(|error| Error::S3(format!("{error:?}")))?;
        let root = root.canonicalize().map_err(Error::file(root))?;
        let mode = fs::metadata(&root).map_err(Error::file(&root))?.permissions().mode() & 0o777;
        if mode != FOLDER {
            tidy(&root).map_err(Error::file(&root))?;
        }
        let disk = Disk::of(root.clone());
        Ok(Self { files, root, disk, storing: RwLock::new(()), broken: Mutex::default(), thinned: Mutex::default() })
    }

    /// The object's file. `s3s` has checked the bucket's name; `s3s-fs` refuses a key that leaves the bucket.
    fn object(&self, bucket: &str, key: &str) -> PathBuf {
        self.root.join(bucket).join(key)
    }

    /// The files with an object's attributes, as `s3s-fs` names them.
    fn beside(&self, bucket: &str, key: &str) -> [PathBuf; 2] {
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let stem = format!(".bucket-{}.object-{}", encode(bucket), encode(key));
        ["metadata", "internal"].map(|kind| self.root.join(format!("{stem}.{kind}.json")))
    }

    /// Takes the permissions of other accounts from an object that was stored, and from its folders.
    fn keep_private(&self, bucket: &str, key: &str) -> S3Result<()> {
        let object = self.object(bucket, key);
        // A key that ends with a slash is a folder.
        let file = (!key.ends_with('/')).then_some(&object);
        let files = self.beside(bucket, key).iter().chain(file).try_for_each(|file| restrict(file, FILE));
        let mut folders = object.ancestors().skip(1).take_while(|folder| *folder != self.root);
        files.and_then(|()| folders.try_for_each(|folder| restrict(folder, FOLDER))).map_err(S3Error::internal_error)
    }

    /// Deletes what `s3s-fs` leaves of an object.
    fn forget(&self, bucket: &str, key: &str) -> S3Result<()> {
        for file in self.beside(bucket, key) {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(S3Error::internal_error(error)),
                _ => {}
            }
        }
        if let Some(folder) = self.object(bucket, key).parent() {
            self.thinned.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
        }
        Ok(())
    }

    /// The answer to a completion that failed with `error`: a failure stays the answer when the client tries again.
    fn not_completed(&self, upload: String, error: S3Error) -> S3Error {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        match error.code() {
            S3ErrorCode::InternalError => {
                broken.insert(upload, error.message().unwrap_or_default().to_owned());
                error
            }
            // What `s3s-fs` says of an upload that it does not know.
            S3ErrorCode::AccessDenied => match broken.get(&upload) {
                Some(why) => S3Error::with_message(S3ErrorCode::InternalError, why.clone()),
                None => s3_error!(NoSuchUpload),
            },
            _ => error,
        }
    }

    /// Deletes folders that are empty, unless objects are being stored: the last of them does it.
    fn prune(&self) {
        let Ok(_alone) = self.storing.try_write() else { return };
        let thinned = std::mem::take(&mut *self.thinned.lock().unwrap_or_else(PoisonError::into_inner));
        for folder in thinned {
            // The root and the buckets in it stay.
            let inside = |folder: &&Path| folder.parent().is_some_and(|parent| parent != self.root);
            for folder in folder.ancestors().take_while(inside) {
                match fs::remove_dir(folder) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => break,
                    _ => {}
                }
            }
        }
    }
}

fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    match fs::set_permissions(path, Permissions::from_mode(mode)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Brings a folder that an earlier version wrote into order, once; its mode shows that it is done.
fn tidy(root: &Path) -> io::Result<()> {
    fn walk(folder: &Path, depth: usize) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
            if entry?.is_dir() {
                walk(&path, depth + 1)?;
                // Empty ones below the buckets.
                if depth == 0 || fs::remove_dir(&path).is_err() {
                    restrict(&path, FOLDER)?;
                }
            } else {
                restrict(&path, FILE)?;
            }
        }
        Ok(())
    }
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let object = path.file_name().and_then(|name| name.to_str()).and_then(object_of);
        if object.is_some_and(|object| !root.join(object).exists()) {
            fs::remove_file(&path)?;
        }
    }
    walk(root, 0)?;
    fs::set_permissions(root, Permissions::from_mode(FOLDER))
}

/// The object, below the root, that a file of attributes belongs to.
fn object_of(name: &str) -> Option<PathBuf> {
    let stem = name.strip_suffix(".metadata.json").or_else(|| name.strip_suffix(".internal.json"))?;
    let (bucket, key) = stem.strip_prefix(".bucket-")?.split_once(".object-")?;
    let decode = |text| String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok();
    Some(Path::new(&decode(bucket)?).join(decode(key)?))
}

#[async_trait::async_trait]
impl S3 for Buckets {
    async fn put_object(
        &self,
        mut request: S3Request<dto::PutObjectInput>,
    ) -> S3Result<S3Response<dto::PutObjectOutput>> {
        let Some(body) = request.input.body.take() else { return Err(s3_error!(IncompleteBody)) };
        let (body, verdict) = verified(body, &request.headers, request.trailing_headers.as_ref());
        request.input.body = Some(body);
        // `s3s-fs` computes the digest that this names, and compares it with a header or trailer that must then exist.
        request.input.checksum_algorithm = promised_trailers(&request.headers)
            .first()
            .and_then(|trailer| trailer.strip_prefix("x-amz-checksum-"))
            .map(|name| dto::ChecksumAlgorithm::from(name.to_ascii_uppercase()));
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let stored = {
            let _storing = self.storing.read().await;
            let stored = self.files.put_object(request).await.map_err(|error| verdict.of(error));
            stored.and_then(|stored| self.keep_private(&bucket, &key).map(|()| stored))
        };
        self.prune();
        stored.map_err(|error| self.disk.explain("PutObject", key, error))
    }

    async fn upload_part(
        &self,
        mut request: S3Request<dto::UploadPartInput>,
    ) -> S3Result<S3Response<dto::UploadPartOutput>> {
        let Some(body) = request.input.body.take() else { return Err(s3_error!(IncompleteBody)) };
        let (body, verdict) = verified(body, &request.headers, request.trailing_headers.as_ref());
        request.input.body = Some(body);
        let key = request.input.key.clone();
        let stored = self.files.upload_part(request).await.map_err(|error| verdict.of(error));
        stored.map_err(|error| self.disk.explain("UploadPart", key, error))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CompleteMultipartUploadOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let upload = request.input.upload_id.clone();
        let completed = {
            let _storing = self.storing.read().await;
            let completed = self.files.complete_multipart_upload(request).await;
            completed.and_then(|completed| self.keep_private(&bucket, &key).map(|()| completed))
        };
        self.prune();
        let completed = completed.map_err(|error| self.disk.explain("CompleteMultipartUpload", key, error));
        completed.map_err(|error| self.not_completed(upload, error))
    }

    async fn copy_object(
        &self,
        request: S3Request<dto::CopyObjectInput>,
    ) -> S3Result<S3Response<dto::CopyObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let source = match &request.input.copy_source {
            dto::CopySource::Bucket { bucket, key, .. } => self.object(bucket, key),
            _ => return Err(s3_error!(NotImplemented)),
        };
        let copied = {
            let _storing = self.storing.read().await;
            let copied = settled(&source, self.files.copy_object(request).await);
            copied.and_then(|copied| self.keep_private(&bucket, &key).map(|()| copied))
        };
        self.prune();
        copied.map_err(|error| self.disk.explain("CopyObject", key, error))
    }

    async fn delete_object(
        &self,
        request: S3Request<dto::DeleteObjectInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let deleted = match settled(&self.object(&bucket, &key), self.files.delete_object(request).await) {
            // Another request deleted it.
            Err(error) if *error.code() == S3ErrorCode::NoSuchKey => {
                Ok(S3Response::new(dto::DeleteObjectOutput::default()))
            }
            deleted => deleted,
        };
        let deleted = deleted.and_then(|deleted| self.forget(&bucket, &key).map(|()| deleted));
        self.prune();
        deleted.map_err(|error| self.disk.explain("DeleteObject", key, error))
    }

    async fn delete_objects(
        &self,
        request: S3Request<dto::DeleteObjectsInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectsOutput>> {
        let bucket = request.input.bucket.clone();
        let keys: Vec<String> = request.input.delete.objects.iter().map(|object| object.key.clone()).collect();
        let deleted = self.files.delete_objects(request).await;
        let deleted = deleted.and_then(|all| keys.iter().try_for_each(|key| self.forget(&bucket, key)).map(|()| all));
        self.prune();
        deleted.map_err(|error| self.disk.explain("DeleteObjects", keys.join(", "), error))
    }

    async fn get_object(&self, request: S3Request<dto::GetObjectInput>) -> S3Result<S3Response<dto::GetObjectOutput>> {
        let key = request.input.key.clone();
        let object = self.object(&request.input.bucket, &key);
        let answer = settled(&object, self.files.get_object(request).await);
        answer.map_err(|error| self.disk.explain("GetObject", key, error))
    }

    async fn head_object(
        &self,
        request: S3Request<dto::HeadObjectInput>,
    ) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        let key = request.input.key.clone();
        let object = self.object(&request.input.bucket, &key);
        let answer = settled(&object, self.files.head_object(request).await);
        answer.map_err(|error| self.disk.explain("HeadObject", key, error))
    }

    async fn head_bucket(
        &self,
        request: S3Request<dto::HeadBucketInput>,
    ) -> S3Result<S3Response<dto::HeadBucketOutput>> {
        let key = request.input.bucket.clone();
        self.files.head_bucket(request).await.map_err(|error| self.disk.explain("HeadBucket", key, error))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<dto::GetBucketLocationInput>,
    ) -> S3Result<S3Response<dto::GetBucketLocationOutput>> {
        let key = request.input.bucket.clone();
        self.files
            .get_bucket_location(request)
            .await
            .map_err(|error| self.disk.explain("GetBucketLocation", key, error))
    }

    async fn list_buckets(
        &self,
        request: S3Request<dto::ListBucketsInput>,
    ) -> S3Result<S3Response<dto::ListBucketsOutput>> {
        self.files.list_buckets(request).await
    }

    async fn list_objects(
        &self,
        request: S3Request<dto::ListObjectsInput>,
    ) -> S3Result<S3Response<dto::ListObjectsOutput>> {
        for _ in 1..LISTINGS {
            let listed = self.files.list_objects(request.clone()).await;
            if !is_internal(&listed) {
                return listed;
            }
        }
        let prefix = request.input.prefix.clone().unwrap_or_default();
        self.files.list_objects(request).await.map_err(|error| self.disk.explain("ListObjects", prefix, error))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<dto::ListObjectsV2Input>,
    ) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
        for _ in 1..LISTINGS {
            let listed = self.files.list_objects_v2(request.clone()).await;
            if !is_internal(&listed) {
                return listed;
            }
        }
        let prefix = request.input.prefix.clone().unwrap_or_default();
        self.files.list_objects_v2(request).await.map_err(|error| self.disk.explain("ListObjectsV2", prefix, error))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<dto::CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CreateMultipartUploadOutput>> {
        let key = request.input.key.clone();
        let created = self.files.create_multipart_upload(request).await;
        created.map_err(|error| self.disk.explain("CreateMultipartUpload", key, error))
    }

    async fn list_parts(&self, request: S3Request<dto::ListPartsInput>) -> S3Result<S3Response<dto::ListPartsOutput>> {
        let key = request.input.key.clone();
        self.files.list_parts(request).await.map_err(|error| self.disk.explain("ListParts", key, error))
    }

    /// Not offered: this server removes stale uploads itself (`stale_uploads`).
    async fn list_multipart_uploads(
        &self,
        _: S3Request<dto::ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<dto::ListMultipartUploadsOutput>> {
        Err(s3_error!(MethodNotAllowed, "Uploads are not listed."))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<dto::AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::AbortMultipartUploadOutput>> {
        let (key, upload) = (request.input.key.clone(), request.input.upload_id.clone());
        if self.broken.lock().unwrap_or_else(PoisonError::into_inner).remove(&upload).is_some() {
            let removed = Uuid::parse_str(&upload).map(|upload| stale_uploads::remove_one(&self.root, upload));
            removed.map_err(S3Error::internal_error)?.map_err(S3Error::internal_error)?;
            return Ok(S3Response::new(dto::AbortMultipartUploadOutput::default()));
        }
        self.files
            .abort_multipart_upload(request)
            .await
            .map_err(|error| self.disk.explain("AbortMultipartUpload", key, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `s3s-fs` has forgotten the upload by the second try, and refuses it as another account's.
    #[test]
    fn a_completion_fails_for_the_same_reason_again() {
        let folder = tempfile::tempdir().unwrap();
        let buckets = Buckets::open(folder.path()).unwrap();
        let answer = |upload: &str, error| buckets.not_completed(upload.to_owned(), error);
        answer("one", S3Error::with_message(S3ErrorCode::InternalError, "No space left on device"));
        let again = answer("one", s3_error!(AccessDenied));
        assert_eq!((again.code(), again.message()), (&S3ErrorCode::InternalError, Some("No space left on device")));
        assert_eq!(*answer("two", s3_error!(AccessDenied)).code(), S3ErrorCode::NoSuchUpload);
    }
}
