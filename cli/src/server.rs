//! The API server as `serve` and `up` run it: listener, pool, storage, schema, built-in checkpoint, a reaper, so that
//! jobs of workers that are gone return to the queue even when no worker is left to look, and a sweeper, which removes
//! objects from the bucket, and the sender of deliveries.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use api::{Access, HubRules, Listener, Names, State, UnixSocket};
use domain::database::{PoolSizes, Pools, Presence};
use domain::event::Feed;
use domain::job::Reaper;
use domain::sweep::{self, Sweeper};
use domain::{Caller, Database, ProjectId, Storage, WorkerId, access, project, worker};
use outbox::Outbox;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::built_in;
use crate::commands::listen_flags::{Bind, ListenFlags};
use crate::configuration::{Services, cdn, database_pool, hub, lease_policy, names, outbound, prices, rate, sweeps};
use crate::failure::Failure;
use crate::services;

/// How long the connections of the pools may take to close.
const FAREWELL: Duration = Duration::from_secs(5);

/// Listens where `flags` say, before anything slower starts.
pub(crate) async fn listen(flags: &ListenFlags) -> Result<Listener, Failure> {
    match &flags.bind {
        Bind::Address(address) => listen_at(*address).await.map(Listener::from),
        Bind::Socket(path) => listen_on(path, flags.socket_mode).map(Listener::from),
    }
}

fn listen_on(path: &Path, mode: u32) -> Result<UnixSocket, Failure> {
    let shown = path.display();
    UnixSocket::bind(path, mode).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => Failure::Usage(format!("another process listens at {shown}. Choose another file.")),
        ErrorKind::AlreadyExists => Failure::Usage(format!("{shown} exists and is no socket. Choose another file.")),
        _ => Failure::Usage(format!("could not listen at {shown}: {error}")),
    })
}

async fn listen_at(bind: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(bind).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            Failure::Usage(format!("{bind} is in use by another program. Choose another address with --bind."))
        }
        ErrorKind::PermissionDenied => {
            Failure::Usage(format!("this user may not listen on {bind}. Choose another address with --bind."))
        }
        ErrorKind::AddrNotAvailable => Failure::Usage(format!(
            "this machine has no address {}. Choose another with --bind; 0.0.0.0 stands for all that it has.",
            bind.ip()
        )),
        _ => Failure::Failed(anyhow::Error::new(error).context(format!("could not listen on {bind}"))),
    })
}

/// Whose requests a server serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admits {
    /// There is no key, and the operator said so.
    Everyone,
    /// There is no key.
    OwnMachine,
    /// Those with a key.
    Keys,
}

/// Errors: `Usage` for a server that other machines reach and that would serve none of them.
async fn admits(pools: &Pools, names: &Names, open: bool) -> Result<Admits, Failure> {
    let closed = services::answered(access::is_closed(&pools.api).await, "could not read whether there is a key")?;
    match (closed, open) {
        (true, _) => Ok(Admits::Keys),
        (false, true) => {
            tracing::warn!(
                "--open: there is no key, and everyone who reaches the API may use it and delete everything. Create a \
                 key with `pyrograph keys create --name NAME`."
            );
            Ok(Admits::Everyone)
        }
        (false, false) if names.is_open() => Err(Failure::Usage(format!(
            "{} is an address beyond this machine, and this installation has no key: anyone could use it and delete \
             everything. Create a key with `pyrograph keys create --name NAME` and start again, or give --open to \
             serve everyone who reaches it.",
            names.bind
        ))),
        (false, false) => Ok(Admits::OwnMachine),
    }
}

/// Closes the installation, and creates the projects that the rules for tokens of the Hub name.
async fn admit_tokens(pools: &Pools, rules: &HubRules) -> Result<(), Failure> {
    if rules.admit_everyone() {
        tracing::warn!(
            "PYROGRAPH_HF_ALLOW has a rule for every account (`*`): everyone with a token of the Hugging Face Hub may use \
             the API."
        );
    }
    let operator = Caller::operator(ProjectId::DEFAULT);
    services::answered(access::close(&operator, &pools.api).await, "could not close the installation")?;
    for name in rules.projects() {
        let project = project::get_or_create(&operator, &pools.api, name).await;
        services::answered(project, "could not create a project of PYROGRAPH_HF_ALLOW")?;
    }
    Ok(())
}

/// A running API server.
pub(crate) struct Server {
    /// With the port that it got.
    bind: Bind,
    pub names: Names,
    /// At its start; the first key changes it.
    pub admits: Admits,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    reaping: JoinHandle<()>,
    sweeping: JoinHandle<()>,
    /// None with `--no-outbox`.
    sending: Option<JoinHandle<()>>,
    pools: Pools,
}

impl Server {
    /// Updates the schema and the built-in checkpoint, and serves as `flags` say. The workers that are known to be
    /// `dead` are not listed.
    pub(crate) async fn start(
        listener: Listener,
        services: &Services,
        flags: &ListenFlags,
        dead: &[WorkerId],
    ) -> Result<Self, Failure> {
        let bind = match &listener {
            Listener::Tcp(listener) => Bind::Address(listener.local_addr().context("the listener has no address")?),
            Listener::Unix(_) => flags.bind.clone(),
        };
        let names = names(bind.ip())?;
        let (reaper, sweeps) = (Reaper::new(lease_policy()?), sweeps()?);
        let (hub, rate, prices, cdn) = (hub()?, rate()?, prices()?, cdn()?);
        let outbound = outbound()?;
        let archive = services::archive(&services.storage).await?;
        let pools = services::database(&services.database(), PoolSizes::server(database_pool()?)).await?;
        services::migrate(&pools).await?;
        if let Some(hub) = &hub {
            admit_tokens(&pools, hub.rules()).await?;
        }
        let admits = admits(&pools, &names, flags.open).await?;
        for worker in dead {
            services::answered(worker::stopped(&pools.lease, *worker).await, "could not update the list of workers")?;
        }
        let storage = Storage::new(&services.storage).context("storage")?;
        match services::check_storage(&storage, &services.storage).await {
            Ok(()) => {
                // Before anything is stored: the bucket may belong to another installation.
                if sweeps && let Err(error) = sweep::meet(&pools.lease, &storage).await {
                    tracing::error!(%error, "could not look at the bucket");
                }
                built_in::register(&pools.lease, &storage).await?;
            }
            // Requests and jobs are stored in the database; `/readyz` reports the bucket, which may come back.
            Err(failure) if built_in::is_registered(&pools.lease).await => {
                tracing::error!("{failure}; continuing without it for now");
            }
            Err(failure) => return Err(failure),
        }
        let stop = CancellationToken::new();
        let feed = Feed::start(pools.listen.clone()).await;
        let sweeping = tokio::spawn(Sweeper::new(pools.lease.clone(), storage.clone(), sweeps).run());
        let presence = Presence::watch(pools.lease.connect_options());
        let sending = (!flags.no_outbox).then(|| {
            let outbox = Outbox::new(pools.lease.clone(), storage.clone(), outbound.clone().into());
            let outbox = archive.iter().cloned().fold(outbox, Outbox::with_archive);
            tokio::spawn(outbox.run(Some(feed.clone()), stop.clone()))
        });
        let mut state = State::new(pools.api.clone(), feed, storage)
            .with_names(names.clone())
            .with_outbound(outbound.clone())
            .with_proxies(flags.proxies.clone())
            .with_presence(presence);
        if services.behind_api && services.storage.public_endpoint.is_none() {
            state = state.with_gateway(&services.storage.endpoint).context("could not start the HTTP client")?;
        }
        let database = pools.api.clone();
        let access = match hub {
            Some(hub) => Access::keys_and_hub(database, hub),
            None if admits == Admits::Everyone => Access::everyone(database),
            None => Access::keys(database),
        };
        let state = rate.into_iter().fold(state.with_access(access), State::with_rate);
        let state = prices.into_iter().fold(state, State::with_prices);
        let state = archive.iter().fold(state, |state, _| state.with_archive());
        let state = cdn.into_iter().fold(state, State::with_cdn);
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move {
                if let Err(error) = api::serve(listener, state, stop).await {
                    tracing::error!(%error, "the API stopped");
                }
            }
        });
        let reaping = tokio::spawn(reaper.run(pools.lease.clone()));
        Ok(Self { bind, names, admits, stop, serving, reaping, sweeping, sending, pools })
    }

    /// Its address on this machine, which a server of every address has too, or its Unix socket.
    pub(crate) fn url(&self) -> String {
        let Bind::Address(address) = self.bind else { return self.bind.to_string() };
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("http://{}", SocketAddr::new(ip, address.port()))
    }

    pub(crate) fn database(&self) -> Database {
        self.pools.api.clone()
    }

    /// Waits until the server stops unexpectedly.
    pub(crate) async fn ended(&mut self) {
        let _ = (&mut self.serving).await;
    }

    /// Gives responses time to finish, and closes.
    pub(crate) async fn stop(mut self, farewell: Duration) {
        self.stop.cancel();
        self.reaping.abort();
        self.sweeping.abort();
        // A task that was seen to end must not be waited for again.
        if !self.serving.is_finished() && tokio::time::timeout(farewell, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
        if let Some(sending) = self.sending {
            // It ends by itself within seconds.
            let _ = sending.await;
        }
        let _ = tokio::time::timeout(FAREWELL, self.pools.close()).await;
    }
}
