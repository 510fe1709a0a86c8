//! A thousand random histories of a few jobs and workers, step by step against a model of what should be in the tables.
//!
//! The model is the specification in 150 lines of plain Rust: no SQL, no time except "due" and "expired".

use std::time::Duration;

use domain::event::EventKind;
use domain::job::{self, Claim, Ending, ErrorClass, JobKind, LeasePolicy, NewJob, Reaper};
use domain::{Caller, Error, JobId, WorkerId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sqlx::PgPool;

use super::{Database, cancel, events, expire, pass_pause};

const SEQUENCES: u32 = 1000;
/// Histories run in parallel, each with its own database: most of the time is spent waiting for Postgres.
const LANES: u32 = 4;

/// One step. Numbers select among the jobs that it can apply to, and among the claims ever made, stale ones included.
#[derive(Debug, Clone)]
enum Step {
    Enqueue {
        kind: JobKind,
        priority: i16,
        budget: i32,
    },
    Claim {
        worker: usize,
        kinds: Vec<JobKind>,
    },
    Beat(Holder),
    Progress(Holder, u32),
    Fail(Holder, ErrorClass),
    Crash(Holder),
    Release(Holder),
    SetBack(Holder),
    /// A checkpoint restores the budgets.
    Restore(Holder),
    Canceled(Holder),
    Succeed(Holder),
    Cancel(usize),
    /// The lease of a running job runs out unnoticed.
    Expire(usize),
    /// The pause of a queued job passes.
    Due(usize),
    Reap,
}

/// The actor: the holder of a claim, or one with a part of the claim wrong.
#[derive(Debug, Clone, Copy)]
struct Holder {
    claim: usize,
    forged: Option<Forged>,
}

#[derive(Debug, Clone, Copy)]
enum Forged {
    Worker,
    Epoch,
}

fn holder() -> impl Strategy<Value = Holder> {
    // Indices count from the newest claim, and mostly select one of the last two.
    let claim = prop_oneof![4 => 0usize..2, 1 => 0usize..8];
    let forged = prop_oneof![8 => Just(None), 1 => Just(Some(Forged::Worker)), 1 => Just(Some(Forged::Epoch))];
    (claim, forged).prop_map(|(claim, forged)| Holder { claim, forged })
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(JobKind::Generation), Just(JobKind::Training)];
    let kinds = prop_oneof![4 => Just(JobKind::ALL.to_vec()), 1 => kind.clone().prop_map(|kind| vec![kind])];
    let class = prop_oneof![3 => Just(ErrorClass::Internal), 1 => Just(ErrorClass::InvalidInput)];
    prop_oneof![
        3 => (kind, -1i16..2, 1i32..4).prop_map(|(kind, priority, budget)| Step::Enqueue { kind, priority, budget }),
        10 => (0usize..3, kinds).prop_map(|(worker, kinds)| Step::Claim { worker, kinds }),
        1 => holder().prop_map(Step::Beat),
        1 => (holder(), 0u32..12).prop_map(|(holder, step)| Step::Progress(holder, step)),
        4 => (holder(), class).prop_map(|(holder, class)| Step::Fail(holder, class)),
        3 => holder().prop_map(Step::Crash),
        2 => holder().prop_map(Step::Release),
        1 => holder().prop_map(Step::SetBack),
        1 => holder().prop_map(Step::Restore),
        2 => holder().prop_map(Step::Canceled),
        2 => holder().prop_map(Step::Succeed),
        1 => (0usize..4).prop_map(Step::Cancel),
        3 => (0usize..4).prop_map(Step::Expire),
        6 => (0usize..4).prop_map(Step::Due),
        4 => Just(Step::Reap),
    ]
}

// ───────────────────────────────────────────────────────────────────────────────────────────── the model

#[derive(Debug, Clone, PartialEq)]
struct ModelJob {
    id: JobId,
    kind: JobKind,
    priority: i16,
    status: &'static str,
    epoch: i64,
    worker: Option<WorkerId>,
    /// Budget of failures, of crashes, and of releases.
    budget: i32,
    failures: i32,
    crashes: i32,
    releases: i32,
    setbacks: i32,
    cancel: bool,
    step: i32,
    error: Option<ErrorClass>,
    /// Outcome by epoch; the last may be open.
    attempts: Vec<Option<&'static str>>,
    events: Vec<EventKind>,
    /// Epochs of its artifacts: at most one, of the attempt that succeeded.
    artifacts: Vec<i64>,
    /// Not while it pauses.
    due: bool,
    expired: bool,
}

#[derive(Default)]
struct Model {
    /// In the order in which they were enqueued, which is their order in the queue.
    jobs: Vec<ModelJob>,
}

impl Model {
    fn next(&self, kinds: &[JobKind]) -> Option<usize> {
        let waiting = self
            .jobs
            .iter()
            .enumerate()
            .filter(|(_, job)| job.status == "queued" && job.due && kinds.contains(&job.kind));
        waiting.map(|(index, job)| (-job.priority, index)).min().map(|(_, index)| index)
    }

    /// The job that this claim really holds.
    fn held(&mut self, claim: &Claim) -> Option<&mut ModelJob> {
        self.jobs.iter_mut().find(|job| {
            job.id == claim.job
                && job.status == "running"
                && job.epoch == claim.epoch
                && job.worker == Some(claim.worker)
        })
    }

    fn end(&mut self, index: usize, outcome: &'static str, retry: bool, class: ErrorClass) -> Ending {
        let job = &mut self.jobs[index];
        let budget = job.budget;
        let (spent, budget) = match outcome {
            "failed" => (&mut job.failures, budget),
            "released" => (&mut job.releases, budget),
            "set back" => (&mut job.setbacks, i32::MAX),
            "canceled" => (&mut 0, budget),
            _ => (&mut job.crashes, budget),
        };
        *spent += 1;
        let last = !retry || *spent >= budget;
        job.worker = None;
        *job.attempts.last_mut().unwrap() = Some(if outcome == "set back" { "released" } else { outcome });
        let (status, event, ending) = if job.cancel {
            ("canceled", EventKind::Canceled, Ending::Canceled)
        } else if last {
            job.error = Some(class);
            ("failed", EventKind::Failed, Ending::Failed)
        } else {
            // Only a released job does not pause.
            job.due = outcome == "released";
            ("queued", EventKind::Retrying, Ending::Requeued)
        };
        job.status = status;
        job.events.push(event);
        ending
    }
}

// ───────────────────────────────────────────────────────────────────────────────── the two side by side

struct Trial {
    pool: PgPool,
    policy: LeasePolicy,
    reaper: Reaper,
    workers: [WorkerId; 3],
    model: Model,
    claims: Vec<Claim>,
}

impl Trial {
    async fn start(pool: PgPool) -> Trial {
        sqlx::query("DELETE FROM jobs").execute(&pool).await.unwrap();
        // Pauses end only by `Due`, and leases only by `Expire`.
        let hour = Duration::from_hours(1);
        let policy = LeasePolicy {
            ttl: hour,
            failure_backoff: hour,
            crash_backoff: hour,
            reaper_tick: hour,
            ..LeasePolicy::default()
        };
        let reaper = Reaper::new(LeasePolicy { ttl: Duration::ZERO, beat: Duration::ZERO, ..policy });
        let workers = std::array::from_fn(|_| WorkerId::new());
        Trial { pool, policy, reaper, workers, model: Model::default(), claims: Vec::new() }
    }

    /// The claim that an actor uses, forged or not; `None` before the first claim.
    fn claim_of(&self, holder: Holder) -> Option<Claim> {
        let claim = *self.claims.iter().rev().nth(holder.claim % self.claims.len().max(1))?;
        Some(match holder.forged {
            None => claim,
            Some(Forged::Epoch) => Claim { epoch: claim.epoch + 1, ..claim },
            Some(Forged::Worker) => {
                Claim { worker: self.workers.into_iter().find(|worker| *worker != claim.worker).unwrap(), ..claim }
            }
        })
    }

    /// One of the jobs with this status.
    fn job_of(&self, number: usize, status: &str) -> Option<usize> {
        let those: Vec<usize> =
            (0..self.model.jobs.len()).filter(|index| self.model.jobs[*index].status == status).collect();
        those.get(number % those.len().max(1)).copied()
    }

    async fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Enqueue { kind, priority, budget } if self.model.jobs.len() < 4 => {
                self.enqueue(kind, priority, budget).await;
            }
            Step::Enqueue { .. } => {}
            Step::Claim { worker, ref kinds } => self.claim(self.workers[worker], kinds).await?,
            Step::Beat(holder) => {
                let Some(claim) = self.claim_of(holder) else { return Ok(()) };
                let beat = job::beat(&self.pool, &claim, &self.policy).await;
                let held = self.model.held(&claim).map(|job| {
                    job.expired = false;
                    job.cancel
                });
                prop_assert_eq!(refused(beat)?.map(|beat| beat.cancel), held);
            }
            Step::Progress(holder, number) => {
                let Some(claim) = self.claim_of(holder) else { return Ok(()) };
                let told = job::progress(&self.pool, &claim, number, 10, serde_json::json!({})).await;
                let held = self.model.held(&claim).map(|job| {
                    job.step = number.min(10).cast_signed();
                    job.events.push(EventKind::Progress);
                    job.events.len() as i64
                });
                prop_assert_eq!(refused(told)?, held);
            }
            Step::Fail(holder, class) => {
                let Some(claim) = self.claim_of(holder) else { return Ok(()) };
                let told = job::fail(&self.pool, &claim, &self.policy, class, "failed").await;
                self.ended(&claim, told, "failed", class.is_retried(), class)?;
            }
            Step::Crash(holder) => {
                let Some(claim) = self.claim_of(holder) else { return Ok(()) };
                let told = job::crash(&self.pool, &claim, &self.policy, "crashed").await;
                self.ended(&claim, told, "crashed", true, ErrorClass::Crash)?;
            }
            Step::Release(holder) => {
                let Some(claim) = self.claim_of(holder) else { return Ok(()) };
                let told = job::release(&self.pool, &claim, "the worker stops").await;
                self.ended(&claim, told, "released", true, ErrorClass::Resource)?;
            }
            Step::SetBack(holder) => {
                let Some(claim) = self.claim_of(holder) else { return Ok(()) };
                let told = job::set_back(&self.pool, &claim, &self.policy, "the disk is full").await;
                self.ended(&claim, told, "set back", true, ErrorClass::Resource)?;
            }
            Step::Restore(holder) => {
                let Some(claim) = self.claim_of(holder) else { return Ok(()) };
                let mut connection = self.pool.acquire().await.unwrap();
                let told = job::restore_budgets(&mut connection, &claim).await;
                let held = self.model.held(&claim).map(|job| {
                    (job.failures, job.crashes, job.releases) = (0, 0, 0);
                });
                prop_assert_eq!(refused(told)?, held);
            }
            Step::Canceled(holder) => {
                let Some(claim) = self.claim_of(holder) else { return Ok(()) };
                match job::canceled(&self.pool, &claim).await {
                    Err(Error::Conflict { .. }) => prop_assert!(self.model.held(&claim).is_some_and(|job| !job.cancel)),
                    told => {
                        self.ended(&claim, told.map(|()| Ending::Canceled), "canceled", false, ErrorClass::Internal)?;
                    }
                }
            }
            Step::Succeed(holder) => {
                let Some(claim) = self.claim_of(holder) else { return Ok(()) };
                self.succeed(&claim).await?;
            }
            Step::Cancel(number) => {
                let count = self.model.jobs.len();
                let Some(index) = (count > 0).then(|| number % count.max(1)) else { return Ok(()) };
                let seen = cancel(&self.pool, self.model.jobs[index].id).await.unwrap();
                let job = &mut self.model.jobs[index];
                if job.status == "queued" {
                    job.status = "canceled";
                    job.events.push(EventKind::Canceled);
                    job.cancel = true;
                } else if job.status == "running" {
                    job.cancel = true;
                }
                prop_assert_eq!(seen.status.as_str(), job.status);
            }
            Step::Expire(number) => {
                let Some(index) = self.job_of(number, "running") else { return Ok(()) };
                expire(&self.pool, self.model.jobs[index].id).await;
                self.model.jobs[index].expired = true;
            }
            Step::Due(number) => {
                let Some(index) = self.job_of(number, "queued") else { return Ok(()) };
                pass_pause(&self.pool, self.model.jobs[index].id).await;
                self.model.jobs[index].due = true;
            }
            Step::Reap => {
                let taken = self.reaper.tick(&self.pool).await.unwrap();
                let expired: Vec<usize> = (0..self.model.jobs.len())
                    .filter(|index| self.model.jobs[*index].status == "running" && self.model.jobs[*index].expired)
                    .collect();
                prop_assert_eq!(taken, expired.len() as u64);
                for index in expired {
                    self.model.end(index, "expired", true, ErrorClass::Crash);
                }
            }
        }
        Ok(())
    }

    async fn enqueue(&mut self, kind: JobKind, priority: i16, budget: i32) {
        let mut tx = self.pool.begin().await.unwrap();
        let id = job::enqueue(
            &mut tx,
            NewJob { priority, total_steps: 10, ..NewJob::new(&Caller::anonymous(), kind, JobId::new()) },
        )
        .await
        .unwrap();
        sqlx::query("UPDATE jobs SET max_failures = $2, max_crashes = $2, max_releases = $2 WHERE id = $1")
            .bind(id.0)
            .bind(budget)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        self.model.jobs.push(ModelJob {
            id,
            kind,
            priority,
            status: "queued",
            epoch: 0,
            worker: None,
            budget,
            failures: 0,
            crashes: 0,
            releases: 0,
            setbacks: 0,
            cancel: false,
            step: 0,
            error: None,
            attempts: vec![],
            events: vec![EventKind::Queued],
            artifacts: vec![],
            due: true,
            expired: false,
        });
    }

    async fn claim(&mut self, worker: WorkerId, kinds: &[JobKind]) -> Result<(), TestCaseError> {
        let claimed = job::claim(&self.pool, kinds, worker, &[], &self.policy).await.unwrap();
        let expected = self.model.next(kinds).map(|index| {
            let job = &mut self.model.jobs[index];
            job.status = "running";
            job.epoch += 1;
            job.worker = Some(worker);
            job.expired = false;
            job.attempts.push(None);
            job.events.push(EventKind::Started);
            Claim {
                job: job.id,
                subject: job.id.0,
                kind: job.kind,
                epoch: job.epoch,
                worker,
                failures: job.failures,
                crashes: job.crashes,
                setbacks: job.setbacks,
            }
        });
        prop_assert_eq!(claimed, expected);
        self.claims.extend(claimed);
        Ok(())
    }

    /// Results first, as a careless worker would: the fence must take them back.
    async fn succeed(&mut self, claim: &Claim) -> Result<(), TestCaseError> {
        let mut tx = self.pool.begin().await.unwrap();
        let written = sqlx::query(
            "INSERT INTO artifacts (id, job_id, position, epoch, kind, storage_key, media_type, bytes, sha256, md5)
             VALUES (gen_random_uuid(), $1, 0, $2, 'lora', gen_random_uuid()::text, 'x', 1,
                     repeat('0', 64), repeat('0', 32))",
        )
        .bind(claim.job.0)
        .bind(claim.epoch)
        .execute(&mut *tx)
        .await;
        let told = match written {
            Ok(_) => job::succeed(&mut tx, claim).await.map(std::option::Option::unwrap_or_default),
            // An epoch that never existed, or results that exist already.
            Err(_) => Err(Error::LeaseLost),
        };
        if told.is_ok() {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        let held = self.model.held(claim).map(|job| {
            job.status = "succeeded";
            job.worker = None;
            job.step = 10;
            job.artifacts.push(claim.epoch);
            *job.attempts.last_mut().unwrap() = Some("succeeded");
            job.events.push(EventKind::Succeeded);
            job.events.len() as i64
        });
        prop_assert_eq!(refused(told)?, held);
        Ok(())
    }

    fn ended(
        &mut self,
        claim: &Claim,
        told: domain::Result<Ending>,
        outcome: &'static str,
        retry: bool,
        class: ErrorClass,
    ) -> Result<(), TestCaseError> {
        let held = self.model.held(claim).map(|job| job.id);
        let index = held.and_then(|id| self.model.jobs.iter().position(|job| job.id == id));
        let expected = index.map(|index| self.model.end(index, outcome, retry, class));
        prop_assert_eq!(refused(told)?, expected);
        Ok(())
    }

    /// Checks that the tables match the model.
    async fn compare(&self) -> Result<(), TestCaseError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, status, epoch, worker, failures, crashes, releases, setbacks,
                 cancel_requested_at IS NOT NULL AS cancel, step, error_class,
                 (SELECT coalesce(array_agg(outcome ORDER BY a.epoch), '{}')
                  FROM attempts a WHERE job_id = id) AS attempts,
                 (SELECT coalesce(array_agg(sequence || ':' || e.kind ORDER BY sequence), '{}')
                  FROM job_events e WHERE job_id = id) AS events,
                 (SELECT coalesce(array_agg(r.epoch), '{}') FROM artifacts r WHERE job_id = jobs.id) AS artifacts
             FROM jobs ORDER BY id",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let expected: Vec<Row> = self.model.jobs.iter().map(Row::from).collect();
        prop_assert_eq!(rows, expected);
        Ok(())
    }
}

#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Row {
    id: uuid::Uuid,
    status: String,
    epoch: i64,
    worker: Option<uuid::Uuid>,
    failures: i32,
    crashes: i32,
    releases: i32,
    setbacks: i32,
    cancel: bool,
    step: i32,
    error_class: Option<String>,
    attempts: Vec<Option<String>>,
    events: Vec<String>,
    artifacts: Vec<i64>,
}

impl From<&ModelJob> for Row {
    fn from(job: &ModelJob) -> Row {
        let events = job.events.iter().enumerate().map(|(index, kind)| format!("{}:{}", index + 1, kind.as_str()));
        Row {
            id: job.id.0,
            status: job.status.to_owned(),
            epoch: job.epoch,
            worker: job.worker.map(|worker| worker.0),
            failures: job.failures,
            crashes: job.crashes,
            releases: job.releases,
            setbacks: job.setbacks,
            cancel: job.cancel,
            step: job.step,
            error_class: job.error.map(|class| class.as_str().to_owned()),
            attempts: job.attempts.iter().map(|outcome| outcome.map(str::to_owned)).collect(),
            events: events.collect(),
            artifacts: job.artifacts.clone(),
        }
    }
}

/// `None` for a lost lease; any other error fails the test.
fn refused<T>(told: domain::Result<T>) -> Result<Option<T>, TestCaseError> {
    match told {
        Ok(value) => Ok(Some(value)),
        Err(Error::LeaseLost) => Ok(None),
        Err(error) => Err(TestCaseError::fail(format!("unexpected: {error}"))),
    }
}

/// How many jobs had each final status.
type Tally = std::collections::BTreeMap<String, u32>;

fn lane() -> Tally {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(Database::fresh());
    let config =
        Config { cases: SEQUENCES / LANES, max_shrink_iters: 2000, failure_persistence: None, ..Config::default() };
    let tally = std::cell::RefCell::new(Tally::new());
    let outcome = TestRunner::new(config).run(&vec(step(), 1..60), |steps| {
        runtime.block_on(async {
            let mut trial = Trial::start(database.pool().clone()).await;
            for step in &steps {
                trial.take(step).await?;
                trial.compare().await?;
            }
            for job in &trial.model.jobs {
                let last = job.attempts.last().copied().flatten().unwrap_or("none");
                *tally.borrow_mut().entry(format!("{} after {last}", job.status)).or_default() += 1;
                let events = events(&trial.pool, job.id, 0, 1000).await.unwrap();
                let ends = events.iter().filter(|event| event.kind.is_terminal()).count();
                prop_assert!(ends <= 1, "a job ends once: {events:?}");
            }
            Ok(())
        })
    });
    outcome.unwrap();
    tally.into_inner()
}

#[test]
fn a_thousand_histories() {
    let tallies = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).collect::<Vec<_>>()
    });
    let mut tally = Tally::new();
    for (end, count) in tallies.into_iter().flatten() {
        *tally.entry(end).or_default() += count;
    }
    // The histories reached every status.
    for end in [
        "queued after none",
        "queued after failed",
        "queued after crashed",
        "queued after expired",
        "queued after released",
        "running after none",
        "succeeded after succeeded",
        "failed after failed",
        "failed after crashed",
        "failed after expired",
        "failed after released",
        "canceled after none",
        "canceled after failed",
        "canceled after expired",
        "canceled after canceled",
    ] {
        assert!(tally.contains_key(end), "never {end}: {tally:#?}");
    }
}
