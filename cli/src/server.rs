//! The API server as `serve` and `up` run it: listener, pool, storage, schema, built-in checkpoint, and a reaper, so
//! that jobs of workers that are gone return to the queue even when no worker is left to look.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use domain::Storage;
use domain::database::{self, Pools};
use domain::event::Feed;
use domain::job::Reaper;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::built_in;
use crate::configuration::{Services, lease_policy};
use crate::failure::Failure;
use crate::services;

/// How long open connections may continue after the server was asked to stop.
const FAREWELL: Duration = Duration::from_secs(5);

/// Binds the address, before anything slower starts.
pub(crate) async fn listen(bind: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(bind).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            Failure::Usage(format!("{bind} is in use by another program. Choose another address with --bind."))
        }
        std::io::ErrorKind::PermissionDenied => {
            Failure::Usage(format!("this user may not listen on {bind}. Choose another address with --bind."))
        }
        _ => Failure::Failed(anyhow::Error::new(error).context(format!("could not listen on {bind}"))),
    })
}

/// A running API server.
pub(crate) struct Server {
    pub address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    reaping: JoinHandle<()>,
    pools: Pools,
}

impl Server {
    /// Updates the schema and the built-in checkpoint, and serves.
    pub(crate) async fn start(listener: TcpListener, services: &Services) -> Result<Self, Failure> {
        let address = listener.local_addr().context("the listener has no address")?;
        let reaper = Reaper::new(lease_policy()?);
        let pools = services::database(&services.database_url).await?;
        database::migrate(&pools.lease).await.context("could not update the database schema")?;
        let storage = Storage::new(&services.storage).context("storage")?;
        match services::check_storage(&storage, &services.storage).await {
            Ok(()) => built_in::register(&pools.lease, &storage).await?,
            // Requests and jobs are stored in the database; `/readyz` reports the bucket, which may come back.
            Err(failure) if built_in::is_registered(&pools.lease).await => {
                tracing::error!("{failure}; continuing without it for now");
            }
            Err(failure) => return Err(failure),
        }
        let stop = CancellationToken::new();
        let feed = Feed::start(pools.listen.clone()).await;
        let state = api::State::new(pools.api.clone(), feed, storage);
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move {
                if let Err(error) = api::serve(listener, state, stop).await {
                    tracing::error!(%error, "the API stopped");
                }
            }
        });
        let reaping = tokio::spawn(reaper.run(pools.lease.clone()));
        Ok(Self { address, stop, serving, reaping, pools })
    }

    /// Waits until the server stops unexpectedly.
    pub(crate) async fn ended(&mut self) {
        let _ = (&mut self.serving).await;
    }

    /// Gives running requests time to finish, and closes.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.reaping.abort();
        // A task that was seen to end must not be waited for again.
        if !self.serving.is_finished() && tokio::time::timeout(FAREWELL, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
        let _ = tokio::time::timeout(FAREWELL, self.pools.close()).await;
    }
}
