//! Which worker gets which job when workers have models loaded: they prefer jobs on loaded models, and no job starves.
//! Time passes by moving all past events further into the past, so no test waits.

use std::collections::HashSet;

use domain::job::{self, Claim, JobKind, NewJob, OVERTAKEN_AT_MOST, PASSED_OVER_AT_MOST};
use domain::worker::{self, Resident};
use domain::{Caller, JobId, PageRequest, WorkerId};
use memory::Budget;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sqlx::PgPool;

use super::{Database, patient};

/// The limit that README promises.
const PROMISED_SECONDS: u32 = 60;
/// Time passes in steps of this length; the test itself must take less than half of one.
const PIECE_SECONDS: u32 = 20;

/// Digest of a model named by one hex digit.
fn digest(model: char) -> String {
    model.to_string().repeat(64)
}

pub(super) fn digests(models: &str) -> Vec<String> {
    models.chars().map(digest).collect()
}

pub(super) async fn enqueue_on(pool: &PgPool, model: Option<char>, priority: i16) -> JobId {
    let mut tx = pool.begin().await.unwrap();
    let job = job::enqueue(
        &mut tx,
        NewJob { priority, total_steps: 10, ..NewJob::new(&Caller::anonymous(), JobKind::Generation, JobId::new()) },
    )
    .await
    .unwrap();
    sqlx::query("UPDATE jobs SET base_sha256 = $2 WHERE id = $1")
        .bind(job.0)
        .bind(model.map(digest))
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    job
}

async fn claim_with(pool: &PgPool, models: &str) -> Option<Claim> {
    job::claim(pool, &JobKind::ALL, WorkerId::new(), &digests(models), &patient()).await.unwrap()
}

/// Moves all past events this much further into the past.
async fn pass(pool: &PgPool, seconds: u32) {
    for statement in [
        "UPDATE jobs SET run_at = run_at - make_interval(secs => $1),
             created_at = created_at - make_interval(secs => $1)
         WHERE status IN ('queued', 'running')",
        "UPDATE attempts SET started_at = started_at - make_interval(secs => $1),
             overtook = overtook - make_interval(secs => $1)",
    ] {
        sqlx::query(statement).bind(f64::from(seconds)).execute(pool).await.unwrap();
    }
}

#[test]
fn the_promise_is_kept_with_a_margin() {
    assert!(PASSED_OVER_AT_MOST.as_secs() < u64::from(PROMISED_SECONDS));
    assert_eq!(
        PASSED_OVER_AT_MOST.as_secs().div_ceil(u64::from(PIECE_SECONDS)) * 20,
        60,
        "the pieces meet no boundary"
    );
}

#[tokio::test]
async fn a_stream_of_fitting_jobs_does_not_starve_the_other_one() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let other = enqueue_on(pool, Some('b'), 0).await;
    let mut passed = 0;
    loop {
        let fitting = enqueue_on(pool, Some('a'), 0).await;
        let claim = claim_with(pool, "a").await.unwrap();
        if claim.job == other {
            break;
        }
        assert_eq!(claim.job, fitting);
        passed += 1;
        pass(pool, 5).await;
    }
    // At 0 s, 5 s … 45 s, and at 50 s no more.
    assert_eq!(passed, 10);
    assert_eq!(claim_with(pool, "a").await.unwrap().epoch, 1);
    assert_eq!(claim_with(pool, "a").await, None);
}

/// A long queue for two models, one worker with room for one: it swaps occasionally, not at each job.
#[tokio::test]
async fn who_merely_waited_is_not_passed_over() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let mut model_of = std::collections::HashMap::new();
    for _ in 0..40 {
        for model in ['a', 'b'] {
            model_of.insert(enqueue_on(pool, Some(model), 0).await, model);
        }
    }
    pass(pool, 3600).await;
    let (mut resident, mut swaps) = ("a", 0);
    for _ in 0..80 {
        let claim = claim_with(pool, resident).await.unwrap();
        let needed = if model_of[&claim.job] == 'a' { "a" } else { "b" };
        swaps += u32::from(needed != resident);
        resident = needed;
        pass(pool, 5).await;
    }
    assert_eq!(claim_with(pool, "ab").await, None);
    assert!((2..=8).contains(&swaps), "{swaps} swaps for 80 jobs of two models");
}

#[tokio::test]
async fn jobs_so_short_that_no_time_passes_are_counted() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let other = enqueue_on(pool, Some('b'), 0).await;
    for _ in 0..OVERTAKEN_AT_MOST + 5 {
        enqueue_on(pool, Some('a'), 0).await;
    }
    for _ in 0..OVERTAKEN_AT_MOST {
        assert_ne!(claim_with(pool, "a").await.unwrap().job, other);
    }
    assert_eq!(claim_with(pool, "a").await.unwrap().job, other);
}

#[tokio::test]
async fn a_higher_priority_goes_before_a_model_that_is_loaded() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let fitting = enqueue_on(pool, Some('a'), 0).await;
    let urgent = enqueue_on(pool, Some('b'), 1).await;
    let urgent_and_fitting = enqueue_on(pool, Some('a'), 1).await;
    let taken = [claim_with(pool, "a").await, claim_with(pool, "a").await, claim_with(pool, "a").await];
    assert_eq!(taken.map(|claim| claim.unwrap().job), [urgent_and_fitting, urgent, fitting]);
}

#[tokio::test]
async fn two_workers_take_what_each_has_loaded_and_nothing_twice() {
    const JOBS: usize = 60;
    let database = Database::fresh().await;
    for index in 0..JOBS {
        enqueue_on(database.pool(), Some(if index % 2 == 0 { 'a' } else { 'b' }), 0).await;
    }
    let mut workers = tokio::task::JoinSet::new();
    for models in ["a", "b", "a", "b", "", "ab"] {
        let pool = database.pools.lease.clone();
        workers.spawn(async move {
            let mut held = Vec::new();
            while let Some(claim) = claim_with(&pool, models).await {
                held.push(claim.job);
            }
            held
        });
    }
    let jobs = workers.join_all().await.concat();
    assert_eq!(jobs.len(), JOBS);
    assert_eq!(jobs.iter().collect::<HashSet<_>>().len(), JOBS);
}

#[tokio::test]
async fn only_the_living_have_anything_loaded() {
    let database = Database::fresh().await;
    let pool = database.pool();
    let [first, second] = [WorkerId::new(), WorkerId::new()];
    let resident = [Resident { sha256: digest('a'), bytes: 7 }];
    for id in [first, second] {
        worker::register(pool, id, "worker", "host", "cpu", &JobKind::ALL, "1", Some(&Budget::on_cpu(1 << 30)))
            .await
            .unwrap();
        worker::register(pool, id, "worker", "host", "cpu", &JobKind::ALL, "1", Some(&Budget::on_cpu(1 << 30)))
            .await
            .unwrap();
        worker::seen(pool, id, &resident).await.unwrap();
    }
    let residents = async || {
        let mut found = worker::residences(&Caller::anonymous(), &domain::Database::new(pool.clone()), &digests("ab"))
            .await
            .unwrap();
        assert!(!found.contains_key(&digest('b')));
        found.remove(&digest('a')).unwrap_or_default().into_iter().map(|one| one.worker).collect::<Vec<_>>()
    };
    assert_eq!(residents().await, [first, second]);
    // It was killed, so it reports nothing more.
    sqlx::query("UPDATE workers SET last_seen_at = last_seen_at - interval '46 s' WHERE id = $1")
        .bind(first.0)
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(residents().await, [second]);
    assert_eq!(
        worker::list(&Caller::anonymous(), &domain::Database::new(pool.clone()), &PageRequest::default())
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    worker::stopped(pool, second).await.unwrap();
    assert_eq!(residents().await, []);
}

// ───────────────────────────────────────────────────────────────────── any history, beside a model of it

#[derive(Debug, Clone)]
enum Step {
    Enqueue {
        model: Option<char>,
        priority: i16,
    },
    Claim {
        resident: &'static str,
    },
    /// One of the claims made releases its job.
    Release(usize),
    Pass(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let model = prop_oneof![4 => Just(Some('a')), 3 => Just(Some('b')), 2 => Just(Some('c')), 1 => Just(None)];
    let priority = prop_oneof![8 => Just(0i16), 1 => Just(1i16)];
    let resident = prop_oneof![4 => Just("a"), 2 => Just("b"), 1 => Just("ab"), 1 => Just("c"), 1 => Just("")];
    prop_oneof![
        8 => (model, priority).prop_map(|(model, priority)| Step::Enqueue { model, priority }),
        6 => resident.prop_map(|resident| Step::Claim { resident }),
        1 => (0usize..8).prop_map(Step::Release),
        2 => (1u32..=3).prop_map(Step::Pass),
    ]
}

#[derive(Debug, Clone)]
struct Waiting {
    id: JobId,
    /// Its place in the order in which jobs were enqueued.
    number: u32,
    model: Option<char>,
    priority: i16,
    /// When the first younger job was preferred to it.
    passed_over_since: Option<u32>,
}

/// The waiting jobs, oldest first, and the running ones.
#[derive(Default)]
struct Model {
    queue: Vec<Waiting>,
    running: Vec<(Waiting, Claim)>,
    enqueued: u32,
    /// When a job was preferred to an older one: the time, its number and its priority.
    overtakings: Vec<(u32, u32, i16)>,
    /// In seconds.
    clock: u32,
    /// How often the preference decided, and how often the limit on it.
    preferred: u32,
    insisted: u32,
}

impl Model {
    /// Takes the next job out of the queue, by the rule in README.
    fn next(&mut self, resident: &str) -> Option<Waiting> {
        let top = self.queue.iter().map(|job| job.priority).max()?;
        let oldest = self.queue.iter().position(|job| job.priority == top)?;
        let fitting = self
            .queue
            .iter()
            .position(|job| job.priority == top && job.model.is_some_and(|model| resident.contains(model)));
        let number = self.queue[oldest].number;
        let since = self.overtakings.iter().filter(|(_, other, priority)| *other > number && *priority == top);
        let due = since.map(|(since, ..)| since).min().is_some_and(|since| self.clock - since > 50);
        let place = match fitting {
            Some(fitting) if !due => fitting,
            other => {
                self.insisted += u32::from(other.is_some_and(|fitting| fitting != oldest));
                oldest
            }
        };
        self.preferred += u32::from(place != oldest);
        for job in self.queue[..place].iter_mut().filter(|job| job.priority == top) {
            let since = *job.passed_over_since.get_or_insert(self.clock);
            assert!(self.clock - since <= PROMISED_SECONDS, "{job:?} starves");
        }
        if place != oldest {
            self.overtakings.push((self.clock, self.queue[place].number, top));
        }
        Some(self.queue.remove(place))
    }
}

async fn play(pool: &PgPool, steps: &[Step]) -> Result<(u32, u32), TestCaseError> {
    sqlx::query("DELETE FROM jobs").execute(pool).await.unwrap();
    let began = std::time::Instant::now();
    let mut model = Model::default();
    for step in steps {
        match *step {
            Step::Enqueue { model: base, priority } => {
                let id = enqueue_on(pool, base, priority).await;
                model.enqueued += 1;
                let number = model.enqueued;
                model.queue.push(Waiting { id, number, model: base, priority, passed_over_since: None });
            }
            Step::Claim { resident } => {
                let claim = claim_with(pool, resident).await;
                let expected = model.next(resident);
                prop_assert_eq!(claim.map(|claim| claim.job), expected.as_ref().map(|job| job.id));
                model.running.extend(expected.zip(claim));
            }
            Step::Release(number) => {
                let count = model.running.len();
                if count > 0 {
                    let (job, claim) = model.running.swap_remove(number % count);
                    job::release(pool, &claim, "the worker stops").await.unwrap();
                    // Back to its place.
                    let place = model.queue.iter().position(|other| other.number > job.number);
                    model.queue.insert(place.unwrap_or(model.queue.len()), Waiting { passed_over_since: None, ..job });
                }
            }
            Step::Pass(pieces) => {
                pass(pool, pieces * PIECE_SECONDS).await;
                model.clock += pieces * PIECE_SECONDS;
            }
        }
    }
    assert!(began.elapsed().as_secs() < u64::from(PIECE_SECONDS) / 2, "too slow to tell what time it is");
    Ok((model.preferred, model.insisted))
}

#[test]
fn any_history_keeps_the_order_that_is_promised() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(Database::fresh());
    let config = Config { cases: 150, max_shrink_iters: 500, failure_persistence: None, ..Config::default() };
    let tally = std::cell::Cell::new((0, 0));
    let outcome = TestRunner::new(config).run(&vec(step(), 10..60), |steps| {
        let (preferred, insisted) = runtime.block_on(play(database.pool(), &steps))?;
        let (before, earlier) = tally.get();
        tally.set((before + preferred, earlier + insisted));
        Ok(())
    });
    outcome.unwrap();
    let (preferred, insisted) = tally.get();
    assert!(preferred > 200 && insisted > 20, "the histories went nowhere: {preferred} preferred, {insisted} insisted");
}
