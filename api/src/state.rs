//! What every handler may use: handles to database, storage and events. Cloning is cheap.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use domain::capacity::Capacity;
use domain::database::Presence;
use domain::event::Feed;
use domain::generation::GenerationService;
use domain::model::Catalog;
use domain::{Caller, Database, Storage};
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::gateway::Gateway;
use crate::names::Names;
use crate::place::{Admission, Place};

#[derive(Clone)]
pub struct State {
    pub(crate) database: Database,
    pub(crate) catalog: Catalog,
    pub(crate) generations: GenerationService,
    pub(crate) storage: Storage,
    pub(crate) capacity: Capacity,
    pub(crate) feed: Feed,
    /// Cancelled when the server is to stop; streams end then.
    pub(crate) stop: CancellationToken,
    pub(crate) admission: Admission,
    /// The place of this request; none outside of requests.
    pub(crate) place: Option<Place>,
    pub(crate) presence: Presence,
    pub(crate) names: Arc<Names>,
    /// The way to a bucket that clients reach through this server.
    pub(crate) gateway: Option<Gateway>,
    pub(crate) access: Access,
}

impl State {
    /// Any caller may do everything, in the project `default`. Only this machine reaches the server.
    pub fn new(database: Database, feed: Feed, storage: Storage) -> Self {
        let catalog = Catalog::new(database.clone());
        Self {
            capacity: Capacity::new(database.clone()),
            generations: GenerationService::new(database.clone(), catalog.clone(), storage.clone()),
            catalog,
            feed,
            database,
            storage,
            stop: CancellationToken::new(),
            admission: Admission::default(),
            place: None,
            presence: Presence::assumed(),
            names: Arc::default(),
            gateway: None,
            access: Access::Open(Caller::anonymous()),
        }
    }

    pub fn with_access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// The names under which clients reach the server.
    pub fn with_names(self, names: Names) -> Self {
        Self { names: Arc::new(names), ..self }
    }

    /// Refuses requests at once while the database does not answer.
    pub fn with_presence(self, presence: Presence) -> Self {
        Self { presence, ..self }
    }

    /// Passes presigned requests on to the bucket at `endpoint`, which clients need not reach themselves.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn with_gateway(self, endpoint: &str) -> Result<Self, reqwest::Error> {
        Ok(Self { gateway: Some(Gateway::new(endpoint)?), ..self })
    }
}

impl FromRequestParts<State> for State {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, Infallible> {
        let mut state = state.clone();
        state.place = parts.extensions.get::<Place>().cloned();
        if state.gateway.is_some()
            && let Some(address) = Gateway::address(&state.names, &parts.uri, &parts.headers)
        {
            state.storage = state.storage.through(address);
        }
        Ok(state)
    }
}
