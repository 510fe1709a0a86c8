//! The time limits of a connection that hyper does not have: it waits for the first bytes for ever, and for a client
//! that does not read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::listener::Stream;

/// Longest time until the head of the first request has arrived.
pub(crate) const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Longest time in which the client takes no byte of what the server has for it.
pub(crate) const UNREAD: Duration = Duration::from_mins(1);
/// Longest time without a byte in either direction while no request is worked on. Streams of events send a comment
/// more often, and hyper pings connections of HTTP/2.
const IDLE: Duration = Duration::from_mins(2);
/// How often a connection is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The state of one connection. Times are milliseconds since it was accepted.
#[derive(Debug)]
pub(crate) struct Pulse {
    accepted: Instant,
    begun: AtomicBool,
    /// Requests without a response so far.
    working: AtomicUsize,
    last_byte: AtomicU64,
    /// Since when the client does not read, plus one; 0 if it does.
    unread_since: AtomicU64,
}

/// A request of the connection is worked on until this is dropped.
pub(crate) struct Working(Arc<Pulse>);

impl Pulse {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            accepted: Instant::now(),
            begun: AtomicBool::new(false),
            working: AtomicUsize::new(0),
            last_byte: AtomicU64::new(0),
            unread_since: AtomicU64::new(0),
        })
    }

    /// A request has arrived.
    pub(crate) fn begin(self: &Arc<Self>) -> Working {
        self.begun.store(true, Ordering::Relaxed);
        self.working.fetch_add(1, Ordering::Relaxed);
        Working(self.clone())
    }

    /// Resolves with the reason when the connection is to be closed.
    pub(crate) async fn expired(&self) -> &'static str {
        loop {
            let now = self.accepted.elapsed();
            let since = |milliseconds| now.saturating_sub(Duration::from_millis(milliseconds));
            let unread = self.unread_since.load(Ordering::Relaxed);
            if !self.begun.load(Ordering::Relaxed) {
                if now >= FIRST_REQUEST {
                    return "no request arrived in time";
                }
            } else if unread > 0 && since(unread - 1) >= UNREAD {
                return "the client does not read";
            } else if self.working.load(Ordering::Relaxed) == 0 && since(self.last_byte.load(Ordering::Relaxed)) >= IDLE
            {
                return "nothing happened for long";
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Pending => {
                let now = self.now() + 1;
                let _ = self.unread_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            }
            Poll::Ready(_) => {
                self.unread_since.store(0, Ordering::Relaxed);
                self.last_byte.store(self.now(), Ordering::Relaxed);
            }
        }
        result
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.last_byte.store(self.0.now(), Ordering::Relaxed);
        self.0.working.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose [`Pulse`] notices every byte.
pub(crate) struct Felt {
    pub stream: Stream,
    pub pulse: Arc<Pulse>,
}

impl AsyncRead for Felt {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if read.is_ready() {
            this.pulse.last_byte.store(this.pulse.now(), Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Felt {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.pulse.written(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, buffers);
        this.pulse.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reason(pulse: &Pulse) -> Option<&'static str> {
        tokio::time::timeout(IDLE * 2, pulse.expired()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_and_work_does_not() {
        assert_eq!(reason(&Pulse::new()).await, Some("no request arrived in time"));
        let pulse = Pulse::new();
        let working = pulse.begin();
        assert_eq!(reason(&pulse).await, None, "a request is worked on");
        assert!(pulse.written(Poll::Pending).is_pending());
        assert_eq!(reason(&pulse).await, Some("the client does not read"));
        assert!(pulse.written(Poll::Ready(Ok(1))).is_ready());
        drop(working);
        assert_eq!(reason(&pulse).await, Some("nothing happened for long"));
    }
}
