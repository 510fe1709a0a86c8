//! When a worker counts as gone.

use std::time::Duration;

/// A worker that was not seen for this long is not live: it gets no requests, and the models that it had loaded do not
/// count.
pub(crate) const GONE_AFTER: Duration = Duration::from_secs(45);
