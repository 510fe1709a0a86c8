//! Connections: accepted without Nagle's delay, given the time limits that `axum::serve` lacks, and shut down
//! gracefully.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::access::Access;
use crate::listener::Listener;
use crate::per_address::{Counted, PerAddress};
use crate::pulse::{Felt, Pulse, UNREAD};
use crate::{State, app};

/// Time for the head of a request to arrive; a slower client is disconnected.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// Open connections; further ones are closed at once. Fewer if the process may not open that many files.
const MAX_CONNECTIONS: usize = 10_000;
/// Open connections of one address; more for this machine and for proxies that the operator has named.
const MAX_CONNECTIONS_EACH: usize = 256;
/// Bytes that the system keeps for a client that does not read.
const SEND_BUFFER: usize = 256 * 1024;
/// Bytes that a stream of HTTP/2 keeps for it.
const STREAM_BUFFER: usize = 64 * 1024;
/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// Time for open requests to finish after the stop.
const FAREWELL: Duration = Duration::from_secs(30);
/// Time between two records of which keys were used.
const USES: Duration = Duration::from_secs(30);
/// Pause after a failed accept (usually no file descriptors are left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API until `stop` is cancelled, then lets open requests finish.
pub async fn serve(listener: impl Into<Listener>, state: State, stop: CancellationToken) -> std::io::Result<()> {
    let listener = listener.into();
    tokio::spawn(record_uses(state.access.clone(), stop.clone()));
    let proxies = state.proxies.clone();
    let app = app(state.with_stop(stop.clone()));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(STREAM_BUFFER)
        .keep_alive_interval(Duration::from_secs(30));
    let open = GracefulShutdown::new();
    let connections = PerAddress::new(most_connections());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let is_trusted = peer.to_canonical().is_loopback() || proxies.contains(peer);
        let most = if is_trusted { MAX_CONNECTIONS } else { MAX_CONNECTIONS_EACH };
        let Some(counted) = connections.enter(peer, most) else {
            tracing::debug!(address = %peer, "closed a connection: there are too many, of this address or in all");
            continue;
        };
        if let Either::Left(stream) = &stream {
            prepare(stream);
        }
        let pulse = Pulse::new();
        let service = tower::service_fn({
            let (app, proxies, pulse) = (app.clone(), proxies.clone(), pulse.clone());
            move |mut request: Request<hyper::body::Incoming>| {
                let (mut app, working) = (app.clone(), pulse.begin());
                proxies.receive(peer, &mut request);
                async move {
                    let response = app.call(request.map(Body::new)).await;
                    drop(working);
                    response
                }
            }
        });
        let felt = TokioIo::new(Felt { stream, pulse: pulse.clone() });
        let connection = open.watch(builder.serve_connection(felt, TowerToHyperService::new(service)).into_owned());
        tokio::spawn(converse(connection, pulse, counted));
    }
    drop(listener);
    if tokio::time::timeout(FAREWELL, open.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
    Ok(())
}

/// Writes down now and then which keys were used.
async fn record_uses(access: Access, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(USES) => {}
            () = stop.cancelled() => {}
        }
        if let Err(error) = access.record_uses().await {
            tracing::warn!(%error, "the use of keys was not recorded");
        }
    }
}

/// Runs a connection to its end, or until it has no pulse.
async fn converse<E: std::fmt::Display>(
    connection: impl Future<Output = Result<(), E>>,
    pulse: std::sync::Arc<Pulse>,
    _counted: Counted,
) {
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke");
            }
        }
        why = pulse.expired() => tracing::debug!(why, "closed a connection"),
    }
}

/// Half as many as files that the process may open: a request may need another one, for the database or the bucket.
fn most_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
    let most = files.map_or(MAX_CONNECTIONS, |files| MAX_CONNECTIONS.min(files / 2).max(16));
    tracing::debug!(files, most, "connections");
    most
}

fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
    // Clients that are gone without a word, and those that do not read although little is sent to them.
    let keepalive = TcpKeepalive::new().with_time(Duration::from_mins(1)).with_interval(Duration::from_secs(15));
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(UNREAD));
}
