//! How this server finds the caller of a request. The extractor is in `caller`; where a request carries its key, in
//! `access::credentials`; which scope a route asks for, in `access::scopes`.
//!
//! An installation that never had a key serves requests of this machine without one. Tokens of the Hugging Face Hub are
//! in `access::hub`. A grant that was read from the
//! database counts for [`FRESH`], so that a revoked key is refused within five seconds on every server.

pub(crate) mod credentials;
mod hub;
mod hub_rules;
pub(crate) mod scopes;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use domain::key::{self, Grant, Token};
use domain::session::{self, LinkToken, SessionToken};
use domain::{Caller, Database, KeyId, Principal, ProjectId, access, project};

use self::credentials::Proof;
pub use self::hub::{Hub, HubTimes};
use self::hub::{HubToken, Verdict};
pub use self::hub_rules::HubRules;
use crate::per_address::network;
use crate::problem::{Problem, Result};

/// How long an answer of the database counts.
const FRESH: Duration = Duration::from_secs(1);
/// How often the caller of a long response is looked at again.
const LOOK: Duration = Duration::from_secs(2);
/// Most grants that are remembered.
const MOST_GRANTS: usize = 10_000;
/// Failed attempts of one address within [`WINDOW`]; further ones get 429 until the next window.
const MOST_FAILURES: u32 = 20;
const WINDOW: Duration = Duration::from_mins(1);
/// Seconds after which a client may try again if the Hub does not answer.
const HUB_PAUSE: u64 = 10;
/// Stands for a client without an address.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// How the caller of a request is found. Cloning is cheap.
#[derive(Clone)]
pub struct Access(Arc<Mode>);

/// Whose requests are served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// There is no key, and the operator said so.
    Everyone,
    /// There is no key.
    OwnMachine,
    /// Those with a key.
    Keys,
}

/// What a client logs in with.
pub(crate) enum LogIn {
    Key(Token),
    Link(LinkToken),
}

enum Mode {
    /// Every request has this caller.
    Open(Caller),
    /// A request needs a key, once the installation has had one.
    Keys(Box<Keys>),
}

struct Keys {
    database: Database,
    /// Whether other machines are served, too, as long as there is no key.
    serves_everyone: bool,
    /// The Hub, if its tokens are admitted.
    hub: Option<Hub>,
    closed: Mutex<Option<Fresh<bool>>>,
    grants: Mutex<HashMap<KeyId, Fresh<Option<Grant>>>>,
    /// The keys of sessions.
    sessions: Mutex<HashMap<SessionToken, Fresh<Option<KeyId>>>>,
    /// The projects of callers from the Hub, by name.
    projects: Mutex<HashMap<Arc<str>, Fresh<Option<ProjectId>>>>,
    failures: Mutex<HashMap<IpAddr, Failures>>,
    /// Used since the last time that uses were recorded.
    used: Mutex<HashSet<KeyId>>,
}

struct Fresh<T> {
    value: T,
    read_at: Instant,
}

struct Failures {
    since: Instant,
    count: u32,
}

impl Failures {
    fn problem(&self) -> Problem {
        let left = WINDOW.saturating_sub(self.since.elapsed()).as_secs() + 1;
        let message = "Too many requests with a wrong key came from this address; try again later.";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, message).retry_after(left)
    }
}

impl<T: Clone> Fresh<T> {
    fn new(value: T) -> Self {
        Self { value, read_at: Instant::now() }
    }

    fn get(&self) -> Option<T> {
        (self.read_at.elapsed() < FRESH).then(|| self.value.clone())
    }
}

impl Access {
    /// Everyone who reaches the server is `caller`.
    pub fn open(caller: Caller) -> Self {
        Self(Arc::new(Mode::Open(caller)))
    }

    /// Callers prove themselves with keys, once there is one. Until then only this machine is served.
    pub fn keys(database: Database) -> Self {
        Self::with_database(database, false, None)
    }

    /// As [`Access::keys`], and callers also prove themselves with tokens of the Hugging Face Hub. The installation
    /// must have been closed for that (`domain::access::close`).
    pub fn keys_and_hub(database: Database, hub: Hub) -> Self {
        Self::with_database(database, false, Some(hub))
    }

    /// As [`Access::keys`], but until there is a key everyone is served, who may do everything.
    pub fn everyone(database: Database) -> Self {
        Self::with_database(database, true, None)
    }

    fn with_database(database: Database, serves_everyone: bool, hub: Option<Hub>) -> Self {
        Self(Arc::new(Mode::Keys(Box::new(Keys {
            database,
            serves_everyone,
            hub,
            closed: Mutex::default(),
            grants: Mutex::default(),
            sessions: Mutex::default(),
            projects: Mutex::default(),
            failures: Mutex::default(),
            used: Mutex::default(),
        }))))
    }

    /// Whose requests are served. Errors: `Unavailable`.
    pub(crate) async fn serves(&self) -> domain::Result<Serves> {
        match &*self.0 {
            Mode::Open(_) => Ok(Serves::Everyone),
            Mode::Keys(keys) if keys.is_closed().await? => Ok(Serves::Keys),
            Mode::Keys(keys) if keys.serves_everyone => Ok(Serves::Everyone),
            Mode::Keys(_) => Ok(Serves::OwnMachine),
        }
    }

    /// As [`Self::serves`], from the last answer of the database. Without one, a key is needed.
    pub(crate) fn served(&self) -> Serves {
        match &*self.0 {
            Mode::Open(_) => Serves::Everyone,
            Mode::Keys(keys) => match lock(&keys.closed).as_ref() {
                Some(Fresh { value: false, .. }) if keys.serves_everyone => Serves::Everyone,
                Some(Fresh { value: false, .. }) => Serves::OwnMachine,
                Some(Fresh { value: true, .. }) | None => Serves::Keys,
            },
        }
    }

    /// The caller with this proof, if the installation asks for any; it is ignored where it does not.
    pub(crate) async fn caller(&self, proof: Option<Proof>, peer: Option<IpAddr>) -> Result<Caller> {
        let keys = match &*self.0 {
            Mode::Open(caller) => return Ok(caller.clone()),
            Mode::Keys(keys) => keys,
        };
        if !keys.is_closed().await? {
            return Ok(Caller::anonymous());
        }
        match proof {
            Some(Proof::Key(token)) => keys.admit(token, peer.unwrap_or(NOWHERE)).await,
            Some(Proof::Hub(token)) => keys.admit_from_hub(&token, peer.unwrap_or(NOWHERE)).await,
            Some(Proof::Session(token)) => keys.admit_session(token).await,
            None => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "The request carries no key; send one as `Authorization: Bearer pyro_…`, or give `pyrograph` --key.",
            )),
        }
    }

    /// Whether `up` made the key for its user's commands.
    pub(crate) async fn is_local(&self, key: KeyId) -> domain::Result<bool> {
        match &*self.0 {
            Mode::Open(_) => Ok(false),
            Mode::Keys(keys) => Ok(keys.grant(key).await?.is_some_and(|grant| grant.is_local())),
        }
    }

    /// Starts a session with a key or a login link. Errors: 401; 409 where no key is needed.
    pub(crate) async fn log_in(&self, with: LogIn, peer: Option<IpAddr>) -> Result<(SessionToken, Caller)> {
        let keys = match &*self.0 {
            Mode::Keys(keys) if keys.is_closed().await? => keys,
            _ => return Err(Problem::new(StatusCode::CONFLICT, "This server asks for no key, so nobody logs in.")),
        };
        let peer = peer.unwrap_or(NOWHERE);
        let id = match with {
            LogIn::Key(token) => {
                keys.admit(Ok(token.clone()), peer).await?;
                token.id()
            }
            LogIn::Link(token) => {
                let id = session::use_link(&keys.database, &token).await?;
                let used = "The link was used, or has expired; make another one.";
                id.ok_or_else(|| keys.failure(peer, Problem::new(StatusCode::UNAUTHORIZED, used)))?
            }
        };
        let token = session::start(&keys.database, id).await?;
        let caller = keys.admit_session(token.clone()).await?;
        Ok((token, caller))
    }

    /// Ends a session.
    pub(crate) async fn log_out(&self, token: &SessionToken) -> domain::Result<()> {
        let Mode::Keys(keys) = &*self.0 else { return Ok(()) };
        session::end(&keys.database, token).await?;
        lock(&keys.sessions).remove(token);
        Ok(())
    }

    /// Reads all again, after this server has changed a key. Other servers follow within [`FRESH`].
    pub(crate) fn forget(&self) {
        if let Mode::Keys(keys) = &*self.0 {
            *lock(&keys.closed) = None;
            lock(&keys.grants).clear();
            lock(&keys.sessions).clear();
        }
    }

    /// Resolves when the caller of a long response is no longer admitted.
    pub(crate) async fn refuses(self, caller: Caller) {
        loop {
            tokio::time::sleep(LOOK).await;
            // While the database is away, nobody knows.
            if let Ok(false) = self.still_admits(&caller).await {
                return;
            }
        }
    }

    async fn still_admits(&self, caller: &Caller) -> domain::Result<bool> {
        match (&*self.0, caller.principal()) {
            (Mode::Open(_), _) | (_, Principal::Operator) => Ok(true),
            (Mode::Keys(keys), Principal::Anonymous) => Ok(!keys.is_closed().await?),
            // A stream ends with the answer about its token; who follows it connects again, with the token.
            (Mode::Keys(keys), Principal::Hub(account)) => Ok(keys.hub.as_ref().is_some_and(|hub| hub.admits(account))),
            (Mode::Keys(keys), Principal::Key(id)) => Ok(keys.grant(*id).await?.is_some_and(|grant| grant.counts())),
        }
    }

    /// Writes down which keys were used since the last call.
    pub async fn record_uses(&self) -> domain::Result<()> {
        let Mode::Keys(keys) = &*self.0 else { return Ok(()) };
        let used: Vec<KeyId> = lock(&keys.used).drain().collect();
        if used.is_empty() { Ok(()) } else { key::used(&keys.database, &used).await }
    }
}

impl Keys {
    async fn is_closed(&self) -> domain::Result<bool> {
        let known = lock(&self.closed).as_ref().and_then(|closed| if closed.value { Some(true) } else { closed.get() });
        if let Some(closed) = known {
            return Ok(closed);
        }
        let closed = access::is_closed(&self.database).await?;
        *lock(&self.closed) = Some(Fresh::new(closed));
        Ok(closed)
    }

    async fn admit(&self, token: Result<Token>, peer: IpAddr) -> Result<Caller> {
        let token = token.map_err(|problem| self.failure(peer, problem))?;
        let refused = |message: &str| Problem::new(StatusCode::UNAUTHORIZED, message);
        match self.grant(token.id()).await? {
            Some(grant) if grant.is_of(&token) => {
                // Nobody guesses a secret, so one that no longer counts is no attempt to.
                let caller = grant.admit(&token).ok_or_else(|| refused("The key has expired or was revoked."))?;
                lock(&self.used).insert(token.id());
                Ok(caller.clone())
            }
            _ => Err(self.failure(peer, refused("The key is not one of this server."))),
        }
    }

    /// The caller with a token of the Hub. While an address has failed too often, the Hub is asked about no further
    /// token for it.
    async fn admit_from_hub(&self, token: &HubToken, peer: IpAddr) -> Result<Caller> {
        let refused = |why: &str| Problem::new(StatusCode::UNAUTHORIZED, why);
        let Some(hub) = &self.hub else {
            let why = "This server admits no tokens of the Hugging Face Hub; send a key.";
            return Err(self.failure(peer, refused(why)));
        };
        let is_new = !hub.knows(token);
        if is_new {
            self.begin_attempt(peer)?;
        }
        let verdict = hub.judge(token).await;
        if is_new && !matches!(verdict, Verdict::Refused(_)) {
            self.forgive_attempt(peer);
        }
        let guest = match verdict {
            Verdict::Admitted(guest) => guest,
            Verdict::Refused(why) if is_new => return Err(refused(why)),
            Verdict::Refused(why) => return Err(self.failure(peer, refused(why))),
            Verdict::Unknown => {
                let message = "The Hugging Face Hub, which knows whose token it is, does not answer; try again.";
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(HUB_PAUSE));
            }
        };
        match self.project(&guest.project).await? {
            Some(project) => Ok(Caller::new(project, Principal::Hub(guest.account), guest.scopes)),
            None => Err(Problem::new(StatusCode::FORBIDDEN, "The project of the account was deleted.")),
        }
    }

    async fn project(&self, name: &Arc<str>) -> domain::Result<Option<ProjectId>> {
        if let Some(project) = lock(&self.projects).get(name).and_then(Fresh::get) {
            return Ok(project);
        }
        let project = project::id(&self.database, name).await?;
        lock(&self.projects).insert(name.clone(), Fresh::new(project));
        Ok(project)
    }

    async fn admit_session(&self, token: SessionToken) -> Result<Caller> {
        let known = lock(&self.sessions).get(&token).and_then(Fresh::get);
        let key = match known {
            Some(key) => key,
            None => {
                let key = session::key(&self.database, &token).await?;
                let mut sessions = lock(&self.sessions);
                sessions.retain(|_, session| session.read_at.elapsed() < FRESH);
                if sessions.len() < MOST_GRANTS {
                    sessions.insert(token, Fresh::new(key));
                }
                key
            }
        };
        if let Some(key) = key
            && let Some(grant) = self.grant(key).await?.filter(Grant::counts)
        {
            lock(&self.used).insert(key);
            return Ok(grant.caller().clone());
        }
        Err(Problem::new(StatusCode::UNAUTHORIZED, "The session has ended; log in again."))
    }

    async fn grant(&self, id: KeyId) -> domain::Result<Option<Grant>> {
        if let Some(grant) = lock(&self.grants).get(&id).and_then(Fresh::get) {
            return Ok(grant);
        }
        let grant = key::grant(&self.database, id).await?;
        let mut grants = lock(&self.grants);
        if grants.len() >= MOST_GRANTS {
            grants.retain(|_, grant| grant.read_at.elapsed() < FRESH);
        }
        if grants.len() < MOST_GRANTS {
            grants.insert(id, Fresh::new(grant.clone()));
        }
        Ok(grant)
    }

    /// Counts a failed attempt, and returns its problem, or 429 if there were too many. A valid key is never refused
    /// for the attempts of others: all clients of a proxy have one address.
    fn failure(&self, peer: IpAddr, problem: Problem) -> Problem {
        self.begin_attempt(peer).err().unwrap_or(problem)
    }

    /// Counts an attempt as failed, before it is known to be, so that many at once are limited, too. Errors: 429.
    fn begin_attempt(&self, peer: IpAddr) -> Result<()> {
        let mut failures = lock(&self.failures);
        failures.retain(|_, failures| failures.since.elapsed() < WINDOW);
        let failures = failures.entry(network(peer)).or_insert_with(|| Failures { since: Instant::now(), count: 0 });
        if failures.count >= MOST_FAILURES {
            return Err(failures.problem());
        }
        failures.count += 1;
        Ok(())
    }

    /// An attempt that was begun has not failed.
    fn forgive_attempt(&self, peer: IpAddr) {
        if let Some(failures) = lock(&self.failures).get_mut(&network(peer)) {
            failures.count = failures.count.saturating_sub(1);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
