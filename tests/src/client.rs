//! The REST API as any HTTP client sees it: JSON in, JSON out, and none of our types.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::picture::{Photo, archive};
use crate::wait::{seconds, until};

/// One API server.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// A response: status, headers, and the JSON body (`Null` if there is none).
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body, if the status is the expected one; panics with the whole response otherwise.
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "unexpected answer: {:#}", self.body);
        self.body
    }

    /// Checks an RFC 9457 problem: status, media type, and a message for the named field.
    pub fn expect_problem(self, status: u16, field: &str) {
        assert_eq!(self.status, status, "unexpected answer: {:#}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json", "{:#}", self.body);
        assert_eq!(self.body["status"], status, "{:#}", self.body);
        assert!(self.body["title"].as_str().is_some_and(|title| !title.is_empty()), "{:#}", self.body);
        let errors = self.body["errors"].as_array().cloned().unwrap_or_default();
        assert!(
            errors.iter().any(|error| {
                error["field"].as_str().is_some_and(|name| name.contains(field))
                    && error["message"].as_str().is_some_and(|message| message.len() > 8)
            }),
            "no error names `{field}`: {:#}",
            self.body
        );
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Client {
    /// `base` is `http://host:port`.
    pub fn new(base: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            // A server may close a connection whose request it refused half-read; requests must not race with that.
            .pool_max_idle_per_host(0)
            .connect_timeout(seconds(3))
            .timeout(seconds(90))
            .build()
            .expect("HTTP client");
        Self { http, base: base.to_owned() }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request to a path of this server, or to any absolute URL.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        self.http.request(method, url)
    }

    /// Sends the request; the error explains why the connection failed.
    pub async fn try_send(&self, request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await?;
        Ok(Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        self.try_send(request).await.expect("the server answers")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// True once the server accepts requests.
    pub async fn is_ready(&self) -> bool {
        self.try_send(self.request(Method::GET, "/readyz").timeout(seconds(2)))
            .await
            .is_ok_and(|answer| answer.status == 200)
    }

    /// Bytes behind a URL, which must answer 200.
    pub async fn download(&self, url: &str) -> Vec<u8> {
        let response = self.http.get(url).send().await.expect("the storage answers");
        assert_eq!(response.status(), 200, "GET of a fresh presigned URL");
        response.bytes().await.expect("bytes").to_vec()
    }

    /// Status code of a plain request to an absolute URL.
    pub async fn status(&self, method: Method, url: &str, body: Vec<u8>) -> u16 {
        self.http.request(method, url).body(body).send().await.expect("the storage answers").status().as_u16()
    }

    // ── datasets ────────────────────────────────────────────────────────────

    /// Creates a dataset with these pictures in one multipart request; returns its id.
    pub async fn dataset(&self, name: &str, photos: &[Photo]) -> String {
        let id = self.empty_dataset(name).await;
        if !photos.is_empty() {
            self.add_images(&id, photos).await.expect(201);
        }
        id
    }

    pub async fn empty_dataset(&self, name: &str) -> String {
        text(&self.post("/v1/datasets", &json!({"name": name})).await.expect(201)["id"])
    }

    /// Each `image` part is followed by its `caption` part.
    pub async fn add_images(&self, dataset: &str, photos: &[Photo]) -> Answer {
        let form = photos.iter().fold(Form::new(), |form, photo| {
            let part = Part::bytes(photo.bytes.clone())
                .file_name(photo.name.clone())
                .mime_str("image/png")
                .expect("a media type");
            form.part("image", part).text("caption", photo.caption.clone())
        });
        self.add_form(dataset, form).await
    }

    pub async fn add_archive(&self, dataset: &str, photos: &[Photo]) -> Answer {
        self.add_archive_bytes(dataset, archive(photos)).await
    }

    pub async fn add_archive_bytes(&self, dataset: &str, bytes: Vec<u8>) -> Answer {
        let part = Part::bytes(bytes).file_name("photos.zip").mime_str("application/zip").expect("a media type");
        self.add_form(dataset, Form::new().part("archive", part)).await
    }

    pub async fn add_form(&self, dataset: &str, form: Form) -> Answer {
        self.send(self.request(Method::POST, &format!("/v1/datasets/{dataset}/images")).multipart(form)).await
    }

    /// Uploads as a browser or a phone does: request a URL, PUT directly to storage, report completion.
    pub async fn add_presigned(&self, dataset: &str, photo: &Photo) -> Value {
        let upload = self.start_upload(dataset, photo).await;
        assert_eq!(self.put_upload(&upload, photo.bytes.clone()).await, 200, "PUT to the presigned URL");
        self.post(&format!("/v1/datasets/{dataset}/uploads/{}/complete", text(&upload["id"])), &json!({}))
            .await
            .expect(201)
    }

    pub async fn start_upload(&self, dataset: &str, photo: &Photo) -> Value {
        let body = json!({"file_name": photo.name, "media_type": "image/png", "caption": photo.caption});
        self.post(&format!("/v1/datasets/{dataset}/uploads"), &body).await.expect(201)
    }

    pub async fn put_upload(&self, upload: &Value, bytes: Vec<u8>) -> u16 {
        let mut request = self.http.put(text(&upload["url"]));
        for (name, value) in upload["headers"].as_object().into_iter().flatten() {
            request = request.header(name, text(value));
        }
        request.body(bytes).send().await.expect("the storage answers").status().as_u16()
    }

    // ── models ──────────────────────────────────────────────────────────────

    /// Files by relative path, as `POST /v1/models` takes them.
    pub async fn add_model(&self, name: &str, files: &[(String, Vec<u8>)], base: Option<&str>) -> Answer {
        let mut form = Form::new().text("name", name.to_owned());
        if let Some(base) = base {
            form = form.text("base", base.to_owned());
        }
        for (path, bytes) in files {
            form = form.part("file", Part::bytes(bytes.clone()).file_name(path.clone()));
        }
        self.send(self.request(Method::POST, "/v1/models").multipart(form)).await
    }

    /// Requests an import (202 is checked) and returns it.
    pub async fn import(&self, name: &str, source: &Value) -> Value {
        let answer = self.post("/v1/models", &json!({"name": name, "source": source})).await;
        let location = answer.header("location").to_owned();
        let import = answer.expect(202);
        assert_eq!(location, format!("/v1/imports/{}", text(&import["id"])), "Location names the import");
        import
    }

    // ── jobs ────────────────────────────────────────────────────────────────

    /// Creates a generation (202 is checked) and returns it.
    pub async fn generate(&self, body: &Value) -> Value {
        self.create("/v1/generations", body).await
    }

    /// Creates a training (202 is checked) and returns it.
    pub async fn train(&self, body: &Value) -> Value {
        self.create("/v1/trainings", body).await
    }

    async fn create(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        let location = answer.header("location").to_owned();
        let job = answer.expect(202);
        assert_eq!(location, format!("{path}/{}", text(&job["id"])), "Location names the new resource");
        job
    }

    /// Polls a generation or training by its `urls.self` until it is terminal.
    pub async fn settled(&self, job: &Value, limit: Duration) -> Value {
        let path = text(&job["urls"]["self"]);
        until(limit, &format!("{path} comes to an end"), || async {
            let now = self.get(&path).await.expect(200);
            is_terminal(&now).then_some(now)
        })
        .await
    }

    /// As [`Client::settled`], and the job must have succeeded.
    pub async fn succeeded(&self, job: &Value, limit: Duration) -> Value {
        let end = self.settled(job, limit).await;
        assert_eq!(end["status"], "succeeded", "{end:#}");
        end
    }

    /// Polls until the job runs and has made at least `step` steps.
    pub async fn running_at(&self, job: &Value, step: i64, limit: Duration) -> Value {
        let path = text(&job["urls"]["self"]);
        until(limit, &format!("{path} reaches step {step}"), || async {
            let now = self.get(&path).await.expect(200);
            assert!(!is_terminal(&now), "ended before step {step}: {now:#}");
            (now["status"] == "running" && now["progress"]["step"].as_i64() >= Some(step)).then_some(now)
        })
        .await
    }

    /// All artifacts of a settled job, downloaded and checked against the API's description.
    pub async fn artifacts(&self, job: &Value) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for artifact in job["artifacts"].as_array().expect("artifacts") {
            let bytes = self.download(&text(&artifact["url"])).await;
            assert_eq!(artifact["bytes"].as_u64(), Some(bytes.len() as u64), "{artifact:#}");
            assert_eq!(text(&artifact["sha256"]), crate::picture::sha256(&bytes), "{artifact:#}");
            if artifact["media_type"] == "image/png" {
                assert_eq!(text(&artifact["image_hash"]), crate::picture::md5(&bytes), "{artifact:#}");
                let size = crate::picture::pixels(&bytes).dimensions();
                assert_eq!(json!([artifact["width"], artifact["height"]]), json!([size.0, size.1]), "{artifact:#}");
            }
            all.push(bytes);
        }
        all
    }
}

pub fn is_terminal(job: &Value) -> bool {
    ["succeeded", "failed", "canceled"].iter().any(|status| job["status"] == *status)
}

/// The string in a JSON value, which must be one.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a string, not {value}")).to_owned()
}
