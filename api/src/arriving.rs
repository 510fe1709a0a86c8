//! The body of a request as it arrives. While the client is awaited, the request has no [`Place`]; a client that sends
//! next to nothing is not awaited for ever, however often it sends a byte. What nobody has read when the request is
//! answered is read and discarded for a while: a client, or a proxy, that sends its whole body before it reads would
//! otherwise lose the answer with the connection.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::place::Place;

/// Longest time to wait for [`LEAST`] bytes. The time in which the server does not read is not counted.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that reset the time: 1 KiB a second.
const LEAST: usize = 30 * 1024;

/// Most bytes that are read and discarded after the answer, and the time for it.
const MOST_DISCARDED: usize = 256 * 1024 * 1024;
const DISCARDING: Duration = Duration::from_secs(10);

/// The client sends too slowly.
#[derive(Debug, thiserror::Error)]
#[error("the body arrives too slowly")]
pub(crate) struct TooSlow;

impl TooSlow {
    /// Whether this is the cause of `error`, however it is wrapped.
    pub(crate) fn caused(error: &(dyn Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.is::<TooSlow>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

type Piece = Result<Frame<Bytes>, axum::Error>;

pub(crate) struct Arriving {
    body: Body,
    place: Place,
    /// A piece that arrived while there was no place, and the wait for one.
    held_back: Option<(Option<Piece>, BoxFuture<'static, ()>)>,
    /// Time spent waiting since `arrived` was reset.
    waited: Duration,
    arrived: usize,
    waiting_since: Option<(Instant, Pin<Box<Sleep>>)>,
    is_too_slow: bool,
}

impl Arriving {
    pub(crate) fn new(body: Body, place: Place) -> Self {
        Self {
            body,
            place,
            held_back: None,
            waited: Duration::ZERO,
            arrived: 0,
            waiting_since: None,
            is_too_slow: false,
        }
    }

    fn count(&mut self, piece: Option<&Piece>) {
        if let Some((since, _)) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
        if let Some(Ok(frame)) = piece {
            self.arrived += frame.data_ref().map_or(0, Bytes::len);
        }
        if self.arrived >= LEAST {
            (self.arrived, self.waited) = (0, Duration::ZERO);
        }
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = self.get_mut();
        // A reader that discards the rest of the body is not kept waiting again.
        if this.is_too_slow && this.held_back.is_none() {
            return Poll::Ready(Some(Err(TooSlow.into())));
        }
        if this.held_back.is_none() {
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(piece) => {
                    this.count(piece.as_ref());
                    this.held_back = Some((piece, this.place.clone().take().boxed()));
                }
                Poll::Pending => {
                    this.place.leave();
                    let left = PATIENCE.saturating_sub(this.waited);
                    let (_, timer) =
                        this.waiting_since.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
                    ready!(timer.poll_unpin(context));
                    this.waiting_since = None;
                    this.is_too_slow = true;
                    this.held_back = Some((Some(Err(axum::Error::new(TooSlow))), this.place.clone().take().boxed()));
                }
            }
        }
        if let Some((_, place)) = &mut this.held_back {
            ready!(place.poll_unpin(context));
        }
        let piece = this.held_back.take().and_then(|(piece, _)| piece);
        Poll::Ready(piece.map(|piece| piece.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.held_back.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if self.is_too_slow || http_body::Body::is_end_stream(self) {
            return;
        }
        let rest = std::mem::take(&mut self.body);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(DISCARDING, discard(rest)));
        }
    }
}

async fn discard(body: Body) {
    let mut pieces = body.into_data_stream();
    let mut left = MOST_DISCARDED;
    while let Some(Ok(piece)) = pieces.next().await {
        left = left.saturating_sub(piece.len());
        if left == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use futures::stream;

    use super::*;
    use crate::place::Admission;

    /// A body that sends `bytes` after each pause.
    fn body(pauses: &'static [u64], bytes: usize) -> Body {
        Body::from_stream(stream::iter(pauses).then(move |seconds| async move {
            tokio::time::sleep(Duration::from_secs(*seconds)).await;
            Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; bytes]))
        }))
    }

    async fn read(body: Body) -> Result<usize, axum::Error> {
        let place = Admission::default().enter(None).unwrap();
        to_bytes(Body::new(Arriving::new(body, place)), usize::MAX).await.map(|bytes| bytes.len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_takes_its_time_and_not_for_ever() {
        assert_eq!(read(body(&[20, 20, 20, 20], LEAST)).await.unwrap(), 4 * LEAST, "slow, but it moves");
        assert_eq!(read(body(&[14, 14], 1)).await.unwrap(), 2, "short");
        let error = read(body(&[14, 14, 14], 1)).await.unwrap_err();
        assert!(TooSlow::caused(&error), "a byte now and then: {error:?}");
        let error = read(body(&[31], LEAST)).await.unwrap_err();
        assert!(TooSlow::caused(&error), "silence: {error:?}");
    }
}
