//! How much of the weights has been read, for a caller that shows it and may end it: reading a large model takes
//! minutes.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::{Error, Result};

/// Bytes of files that were read of those that one model or one network takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BytesRead {
    pub bytes: u64,
    pub total_bytes: u64,
    /// When the first byte was requested.
    pub began: Instant,
}

/// Follows the reading of weights and decides whether it continues. Clones share their counts. The default follows
/// nothing.
#[derive(Clone, Default)]
pub struct Reading {
    followed: Option<Arc<Followed>>,
    /// Whether the bytes are not counted: they are read again in every step.
    repeated: bool,
}

struct Followed {
    follow: Box<dyn Fn(Option<BytesRead>) -> ControlFlow<()> + Send + Sync>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    bytes: u64,
    total_bytes: u64,
    /// When the outermost stage began, and how many are nested in it, itself included.
    began: Option<Instant>,
    stages: usize,
}

impl Reading {
    /// Calls `follow` after every mebibyte or less, from several threads. It gets `None` for bytes that are not
    /// counted: those of streamed blocks, and base weights that an adapter needs. [`ControlFlow::Break`] ends the
    /// reading with [`Error::Canceled`].
    pub fn followed_by(follow: impl Fn(Option<BytesRead>) -> ControlFlow<()> + Send + Sync + 'static) -> Self {
        let followed = Followed { follow: Box::new(follow), counts: Mutex::default() };
        Self { followed: Some(Arc::new(followed)), repeated: false }
    }

    /// The same for bytes that are read in every step, and are not counted.
    pub(crate) fn repeated(&self) -> Self {
        Self { repeated: true, ..self.clone() }
    }

    /// Begins to count from zero, until the stage is dropped. A stage within another is a part of it.
    pub(crate) fn stage(&self) -> Stage<'_> {
        let mut is_outermost = false;
        if let Some(mut counts) = self.counts() {
            is_outermost = counts.stages == 0;
            if is_outermost {
                *counts = Counts { began: Some(Instant::now()), ..Counts::default() };
            }
            counts.stages += 1;
        }
        Stage { reading: self, is_outermost }
    }

    /// Adds to the bytes that the current stage reads.
    pub(crate) fn expect(&self, bytes: u64) {
        if let Some(mut counts) = self.counts() {
            counts.total_bytes += bytes;
        }
    }

    /// Counts bytes that were read.
    ///
    /// # Errors
    /// [`Error::Canceled`] if the caller wants no more.
    pub(crate) fn advance(&self, bytes: usize) -> Result<()> {
        if let Some(mut counts) = self.counts() {
            counts.bytes += bytes as u64;
        }
        self.check()
    }

    /// Asks the caller whether to continue.
    ///
    /// # Errors
    /// [`Error::Canceled`] if the caller wants no more.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(followed) = &self.followed else { return Ok(()) };
        let read = self.counts().and_then(|counts| counts.read());
        if (followed.follow)(read).is_break() { Err(Error::Canceled) } else { Ok(()) }
    }

    fn counts(&self) -> Option<MutexGuard<'_, Counts>> {
        let followed = self.followed.as_ref().filter(|_| !self.repeated)?;
        Some(followed.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Counts {
    /// `None` between two stages.
    fn read(&self) -> Option<BytesRead> {
        let (bytes, total_bytes) = (self.bytes.min(self.total_bytes), self.total_bytes);
        self.began.map(|began| BytesRead { bytes, total_bytes, began })
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("followed", &self.followed.is_some()).finish_non_exhaustive()
    }
}

/// The loading of one model, or of one network by itself.
pub(crate) struct Stage<'a> {
    reading: &'a Reading,
    is_outermost: bool,
}

impl Stage<'_> {
    /// Whether no other stage contains this one.
    pub(crate) fn is_outermost(&self) -> bool {
        self.is_outermost
    }
}

impl Drop for Stage<'_> {
    /// The end of the outermost stage reports that everything was read, even if some expected bytes were not needed.
    fn drop(&mut self) {
        if let Some(mut counts) = self.reading.counts() {
            counts.stages -= 1;
            counts.bytes = if self.is_outermost { counts.total_bytes } else { counts.bytes };
        }
        if self.is_outermost {
            // Nothing is left to be ended.
            let _ = self.reading.check();
            if let Some(mut counts) = self.reading.counts() {
                *counts = Counts::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reports so far: bytes of how many.
    type Reports = Arc<Mutex<Vec<Option<(u64, u64)>>>>;

    /// A reading that ends above `limit` bytes.
    fn followed(limit: u64) -> (Reading, Reports) {
        let reports = Reports::default();
        let seen = Arc::clone(&reports);
        let reading = Reading::followed_by(move |read| {
            seen.lock().unwrap().push(read.map(|read| (read.bytes, read.total_bytes)));
            let go_on = read.is_none_or(|read| read.bytes <= limit);
            if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        (reading, reports)
    }

    #[test]
    fn a_stage_counts_what_the_stages_within_it_read() {
        let (reading, reports) = followed(100);
        {
            let outer = reading.stage();
            assert!(outer.is_outermost());
            reading.expect(10);
            for bytes in [4, 5] {
                let inner = reading.stage();
                assert!(!inner.is_outermost());
                reading.advance(bytes).unwrap();
            }
            reading.repeated().advance(7).unwrap();
        }
        assert_eq!(*reports.lock().unwrap(), [Some((4, 10)), Some((9, 10)), None, Some((10, 10))]);
        reports.lock().unwrap().clear();
        {
            let _stage = reading.stage();
            reading.expect(2);
            reading.advance(3).unwrap();
        }
        reading.check().unwrap();
        assert_eq!(*reports.lock().unwrap(), [Some((2, 2)), Some((2, 2)), None], "from zero, and not above the total");
    }

    #[test]
    fn the_caller_ends_it() {
        let (reading, _) = followed(5);
        let _stage = reading.stage();
        reading.expect(10);
        reading.advance(5).unwrap();
        assert!(matches!(reading.clone().advance(1), Err(Error::Canceled)));
    }
}
