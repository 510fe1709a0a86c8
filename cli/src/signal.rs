//! When to stop: Ctrl-C, SIGTERM, or the end of a parent process.

use tokio_util::sync::CancellationToken;
use tracing::Level;

use crate::log;

/// A token that is cancelled by the first Ctrl-C or SIGTERM. The second ends the process at once, after calling
/// `last_words`, which must not block.
pub(crate) fn stop_token(last_words: impl FnOnce() + Send + 'static) -> CancellationToken {
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        asked_to_stop().await;
        asked.cancel();
        asked_to_stop().await;
        log::announce(Level::INFO, "Exiting at once.");
        last_words();
        std::process::exit(130);
    });
    token
}

/// Also cancels `token` when stdin ends, which happens when the process at its other end dies.
pub(crate) fn stop_with_parent(token: &CancellationToken) {
    let token = token.clone();
    // A separate thread, since a read of stdin cannot be interrupted and the runtime would wait for it when it shuts
    // down.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        token.cancel();
    });
}

async fn asked_to_stop() {
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate => {}
    }
}
