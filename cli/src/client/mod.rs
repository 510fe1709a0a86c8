//! The REST client behind `generate`, `train`, `generations`, `trainings`, `models`, `datasets`, `workers` and `demo`.
//! It knows HTTP and the types of `/v1`, and nothing of Postgres, storage or tensors: curl can do all that these
//! commands do.

mod follow;
mod pictures;
mod problem;
mod resource;
mod upload;

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use futures::StreamExt as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use problem::Problem;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

pub(crate) use follow::{Preview, follow, follow_generation, follow_import};
pub(crate) use pictures::{Pictures, dataset_names, find_dataset, free_name, unless_interrupted};
pub(crate) use resource::{
    Artifact, Dataset, Export, Generation, Import, Job, Model, Page, PictureInfo, Status, Swap, Training, Worker,
};
pub(crate) use upload::{create_input, import_model, picture_info, read_picture};

use crate::configuration::secret;
use crate::failure::Failure;
use crate::key::{self, Key};
use crate::output::shown;
use crate::{local_key, whole_file};

/// Maximum number of items in one page.
const PAGE: usize = 100;
const STRANGE_ANSWER: &str = "the server's answer is not what this version of the client expects";

/// Where the server is, and how answers are printed. Shared by every command that is a client.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClientOptions {
    /// Address of the Pyrograph server
    #[arg(long, env = "PYROGRAPH_SERVER", default_value = "http://127.0.0.1:8080", value_name = "URL",
          value_parser = server_address)]
    pub server: Url,
    /// Key for the server [env: PYROGRAPH_KEY] [default: that of a running `up`]
    #[arg(long, value_name = "KEY")]
    pub key: Option<Key>,
    /// Project to work in, for keys with the scope `admin` [default: the key's]
    #[arg(long, env = "PYROGRAPH_PROJECT", value_name = "NAME", value_parser = key::header_text)]
    pub project: Option<String>,
    /// Print the result as JSON on stdout; progress stays on stderr
    #[arg(long)]
    pub json: bool,
}

/// The address of a server as people write it: `http://` may be left out.
///
/// # Errors
/// It is none.
pub(crate) fn server_address(text: &str) -> Result<Url, String> {
    let complete = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&complete).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| "it is not an address such as http://127.0.0.1:8080 or https://pictures.example.com".to_owned())
}

/// A connection to one Pyrograph server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: Url,
    key: Option<Key>,
    project: Option<String>,
}

impl Client {
    /// A client of the server that the options name. Nothing is sent yet.
    pub(crate) fn new(options: &ClientOptions) -> Result<Self, Failure> {
        let named = || secret("PYROGRAPH_KEY")?.map(|key| key.parse()).transpose().map_err(Failure::Usage);
        let key = options.key.clone().map_or_else(named, |key| Ok(Some(key)))?;
        let key = key.or_else(|| local_key::read(&options.server));
        Ok(Self { project: options.project.clone(), ..Self::with_key(&options.server, key)? })
    }

    /// A client of the server at `server`.
    pub(crate) fn with_key(server: &Url, key: Option<Key>) -> Result<Self, Failure> {
        let http = outgoing::client()
            .connect_timeout(Duration::from_secs(10))
            // Between two files of an upload the server assembles the first one, and reads nothing meanwhile.
            .tcp_user_timeout(None);
        let http = http.build().context("could not start the HTTP client")?;
        Ok(Self { http, server: server.clone(), key, project: None })
    }

    /// The address of `path` (as `/v1/models`, or an absolute URL that the server gave) on this server, which a proxy
    /// may serve below a path.
    fn address(&self, path: &str) -> Result<Url, Failure> {
        let address = match path.strip_prefix('/') {
            Some(path) => {
                let mut root = self.server.clone();
                root.set_query(None);
                root.set_fragment(None);
                Url::parse(&format!("{}/{path}", root.as_str().trim_end_matches('/')))
            }
            None => self.server.join(path),
        };
        Ok(address.with_context(|| format!("not an address: {path}"))?)
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, Failure> {
        let mut request = self.http.request(method, self.address(path)?);
        // An absolute URL is presigned, perhaps by another server.
        if path.starts_with('/') {
            if let Some(key) = &self.key {
                request = request.bearer_auth(key.reveal());
            }
            if let Some(project) = &self.project {
                request = request.header("Pyrograph-Project", project);
            }
        }
        Ok(request)
    }

    /// Sends the request and turns every answer but a success into a failure.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.success(response).await
    }

    async fn success(&self, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        let problem = Problem::read(status, &body);
        if status == StatusCode::BAD_GATEWAY || status == StatusCode::SERVICE_UNAVAILABLE {
            return Err(Failure::Unreachable(format!("the server at {} is not ready: {problem}", self.server)));
        }
        if status.is_client_error() {
            return Err(Failure::Refused(problem.to_string()));
        }
        Err(Failure::Failed(anyhow::anyhow!("the server failed: {problem}")))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        // Without path and query: a presigned URL is a secret until it expires.
        let asked = error.url().unwrap_or(&self.server);
        let server = asked.origin().ascii_serialization();
        if let Some(refusal) = outgoing::refused_certificate(error) {
            return Failure::Unreachable(format!("{server} is not trusted: {refusal}."));
        }
        let mut reason = reason(error);
        if asked.scheme() == "https" && reason.contains("InvalidContentType") {
            reason = format!("it answers without TLS; write http:// in place of https:// ({reason})");
        }
        let proxies = outgoing::Proxies::environment().unwrap_or_default();
        if let Some(proxy) = proxies.of(asked) {
            let proxy =
                format!("{}:{}", proxy.host_str().unwrap_or_default(), proxy.port_or_known_default().unwrap_or(0));
            reason = format!("{reason} (through the proxy {proxy}; NO_PROXY names hosts that need none)");
        }
        if error.is_connect() && asked.origin() == self.server.origin() {
            reason = format!(
                "{reason}\nIs it running? Start one with `pyrograph up`, or name another with --server or \
                 PYROGRAPH_SERVER."
            );
        }
        Failure::Unreachable(format!("no answer from {server}: {reason}"))
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, Failure> {
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Ok(serde_json::from_slice(&body).context(STRANGE_ANSWER)?)
    }

    /// GET, read as `T`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let response = self.send(self.request(Method::GET, path)?).await?;
        self.read(response).await
    }

    /// As [`Client::get`]; `None` if it does not exist.
    pub(crate) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        let response = self.request(Method::GET, path)?.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        self.read(self.success(response).await?).await.map(Some)
    }

    /// Every item of a list.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        self.newest(path, usize::MAX).await
    }

    /// The first items of a list, at most `count`, page after page. `path` may have a query string with filters.
    pub(crate) async fn newest(&self, path: &str, count: usize) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        let glue = if path.contains('?') { '&' } else { '?' };
        while items.len() < count {
            let limit = (count - items.len()).min(PAGE);
            let page = match &cursor {
                Some(cursor) => format!("{path}{glue}limit={limit}&cursor={}", path_segment(cursor)),
                None => format!("{path}{glue}limit={limit}"),
            };
            let page: Page<Value> = self.get(&page).await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        Ok(items)
    }

    /// Reads the parts of an answer that a command shows.
    pub(crate) fn understand<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
        Ok(serde_json::from_value(answer).context(STRANGE_ANSWER)?)
    }

    /// POST of a JSON body, the answer read as `T`.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        let response = self.send(self.request(Method::POST, path)?.json(body)).await?;
        self.read(response).await
    }

    /// POST of a form with files, the answer read as `T`.
    pub(crate) async fn post_form<T: DeserializeOwned>(
        &self,
        path: &str,
        form: reqwest::multipart::Form,
    ) -> Result<T, Failure> {
        let response = self.send(self.request(Method::POST, path)?.multipart(form)).await?;
        self.read(response).await
    }

    /// As [`Client::post_form`]; within, why the server refuses the content (413, 415, 422).
    pub(crate) async fn offer_form<T: DeserializeOwned>(
        &self,
        path: &str,
        form: reqwest::multipart::Form,
    ) -> Result<Result<T, String>, Failure> {
        let request = self.request(Method::POST, path)?.multipart(form);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if matches!(status.as_u16(), 413 | 415 | 422) {
            let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
            return Ok(Err(Problem::read(status, &body).reason()));
        }
        self.read(self.success(response).await?).await.map(Ok)
    }

    /// POST without a body: an action such as `cancel`.
    pub(crate) async fn act(&self, path: &str) -> Result<Value, Failure> {
        let response = self.send(self.request(Method::POST, path)?).await?;
        self.read(response).await
    }

    /// DELETE.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send(self.request(Method::DELETE, path)?).await.map(drop)
    }

    /// Checks that [`Client::download`] can write weights to `file`. Creates missing folders.
    ///
    /// # Errors
    /// It is a folder, is not a weights file, or cannot be written.
    pub(crate) fn check_writable(file: &Path) -> Result<(), Failure> {
        if file.is_dir() {
            return Err(Failure::Usage(format!("{} is a folder, not a file", shown(file))));
        }
        if file.extension().is_none_or(|ending| ending != "safetensors") {
            return Err(Failure::Usage(format!("{} does not end in .safetensors", shown(file))));
        }
        whole_file::check_writable(file)
    }

    /// Downloads `url`, which may be presigned, to `file`: completely, or not at all. Creates missing folders.
    ///
    /// # Errors
    /// Without `overwrite`, also a file that was created meanwhile.
    pub(crate) async fn download(&self, url: &str, file: &Path, overwrite: bool) -> Result<(), Failure> {
        let mut response = self.send(self.request(Method::GET, url)?).await?.bytes_stream();
        let cannot_write = || format!("could not write {}", shown(file));
        let (out, part) = whole_file::part_of(file).with_context(cannot_write)?;
        let mut out = tokio::fs::File::from_std(out);
        while let Some(chunk) = response.next().await {
            let chunk = chunk.map_err(|error| self.unreachable(&error))?;
            out.write_all(&chunk).await.with_context(cannot_write)?;
        }
        out.flush().await.with_context(cannot_write)?;
        match whole_file::finish(part, file, overwrite) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(whole_file::exists(file)),
            finished => Ok(finished.with_context(cannot_write)?),
        }
    }
}

/// Characters that a segment of a path or a value of a query escapes: all but RFC 3986's unreserved ones.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `text` as one segment of a path, or one value of a query.
pub(crate) fn path_segment(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// The cause of a failed request, without the URL: a presigned one is a secret until it expires.
fn reason(error: &reqwest::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => outgoing::root_cause(source).to_string(),
        None if error.is_timeout() => "timed out".to_owned(),
        None => "the connection was lost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[test]
    fn a_server_is_named_with_or_without_its_scheme_and_below_a_path() {
        for (text, server, models) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1/models?limit=1"),
            ("localhost:8080", "http://localhost:8080/", "http://localhost:8080/v1/models?limit=1"),
            ("[::1]:8080", "http://[::1]:8080/", "http://[::1]:8080/v1/models?limit=1"),
            ("https://a.example/pyro/", "https://a.example/pyro/", "https://a.example/pyro/v1/models?limit=1"),
            ("https://a.example/pyro", "https://a.example/pyro", "https://a.example/pyro/v1/models?limit=1"),
        ] {
            let url = server_address(text).unwrap();
            assert_eq!(url.as_str(), server);
            let client = Client::with_key(&url, None).unwrap();
            assert_eq!(client.address("/v1/models?limit=1").unwrap().as_str(), models);
            assert_eq!(client.address("https://b.example/x?y=1").unwrap().as_str(), "https://b.example/x?y=1");
        }
        for text in ["", "http://", "ftp://a", "a b", "file:///x"] {
            assert!(server_address(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_server_without_tls_is_recognised() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = server_address(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
        let answer = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            connection.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await.unwrap();
            connection
        });
        let Err(Failure::Unreachable(why)) = Client::with_key(&server, None).unwrap().get::<Value>("/v1/models").await
        else {
            panic!("it was read")
        };
        assert!(why.contains("write http://"), "{why}");
        answer.await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_was_created_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pencil.safetensors");
        std::fs::write(&file, "older").unwrap();
        std::fs::write(folder.path().join("pencil.safetensors.part"), "older").unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = server_address(&listener.local_addr().unwrap().to_string()).unwrap();
        let answer = tokio::spawn(async move {
            for _ in 0..2 {
                let (mut connection, _) = listener.accept().await.unwrap();
                let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nnewer";
                // A connection that is closed with unread bytes is reset.
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    connection.read_buf(&mut request).await.unwrap();
                }
                connection.write_all(answer).await.unwrap();
            }
        });
        let client = Client::with_key(&server, None).unwrap();
        let refused = client.download("/x", &file, false).await;
        let Err(Failure::Usage(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("--overwrite"), "{why}");
        assert_eq!(std::fs::read(&file).unwrap(), b"older");
        client.download("/x", &file, true).await.unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"newer");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
        assert_eq!(std::fs::read(folder.path().join("pencil.safetensors.part")).unwrap(), b"older");
        answer.await.unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_known_before_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Client::check_writable(folder.path()), Err(Failure::Usage(_))));
        let file = folder.path().join("new/pencil.safetensors");
        Client::check_writable(&file).unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 0, "nothing is left behind");
        std::fs::write(&file, "older").unwrap();
        Client::check_writable(&file).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"older");
        let Err(Failure::Usage(why)) = whole_file::check_free(&file, false) else { panic!("it is replaced") };
        assert!(why.contains("--overwrite"), "{why}");
        whole_file::check_free(&file, true).unwrap();
        whole_file::check_free(&folder.path().join("other.safetensors"), false).unwrap();
        let Err(Failure::Usage(why)) = Client::check_writable(&file.join("below-a-file.safetensors")) else {
            panic!("a file is no folder")
        };
        assert!(why.contains("pencil.safetensors is a file, not a folder"), "{why}");
        let link = folder.path().join("link.safetensors");
        std::os::unix::fs::symlink("nowhere/x", &link).unwrap();
        for below in [link.clone(), link.join("x.safetensors")] {
            let Err(Failure::Usage(why)) = Client::check_writable(&below) else { panic!("{below:?} was taken") };
            assert!(why.contains("link.safetensors is a link to nothing"), "{why}");
        }
        let caption = folder.path().join("owl.txt");
        std::fs::write(&caption, "an owl").unwrap();
        assert!(matches!(Client::check_writable(&caption), Err(Failure::Usage(_))));
    }
}
