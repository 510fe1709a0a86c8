//! Uploads in parts that were begun and neither completed nor aborted. `object_store` cannot list them, so this sends
//! the one request itself, by a presigned URL.

use std::time::Duration;

use chrono::{DateTime, Utc};
use http::Method;
use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use serde::Deserialize;

use super::{Storage, from_object_store};
use crate::{Error, Result};

const LIMIT: Duration = Duration::from_secs(30);
/// Largest page that is read, in bytes.
const MAX_PAGE: usize = 4 << 20;

/// An upload in parts that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OpenUpload {
    pub key: String,
    pub upload_id: String,
    #[serde(rename = "Initiated")]
    pub begun_at: DateTime<Utc>,
}

/// A page of the list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default, rename = "Upload")]
    uploads: Vec<OpenUpload>,
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
}

impl Storage {
    /// Uploads that were begun and have not ended; `None` if the service cannot list them, as the embedded one cannot.
    pub(crate) async fn open_uploads(&self) -> Result<Option<Vec<OpenUpload>>> {
        let http = outgoing::client().timeout(LIMIT).build().map_err(Error::internal)?;
        let (mut all, mut markers) = (Vec::new(), Vec::new());
        loop {
            let url = url(&self.bucket, &markers).await?;
            // Without the URL, whose query is a signature.
            let answer = http.get(url).send().await.map_err(|error| Error::unavailable(error.without_url()))?;
            let status = answer.status();
            let text = answer.bytes().await.map_err(|error| Error::unavailable(error.without_url()))?;
            if !status.is_success() {
                tracing::debug!(%status, "the bucket does not list uploads in parts");
                return Ok(None);
            }
            if text.len() > MAX_PAGE {
                return Err(Error::unavailable("the list of open uploads is too long"));
            }
            let page = page(&text)?;
            all.extend(page.uploads);
            if !page.is_truncated || page.next_key_marker.is_empty() {
                return Ok(Some(all));
            }
            markers = vec![("key-marker", page.next_key_marker), ("upload-id-marker", page.next_upload_id_marker)];
        }
    }

    /// Ends an upload in parts, whose parts are then deleted.
    pub(crate) async fn abort(&self, upload: &OpenUpload) -> Result<()> {
        match self.bucket.abort_multipart(&Path::from(upload.key.as_str()), &upload.upload_id).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(from_object_store(&upload.key, error)),
        }
    }
}

async fn url(bucket: &AmazonS3, markers: &[(&str, String)]) -> Result<url::Url> {
    let query = [("uploads", String::new())].into_iter().chain(markers.iter().cloned());
    let options = SignedUrlOptions::default().with_query(query);
    let signed = bucket.signed_url_opts(Method::GET, &Path::default(), LIMIT, &options).await;
    signed.map_err(|error| from_object_store("?uploads", error))
}

fn page(text: &[u8]) -> Result<Page> {
    quick_xml::de::from_reader(text).map_err(|error| Error::unavailable(format!("the list of open uploads: {error}")))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::StorageConfig;
    use super::super::tests::config;
    use super::*;

    /// An S3 server that has two pages of open uploads; it notes the first line of each request.
    async fn server() -> (Storage, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = seen.clone();
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                    socket.read_buf(&mut request).await.unwrap();
                }
                let line = String::from_utf8(request).unwrap().lines().next().unwrap().to_owned();
                let second = line.contains("key-marker=models%2Fa");
                notes.lock().unwrap().push(line);
                let (key, more) =
                    if second { ("models/b", "") } else { ("models/a", "<NextKeyMarker>models/a</NextKeyMarker>") };
                let body = format!(
                    "<ListMultipartUploadsResult>{more}<IsTruncated>{}</IsTruncated><Upload><Key>{key}</Key>\
                     <UploadId>u</UploadId><Initiated>2026-11-20T08:00:00.000Z</Initiated></Upload>\
                     </ListMultipartUploadsResult>",
                    !second
                );
                let answer =
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (Storage::new(&StorageConfig { endpoint, public_endpoint: None, ..config() }).unwrap(), seen)
    }

    #[tokio::test]
    async fn open_uploads_are_listed_page_by_page_and_aborted() {
        let (storage, seen) = server().await;
        let open = storage.open_uploads().await.unwrap().unwrap();
        assert_eq!(open.iter().map(|upload| upload.key.as_str()).collect::<Vec<_>>(), ["models/a", "models/b"]);
        storage.abort(&open[1]).await.unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert!(seen[0].starts_with("GET /pyrograph/?uploads") && seen[0].contains("X-Amz-Signature="), "{}", seen[0]);
        assert!(seen[2].starts_with("DELETE /pyrograph/models/b?uploadId=u"), "{}", seen[2]);
    }

    #[test]
    fn a_page_is_read() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Bucket>pyrograph</Bucket><KeyMarker/><UploadIdMarker/>
              <NextKeyMarker>models/b</NextKeyMarker><NextUploadIdMarker>2</NextUploadIdMarker>
              <MaxUploads>2</MaxUploads><IsTruncated>true</IsTruncated>
              <Upload><Key>models/a</Key><UploadId>1</UploadId><Initiator><ID>x</ID></Initiator>
                <StorageClass>STANDARD</StorageClass><Initiated>2026-11-20T08:00:00.000Z</Initiated></Upload>
              <Upload><Key>models/b</Key><UploadId>2</UploadId><Initiated>2026-11-21T08:00:00.000Z</Initiated></Upload>
            </ListMultipartUploadsResult>"#;
        let page = page(text.as_bytes()).unwrap();
        let seen: Vec<_> = page.uploads.iter().map(|upload| (upload.key.as_str(), upload.upload_id.as_str())).collect();
        assert_eq!(seen, [("models/a", "1"), ("models/b", "2")]);
        assert_eq!(page.uploads[0].begun_at.to_rfc3339(), "2026-11-20T08:00:00+00:00");
        assert_eq!((page.is_truncated, page.next_key_marker.as_str()), (true, "models/b"));
    }

    #[test]
    fn an_empty_list_is_read() {
        let page = page(b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>");
        assert!(page.unwrap().uploads.is_empty());
        assert!(super::page(b"<html>").is_err());
    }
}
