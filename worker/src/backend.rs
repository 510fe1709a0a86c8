//! The jobs table as an [apalis](https://docs.rs/apalis-core) backend.
//!
//! apalis provides the worker runtime: it asks for a task when its layers are ready for one, runs it, and drains at
//! shutdown. The semantics of a task stay ours: [`domain::job::claim`] claims a job with a lease and an epoch, and a
//! fenced transaction finishes it, never apalis.
//!
//! A separate task makes the claims, one at a time and only when apalis asks. So a claim is never dropped half-made,
//! and no claimed job waits in a buffer while another worker is idle. When the database fails, the query is retried; it
//! never stops the worker.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::{RandomId, TaskId};
use apalis_core::worker::context::WorkerContext;
use domain::WorkerId;
use domain::job::{self, Claim, JobKind, LeasePolicy};
use futures::FutureExt;
use futures::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::layer::util::Identity;

use crate::health::Health;
use crate::supervisor::Engine;
use crate::swap::Swaps;

/// Longest wait for the answer to a claim.
const CLAIM_LIMIT: Duration = Duration::from_secs(10);
/// The same, and for giving a job back, while the worker stops.
const LAST_LIMIT: Duration = Duration::from_secs(3);

/// What a claim depends on.
#[derive(Clone)]
pub struct ClaimPolicy {
    /// The database with the jobs.
    pub pool: PgPool,
    /// Kinds of job that this worker takes.
    pub queues: Vec<JobKind>,
    /// Takes only jobs that ask nothing of the network.
    pub local: bool,
    /// Identifies this start of the process.
    pub worker: WorkerId,
    /// Length of a lease.
    pub lease: LeasePolicy,
    /// Signals that there may be work.
    pub bell: watch::Receiver<u64>,
    /// No job is claimed while this machine is in trouble: the work is left to others.
    pub health: Arc<Health>,
    /// No job is claimed while this engine is down, and jobs whose models it has loaded are preferred.
    pub engine: Option<Engine>,
    /// Swaps are carried out before the next claim, so between two jobs.
    pub swaps: Option<Swaps>,
    /// Stops claiming; jobs that were already claimed continue.
    pub stop: CancellationToken,
}

/// A stream of tasks from the jobs table.
pub struct JobBackend {
    demand: mpsc::Sender<()>,
    asked: bool,
    /// Taken when the backend closes.
    claims: Option<mpsc::Receiver<Claim>>,
    claiming: Option<JoinHandle<()>>,
    policy: ClaimPolicy,
    closing: Option<BoxFuture<'static, ()>>,
}

impl JobBackend {
    /// Starts the claiming task, which sleeps until apalis asks for a task.
    pub fn new(mut policy: ClaimPolicy) -> Self {
        // A child token: closing this backend ends its own claims, but not those of the backend that replaces it.
        policy.stop = policy.stop.child_token();
        let (demand, asked) = mpsc::channel(1);
        let (made, claims) = mpsc::channel(1);
        let claiming = tokio::spawn(claim_on_demand(policy.clone(), asked, made));
        Self { demand, asked: false, claims: Some(claims), claiming: Some(claiming), policy, closing: None }
    }
}

impl Backend for JobBackend {
    type Task = Task<Claim>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Task<Claim>, Infallible>>> {
        let Some(claims) = &mut self.claims else { return Poll::Ready(None) };
        if !self.asked {
            self.asked = true;
            // A full channel means that the claiming task has been asked already.
            let _ = self.demand.try_send(());
        }
        let claim = ready!(claims.poll_recv(cx));
        self.asked = false;
        Poll::Ready(claim.map(|claim| Ok(task(claim))))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        let closing = self.closing.get_or_insert_with(|| {
            let (policy, claims, claiming) = (self.policy.clone(), self.claims.take(), self.claiming.take());
            give_back_unused(policy, claims, claiming).boxed()
        });
        ready!(closing.poll_unpin(cx));
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for JobBackend {
    type Args = Claim;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

fn task(claim: Claim) -> Task<Claim> {
    let id = TaskId::from_string(claim.subject.to_string());
    let attempt = usize::try_from(claim.epoch).unwrap_or_default();
    TaskBuilder::new(claim).task_id(id).attempt(attempt).build()
}

/// Makes one claim for each demand.
async fn claim_on_demand(mut policy: ClaimPolicy, mut demand: mpsc::Receiver<()>, made: mpsc::Sender<Claim>) {
    let stop = policy.stop.clone();
    loop {
        let wanted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            wanted = demand.recv() => wanted,
        };
        if wanted.is_none() {
            return;
        }
        let Some(claim) = claim(&mut policy).await else { return };
        tracing::info!(job = %claim.subject, kind = ?claim.kind, epoch = claim.epoch, "claimed");
        if stop.is_cancelled() {
            return give_back(&policy, &claim).await;
        }
        if let Err(mpsc::error::SendError(claim)) = made.send(claim).await {
            return give_back(&policy, &claim).await;
        }
    }
}

/// Polls until there is a job; `None` when claiming has stopped.
async fn claim(policy: &mut ClaimPolicy) -> Option<Claim> {
    let stop = policy.stop.clone();
    let mut bell_hangs = true;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = policy.health.fit() => {}
        }
        if let Some(engine) = &policy.engine {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                up = engine.ready() => { up?; }
            }
        }
        // Marked as seen before the query, so that a signal during the query causes another one.
        policy.bell.borrow_and_update();
        if let Some(swaps) = &policy.swaps {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = swaps.carry_out() => {}
            }
        }
        let resident = policy.engine.as_ref().map(resident).unwrap_or_default();
        // Not cancelled half-way: we must know about a claim that was made.
        let ClaimPolicy { pool, queues, worker, lease, .. } = &*policy;
        let claim = async {
            if policy.local {
                job::claim_local(pool, queues, *worker, lease).await
            } else {
                job::claim(pool, queues, *worker, &resident, lease).await
            }
        };
        let answer = tokio::select! {
            answer = timeout(CLAIM_LIMIT, claim) => answer,
            () = async { stop.cancelled().await; sleep(LAST_LIMIT).await } => return None,
        };
        match answer {
            Ok(Ok(Some(claim))) => return Some(claim),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "claiming failed"),
            Err(_) => tracing::warn!("the database does not answer the claim"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            rung = policy.bell.changed(), if bell_hangs => bell_hangs = rung.is_ok(),
            () = sleep(policy.lease.poll) => {}
        }
    }
}

/// Digests of the models that the engine has loaded.
fn resident(engine: &Engine) -> Vec<String> {
    engine.resident().borrow().iter().map(|model| model.sha256.clone()).collect()
}

async fn give_back(policy: &ClaimPolicy, claim: &Claim) {
    tracing::info!(job = %claim.subject, "given back unused: this worker stops");
    match timeout(LAST_LIMIT, job::release(&policy.pool, claim, "the worker stops")).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(job = %claim.subject, %error, "could not be given back; its lease runs out"),
        Err(_) => tracing::warn!(job = %claim.subject, "could not be given back in time; its lease runs out"),
    }
}

/// Stops claiming, then releases the job that was claimed and not taken.
async fn give_back_unused(
    policy: ClaimPolicy,
    claims: Option<mpsc::Receiver<Claim>>,
    claiming: Option<JoinHandle<()>>,
) {
    policy.stop.cancel();
    let Some(mut claims) = claims else { return };
    claims.close();
    while let Some(claim) = claims.recv().await {
        give_back(&policy, &claim).await;
    }
    if let Some(claiming) = claiming {
        let _ = claiming.await;
    }
}
