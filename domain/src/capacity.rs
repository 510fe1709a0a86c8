//! Whether a worker that runs now has the memory for a request: the answer before its job is written. Nothing is
//! fetched; the estimate follows from the configs that are stored with the model.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memory::{Budget, Demand, Footprint, Networks, Picture, TooLarge, TrainingDemand};
use requests::TrainingParams;
use sqlx::PgPool;
use sqlx::types::Json;

use crate::database::bounded;
use crate::job::JobKind;
use crate::liveness::GONE_AFTER;
use crate::model::Model;
use crate::{Caller, Database, Error, ModelId, Result};

/// How long the list of workers is cached.
const REMEMBERED: Duration = Duration::from_secs(2);
/// Most footprints that are cached.
const MOST_REMEMBERED: usize = 256;

/// Cloning is cheap, and clones share the cache.
#[derive(Clone)]
pub struct Capacity {
    database: Database,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// Of models whose configs are known.
    footprints: HashMap<ModelId, Arc<Footprint>>,
    workers: HashMap<JobKind, (Instant, Arc<[LiveWorker]>)>,
}

struct LiveWorker {
    name: String,
    /// `None` if its memory is not known.
    budget: Option<Budget>,
}

impl Capacity {
    pub fn new(database: Database) -> Self {
        Self { database, known: Arc::default() }
    }

    /// # Errors
    /// `Invalid` about `width`, if workers generate now and none has the memory for this picture.
    pub async fn check_picture(&self, caller: &Caller, model: &Model, picture: Picture) -> Result<()> {
        let pool = self.database.pool(caller);
        let workers = self.workers(pool, JobKind::Generation).await?;
        if workers.is_empty() {
            return Ok(());
        }
        let Some(footprint) = self.footprint(pool, model).await? else { return Ok(()) };
        let demand = Demand { footprint: &footprint, picture, adapters: 0 };
        check("width", &workers, |budget| budget.plan(&demand).map(drop))
    }

    /// The same for a training on `examples` pictures.
    ///
    /// # Errors
    /// `Invalid` about `resolution`.
    pub async fn check_training(
        &self,
        caller: &Caller,
        model: &Model,
        params: &TrainingParams,
        examples: usize,
    ) -> Result<()> {
        let pool = self.database.pool(caller);
        let workers = self.workers(pool, JobKind::Training).await?;
        if workers.is_empty() {
            return Ok(());
        }
        let Some(footprint) = self.footprint(pool, model).await? else { return Ok(()) };
        let demand = TrainingDemand { footprint: &footprint, params, examples };
        check("resolution", &workers, |budget| {
            budget.plan_training(&demand).map_or(Ok(()), |planned| planned.map(drop))
        })
    }

    /// The workers that do jobs of this kind.
    async fn workers(&self, pool: &PgPool, kind: JobKind) -> Result<Arc<[LiveWorker]>> {
        let known = self.known().workers.get(&kind).cloned();
        if let Some((_, workers)) = known.filter(|(since, _)| since.elapsed() < REMEMBERED) {
            return Ok(workers);
        }
        let live = bounded(
            sqlx::query_as!(
                LiveRow,
                r#"SELECT name, budget AS "budget: Json<Budget>" FROM workers
                   WHERE stopped_at IS NULL AND last_seen_at > clock_timestamp() - make_interval(secs => $1)
                     AND $2 = ANY(queues)"#,
                GONE_AFTER.as_secs_f64(),
                kind.as_str(),
            )
            .fetch_all(pool),
        );
        let live = live.await?.into_iter();
        let workers: Arc<[_]> =
            live.map(|row| LiveWorker { name: row.name, budget: row.budget.map(|budget| budget.0) }).collect();
        self.known().workers.insert(kind, (Instant::now(), workers.clone()));
        Ok(workers)
    }

    async fn footprint(&self, pool: &PgPool, model: &Model) -> Result<Option<Arc<Footprint>>> {
        if let Some(known) = self.known().footprints.get(&model.id) {
            return Ok(Some(known.clone()));
        }
        let networks = bounded(
            sqlx::query_scalar!(
                r#"SELECT networks AS "networks: Json<Networks>" FROM models WHERE id = $1"#,
                model.id as ModelId
            )
            .fetch_optional(pool),
        );
        let networks = networks.await?.flatten();
        let footprint = networks.and_then(|networks| Footprint::of(model.family().ok()?, &networks).ok()).map(Arc::new);
        let mut known = self.known();
        if known.footprints.len() >= MOST_REMEMBERED {
            known.footprints.clear();
        }
        if let Some(footprint) = &footprint {
            known.footprints.insert(model.id, footprint.clone());
        }
        Ok(footprint)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct LiveRow {
    name: String,
    budget: Option<Json<Budget>>,
}

/// Errors: `Invalid` about `field`, with the answer of the worker that has the most memory.
fn check(field: &str, workers: &[LiveWorker], plan: impl Fn(&Budget) -> Result<(), TooLarge>) -> Result<()> {
    let mut most: Option<(&LiveWorker, &Budget, TooLarge)> = None;
    for worker in workers {
        let Some(budget) = &worker.budget else { return Ok(()) };
        match plan(budget) {
            Ok(()) => return Ok(()),
            Err(refused) if most.as_ref().is_none_or(|(_, most, _)| most.bytes < budget.bytes) => {
                most = Some((worker, budget, refused));
            }
            Err(_) => {}
        }
    }
    match most {
        Some((worker, _, refused)) => Err(Error::invalid(
            field,
            format!("No worker that runs now has the memory for this. On `{}`, {refused}.", worker.name),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str, bytes: Option<u64>) -> LiveWorker {
        LiveWorker { name: name.to_owned(), budget: bytes.map(Budget::on_cpu) }
    }

    #[test]
    fn the_largest_worker_answers_if_none_has_the_memory() {
        let plan = |budget: &Budget| match budget.bytes {
            10.. => Ok(()),
            bytes => Err(TooLarge { needed: 10, reason: format!("10 are needed, and there are {bytes}") }),
        };
        let workers = [worker("small", Some(3)), worker("medium", Some(7)), worker("tiny", Some(1))];
        let refused = check("width", &workers, plan).unwrap_err().to_string();
        assert!(refused.contains("On `medium`, 10 are needed, and there are 7."), "{refused}");
        for other in [Some(10), None] {
            let workers = [worker("small", Some(3)), worker("other", other)];
            assert!(check("width", &workers, plan).is_ok(), "{other:?}");
        }
        assert!(check("width", &[], plan).is_ok(), "a worker may start later");
    }
}
