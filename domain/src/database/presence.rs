//! Whether the database answers. It is asked all the time on a separate connection, so that a request need not wait for
//! its own in vain.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::watch;

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest wait for an answer. Much longer than one takes on a busy machine.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Cloning is cheap. The questions end with the last clone.
#[derive(Clone, Debug)]
pub struct Presence(watch::Receiver<bool>);

impl Presence {
    /// Begins to ask, in a task of the current runtime.
    pub fn watch(options: Arc<PgConnectOptions>) -> Self {
        let (sender, receiver) = watch::channel(true);
        tokio::spawn(ask(options, sender));
        Self(receiver)
    }

    /// A database that is never asked, and counts as present.
    pub fn assumed() -> Self {
        Self(watch::channel(true).1)
    }

    /// Whether the database is known not to answer now.
    pub fn is_lost(&self) -> bool {
        !*self.0.borrow()
    }

    /// Resolves when the database does not answer, which may be now.
    pub async fn lost(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|present| !present).await.is_err() {
            // Nobody asks any more.
            std::future::pending::<()>().await;
        }
    }
}

async fn ask(options: Arc<PgConnectOptions>, answers: watch::Sender<bool>) {
    let mut connection = None;
    while !answers.is_closed() {
        let present = match tokio::time::timeout(PATIENCE, answer(&options, &mut connection)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                connection = None;
                !is_away(&error)
            }
            Err(_) => {
                connection = None;
                false
            }
        };
        answers.send_if_modified(|known| {
            let changed = *known != present;
            if changed && present {
                tracing::info!("the database answers again");
            } else if changed {
                tracing::error!("the database does not answer; requests are refused with 503 until it does");
            }
            *known = present;
            changed
        });
        tokio::time::sleep(PAUSE).await;
    }
}

async fn answer(options: &PgConnectOptions, connection: &mut Option<PgConnection>) -> sqlx::Result<()> {
    match connection {
        Some(connection) => connection.ping().await,
        None => {
            *connection = Some(options.connect().await?);
            Ok(())
        }
    }
}

/// A server that says that it has no connection left, or that this one was ended, does answer. One that starts or shuts
/// down says so too (57P03, 57P01), and serves nobody.
fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database.code().is_some_and(|code| code == "57P03" || code == "57P02"),
        _ => true,
    }
}
