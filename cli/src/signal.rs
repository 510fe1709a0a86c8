//! When to stop: Ctrl-C, SIGTERM, or the end of a parent process.

use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first Ctrl-C or SIGTERM. The second ends the process at once, as a shell would, after
/// `last_words`, which must not wait for anything.
pub fn stop_token(last_words: impl FnOnce() + Send + 'static) -> CancellationToken {
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        asked_to_stop().await;
        asked.cancel();
        asked_to_stop().await;
        eprintln!("Leaving at once.");
        last_words();
        std::process::exit(130);
    });
    token
}

/// Also cancels `token` when stdin ends, which it does with the process that holds its other end, however that dies.
pub fn stop_with_parent(token: &CancellationToken) {
    let token = token.clone();
    // A thread of its own, since a read of stdin cannot be interrupted and a runtime would wait for it at its end.
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
