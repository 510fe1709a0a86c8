//! Sends deliveries: pictures to URLs of callers and to the archive, and events to webhooks. It needs no GPU; `serve`
//! runs it, or `worker --queues outbox`. Any number of processes may run one: each try is leased.
//!
//! Not here: the rows and what becomes due when (`domain::delivery`), or which addresses may be reached (`outgoing`).

mod archive;
mod upload;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use domain::delivery::{self, Answer, Claimed, Outcome, TRY, Target};
use domain::event::{Feed, Subscription};
use domain::{Error, Storage};
use outgoing::GuardedClients;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::archive::Archive;

/// Time between two looks at the outbox, if nothing is announced.
const POLL: Duration = Duration::from_secs(1);
/// Least time between two looks.
const REST: Duration = Duration::from_millis(10);
/// Deliveries to one kind of target that are under way at the same time.
const AT_ONCE: usize = 16;
/// Time for tries that are under way when the process stops. Those that are cut off are tried again elsewhere.
const FAREWELL: Duration = Duration::from_secs(5);
/// Limit of a request.
const LIMIT: Duration = Duration::from_secs(45);
/// How long the database is asked to record how a try ended.
const SETTLING: Duration = Duration::from_secs(20);

/// How a try ended, and the answer of the other side.
type Sent = (Outcome, Answer);

/// The senders of one process. Cloning is cheap.
#[derive(Clone)]
pub struct Outbox {
    pool: PgPool,
    storage: Storage,
    clients: GuardedClients,
    archive: Option<Archive>,
    /// Of this process.
    sender: Uuid,
    /// Of a request, from the connection to the head of the answer.
    limit: Duration,
}

impl Outbox {
    /// `clients` reach what deliveries may reach.
    pub fn new(pool: PgPool, storage: Storage, clients: GuardedClients) -> Self {
        Self { pool, storage, clients, archive: None, sender: Uuid::now_v7(), limit: LIMIT }
    }

    /// It also archives pictures.
    pub fn with_archive(self, archive: Archive) -> Self {
        Self { archive: Some(archive), ..self }
    }

    /// With another limit for each request.
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Sends until `stop` is cancelled. With a `feed`, what becomes due is sent at once, else within a second.
    pub async fn run(self, feed: Option<Feed>, stop: CancellationToken) {
        let targets: Vec<&str> = self.targets().into_iter().map(Target::as_str).collect();
        tracing::info!(?targets, "sending deliveries");
        let mut news = feed.map(|feed| feed.subscribe());
        let mut tries: JoinSet<Option<Instant>> = JoinSet::new();
        let places: Vec<(Target, Arc<Semaphore>)> =
            self.targets().into_iter().map(|target| (target, Arc::new(Semaphore::new(AT_ONCE)))).collect();
        let (mut looked_at, mut look_at) = (Instant::now(), Instant::now());
        let mut retries: Vec<Instant> = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = tries.join_next(), if !tries.is_empty() => match ended {
                    Ok(retry_at) => {
                        retries.extend(retry_at);
                        // Its place is free, and others may wait for it.
                        look_at = look_at.min(retry_at.unwrap_or(looked_at + REST));
                    }
                    Err(panic) => tracing::error!(%panic, "a try panicked; its lease runs out"),
                },
                () = announced(news.as_mut()) => look_at = look_at.min(looked_at + REST),
                () = sleep_until(look_at) => {
                    looked_at = Instant::now();
                    if let Err(error) = self.begin_tries(&places, &mut tries).await {
                        tracing::warn!(%error, "the outbox could not be read");
                    }
                    retries.retain(|at| *at > looked_at);
                    look_at = retries.iter().copied().min().unwrap_or(looked_at + POLL).min(looked_at + POLL);
                }
            }
        }
        let farewell = async { while tries.join_next().await.is_some() {} };
        let _ = timeout(FAREWELL, farewell).await;
    }

    /// What this process can send.
    fn targets(&self) -> Vec<Target> {
        [Target::Upload, Target::Webhook].into_iter().chain(self.archive.as_ref().map(|_| Target::Archive)).collect()
    }

    /// Leases deliveries that are due, as far as there are places, and begins to send them.
    async fn begin_tries(
        &self,
        places: &[(Target, Arc<Semaphore>)],
        tries: &mut JoinSet<Option<Instant>>,
    ) -> Result<(), Error> {
        for (target, places) in places {
            let free = places.available_permits();
            if free == 0 {
                continue;
            }
            for claimed in delivery::claim(&self.pool, self.sender, *target, free as i64).await? {
                let place = Arc::clone(places).acquire_owned().await.map_err(Error::internal)?;
                let trying = self.clone().attempt(claimed);
                tries.spawn(async move {
                    let retry_at = trying.await;
                    drop(place);
                    retry_at
                });
            }
        }
        Ok(())
    }

    /// Makes one try, and records how it ended. Returns when the next one is due, if there is one.
    async fn attempt(self, claimed: Claimed) -> Option<Instant> {
        let sent = match timeout(TRY, self.send(&claimed)).await {
            Ok(sent) => sent,
            Err(_) => Ok(again(&claimed, Answer::error(format!("It took longer than {} s.", TRY.as_secs())))),
        };
        let ended = match sent {
            Ok((outcome, answer)) => self.settle(&claimed, &outcome, &answer).await.map(|()| outcome),
            Err(error) => Err(error),
        };
        match ended {
            Ok(Outcome::Retry(pause) | Outcome::Later(pause)) => Some(Instant::now() + pause),
            Ok(Outcome::Delivered | Outcome::Failed) => None,
            Err(Error::LeaseLost) => {
                tracing::debug!(delivery = %claimed.id, "a delivery was changed or deleted meanwhile");
                None
            }
            Err(error) => {
                tracing::warn!(delivery = %claimed.id, %error, "a try was not recorded; its lease runs out");
                None
            }
        }
    }

    async fn send(&self, claimed: &Claimed) -> Result<Sent, Error> {
        match claimed.target {
            Target::Upload => upload::send(self, claimed).await,
            Target::Archive => match &self.archive {
                Some(archive) => archive::send(self, archive, claimed).await,
                None => Err(Error::internal("there is no archive")),
            },
            Target::Webhook => webhook::send(self, claimed).await,
        }
    }

    async fn settle(&self, claimed: &Claimed, outcome: &Outcome, answer: &Answer) -> Result<(), Error> {
        let (target, job, attempt) = (claimed.target.as_str(), claimed.subject, claimed.attempt);
        let (status_code, error) = (answer.status_code, answer.error.as_deref());
        match outcome {
            Outcome::Delivered => tracing::info!(target, %job, attempt, status_code, "delivered"),
            Outcome::Failed => tracing::warn!(target, %job, attempt, status_code, error, "a delivery failed"),
            Outcome::Retry(pause) | Outcome::Later(pause) => {
                tracing::debug!(target, %job, attempt, status_code, error, ?pause, "a delivery is tried again");
            }
        }
        let until = Instant::now() + SETTLING;
        loop {
            match delivery::settle(&self.pool, claimed, outcome, answer).await {
                Err(error) if error.is_transient() && Instant::now() < until => sleep(POLL).await,
                settled => return settled,
            }
        }
    }
}

/// The outcome of a try that failed and may succeed later, by the pauses of its target.
fn again(claimed: &Claimed, answer: Answer) -> Sent {
    let pauses: &[Duration] = match claimed.target {
        Target::Upload => &upload::PAUSES,
        // The archive is tried for ever.
        Target::Archive => return (Outcome::Retry(archive::pause(claimed.attempt)), answer),
        Target::Webhook => &webhook::PAUSES,
    };
    let tried = usize::try_from(claimed.attempt).unwrap_or(usize::MAX);
    match pauses.get(tried.saturating_sub(1)) {
        Some(pause) => (Outcome::Retry(*pause), answer),
        None => (Outcome::Failed, answer),
    }
}

/// The outcome of a try that failed and is not repeated.
fn failed(why: &str) -> Sent {
    (Outcome::Failed, Answer::error(why))
}

/// A sentence without the URL, whose query is a secret.
fn said(error: &reqwest::Error, limit: Duration) -> String {
    if error.is_timeout() {
        return format!("The server did not answer within {} s.", limit.as_secs());
    }
    let what = if error.is_connect() { "No connection to the server" } else { "The connection broke" };
    format!("{what}: {}.", outgoing::root_cause(error))
}

/// Waits until a job has news; for ever without a feed.
async fn announced(news: Option<&mut Subscription>) {
    match news {
        Some(news) => drop(news.next().await),
        None => std::future::pending().await,
    }
}
