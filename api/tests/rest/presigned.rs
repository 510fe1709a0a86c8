//! Presigned PUTs as clients send them, and what the S3 server of one machine keeps of them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::test_server::{TestServer, png, text};

impl TestServer {
    async fn upload(&self, dataset: &str) -> Value {
        let request = json!({"file_name": "fox.png", "media_type": "image/png", "caption": "a fox"});
        self.post(&format!("/v1/datasets/{dataset}/uploads"), &request).await.expect(201)
    }

    fn put(&self, upload: &Value) -> RequestBuilder {
        self.request(Method::PUT, &text(&upload["url"])).header("content-type", "image/png")
    }

    async fn complete(&self, dataset: &str, upload: &Value) -> crate::test_server::Answer {
        self.post(&format!("/v1/datasets/{dataset}/uploads/{}/complete", text(&upload["id"])), &json!({})).await
    }
}

/// CRC-32 as `x-amz-checksum-crc32` states it.
fn crc32(bytes: &[u8]) -> String {
    let crc = !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    });
    BASE64_STANDARD.encode(crc.to_be_bytes())
}

/// The body of a client that sends its checksum behind the bytes, and its headers.
fn chunked(put: RequestBuilder, bytes: &[u8], crc: &str) -> RequestBuilder {
    let mut body = format!("{:x}\r\n", bytes.len()).into_bytes();
    body.extend(bytes);
    body.extend(format!("\r\n0\r\nx-amz-checksum-crc32:{crc}\r\n\r\n").bytes());
    put.header("content-encoding", "aws-chunked")
        .header("x-amz-trailer", "x-amz-checksum-crc32")
        .header("x-amz-decoded-content-length", bytes.len())
        .header("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
        .body(body)
}

#[tokio::test]
async fn a_put_that_is_refused_is_not_stored() {
    let server = TestServer::new().await;
    let dataset = server.dataset(0).await;
    let (picture, other) = (png(40, 30, 1), png(40, 30, 2));
    let nothing = server.bucket();
    for (what, header, value) in [
        ("another CRC", "x-amz-checksum-crc32", "AAAAAA=="),
        ("another MD5", "content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
        ("another SHA-256", "x-amz-checksum-sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
        ("another CRC-64", "x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
        ("another length", "x-amz-decoded-content-length", "7"),
    ] {
        let upload = server.upload(&dataset).await;
        let answer = server.send(server.put(&upload).header(header, value).body(picture.clone())).await;
        assert_eq!(answer.status, 400, "{what}");
        server.complete(&dataset, &upload).await.refuses(409, "");
        assert_eq!(server.bucket(), nothing, "{what}");
    }
    // A body that does not match leaves the object unchanged.
    let upload = server.upload(&dataset).await;
    let good = server.put(&upload).header("x-amz-checksum-crc32", crc32(&picture)).body(picture.clone());
    assert_eq!(server.send(good).await.status, 200);
    let bad = server.put(&upload).header("x-amz-checksum-crc32", crc32(&picture)).body(other);
    assert_eq!(server.send(bad).await.status, 400);
    let example = server.complete(&dataset, &upload).await.expect(201);
    assert_eq!(server.download(&example["url"]).await, picture);
}

#[tokio::test]
async fn what_frames_the_bytes_is_never_stored_with_them() {
    // A presigned URL does not sign how the body is encoded, so the server refuses what SDKs do elsewhere.
    let server = TestServer::new().await;
    let dataset = server.dataset(0).await;
    let picture = png(40, 30, 1);
    let nothing = server.bucket();
    let upload = server.upload(&dataset).await;
    for crc in [crc32(&picture), "AAAAAA==".to_owned()] {
        let answer = server.send(chunked(server.put(&upload), &picture, &crc)).await;
        assert!(matches!(answer.status, 400 | 501), "{answer:?}");
        server.complete(&dataset, &upload).await.refuses(409, "");
        assert_eq!(server.bucket(), nothing);
    }
}

#[tokio::test]
async fn objects_are_private_and_leave_nothing_behind() {
    let server = TestServer::new().await;
    let before = server.bucket();
    assert_eq!(before, [("pyrograph".to_owned(), 0o700)]);
    let dataset = server.dataset(3).await;
    let upload = server.upload(&dataset).await;
    assert_eq!(server.send(server.put(&upload).body(png(8, 8, 9))).await.status, 200);
    let full = server.bucket();
    assert!(full.len() > 8, "{full:?}");
    for (name, mode) in full {
        let is_folder = !name.ends_with(".png") && !name.ends_with(".json") && !name.ends_with(&text(&upload["id"]));
        assert_eq!(mode, if is_folder { 0o700 } else { 0o600 }, "{name}");
    }
    server.delete(&format!("/v1/datasets/{dataset}")).await.expect(204);
    assert_eq!(server.bucket(), before);
}
