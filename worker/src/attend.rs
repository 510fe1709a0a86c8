//! Runs a claimed job until its attempt ends: holds the lease, runs the job by its kind, and records how it ended.

use std::sync::Arc;
use std::time::Duration;

use domain::job::{self, Claim, ErrorClass, JobKind};
use domain::leftover;
use tokio::time::{Instant, sleep};

use crate::attempt::{Attempt, WorkerContext, until_answered};
use crate::lease::Lease;
use crate::stop::{Stop, Trouble};
use crate::{export, generate, import, train};

/// After how many jobs that failed here and succeeded on other workers this worker is considered to be in trouble.
const MOST_DONE_BY_OTHERS: i64 = 3;
/// How often, and with which pauses, the database is told that an attempt without its lease has ended.
const LEAVING_TRIES: u32 = 30;
const LEAVING_PAUSE: Duration = Duration::from_secs(2);

/// Runs a claimed job to the end of this attempt. Never fails: every outcome is written to the database; when the
/// database cannot be reached, the lease expires.
pub(crate) async fn attend(context: Arc<WorkerContext>, claim: Claim) {
    let lease = Arc::new(Lease::hold(context.pool.clone(), claim, context.config.lease, context.cancels.subscribe()));
    let began = Instant::now();
    // In a separate task, so that a panic drops neither the lease nor the record of the outcome.
    let work = tokio::spawn({
        let (context, lease) = (Arc::clone(&context), Arc::clone(&lease));
        async move {
            let attempt = Attempt::begin(&context, &lease)?;
            Box::pin(run(&attempt)).await.map_err(|stop| stop.map_message(|message| attempt.labels.apply(message)))
        }
    });
    let outcome = work
        .await
        .unwrap_or_else(|panic| Err(Stop::Failed(ErrorClass::Internal, format!("the worker panicked: {panic}"))));
    let seconds = began.elapsed().as_secs_f64();
    match outcome {
        Ok(()) => {
            tracing::info!(job = %claim.subject, epoch = claim.epoch, seconds, "succeeded");
            context.health.success();
        }
        Err(stop) => {
            tracing::warn!(job = %claim.subject, epoch = claim.epoch, seconds, reason = %stop, "attempt ended");
            settle(&context, &lease, stop).await;
        }
    }
    // A worker that stops leaves the rest to others: the database may be what it stops for.
    if context.draining.is_cancelled() {
        return;
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
        return leave(context, lease.claim()).await;
    }
    // Before the job is returned, so that this worker does not claim it again at once.
    if let Stop::Trouble(trouble, why) = &stop {
        context.health.trouble(*trouble, why);
    }
    let (pool, claim, policy) = (&context.pool, lease.claim(), &context.config.lease);
    let ended = until_answered(context, lease, || async {
        match &stop {
            Stop::LeaseLost => Err(domain::Error::LeaseLost),
            Stop::Canceled => job::canceled(pool, claim).await,
            Stop::Released(why) => job::release(pool, claim, why).await.map(drop),
            Stop::Trouble(_, why) => job::set_back(pool, claim, policy, why).await.map(drop),
            Stop::Crashed(how) => job::crash(pool, claim, policy, how).await.map(drop),
            Stop::DoesNotFit(memory, message) => {
                let memory = i64::try_from(*memory).unwrap_or(i64::MAX);
                job::does_not_fit(pool, claim, memory, message).await.map(drop)
            }
            Stop::NoRoom(message) => job::no_room(pool, claim, message).await.map(drop),
            Stop::Failed(class, message) => job::fail(pool, claim, policy, *class, message).await.map(drop),
        }
    });
    match ended.await {
        Ok(()) => {}
        Err(domain::Error::LeaseLost) => leave(context, claim).await,
        Err(error) => {
            tracing::warn!(job = %claim.subject, %error, "the attempt could not be ended; its lease runs out");
        }
    }
    if context.draining.is_cancelled() {
        return;
    }
    if matches!(&stop, Stop::Crashed(_)) || matches!(&stop, Stop::Failed(class, _) if class.is_retried()) {
        compare_with_others(context, claim).await;
    }
}

/// Has the bucket searched for what this attempt stored after its lease was lost: a worker that was stopped
/// continues its last request when it wakes.
async fn leave(context: &WorkerContext, claim: &Claim) {
    for _ in 0..LEAVING_TRIES {
        match leftover::of_lost_attempt(&context.pool, claim).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(job = %claim.subject, %error, "its objects stay for now"),
        }
        tokio::select! {
            () = sleep(LEAVING_PAUSE) => {}
            () = context.draining.cancelled() => return,
        }
    }
}

/// Pauses this worker if others do what fails here. One bad worker would otherwise claim job after job, since it is
/// always the first to be idle.
async fn compare_with_others(context: &WorkerContext, claim: &Claim) {
    let span = context.health.without_success();
    match domain::worker::done_by_others(&context.pool, claim.worker, span).await {
        Ok(count) if count >= MOST_DONE_BY_OTHERS => {
            let reason = format!("{count} jobs that failed on this worker have succeeded on others.");
            context.health.trouble(Trouble::Jobs, &reason);
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "not compared with other workers"),
    }
}

/// Runs a job by its kind.
async fn run(attempt: &Attempt<'_>) -> Result<(), Stop> {
    match attempt.claim().kind {
        JobKind::Generation => generate::run(attempt).await,
        JobKind::Training => train::run(attempt).await,
        JobKind::Import => Box::pin(import::run(attempt)).await,
        JobKind::Export => export::run(attempt).await,
    }
}
