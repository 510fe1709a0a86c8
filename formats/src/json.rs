//! JSON files as Python and text editors write them. Every JSON file of a checkpoint is read by this module, in the
//! server and in the engine.

use serde_json::{Number, Value};

/// Bytes that some editors write at the beginning of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Python's numbers that JSON does not have. Infinities become the largest finite numbers, and NaN becomes `null`.
const NOT_FINITE: [(&str, &str); 3] =
    [("-Infinity", "-1.7976931348623157e308"), ("Infinity", "1.7976931348623157e308"), ("NaN", "null")];
/// Largest magnitude below which every integer is an f64.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Parses a text. In addition to JSON, it accepts a byte order mark and Python's `NaN`, `Infinity` and `-Infinity`.
/// Whole numbers that are written as floats, such as `1.0`, become integers, so that they can be used as either.
///
/// # Errors
/// A part of a sentence with line and column.
pub fn read(text: &[u8]) -> Result<Value, String> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut value = match serde_json::from_slice(text) {
        Ok(value) => value,
        Err(error) => match without_infinities(text) {
            Some(text) => serde_json::from_str(&text).map_err(|error| error.to_string())?,
            None => return Err(error.to_string()),
        },
    };
    make_integers(&mut value);
    Ok(value)
}

/// The text with [`NOT_FINITE`] replaced outside of strings; `None` if it has none.
fn without_infinities(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let (mut out, mut at, mut in_string, mut replaced) = (String::with_capacity(text.len()), 0, false, false);
    while let Some(sign) = text[at..].chars().next() {
        let rest = &text[at..];
        let taken = if in_string && sign == '\\' {
            sign.len_utf8() + rest.chars().nth(1).map_or(0, char::len_utf8)
        } else {
            in_string ^= sign == '"';
            sign.len_utf8()
        };
        let found = NOT_FINITE.iter().find(|(word, _)| !in_string && rest.starts_with(word));
        if let Some((word, number)) = found {
            out.push_str(number);
            (at, replaced) = (at + word.len(), true);
        } else {
            out.push_str(&rest[..taken]);
            at += taken;
        }
    }
    replaced.then_some(out)
}

fn make_integers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() <= EXACT);
            if let Some(float) = float {
                *value = Value::Number(Number::from(float as i64));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(make_integers),
        Value::Object(fields) => fields.values_mut().for_each(make_integers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_read_as_python_writes_it() {
        let text = r#"{"a": -Infinity, "b": [NaN, Infinity, 1.0, 1.5], "c": "NaN \" -Infinity", "d": 1e30, "e": "é"}"#;
        let read = read(&[BYTE_ORDER_MARK, text.as_bytes()].concat()).unwrap();
        assert_eq!(
            read,
            json!({"a": f64::MIN, "b": [null, f64::MAX, 1, 1.5], "c": "NaN \" -Infinity", "d": 1e30, "e": "é"})
        );
        assert_eq!(read["b"][2].as_u64(), Some(1));
    }

    #[test]
    fn what_python_refuses_too_is_refused_with_its_place() {
        for text in ["", "{", r#"{"a": 1,}"#, r#"{"a": infinity}"#, "{'a': 1}", r#"{"a": NaNa}"#, "\u{feff}\u{feff}{}"]
        {
            let error = read(text.as_bytes()).unwrap_err();
            assert!(error.contains("line 1 column"), "{text}: {error}");
        }
        assert!(read(b"{\"a\": \"\xff\", \"b\": NaN}").is_err());
    }
}
