//! What every handler may use: handles to database, storage and events. Cloning is cheap.

use std::convert::Infallible;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use domain::capacity::Capacity;
use domain::database::Presence;
use domain::event::Feed;
use domain::generation::GenerationService;
use domain::model::Catalog;
use domain::prices::Prices;
use domain::{Caller, Database, Storage};
use outgoing::Guard;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::gateway::Gateway;
use crate::names::{Names, PublicUrl};
use crate::place::{Admission, Place};
use crate::proxies::Proxies;
use crate::rate::{Rate, Rates};

/// Each request clones it several times, so that most of it is shared.
#[derive(Clone)]
pub struct State {
    shared: Arc<Shared>,
    pub(crate) storage: Storage,
    /// The place of this request; none outside of requests.
    pub(crate) place: Option<Place>,
}

/// What is the same for all requests.
#[derive(Clone)]
pub struct Shared {
    pub(crate) database: Database,
    pub(crate) catalog: Catalog,
    pub(crate) generations: GenerationService,
    pub(crate) capacity: Capacity,
    pub(crate) feed: Feed,
    /// Cancelled when the server is to stop; streams end then.
    pub(crate) stop: CancellationToken,
    pub(crate) admission: Admission,
    pub(crate) presence: Presence,
    pub(crate) names: Names,
    pub(crate) proxies: Proxies,
    /// The way to a bucket that clients reach through this server.
    pub(crate) gateway: Option<Gateway>,
    pub(crate) access: Access,
    /// What jobs cost, if the operator has said so.
    pub(crate) prices: Option<Arc<Prices>>,
    /// What deliveries may reach.
    pub(crate) outbound: Guard,
    /// Where a CDN shows pictures to everyone.
    pub(crate) cdn: Option<PublicUrl>,
    /// Requests per second of each key; `None`: any number.
    pub(crate) rates: Option<Rates>,
}

impl Deref for State {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl State {
    /// Any caller may do everything, in the project `default`. Only this machine reaches the server.
    pub fn new(database: Database, feed: Feed, storage: Storage) -> Self {
        let catalog = Catalog::new(database.clone());
        let shared = Arc::new(Shared {
            capacity: Capacity::new(database.clone()),
            generations: GenerationService::new(database.clone(), catalog.clone(), storage.clone()),
            catalog,
            feed,
            database,
            stop: CancellationToken::new(),
            admission: Admission::default(),
            presence: Presence::assumed(),
            names: Names::default(),
            proxies: Proxies::default(),
            gateway: None,
            access: Access::open(Caller::anonymous()),
            outbound: Guard::default(),
            cdn: None,
            rates: None,
            prices: None,
        });
        Self { shared, storage, place: None }
    }

    pub fn with_access(self, access: Access) -> Self {
        self.with(|shared| shared.access = access)
    }

    /// Limits the requests of each key; without this, a key may send any number.
    pub fn with_rate(self, rate: Rate) -> Self {
        self.with(|shared| shared.rates = Some(Rates::new(rate)))
    }

    /// The names under which clients reach the server.
    pub fn with_names(self, names: Names) -> Self {
        self.with(|shared| shared.names = names)
    }

    /// The reverse proxies whose word about the client of a request counts.
    pub fn with_proxies(self, proxies: Proxies) -> Self {
        self.with(|shared| shared.proxies = proxies)
    }

    /// Refuses requests at once while the database does not answer.
    pub fn with_presence(self, presence: Presence) -> Self {
        self.with(|shared| shared.presence = presence)
    }

    /// Passes presigned requests on to the bucket at `endpoint`, which clients need not reach themselves.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn with_gateway(self, endpoint: &str) -> Result<Self, reqwest::Error> {
        let gateway = Gateway::new(endpoint)?;
        Ok(self.with(|shared| shared.gateway = Some(gateway)))
    }

    /// Jobs cost what this table says.
    pub fn with_prices(self, prices: Prices) -> Self {
        self.with(|shared| shared.prices = Some(Arc::new(prices)))
    }

    /// URLs of pictures are those of a CDN, whose files are the objects of the bucket.
    pub fn with_cdn(self, cdn: PublicUrl) -> Self {
        self.with(|shared| shared.cdn = Some(cdn))
    }

    /// Deliveries may reach this; without it, the public internet.
    pub fn with_outbound(self, outbound: Guard) -> Self {
        self.with(|shared| {
            shared.generations = shared.generations.clone().with_outbound(outbound.clone());
            shared.outbound = outbound;
        })
    }

    /// Pictures are archived, too.
    pub fn with_archive(self) -> Self {
        self.with(|shared| shared.generations = shared.generations.clone().with_archive())
    }

    /// Streams end when `stop` is cancelled.
    pub(crate) fn with_stop(self, stop: CancellationToken) -> Self {
        self.with(|shared| shared.stop = stop)
    }

    fn with(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        change(Arc::make_mut(&mut self.shared));
        self
    }
}

impl FromRequestParts<State> for State {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, Infallible> {
        let mut state = state.clone();
        state.place = parts.extensions.get::<Place>().cloned();
        if state.gateway.is_some()
            && let Some(address) = Gateway::address(&state.names, parts)
        {
            state.storage = state.storage.through(address);
        }
        Ok(state)
    }
}
