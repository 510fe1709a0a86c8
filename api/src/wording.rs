//! What serde says about a value, in words for people who do not know Rust.

/// What serde calls what it expects, and what we call it.
const EXPECTED: [(&str, &str); 15] = [
    ("f32", "a number"),
    ("f64", "a number"),
    ("u8", "an integer"),
    ("u16", "an integer"),
    ("u32", "an integer"),
    ("u64", "an integer"),
    ("i32", "an integer"),
    ("i64", "an integer"),
    ("a boolean", "`true` or `false`"),
    ("a string", "a text"),
    ("a sequence", "a list"),
    ("a map", "an object"),
    ("variant identifier", "one of the names that are documented"),
    ("a formatted UUID string", "an id"),
    ("an RFC 3339 formatted date and time string", INSTANT),
];
/// What serde calls a value that is there.
const THERE: [(&str, &str); 4] =
    [("string ", "the text "), ("floating point ", "the number "), ("integer ", "the number "), ("boolean ", "")];

const INSTANT: &str = "a time with date and zone such as `2027-01-31T12:00:00Z` (RFC 3339)";

/// As serde would say that a value is none of the names of an enum.
pub(crate) const NO_NAME: &str = "It has to be one of the names that are documented";

pub(crate) const HALF_A_PAIR: &str = "It holds half of a surrogate pair, which is not a character";

/// Whether a message of serde_json is about a surrogate without the other one, such as `\ud83d` alone.
pub(crate) fn is_half_a_pair(message: &str) -> bool {
    ["unexpected end of hex escape", "lone leading surrogate in hex escape"]
        .iter()
        .any(|start| message.starts_with(start))
}

/// The field that serde's message names, where only the message does.
pub(crate) fn field(message: &str) -> Option<&str> {
    let named = ["missing field `", "unknown field `", "duplicate field `", "invalid field `"];
    named.iter().find_map(|start| message.strip_prefix(start))?.split('`').next()
}

/// A sentence about the value, from serde's message.
pub(crate) fn plain(message: &str) -> String {
    let wrong = ["invalid type: ", "invalid value: "].iter().find_map(|start| message.strip_prefix(start));
    if let Some((there, expected)) = wrong.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("It has to be {}, and is {}.", what(expected), is(there));
    }
    if let Some(rest) = message.strip_prefix("unknown variant `") {
        return match rest.split_once("`, expected ") {
            Some((there, names)) => format!("There is no `{there}`; it has to be {names}."),
            None => format!("{NO_NAME}."),
        };
    }
    if message.starts_with("unknown field `") {
        return match message.split_once("`, expected ") {
            Some((_, names)) => format!("There is no such field; a field here is {names}."),
            None => "There is no such field here.".to_owned(),
        };
    }
    if message.starts_with("missing field `") {
        return "It is missing.".to_owned();
    }
    if message.starts_with("duplicate field `") {
        return "It is there twice.".to_owned();
    }
    if message.starts_with("UUID parsing failed") {
        return "It is no id. Send the `id` that the API returned, not a name.".to_owned();
    }
    match message {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "It has to be an integer.".to_owned()
        }
        // What chrono says about a text.
        "input is out of range"
        | "no possible date and time matching input"
        | "input is not enough for unique date and time"
        | "input contains invalid characters"
        | "premature end of input"
        | "trailing input" => format!("It has to be {INSTANT}."),
        "number too large to fit in target type" => "It is too large.".to_owned(),
        "number too small to fit in target type" => "It is too small.".to_owned(),
        other => format!("{other}."),
    }
}

fn what(expected: &str) -> &str {
    let known = EXPECTED.iter().find(|(serde, _)| *serde == expected);
    match known {
        Some((_, ours)) => ours,
        // A type of ours, which is an object in JSON.
        None if expected.starts_with("struct ") || expected.starts_with("internally tagged enum ") => "an object",
        None => expected,
    }
}

fn is(there: &str) -> String {
    match there {
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        "null" | "unit value" => "`null`".to_owned(),
        _ => match THERE.iter().find_map(|(serde, ours)| Some((ours, there.strip_prefix(serde)?))) {
            Some((ours, value)) => format!("{ours}{value}"),
            None => there.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_rust_is_left() {
        for (message, sentence) in [
            (r#"invalid type: string "64", expected f64"#, r#"It has to be a number, and is the text "64"."#),
            ("invalid type: map, expected a string", "It has to be a text, and is an object."),
            (
                "invalid type: integer `5`, expected struct LoraRequest",
                "It has to be an object, and is the number `5`.",
            ),
            ("invalid type: sequence, expected a map", "It has to be an object, and is a list."),
            ("invalid type: null, expected u32", "It has to be an integer, and is `null`."),
            ("invalid digit found in string", "It has to be an integer."),
            ("unknown variant `x`, expected `a` or `b`", "There is no `x`; it has to be `a` or `b`."),
            (
                "unknown variant `x`, expected one of `a`, `b`, `c`",
                "There is no `x`; it has to be one of `a`, `b`, `c`.",
            ),
            ("unknown field `x`, expected `a` or `b`", "There is no such field; a field here is `a` or `b`."),
            ("unknown field `x`, there are no fields", "There is no such field here."),
            ("missing field `a`", "It is missing."),
            ("duplicate field `a`", "It is there twice."),
        ] {
            assert_eq!(plain(message), sentence);
        }
        assert!(plain("UUID parsing failed: invalid length").contains("Send the `id`"));
    }
}
