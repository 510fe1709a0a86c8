//! The database of an installation: the one that `DATABASE_URL` names, or an embedded cluster.

use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::Error;
use crate::cluster::{Cluster, Durability, USER};
use crate::keeper::Keeper;

const DATABASE: &str = "pyrograph";
/// How long to wait for recovery after a power failure.
const PATIENCE: Duration = Duration::from_mins(1);

/// A Postgres that answers.
pub struct Postgres {
    url: String,
    /// The embedded server and its port.
    cluster: Option<(Cluster, u16)>,
    keeper: Option<Keeper>,
}

impl Postgres {
    /// An external server, which nobody here starts, checks or stops.
    pub fn external(url: String) -> Postgres {
        Postgres { url, cluster: None, keeper: None }
    }

    /// The cluster in `folder`, created at the first start. A cluster that still runs because the process that started
    /// it was killed is used again.
    ///
    /// # Errors
    /// [`Error::NoBinaries`] without Postgres and npm; [`Error::Program`] with the end of the log when the server
    /// refuses to start.
    pub async fn own(folder: &Path) -> Result<Postgres, Error> {
        let tools = folder.join("../tools");
        let folder = folder.to_owned();
        let cluster =
            tokio::task::spawn_blocking(move || Cluster::prepare(&folder, &tools, Durability::Kept)).await??;
        let (url, port) = match ready(&cluster).await {
            Ok(ready) => ready,
            Err(error) => {
                let _ = tokio::task::spawn_blocking(move || cluster.stop("fast")).await;
                return Err(error);
            }
        };
        Ok(Postgres { url, cluster: Some((cluster, port)), keeper: None })
    }

    /// Starts an embedded server again, at the same address, whenever it dies, until [`Postgres::stop`].
    pub fn keep(&mut self) {
        self.keeper = self.cluster.clone().map(|(cluster, port)| Keeper::start(cluster, port));
    }

    /// From now on the end of an embedded server is expected: the signal that stops this process may have reached it
    /// too. It is still started again until [`Postgres::stop`], since others have work to store, but not as an error.
    pub fn stopping(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.expect_end();
        }
    }

    /// For a process that exits at once: signals the cluster in `folder` to stop as after a crash, and does not wait.
    pub fn quit(folder: &Path) {
        Cluster::quit(folder);
    }

    /// Contains the password; do not log it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether this process stops the server.
    pub fn is_own(&self) -> bool {
        self.cluster.is_some()
    }

    /// Where the files of an embedded server are.
    pub fn folder(&self) -> Option<&Path> {
        self.cluster.as_ref().map(|(cluster, _)| cluster.folder())
    }

    /// Stops an embedded server in order and closes its connections; does nothing to an external one.
    pub async fn stop(self) -> Result<(), Error> {
        if let Some(keeper) = self.keeper {
            keeper.stop().await;
        }
        match self.cluster {
            Some((cluster, _)) => tokio::task::spawn_blocking(move || cluster.stop("fast")).await?,
            None => Ok(()),
        }
    }
}

/// The URL of our database in a running server, and the server's port.
async fn ready(cluster: &Cluster) -> Result<(String, u16), Error> {
    let port = start_or_find(cluster).await?;
    create_database(&options(cluster, port)?, DATABASE).await?;
    Ok((url(cluster, port, DATABASE)?, port))
}

/// The port of the running server, once it answers. A hanging one is replaced.
pub(crate) async fn start_or_find(cluster: &Cluster) -> Result<u16, Error> {
    let since = Instant::now();
    loop {
        while let Some(port) = cluster.running()? {
            if reach(&options(cluster, port)?, Duration::from_secs(1)).await.is_ok() {
                return Ok(port);
            }
            if since.elapsed() > PATIENCE {
                let hung = cluster.clone();
                tokio::task::spawn_blocking(move || hung.stop("immediate")).await??;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let starting = cluster.clone();
        match tokio::task::spawn_blocking(move || starting.start()).await? {
            Ok(port) => {
                reach(&options(cluster, port)?, PATIENCE).await?;
                return Ok(port);
            }
            // Another start is under way, or processes of a server that was killed are ending.
            Err(Error::Program { output, .. })
                if (output.contains("lock file") || output.contains("still in use")) && since.elapsed() < PATIENCE =>
            {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn options(cluster: &Cluster, port: u16) -> Result<PgConnectOptions, Error> {
    Ok(url(cluster, port, "postgres")?.parse()?)
}

/// TLS is off: the connection never leaves the machine.
pub(crate) fn url(cluster: &Cluster, port: u16, database: &str) -> Result<String, Error> {
    Ok(format!("postgres://{USER}:{}@127.0.0.1:{port}/{database}?sslmode=disable", cluster.password()?))
}

async fn reach(options: &PgConnectOptions, patience: Duration) -> Result<(), Error> {
    let since = Instant::now();
    loop {
        let attempt = tokio::time::timeout(Duration::from_secs(5), options.connect()).await;
        let source = match attempt {
            Ok(Ok(connection)) => return Ok(connection.close().await?),
            Ok(Err(error)) => error,
            Err(_) => sqlx::Error::PoolTimedOut,
        };
        if since.elapsed() > patience {
            let address = format!("{}:{}", options.get_host(), options.get_port());
            return Err(Error::Unreachable { address, source });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `name` must be trusted: it is inserted into the statement without escaping.
pub(crate) async fn create_database(server: &PgConnectOptions, name: &str) -> Result<(), Error> {
    let mut connection: PgConnection = server.connect().await?;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(&mut connection)
        .await?;
    if !exists {
        sqlx::query(sqlx::AssertSqlSafe(format!(r#"CREATE DATABASE "{name}""#))).execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}
