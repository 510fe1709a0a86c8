//! The lease on one job: sends heartbeats from a separate task, and signals when the lease is lost or a user ends the
//! job.
//!
//! The heartbeat depends on nothing but the database: not on the engine, storage or the work. An unavailable database
//! ends no work; only the answer "this lease is not yours" does, or no answer for [`GIVE_UP`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::JobId;
use domain::job::{self, Claim, LeasePolicy};
use sqlx::PgPool;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// After this long without a successful heartbeat the work is wasted: another worker has the job by now.
const GIVE_UP: Duration = Duration::from_mins(10);
/// Pause between a failed heartbeat and the next try.
const RETRY: Duration = Duration::from_secs(1);

/// A held lease. Dropping it stops the heartbeats; the lease then expires in the database.
pub struct Lease {
    claim: Claim,
    canceled: CancellationToken,
    lost: CancellationToken,
    renewed: Arc<Mutex<Instant>>,
    fence: Duration,
    beating: JoinHandle<()>,
}

impl Lease {
    /// Starts heartbeats for a new claim, the first at once, since a cancel may have arrived in between. `cancels`
    /// names jobs that a user wants to end, ahead of the next heartbeat.
    pub fn hold(pool: PgPool, claim: Claim, policy: LeasePolicy, cancels: broadcast::Receiver<JobId>) -> Self {
        let canceled = CancellationToken::new();
        let lost = CancellationToken::new();
        let renewed = Arc::new(Mutex::new(Instant::now()));
        let fence = policy.ttl * 5 / 6;
        let pulse = Pulse {
            pool,
            claim,
            policy,
            canceled: canceled.clone(),
            lost: lost.clone(),
            renewed: Arc::clone(&renewed),
        };
        let beating = tokio::spawn(pulse.run(cancels));
        Self { claim, canceled, lost, renewed, fence, beating }
    }

    /// The claim that this lease is for.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Resolves when a user asks for the end of the job.
    pub async fn canceled(&self) {
        self.canceled.cancelled().await;
    }

    /// Resolves when the job belongs to another worker, for good.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Waits until the lease is known to be held, before an effect that others could see: if the last successful
    /// heartbeat is older than five sixths of the lease's length, another worker may be about to take over. Returns
    /// false if it is lost.
    pub async fn holds(&self) -> bool {
        loop {
            if self.lost.is_cancelled() {
                return false;
            }
            let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
            if renewed.elapsed() < self.fence {
                return true;
            }
            tokio::select! {
                () = self.lost.cancelled() => {}
                () = sleep(RETRY / 2) => {}
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

struct Pulse {
    pool: PgPool,
    claim: Claim,
    policy: LeasePolicy,
    canceled: CancellationToken,
    lost: CancellationToken,
    renewed: Arc<Mutex<Instant>>,
}

impl Pulse {
    async fn run(self, mut cancels: broadcast::Receiver<JobId>) {
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                () = called(&mut cancels, self.claim.job) => {}
            }
            // A late answer counts from the time of its query: the database may have renewed the lease right then.
            let asked = Instant::now();
            match timeout(self.policy.beat.max(RETRY), job::beat(&self.pool, &self.claim, &self.policy)).await {
                Ok(Ok(beat)) => {
                    *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = asked;
                    if beat.cancel && !self.canceled.is_cancelled() {
                        tracing::info!(job = %self.claim.subject, "cancel requested");
                        self.canceled.cancel();
                    }
                    next = asked + self.policy.beat;
                    continue;
                }
                Ok(Err(domain::Error::LeaseLost)) => {
                    tracing::warn!(job = %self.claim.subject, epoch = self.claim.epoch, "lease lost");
                    self.lost.cancel();
                    return;
                }
                Ok(Err(error)) => tracing::warn!(job = %self.claim.subject, %error, "beat failed"),
                Err(_) => tracing::warn!(job = %self.claim.subject, "the database does not answer the beat"),
            }
            if self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > GIVE_UP {
                tracing::error!(
                    job = %self.claim.subject,
                    "no successful heartbeat for too long; the job is abandoned"
                );
                self.lost.cancel();
                return;
            }
            next = Instant::now() + RETRY.min(self.policy.beat);
        }
    }
}

/// Waits until a user asks for the end of `job`. Missed messages count, since they might have been about it.
async fn called(cancels: &mut broadcast::Receiver<JobId>, job: JobId) {
    loop {
        match cancels.recv().await {
            Ok(other) if other != job => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
