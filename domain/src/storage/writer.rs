//! An object that is streamed in, part by part. It does not exist before it is finished.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    MultipartId, MultipartUpload, PutMultipartOptions, PutPayload, PutResult, UploadPart, WriteMultipart,
};
use sha2::{Digest, Sha256};

use super::{PART_BYTES, Storage, Written, attributes, from_object_store};
use crate::{Error, Result};

const PARTS_IN_FLIGHT: usize = 4;

/// An object that is being streamed in. If dropped before [`ObjectWriter::finish`], it discards the parts that are
/// uploaded already, which no key names.
pub struct ObjectWriter {
    storage: Storage,
    key: String,
    upload: Option<WriteMultipart>,
    bytes: u64,
    sha256: Sha256,
}

impl Storage {
    /// Opens an object for streaming in; it does not exist before `finish`.
    pub async fn writer(&self, key: &str, media_type: &str) -> Result<ObjectWriter> {
        let options = PutMultipartOptions { attributes: attributes(media_type), ..PutMultipartOptions::default() };
        let path = Path::from(key);
        let id =
            self.bucket.create_multipart_opts(&path, options).await.map_err(|error| from_object_store(key, error))?;
        let Self { bucket, completion, .. } = self.clone();
        let upload = Upload { bucket, completion, path, id, begun: 0, stored: Arc::default() };
        Ok(ObjectWriter {
            storage: self.clone(),
            key: key.to_owned(),
            upload: Some(WriteMultipart::new_with_chunk_size(Box::new(upload), PART_BYTES)),
            bytes: 0,
            sha256: Sha256::new(),
        })
    }
}

impl ObjectWriter {
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(upload) = &mut self.upload else { return Err(Error::internal("the object is finished")) };
        upload.wait_for_capacity(PARTS_IN_FLIGHT).await.map_err(|error| from_object_store(&self.key, error))?;
        self.bytes += bytes.len() as u64;
        self.sha256.update(bytes);
        upload.write(bytes);
        Ok(())
    }

    /// Makes the object of its parts. If it exists in spite of an error, the reply was lost, and that is success.
    pub async fn finish(mut self) -> Result<Written> {
        if let Some(upload) = self.upload.take()
            && let Err(error) = upload.finish().await
            && !self.storage.head(&self.key).await.is_ok_and(|there| there.bytes == self.bytes)
        {
            return Err(from_object_store(&self.key, error));
        }
        Ok(Written { bytes: self.bytes, sha256: hex::encode(std::mem::take(&mut self.sha256).finalize()) })
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // The abort logs its own errors.
                let _ = upload.abort().await;
            });
        }
    }
}

/// The upload of `object_store`, except its completion, which gets more time than a part.
#[derive(Debug)]
struct Upload {
    bucket: Arc<AmazonS3>,
    completion: Arc<AmazonS3>,
    path: Path,
    id: MultipartId,
    /// Number of parts begun so far.
    begun: usize,
    stored: Arc<Mutex<BTreeMap<usize, PartId>>>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let Self { bucket, path, id, stored, .. } = self;
        let (bucket, path, id, stored) = (bucket.clone(), path.clone(), id.clone(), stored.clone());
        let number = self.begun;
        self.begun += 1;
        Box::pin(async move {
            let part = bucket.put_part(&path, &id, number, data).await?;
            stored.lock().unwrap_or_else(PoisonError::into_inner).insert(number, part);
            Ok(())
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let stored = std::mem::take(&mut *self.stored.lock().unwrap_or_else(PoisonError::into_inner));
        self.completion.complete_multipart(&self.path, &self.id, stored.into_values().collect()).await
    }

    /// Never fails, since it would hide the error that it follows.
    async fn abort(&mut self) -> object_store::Result<()> {
        if let Err(error) = self.bucket.abort_multipart(&self.path, &self.id).await {
            tracing::warn!(key = %self.path, %error, "an unfinished upload could not be aborted");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::StorageConfig;
    use super::super::tests::config;
    use super::*;

    const SILENCE: Duration = Duration::from_millis(500);

    /// An S3 server that takes `pause` to put parts together, and then answers, or hangs up.
    async fn server(pause: Duration, answers: bool) -> StorageConfig {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(socket, pause, answers));
            }
        });
        StorageConfig { endpoint, public_endpoint: None, ..config() }
    }

    async fn answer(mut socket: TcpStream, pause: Duration, answers: bool) {
        let mut seen = Vec::new();
        loop {
            let Some(end) = seen.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                if socket.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                    return;
                }
                continue;
            };
            let head = String::from_utf8(seen[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let whole = end + 4 + length.map_or(0, |length| length.parse::<usize>().unwrap());
            while seen.len() < whole {
                socket.read_buf(&mut seen).await.unwrap();
            }
            seen.drain(..whole);
            let request = head.lines().next().unwrap();
            let (more, body) = match request {
                _ if request.contains("?uploads") => {
                    ("", "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
                }
                _ if request.starts_with("head") => {
                    ("Content-Length: 9\r\nLast-Modified: Fri, 20 Nov 2026 00:00:00 GMT\r\n", "")
                }
                _ if request.starts_with("post") => {
                    tokio::time::sleep(pause).await;
                    if !answers {
                        return;
                    }
                    ("", "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>")
                }
                _ => ("", ""),
            };
            let length = if more.is_empty() { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
            let answer = format!("HTTP/1.1 200 OK\r\nETag: \"e\"\r\n{more}{length}\r\n{body}");
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    async fn write(config: &StorageConfig, bytes: &[u8]) -> Result<Written> {
        let storage = Storage::with_patience(config, SILENCE, 20 * SILENCE)?;
        let mut writer = storage.writer("models/m/a", "application/octet-stream").await?;
        writer.write(bytes).await?;
        writer.finish().await
    }

    #[tokio::test]
    async fn putting_parts_together_may_take_longer_than_a_part() {
        let config = server(2 * SILENCE, true).await;
        assert_eq!(write(&config, b"unrelated").await.unwrap().bytes, 9);
    }

    #[tokio::test]
    async fn a_lost_reply_at_the_end_is_success_if_the_object_is_there() {
        let config = server(Duration::ZERO, false).await;
        assert_eq!(write(&config, b"nine byte").await.unwrap().bytes, 9);
        let error = write(&config, b"another length").await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    }
}
