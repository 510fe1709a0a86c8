//! JSON whose objects keep the order of their fields: PEFT takes the first pattern that matches.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::json;

/// A JSON value, without what lists contain.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    Null,
    Flag(bool),
    Number(f64),
    Text(String),
    List,
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Parses a text, which may also be written as [`crate::json`] accepts it. Errors: a part of a sentence.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        match serde_json::from_str(text) {
            Ok(json) => Ok(json),
            Err(_) => serde_json::from_value(json::read(text.as_bytes())?).map_err(|error| error.to_string()),
        }
    }

    /// The fields of an object; none of any other value.
    pub(super) fn fields(&self) -> &[(String, Json)] {
        if let Self::Object(fields) = self { fields } else { &[] }
    }

    /// The number, also if it is written as a text.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// Whether it is true, also if that is written as a text.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Flag(flag) => *flag,
            Self::Text(text) => text.trim().eq_ignore_ascii_case("true"),
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Json, E> {
                Ok(Json::Flag(flag))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
                Ok(Json::Number(number as f64))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
                Ok(Json::Number(number as f64))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
                Ok(Json::Number(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<Json, E> {
                Ok(Json::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
                while list.next_element::<Json>()?.is_some() {}
                Ok(Json::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Json::Object(fields))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_python_and_of_editors_are_read() {
        assert_eq!(Json::read("\u{feff}{\"a\": 1}").unwrap().fields()[0].1, Json::Number(1.0));
        assert_eq!(Json::read(r#"{"a": NaN}"#).unwrap().fields()[0].1, Json::Null);
        assert!(Json::read("{").is_err());
    }

    #[test]
    fn fields_keep_their_order() {
        let json: Json = serde_json::from_str(r#"{"b": 1, "a": [true, {}], "c": "2.5", "d": "True"}"#).unwrap();
        let names: Vec<_> = json.fields().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b", "a", "c", "d"]);
        assert_eq!((json.fields()[2].1.number(), json.fields()[3].1.is_true()), (Some(2.5), true));
    }
}
