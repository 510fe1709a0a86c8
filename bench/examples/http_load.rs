//! A closed-loop HTTP load: each connection sends its next request when the last response has arrived. It needs so
//! little CPU itself that two servers on the same two cores can be compared with it.
//!
//! `http_load METHOD ADDRESS PATH CONNECTIONS SECONDS [BODY [AUTHORIZATION]]` prints one JSON object: requests per second, latencies in
//! milliseconds, and how many responses were not a 2xx. Plain HTTP/1.1 with `Content-Length`, nothing else.

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The measurements of one connection.
#[derive(Default)]
struct Tally {
    latencies: Vec<Duration>,
    refused: usize,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [method, address, path, connections, seconds, rest @ ..] = arguments.as_slice() else {
        return Err(invalid("METHOD ADDRESS PATH CONNECTIONS SECONDS [BODY [AUTHORIZATION]]"));
    };
    let connections: usize = connections.parse().map_err(|_| invalid("CONNECTIONS is a number"))?;
    let seconds: f64 = seconds.parse().map_err(|_| invalid("SECONDS is a number"))?;
    let [body, authorization] = [0, 1].map(|at| rest.get(at).map_or("", String::as_str));
    let request = request(method, address, path, body, authorization);

    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    let tallies = std::thread::scope(|scope| {
        let running: Vec<_> = (0..connections).map(|_| scope.spawn(|| converse(address, &request, end))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().map_err(|_| invalid("a thread panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    report(tallies, start.elapsed());
    Ok(())
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, message.to_owned())
}

fn request(method: &str, address: &str, path: &str, body: &str, authorization: &str) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nAccept: application/json\r\n");
    if !authorization.is_empty() {
        head += &format!("Authorization: {authorization}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    (head + "\r\n" + body).into_bytes()
}

/// Runs one connection until the time is up.
fn converse(address: &str, request: &[u8], end: Instant) -> Result<Tally> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let (mut tally, mut line, mut body) = (Tally::default(), String::new(), Vec::new());
    while Instant::now() < end {
        let start = Instant::now();
        writer.write_all(request)?;
        let succeeded = answer(&mut reader, &mut line, &mut body)?;
        tally.latencies.push(start.elapsed());
        tally.refused += usize::from(!succeeded);
    }
    Ok(tally)
}

/// Reads one response to its end; true for a 2xx.
fn answer(reader: &mut BufReader<TcpStream>, line: &mut String, body: &mut Vec<u8>) -> Result<bool> {
    line.clear();
    reader.read_line(line)?;
    let succeeded = line.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
    let mut length = None;
    loop {
        line.clear();
        if reader.read_line(line)? == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok(),
            Some(_) => {}
            None => break,
        }
    }
    body.resize(length.ok_or_else(|| Error::new(ErrorKind::InvalidData, "an answer without Content-Length"))?, 0);
    reader.read_exact(body)?;
    Ok(succeeded)
}

fn report(tallies: Vec<Tally>, elapsed: Duration) {
    let refused: usize = tallies.iter().map(|tally| tally.refused).sum();
    let mut latencies: Vec<f64> =
        tallies.into_iter().flat_map(|tally| tally.latencies).map(|latency| 1000.0 * latency.as_secs_f64()).collect();
    latencies.sort_by(f64::total_cmp);
    let quantile = |share: f64| latencies.get((share * latencies.len() as f64) as usize).copied().unwrap_or(f64::NAN);
    println!(
        r#"{{"per_second": {:.1}, "p50_ms": {:.3}, "p99_ms": {:.3}, "refused": {refused}}}"#,
        latencies.len() as f64 / elapsed.as_secs_f64(),
        quantile(0.5),
        quantile(0.99),
    );
}
