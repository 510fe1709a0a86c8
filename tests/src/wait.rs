//! Waiting with a limit: no journey may hang.

use std::future::Future;
use std::time::{Duration, Instant};

/// Polls every 50 ms until the answer is `Some`; panics with `what` after `limit`.
pub async fn until<T, F, Fut>(limit: Duration, what: &str, mut ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `n` seconds; makes tests easier to read.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `n` milliseconds.
pub const fn milliseconds(n: u64) -> Duration {
    Duration::from_millis(n)
}
