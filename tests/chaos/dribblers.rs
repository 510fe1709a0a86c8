//! Clients that send their requests by the byte, beside honest ones.

use std::time::{Duration, Instant};

use futures::future::join_all;
use journeys::client::Client;
use journeys::stack::{Pace, Stack};
use journeys::wait::seconds;
use reqwest::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

const MANY: usize = 2000;
/// Honest clients at the same time.
const HONEST: usize = 4;
const PAUSE: Duration = Duration::from_secs(1);

/// Each client is a file of this process.
fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = Some(maximum.unwrap_or(65_536).min(65_536));
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

/// Latencies of requests of honest clients during `time`: the median, and that of 99 of 100.
async fn latencies(client: &Client, time: Duration) -> [Duration; 2] {
    let until = Instant::now() + time;
    let one = || async {
        let mut latencies = Vec::new();
        while Instant::now() < until {
            let since = Instant::now();
            client.send(client.request(Method::GET, "/v1/models/tiny")).await.expect(200);
            latencies.push(since.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        latencies
    };
    let mut all: Vec<_> = join_all((0..HONEST).map(|_| one())).await.concat();
    all.sort();
    [all[all.len() / 2], all[all.len() * 99 / 100]]
}

/// Sends `begin`, then a byte every second until the server closes the connection. Returns how long that takes.
async fn dribble(port: u16, begin: &'static [u8], everyone: &Barrier) -> Duration {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    everyone.wait().await;
    // So that they do not all write at the same moment.
    tokio::time::sleep(PAUSE.mul_f64(fastrand::f64())).await;
    let since = Instant::now();
    let _ = stream.write_all(begin).await;
    let mut answer = [0; 1024];
    loop {
        match tokio::time::timeout(PAUSE, stream.read(&mut answer)).await {
            Ok(Ok(0) | Err(_)) => return since.elapsed(),
            Ok(Ok(_)) => {}
            Err(_) if stream.write_all(b"x").await.is_err() => return since.elapsed(),
            Err(_) => assert!(since.elapsed() < seconds(120), "a dribbler is never closed"),
        }
    }
}

/// Latencies for `time` during the attack, and when the last dribbler is closed.
async fn attack(client: &Client, port: u16, begin: &'static [u8], time: Duration) -> ([Duration; 2], Duration) {
    let everyone = Barrier::new(MANY + 1);
    let dribblers = join_all((0..MANY).map(|_| dribble(port, begin, &everyone)));
    let honest = async {
        everyone.wait().await;
        // Until each of them has begun: what 2,000 requests in one second cost is another question.
        tokio::time::sleep(2 * PAUSE).await;
        latencies(client, time).await
    };
    let (closed, latencies) = tokio::join!(dribblers, honest);
    (latencies, closed.into_iter().max().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute and half of the machine: just chaos 36"]
async fn row_36_dribblers_are_closed_and_cost_others_nothing() {
    raise_limit();
    let stack = Stack::start(Pace::Promised).await;
    let port = stack.client.base().rsplit(':').next().unwrap().parse().unwrap();
    latencies(&stack.client, seconds(2)).await;
    let base = latencies(&stack.client, seconds(10)).await;
    println!("alone: median {:.1?}, p99 {:.1?}", base[0], base[1]);
    let heads: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
    let bodies: &[u8] = b"POST /v1/datasets HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                          content-length: 100000\r\n\r\n{";
    let form: &[u8] =
        b"POST /v1/inputs HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=x\r\n\
                        content-length: 100000\r\n\r\n--x\r\ncontent-disposition: form-data; name=\"image\"\r\n\r\n";
    for (what, begin, limit) in [("heads", heads, 12), ("JSON bodies", bodies, 45), ("forms", form, 45)] {
        let (during, closed) = attack(&stack.client, port, begin, seconds(7)).await;
        println!(
            "{MANY} dribbled {what}: median {:.1?}, p99 {:.1?}, the last one closed after {closed:.1?}",
            during[0], during[1]
        );
        assert!(closed <= seconds(limit), "{what}: closed after {closed:?}");
        assert!(during[1] <= 2 * base[1], "{what}: p99 {:?} beside {:?} alone", during[1], base[1]);
    }
}
