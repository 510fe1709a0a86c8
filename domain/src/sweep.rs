//! The sweeper: carries out deletions until they are done, and finds objects that no row names, which interrupted
//! requests and attempts leave in the bucket. It deletes such an object only if it is certainly ours: the bucket
//! belongs to this database ([`installation`]), the key has our layout, and no row has named it for a day. Not here:
//! how a deletion is asked for (`deletion`).

mod installation;

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::Serialize;
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use self::installation::Intent;
use crate::storage::{Listed, layout};
use crate::{
    Result, Storage, begin, bounded, database, deletion, delivery, import, leftover, model, named, project, training,
    upload, usage,
};

/// Time between two looks for deletions that are due.
const TICK: Duration = Duration::from_secs(10);
/// Time between two rises of the counter.
const COUNT: Duration = Duration::from_mins(5);
/// Time between two sweeps.
const SWEEP: Duration = Duration::from_hours(6);
/// Keys that are compared with the rows at once.
const PAGE: usize = 1000;
/// This many strays never stop a sweep.
const FEW: usize = 20;
/// More strays than this part of all objects stop a sweep.
const LARGEST_PART: f64 = 0.05;
/// Keys that a report lists.
const LISTED: usize = 1000;

/// Ages in a sweep.
#[derive(Debug, Clone, Copy)]
pub struct SweepPolicy {
    /// Objects and uploads in parts that are younger stay: their rows may be about to be written.
    pub object_age: Duration,
    /// How long a marked object stays.
    pub grace: Duration,
}

impl Default for SweepPolicy {
    fn default() -> Self {
        Self { object_age: Duration::from_hours(24), grace: Duration::from_hours(24) }
    }
}

/// How a sweep is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepMode {
    Delete,
    /// Changes nothing, in the database or the bucket.
    DryRun,
    /// Takes what the database says as right, after it was restored or when too many objects have no row. Marks these
    /// objects; they are deleted a day later.
    Accept,
}

/// What a sweep has found and done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SweepReport {
    /// Objects with our layout.
    pub objects: usize,
    /// Those that are too young to be marked: their rows may be about to be written.
    pub young: usize,
    /// Those that no row names, old enough to be marked.
    pub strays: usize,
    /// The young ones that no row names.
    pub young_strays: usize,
    /// Strays that were marked in this sweep. In a dry run: that would be.
    pub marked: usize,
    /// Strays that were deleted. In a dry run: that would be.
    pub deleted: usize,
    /// Uploads in parts that were aborted. In a dry run: that would be.
    pub aborted_uploads: usize,
    /// Why nothing was marked or deleted.
    pub stopped: Option<String>,
    /// Keys of the strays, at most a thousand of them.
    pub keys: Vec<String>,
    /// Keys of the young strays, at most a thousand of them.
    pub young_keys: Vec<String>,
}

/// The sweeper of a server. Any number of processes may run one.
#[derive(Debug)]
pub struct Sweeper {
    pool: PgPool,
    storage: Storage,
    policy: SweepPolicy,
    /// Whether it looks for strays; deletions are always carried out.
    strays: bool,
}

impl Sweeper {
    /// `strays` is whether to look for objects without rows.
    pub fn new(pool: PgPool, storage: Storage, strays: bool) -> Self {
        Self { pool, storage, policy: SweepPolicy::default(), strays }
    }

    /// Ticks for ever. Errors are logged, and the next tick tries again.
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut housekeeping = tokio::time::Instant::now();
        loop {
            ticks.tick().await;
            match deletion::carry_out(&self.pool, &self.storage).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "deleted objects whose deletion had to wait"),
                Err(error) => tracing::warn!(%error, "the sweeper could not look for deletions"),
            }
            if self.strays
                && let Err(error) = remove_leftovers(&self.pool, &self.storage).await
            {
                tracing::warn!(%error, "what attempts have left behind could not be removed");
            }
            if let Err(error) = project::purge_deleted(&self.pool, &self.storage).await {
                tracing::warn!(%error, "what deleted projects had could not be removed");
            }
            if tokio::time::Instant::now() < housekeeping {
                continue;
            }
            housekeeping += COUNT;
            if let Err(error) = self.keep_house().await {
                tracing::warn!(%error, "the sweeper could not look at the bucket");
            }
        }
    }

    async fn keep_house(&self) -> Result<()> {
        tidy(&self.pool, &self.storage).await?;
        if !self.strays {
            return Ok(());
        }
        // Less than the time between two visits, of which one may be a tick late.
        count(&self.pool, &self.storage, COUNT.saturating_sub(3 * TICK)).await?;
        if !installation::takes_turn(&self.pool, SWEEP).await? {
            return Ok(());
        }
        let report = sweep(&self.pool, &self.storage, &self.policy, SweepMode::Delete).await?;
        match &report.stopped {
            Some(reason) => tracing::error!(objects = report.objects, strays = report.strays, "not sweeping: {reason}"),
            None => tracing::info!(
                objects = report.objects,
                strays = report.strays,
                marked = report.marked,
                deleted = report.deleted,
                aborted_uploads = report.aborted_uploads,
                "swept the bucket"
            ),
        }
        Ok(())
    }
}

/// Looks at the bucket for the first time, before a new installation stores anything there: afterwards it would look
/// as if the bucket had always been its own.
pub async fn meet(pool: &PgPool, storage: &Storage) -> Result<()> {
    if let Some(reason) = installation::standing(pool, storage, Intent::Act).await?.reason() {
        tracing::error!("objects without rows are not deleted from the bucket: {reason}");
    }
    Ok(())
}

/// Raises the counter of the installation, in the database and in the bucket, if `interval` has passed since the last
/// time and the bucket is ours.
pub async fn count(pool: &PgPool, storage: &Storage, interval: Duration) -> Result<()> {
    installation::count(pool, storage, interval).await
}

/// Deletes what attempts and uploads that are over have left in the bucket, if it is certainly ours. Returns how many
/// objects are gone. Cheap if no look is due.
pub async fn remove_leftovers(pool: &PgPool, storage: &Storage) -> Result<usize> {
    if !leftover::is_due(pool).await? {
        return Ok(0);
    }
    // After a restore these may be the only copies of what the lost rows named.
    if installation::standing(pool, storage, Intent::Act).await?.reason().is_some() {
        leftover::put_off(pool, SWEEP).await?;
        return Ok(0);
    }
    leftover::remove(pool, storage).await
}

/// Deletes everything that is older than its project keeps it, and rows whose objects are not needed any more.
pub async fn tidy(pool: &PgPool, storage: &Storage) -> Result<()> {
    training::discard_leftovers(pool, storage).await?;
    import::discard_leftovers(pool, storage).await?;
    upload::discard_expired(pool, storage).await?;
    model::upload::discard_expired(pool, storage).await?;
    project::enforce_retention(pool, storage).await?;
    usage::merge_ledger(pool).await?;
    delivery::tidy(pool).await?;
    leftover::forget_old(pool).await?;
    deletion::forget_done(pool).await
}

/// Looks through the bucket once.
pub async fn sweep(pool: &PgPool, storage: &Storage, policy: &SweepPolicy, mode: SweepMode) -> Result<SweepReport> {
    let intent = match mode {
        SweepMode::Delete => Intent::Act,
        SweepMode::DryRun => Intent::Look,
        SweepMode::Accept => Intent::Accept,
    };
    let standing = installation::standing(pool, storage, intent).await?;
    let now = database::server_time(pool).await?;
    let Seen { objects, young, strays, young_strays } = look(pool, storage, now - policy.object_age).await?;
    let mut report = SweepReport {
        objects,
        young,
        strays: strays.len(),
        young_strays: young_strays.len(),
        stopped: standing.reason(),
        keys: strays.iter().take(LISTED).cloned().collect(),
        young_keys: young_strays.into_iter().take(LISTED).collect(),
        ..SweepReport::default()
    };
    let unasked = unaccepted(pool, &strays).await?;
    if report.stopped.is_none() && mode != SweepMode::Accept && too_many(unasked, objects) {
        report.stopped = Some(format!(
            "{unasked} of {objects} objects have no row. Rows may be missing from the database; if not, run \
             `pyrograph sweep --accept`"
        ));
    }
    match mode {
        SweepMode::DryRun => {
            report.deleted = due(pool, &strays, policy.grace).await?.len();
            report.marked = strays.len() - marked(pool, &strays).await?;
            report.aborted_uploads = old_uploads(storage, now - policy.object_age).await?.len();
        }
        _ if report.stopped.is_some() => unmark(pool, &strays).await?,
        _ => {
            let due = due(pool, &strays, policy.grace).await?;
            report.marked = mark(pool, &strays, mode == SweepMode::Accept).await?;
            if mode == SweepMode::Accept {
                return Ok(report);
            }
            // The look through the bucket may have taken long.
            report.stopped = installation::standing(pool, storage, Intent::Act).await?.reason();
            if report.stopped.is_some() {
                return Ok(report);
            }
            report.deleted = delete(pool, storage, due).await?;
            for upload in old_uploads(storage, now - policy.object_age).await? {
                storage.abort(&upload).await?;
                report.aborted_uploads += 1;
            }
        }
    }
    Ok(report)
}

fn too_many(strays: usize, objects: usize) -> bool {
    strays > FEW && strays as f64 > objects as f64 * LARGEST_PART
}

/// The objects with our layout.
#[derive(Default)]
struct Seen {
    objects: usize,
    /// How many were stored after the time in question.
    young: usize,
    /// The keys of the others that no row names.
    strays: Vec<String>,
    /// The keys of the young ones that no row names.
    young_strays: Vec<String>,
}

async fn look(pool: &PgPool, storage: &Storage, before: DateTime<Utc>) -> Result<Seen> {
    let mut seen = Seen::default();
    for folder in layout::FOLDERS {
        let mut pages = storage.listing(folder).try_chunks(PAGE);
        loop {
            let page: Vec<Listed> = match pages.try_next().await {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(error) => return Err(error.1),
            };
            let ours: Vec<Listed> = page.into_iter().filter(|object| layout::place(&object.key).is_some()).collect();
            let (old, young): (Vec<Listed>, Vec<Listed>) =
                ours.into_iter().partition(|object| object.stored_at <= before);
            seen.objects += old.len() + young.len();
            seen.young += young.len();
            let keys = |objects: Vec<Listed>| objects.into_iter().map(|object| object.key).collect();
            seen.strays.extend(named::strays(pool, keys(old)).await?);
            seen.young_strays.extend(named::strays(pool, keys(young)).await?);
        }
    }
    Ok(seen)
}

/// How many of the strays neither a deletion nor an operator has asked to delete.
async fn unaccepted(pool: &PgPool, strays: &[String]) -> Result<usize> {
    let asked = bounded(
        sqlx::query_scalar!(
            r#"SELECT key AS "key!" FROM deletions WHERE key = ANY($1)
               UNION SELECT key FROM sweep_marks WHERE key = ANY($1) AND accepted"#,
            strays,
        )
        .fetch_all(pool),
    );
    let asked: HashSet<String> = asked.await?.into_iter().collect();
    Ok(strays.iter().filter(|key| !asked.contains(*key)).count())
}

/// How many of the strays are marked already.
async fn marked(pool: &PgPool, strays: &[String]) -> Result<usize> {
    let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM sweep_marks WHERE key = ANY($1)"#, strays);
    Ok(bounded(count.fetch_one(pool)).await?.unsigned_abs() as usize)
}

/// Removes the marks of objects that have a row now or are gone.
async fn unmark(pool: &PgPool, strays: &[String]) -> Result<()> {
    let unmarked = sqlx::query!(
        "DELETE FROM sweep_marks m WHERE NOT EXISTS (SELECT FROM unnest($1::text[]) key WHERE key = m.key)",
        strays
    );
    bounded(unmarked.execute(pool)).await?;
    Ok(())
}

/// Marks the strays. Returns how many are new.
async fn mark(pool: &PgPool, strays: &[String], accepted: bool) -> Result<usize> {
    unmark(pool, strays).await?;
    let already = marked(pool, strays).await?;
    let marks = sqlx::query!(
        "INSERT INTO sweep_marks (key, accepted) SELECT key, $2 FROM unnest($1::text[]) key
         ON CONFLICT (key) DO UPDATE SET accepted = sweep_marks.accepted OR EXCLUDED.accepted",
        strays,
        accepted,
    );
    bounded(marks.execute(pool)).await?;
    Ok(strays.len().saturating_sub(already))
}

/// Those of the strays that were marked at least `grace` ago.
async fn due(pool: &PgPool, strays: &[String], grace: Duration) -> Result<Vec<String>> {
    let due = sqlx::query_scalar!(
        "SELECT key FROM sweep_marks
         WHERE key = ANY($1) AND marked_at < clock_timestamp() - make_interval(secs => $2)",
        strays,
        grace.as_secs_f64(),
    );
    bounded(due.fetch_all(pool)).await
}

/// Turns marks into deletions and carries these out. Returns how many objects are gone.
async fn delete(pool: &PgPool, storage: &Storage, due: Vec<String>) -> Result<usize> {
    if due.is_empty() {
        return Ok(0);
    }
    let mut tx = begin(pool).await?;
    deletion::ask(&mut tx, &due).await?;
    sqlx::query!("DELETE FROM sweep_marks WHERE key = ANY($1)", &due).execute(&mut *tx).await?;
    tx.commit().await?;
    for key in &due {
        tracing::info!(key, "deleting an object that has had no row for a day");
    }
    deletion::carry_out_these(pool, storage, due).await
}

/// Uploads in parts of ours that were begun before `before`, as far as the bucket can list them.
async fn old_uploads(storage: &Storage, before: DateTime<Utc>) -> Result<Vec<crate::storage::OpenUpload>> {
    let mut open = storage.open_uploads().await?.unwrap_or_default();
    open.retain(|upload| layout::place(&upload.key).is_some() && upload.begun_at <= before);
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_strays_never_stop_a_sweep_and_many_do() {
        for (strays, objects, stops) in [
            (0, 0, false),
            (20, 20, false),
            (21, 21, true),
            (21, 419, true),
            (21, 420, false),
            (50, 1000, false),
            (51, 1000, true),
        ] {
            assert_eq!(too_many(strays, objects), stops, "{strays} of {objects}");
        }
    }
}
