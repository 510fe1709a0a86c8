//! The API server as `serve` and `up` run it: listener, pool, storage, schema, built-in checkpoint, and a reaper, so that jobs of
//! workers that are gone come back even when no worker is left to look.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use domain::Storage;
use domain::database::{self, Pools};
use domain::job::Reaper;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::built_in;
use crate::configuration::{Services, lease_policy};
use crate::failure::Failure;
use crate::services;

/// How long open connections may go on after the server was asked to stop.
const FAREWELL: Duration = Duration::from_secs(5);

/// Takes the address, before anything slower is begun.
pub async fn listen(bind: SocketAddr) -> Result<TcpListener, Failure> {
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

/// An API server that runs.
pub struct Server {
    pub address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    reaping: JoinHandle<()>,
    pools: Pools,
}

impl Server {
    /// Brings schema and built-in checkpoint up to date, and serves.
    pub async fn start(listener: TcpListener, services: &Services) -> Result<Self, Failure> {
        let address = listener.local_addr().context("the listener has no address")?;
        let reaper = Reaper::new(lease_policy()?);
        let pools = services::database(&services.database_url).await?;
        database::migrate(&pools.api).await.context("the schema could not be brought up to date")?;
        let storage = Storage::new(&services.storage).context("storage")?;
        match services::check_storage(&storage, &services.storage).await {
            Ok(()) => built_in::register(&pools.api, &storage).await?,
            // Requests and jobs are kept in the database; `/readyz` tells, and the bucket may come back.
            Err(failure) if built_in::is_registered(&pools.api).await => {
                tracing::error!("{failure}; serving without it for now");
            }
            Err(failure) => return Err(failure),
        }
        let stop = CancellationToken::new();
        let state = api::State::new(pools.clone(), storage).await;
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move {
                if let Err(error) = api::serve(listener, state, stop).await {
                    tracing::error!(%error, "the API ended");
                }
            }
        });
        let reaping = tokio::spawn(reaper.run(pools.lease.clone()));
        Ok(Self { address, stop, serving, reaping, pools })
    }

    /// Until the server ends by itself, which it should not.
    pub async fn ended(&mut self) {
        let _ = (&mut self.serving).await;
    }

    /// Lets requests end, for a while, and closes.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.reaping.abort();
        // A task that was seen to end must not be waited for again.
        if !self.serving.is_finished() && tokio::time::timeout(FAREWELL, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
        let _ = tokio::time::timeout(FAREWELL, self.pools.close()).await;
    }
}
