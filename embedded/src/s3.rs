//! An S3 endpoint in the process: `s3s-fs` over a folder, with real signatures and expiry, so that the same code works
//! with it and with any other S3.

mod bucket;
mod disk;
mod meanwhile;
mod verified;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::bucket::Buckets;
use crate::{Error, secret, stale_uploads, write_private};

const BUCKET: &str = "pyrograph";
const OBJECTS: &str = "objects";
const CREDENTIALS: &str = "credentials.json";

/// A running server; dropping it stops it.
pub struct S3 {
    objects: PathBuf,
    address: SocketAddr,
    credentials: Credentials,
    serving: JoinSet<()>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Credentials {
    access_key: String,
    secret_key: String,
}

impl S3 {
    /// Serves `folder/objects` at `bind` (port 0 = any free one). The keys are created once and stored in
    /// `folder/credentials.json`. The bucket `pyrograph` exists.
    pub async fn start(folder: &Path, bind: SocketAddr) -> Result<S3, Error> {
        let objects = folder.join(OBJECTS);
        fs::create_dir_all(objects.join(BUCKET)).map_err(Error::file(&objects))?;
        let credentials = credentials(&folder.join(CREDENTIALS))?;

        let mut builder = S3ServiceBuilder::new(Buckets::open(&objects)?);
        builder.set_auth(SimpleAuth::from_single(credentials.access_key.clone(), credentials.secret_key.clone()));
        let service = builder.build();

        let listener = TcpListener::bind(bind).await.map_err(Error::file(bind.to_string()))?;
        let address = listener.local_addr().map_err(Error::file(bind.to_string()))?;
        let mut serving = JoinSet::new();
        serving.spawn(keep_serving(listener, service));
        serving.spawn(stale_uploads::keep_removing(objects.clone()));
        Ok(S3 { objects, address, credentials, serving })
    }

    /// The folder with the objects of the bucket that a server on `folder` serves with this key, one file each under
    /// the object's name. A file is replaced or removed as a whole, and never changed. `None` if the key is another
    /// server's.
    pub fn objects(folder: &Path, access_key: &str) -> Option<PathBuf> {
        let text = fs::read_to_string(folder.join(CREDENTIALS)).ok()?;
        let credentials: Credentials = serde_json::from_str(&text).ok()?;
        (credentials.access_key == access_key).then(|| folder.join(OBJECTS).join(BUCKET))
    }

    /// Creates another bucket, unless it exists. `name` is the valid name of one.
    pub fn create_bucket(&self, name: &str) -> Result<(), Error> {
        let folder = self.objects.join(name);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(Error::file(&folder))
    }

    /// For instance `http://127.0.0.1:8014`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn bucket(&self) -> &str {
        BUCKET
    }

    pub fn access_key(&self) -> &str {
        &self.credentials.access_key
    }

    /// Do not log it.
    pub fn secret_key(&self) -> &str {
        &self.credentials.secret_key
    }

    /// Closes the port and the connections.
    pub async fn stop(mut self) {
        self.serving.shutdown().await;
    }
}

/// Serves, and begins again if a fault ends it. Stopping the server aborts this task.
async fn keep_serving(listener: TcpListener, service: S3Service) {
    let listener = std::sync::Arc::new(listener);
    loop {
        // Aborted with this task.
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener.clone(), service.clone()));
        serving.join_next().await;
        tracing::error!("the S3 server has stopped; starting it again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn serve(listener: std::sync::Arc<TcpListener>, service: S3Service) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (socket, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "S3: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = socket.set_nodelay(true);
        let service = service.clone();
        connections.spawn(async move {
            let mut http = auto::Builder::new(TokioExecutor::new());
            // Without a timer, hyper waits for the end of the request headers without a limit.
            http.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
            if let Err(error) = http.serve_connection(TokioIo::new(socket), service).await {
                tracing::debug!(error, "S3: connection ended");
            }
        });
    }
}

fn credentials(path: &Path) -> Result<Credentials, Error> {
    let unreadable = |source: std::io::Error| Error::File { path: path.to_owned(), source };
    if let Ok(text) = fs::read_to_string(path) {
        return serde_json::from_str(&text).map_err(|error| unreadable(error.into()));
    }
    let fresh = Credentials { access_key: format!("pyrograph-{}", &secret()?[..12]), secret_key: secret()? };
    write_private(path, &serde_json::to_string_pretty(&fresh).map_err(|error| unreadable(error.into()))?)?;
    Ok(fresh)
}
