//! What every handler may use: handles to database, storage and events. Cloning is cheap.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use domain::event::Feed;
use domain::generation::GenerationService;
use domain::model::Catalog;
use domain::{Caller, Database, Storage};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::access::Access;

/// Most requests that are served at the same time; further ones get a 503.
const MAX_REQUESTS: usize = 1024;

#[derive(Clone)]
pub struct State {
    pub(crate) database: Database,
    pub(crate) catalog: Catalog,
    pub(crate) generations: GenerationService,
    pub(crate) storage: Storage,
    pub(crate) feed: Feed,
    /// Cancelled when the server is to stop; streams end then.
    pub(crate) stop: CancellationToken,
    pub(crate) admission: Arc<Semaphore>,
    pub(crate) access: Access,
}

impl State {
    /// Any caller may do everything, in the project `default`.
    pub fn new(database: Database, feed: Feed, storage: Storage) -> Self {
        let catalog = Catalog::new(database.clone());
        Self {
            generations: GenerationService::new(database.clone(), catalog.clone(), storage.clone()),
            catalog,
            feed,
            database,
            storage,
            stop: CancellationToken::new(),
            admission: Arc::new(Semaphore::new(MAX_REQUESTS)),
            access: Access::Open(Caller::anonymous()),
        }
    }

    pub fn with_access(self, access: Access) -> Self {
        Self { access, ..self }
    }
}

impl FromRequestParts<State> for State {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, state: &State) -> Result<Self, Infallible> {
        Ok(state.clone())
    }
}
