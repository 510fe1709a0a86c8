//! LISTEN on one channel, as long as there is a listener. A notification is a hint and may be lost; a listener reads
//! the rows again after [`Notice::Reconnected`], and from time to time without any notification.

use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{Executor, PgPool};

/// After this much silence the connection is tested: a half-open one would stay silent for ever.
const SILENCE: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

pub(crate) enum Notice {
    Payload(String),
    /// Notifications may have been lost in between.
    Reconnected,
}

pub(crate) struct Notices {
    pool: PgPool,
    channel: &'static str,
    listener: Option<PgListener>,
    /// Whether there was a connection before, so that a new one means a gap.
    connected_before: bool,
}

impl Notices {
    pub(crate) fn of(pool: PgPool, channel: &'static str) -> Notices {
        Notices { pool, channel, listener: None, connected_before: false }
    }

    /// Waits for the next one, reconnecting as often as necessary.
    pub(crate) async fn next(&mut self) -> Notice {
        loop {
            let Some(listener) = self.listener.as_mut() else {
                match tokio::time::timeout(SILENCE, self.connect()).await {
                    Ok(Ok(())) if std::mem::replace(&mut self.connected_before, true) => return Notice::Reconnected,
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => tracing::warn!(channel = self.channel, %error, "cannot listen"),
                    Err(_) => tracing::warn!(channel = self.channel, "cannot listen: no answer"),
                }
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            };
            match tokio::time::timeout(SILENCE, listener.try_recv()).await {
                Ok(Ok(Some(notification))) => return Notice::Payload(notification.payload().to_owned()),
                Ok(Ok(None)) => return Notice::Reconnected,
                Ok(Err(error)) => {
                    tracing::warn!(channel = self.channel, %error, "listening ended");
                    self.disconnect();
                }
                Err(_) => {
                    let ping = tokio::time::timeout(PING_LIMIT, listener.execute("SELECT 1")).await;
                    if !matches!(ping, Ok(Ok(_))) {
                        self.disconnect();
                    }
                }
            }
        }
    }

    /// Drops the connection with its pool, which has room for no other until the operating system finds it broken.
    fn disconnect(&mut self) {
        self.listener = None;
        self.pool = self.pool.options().clone().connect_lazy_with((*self.pool.connect_options()).clone());
    }

    async fn connect(&mut self) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(self.channel).await?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Connects now rather than at the first `next`, so that nothing sent after this call is missed.
    pub(crate) async fn ready(&mut self) {
        if matches!(tokio::time::timeout(SILENCE, self.connect()).await, Ok(Ok(()))) {
            self.connected_before = true;
        }
    }
}
