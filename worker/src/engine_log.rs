//! Forwards the engine's log: its lines are JSON, as `tracing-subscriber` writes them, and become events at the same
//! level here. Other lines come from code that does not use `tracing`, such as a panic or a driver.

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tracing::Level;

/// Longest line that is kept.
const LONGEST: u64 = 16 * 1024;

/// A parsed log line.
#[derive(Debug, PartialEq)]
struct Line {
    level: Level,
    /// The message and the other fields.
    text: String,
    /// Whether it may explain why the engine exited.
    is_trouble: bool,
}

impl Line {
    fn read(line: &str) -> Self {
        #[derive(Deserialize)]
        struct Event {
            level: String,
            fields: Map<String, Value>,
        }
        let known =
            serde_json::from_str::<Event>(line).ok().and_then(|event| Some((event.level.parse().ok()?, event.fields)));
        let Some((level, mut fields)) = known else {
            return Self { level: Level::WARN, text: line.to_owned(), is_trouble: true };
        };
        let plain = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let message = fields.remove("message").map(plain);
        let fields = fields.into_iter().map(|(name, value)| format!("{name}={}", plain(value)));
        let text = message.into_iter().chain(fields).collect::<Vec<_>>().join(" ");
        Self { level, text, is_trouble: level == Level::ERROR }
    }
}

/// Forwards the lines; returns the last one that may explain why the engine exited.
pub(crate) async fn pass_on(log: impl AsyncRead + Unpin, process: Option<u32>) -> String {
    let mut log = BufReader::new(log);
    let mut last = String::new();
    loop {
        let mut line = Vec::new();
        match (&mut log).take(LONGEST).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return last,
            Ok(_) => {
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end();
                if line.is_empty() {
                    continue;
                }
                let Line { level, text, is_trouble } = Line::read(line);
                match level {
                    Level::ERROR => tracing::error!(target: "pyrograph::engine", process, "{text}"),
                    Level::WARN => tracing::warn!(target: "pyrograph::engine", process, "{text}"),
                    Level::INFO => tracing::info!(target: "pyrograph::engine", process, "{text}"),
                    Level::DEBUG => tracing::debug!(target: "pyrograph::engine", process, "{text}"),
                    Level::TRACE => tracing::trace!(target: "pyrograph::engine", process, "{text}"),
                }
                if is_trouble {
                    last = text;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_their_level_and_their_fields() {
        let line = concat!(
            r#"{"timestamp":"2026-11-20T18:00:00Z","level":"INFO","#,
            r#""fields":{"message":"model loaded","model":"xl","seconds":24.5},"target":"worker"}"#
        );
        let read = Line::read(line);
        assert_eq!(
            read,
            Line { level: Level::INFO, text: "model loaded model=xl seconds=24.5".into(), is_trouble: false }
        );
        let failed = Line::read(r#"{"level":"WARN","fields":{"message":"request failed","error":"no"}}"#);
        assert_eq!(
            (failed.level, failed.text.as_str(), failed.is_trouble),
            (Level::WARN, "request failed error=no", false)
        );
    }

    #[tokio::test]
    async fn what_is_no_event_is_trouble() {
        let log = b"{\"level\":\"INFO\",\"fields\":{\"message\":\"model loaded\"}}\nthread 'main' panicked\n\n\
            {\"level\":\"INFO\",\"fields\":{}}\n";
        assert_eq!(pass_on(&log[..], None).await, "thread 'main' panicked");
        assert_eq!(pass_on(&b"{\"level\":\"INFO\",\"fields\":{\"message\":\"fine\"}}\n"[..], None).await, "");
    }
}
