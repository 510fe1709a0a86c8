//! Runs a claimed job until its attempt ends: holds the lease, runs the job by its kind, and records how it ended.

use std::sync::Arc;
use std::time::Duration;

use domain::job::{self, Claim, ErrorClass, JobKind};
use tokio::time::Instant;

use crate::attempt::{Attempt, WorkerContext, until_answered};
use crate::lease::Lease;
use crate::stop::Stop;
use crate::{export, generate, import, train};

/// How long no job is claimed after one was released because the disk was full or the engine was not available.
const WANT_PAUSE: Duration = Duration::from_secs(30);

/// Runs a claimed job to the end of this attempt. Never fails: every outcome is written to the database; when the
/// database cannot be reached, the lease expires.
pub(crate) async fn attend(context: Arc<WorkerContext>, claim: Claim) {
    let lease = Arc::new(Lease::hold(context.pool.clone(), claim, context.config.lease, context.cancels.subscribe()));
    let began = Instant::now();
    // In a separate task, so that a panic drops neither the lease nor the record of the outcome.
    let work = tokio::spawn({
        let (context, lease) = (Arc::clone(&context), Arc::clone(&lease));
        async move { run(&Attempt::begin(&context, &lease)?).await }
    });
    let outcome = work
        .await
        .unwrap_or_else(|panic| Err(Stop::Failed(ErrorClass::Internal, format!("the worker panicked: {panic}"))));
    let seconds = began.elapsed().as_secs_f64();
    match outcome {
        Ok(()) => tracing::info!(job = %claim.subject, epoch = claim.epoch, seconds, "succeeded"),
        Err(stop) => {
            tracing::warn!(job = %claim.subject, epoch = claim.epoch, seconds, ?stop, "attempt ended");
            settle(&context, &lease, stop).await;
        }
    }
    // Leftovers of this job, and of those that ended without a worker.
    let (pool, storage) = (&context.pool, &context.storage);
    let discarded = match claim.kind {
        JobKind::Import => domain::import::discard_leftovers(pool, storage).await,
        JobKind::Training => domain::training::discard_leftovers(pool, storage).await,
        JobKind::Generation | JobKind::Export => Ok(()),
    };
    if let Err(error) = discarded {
        tracing::debug!(%error, "leftovers stay for now");
    }
}

async fn settle(context: &WorkerContext, lease: &Lease, stop: Stop) {
    if stop == Stop::LeaseLost {
        return;
    }
    if let Stop::Released(_) = stop
        && !context.draining.is_cancelled()
    {
        context.not_before.send_replace(Instant::now() + WANT_PAUSE);
    }
    let (pool, claim, policy) = (&context.pool, lease.claim(), &context.config.lease);
    let ended = until_answered(context, lease, || async {
        match &stop {
            Stop::LeaseLost => Err(domain::Error::LeaseLost),
            Stop::Canceled => job::canceled(pool, claim).await,
            Stop::Released(why) => job::release(pool, claim, why).await.map(drop),
            Stop::Crashed(how) => job::crash(pool, claim, policy, how).await.map(drop),
            Stop::DoesNotFit(memory, message) => {
                let memory = i64::try_from(*memory).unwrap_or(i64::MAX);
                job::does_not_fit(pool, claim, memory, message).await.map(drop)
            }
            Stop::Failed(class, message) => job::fail(pool, claim, policy, *class, message).await.map(drop),
        }
    });
    if let Err(error) = ended.await {
        tracing::warn!(job = %claim.subject, %error, "the attempt could not be ended; its lease runs out");
    }
}

/// Runs a job by its kind.
async fn run(attempt: &Attempt<'_>) -> Result<(), Stop> {
    match attempt.claim().kind {
        JobKind::Generation => generate::run(attempt).await,
        JobKind::Training => train::run(attempt).await,
        JobKind::Import => import::run(attempt).await,
        JobKind::Export => export::run(attempt).await,
    }
}
