//! What every handler may use: handles on database, storage and events. Cloning is cheap.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use domain::event::Feed;
use domain::generation::GenerationService;
use domain::model::Catalog;
use domain::{Pools, Storage};
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Requests that are worked on at the same time; the next one is told to come back.
const MAX_REQUESTS: usize = 1024;

#[derive(Clone)]
pub struct State {
    pub(crate) pool: PgPool,
    pub(crate) catalog: Catalog,
    pub(crate) generations: GenerationService,
    pub(crate) storage: Storage,
    pub(crate) feed: Feed,
    /// Cancelled when the server is to stop; streams end then.
    pub(crate) stop: CancellationToken,
    pub(crate) admission: Arc<Semaphore>,
}

impl State {
    /// Starts to listen for events, on one connection of `pools.listen`.
    pub async fn new(pools: Pools, storage: Storage) -> Self {
        let catalog = Catalog::new(pools.api.clone());
        Self {
            generations: GenerationService::new(pools.api.clone(), catalog.clone(), storage.clone()),
            catalog,
            feed: Feed::start(pools.listen).await,
            pool: pools.api,
            storage,
            stop: CancellationToken::new(),
            admission: Arc::new(Semaphore::new(MAX_REQUESTS)),
        }
    }
}

impl FromRequestParts<State> for State {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, state: &State) -> Result<Self, Infallible> {
        Ok(state.clone())
    }
}
