//! Reading a job's events: server-sent events as the WHATWG describes them, cut out of a stream of bytes.
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>

use serde_json::Value;

/// One message of the stream.
#[derive(Debug, Default, PartialEq)]
pub struct Event {
    /// To be sent back as `Last-Event-ID` when the stream broke.
    pub id: Option<String>,
    /// `started`, `progress`, `succeeded` …
    pub kind: String,
    /// The data of the event.
    pub data: Value,
}

/// Longest line that is kept; a server that sends longer ones is not ours.
const LINE_LIMIT: usize = 1 << 20;

/// Turns pieces of bytes, cut anywhere, into events.
#[derive(Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    id: Option<String>,
    kind: String,
    data: String,
}

impl Decoder {
    /// Takes the next piece and gives the events that it completes.
    pub fn take(&mut self, piece: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in piece {
            if byte != b'\n' {
                if self.line.len() < LINE_LIMIT {
                    self.line.push(byte);
                }
                continue;
            }
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
            if line.is_empty() {
                events.extend(self.dispatch());
            } else {
                self.field(&line);
            }
        }
        events
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => self.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) -> Option<Event> {
        let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
        if data.is_empty() && kind.is_empty() {
            return None;
        }
        Some(Event { id: self.id.clone(), kind, data: serde_json::from_str(&data).unwrap_or(Value::Null) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const STREAM: &[u8] = b": keep-alive\n\nid: 1\nevent: started\ndata: {}\n\nid: 2\r\nevent: progress\r\ndata: {\"step\":\r\ndata: 3}\r\n\r\n";

    #[test]
    fn an_event_is_the_same_wherever_the_bytes_are_cut() {
        let whole = Decoder::default().take(STREAM);
        assert_eq!(whole.len(), 2);
        assert_eq!(whole[1], Event { id: Some("2".into()), kind: "progress".into(), data: json!({"step": 3}) });
        for cut in 0..STREAM.len() {
            let mut decoder = Decoder::default();
            let mut events = decoder.take(&STREAM[..cut]);
            events.extend(decoder.take(&STREAM[cut..]));
            assert_eq!(events, whole, "cut at {cut}");
        }
    }

    #[test]
    fn half_an_event_is_no_event() {
        assert_eq!(Decoder::default().take(b"id: 1\nevent: succeeded\ndata: {}\n"), []);
    }
}
