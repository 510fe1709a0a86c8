//! The doorbell: NOTIFY after the commit, so that an idle worker need not wait for its next poll. A notification may be
//! lost; the worker then finds the job at its next poll.
//!
//! Never inside the transaction: NOTIFY takes a lock of the whole database until the commit. Each process rings at most
//! once in 10 ms for each database, since all rings are the same.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::Instant;

use crate::JobId;
use crate::database::bounded;
use crate::notice::{Notice, Notices};

const CHANNEL: &str = "pyrograph_jobs";
const QUIET: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Bell {
    pending: AtomicBool,
    last: Mutex<Option<Instant>>,
}

/// By address of the database.
static BELLS: LazyLock<Mutex<HashMap<String, Arc<Bell>>>> = LazyLock::new(Mutex::default);

/// Notifies idle workers that there may be work: at once, or together with the ring that is due within 10 ms. Must run
/// inside tokio.
pub fn ring(pool: &PgPool) {
    let bell = bell_of(pool);
    if bell.pending.swap(true, Ordering::AcqRel) {
        return;
    }
    let pool = pool.clone();
    tokio::spawn(async move {
        let pending = Pending(&bell);
        let last = *bell.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last {
            tokio::time::sleep_until(last + QUIET).await;
        }
        *bell.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        // Before the NOTIFY, not after: a commit from now on needs another ring.
        drop(pending);
        send(&pool, String::new()).await;
    });
}

/// Clears the flag even if the runtime is shut down while the ring waits.
struct Pending<'a>(&'a Bell);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.store(false, Ordering::Release);
    }
}

fn bell_of(pool: &PgPool) -> Arc<Bell> {
    let options = pool.connect_options();
    let socket = options.get_socket().map(|path| path.display().to_string()).unwrap_or_default();
    let address = format!(
        "{socket}|{}:{}/{}",
        options.get_host(),
        options.get_port(),
        options.get_database().unwrap_or_default()
    );
    BELLS.lock().unwrap_or_else(PoisonError::into_inner).entry(address).or_default().clone()
}

/// Asks the worker of a running job to beat now, since its row has changed.
pub(super) async fn call_to_cancel(pool: &PgPool, job: JobId) {
    send(pool, job.0.to_string()).await;
}

async fn send(pool: &PgPool, payload: String) {
    if let Err(error) = bounded(sqlx::query!("SELECT pg_notify($1, $2)", CHANNEL, payload).execute(pool)).await {
        tracing::debug!(%error, "the doorbell did not ring");
    }
}

/// What a worker receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// There may be work, or calls were lost.
    Work,
    /// The end of this job was requested: beat now. The row is authoritative.
    Cancel(JobId),
}

/// The receiving end of the doorbell, for a worker. Keeps one connection, and reconnects when it breaks.
pub struct Doorbell {
    notices: Notices,
}

impl Doorbell {
    pub async fn listen(pool: &PgPool) -> Doorbell {
        let mut notices = Notices::of(pool.clone(), CHANNEL);
        notices.ready().await;
        Doorbell { notices }
    }

    /// Waits for the next call. Dropping the future may lose one, which the poll makes up for.
    pub async fn next(&mut self) -> Call {
        match self.notices.next().await {
            Notice::Payload(payload) => payload.parse().map_or(Call::Work, Call::Cancel),
            Notice::Reconnected => Call::Work,
        }
    }
}
