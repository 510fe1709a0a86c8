//! Objects in JSON, for request fields whose type is a struct. serde's derived implementations also take a list with
//! the fields in their order, which no documentation of the API promises; every nested object of a request is read
//! through one of these functions instead.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// For `#[serde(deserialize_with = "object::required")]`.
pub(crate) fn required<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// For `#[serde(default, deserialize_with = "object::optional")]`.
pub(crate) fn optional<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map(|Object(value)| value))
}

/// For `#[serde(default, deserialize_with = "object::list")]`. Many clients send `null` for what they leave out.
pub(crate) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let objects: Vec<Object<T>> = Option::deserialize(deserializer)?.unwrap_or_default();
    Ok(objects.into_iter().map(|Object(value)| value).collect())
}

struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(default)]
        value: u32,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Outer {
        #[serde(deserialize_with = "super::required")]
        one: Inner,
        #[serde(default, deserialize_with = "super::optional")]
        other: Option<Inner>,
        #[serde(default, deserialize_with = "super::list")]
        many: Vec<Inner>,
    }

    #[test]
    fn only_an_object_is_one() {
        let read: Outer = serde_json::from_str(r#"{"one":{"value":1},"other":{},"many":[{"value":2}]}"#).unwrap();
        assert_eq!((read.one.value, read.other.unwrap().value, read.many[0].value), (1, 0, 2));
        let read: Outer = serde_json::from_str(r#"{"one":{},"other":null,"many":null}"#).unwrap();
        assert!(read.other.is_none() && read.many.is_empty());
        for json in [
            r#"{"one":[1]}"#,
            r#"{"one":[]}"#,
            r#"{"one":{},"other":[1]}"#,
            r#"{"one":{},"other":[]}"#,
            r#"{"one":{},"many":[[1]]}"#,
            r#"{"one":{},"many":[[]]}"#,
        ] {
            let error = serde_json::from_str::<Outer>(json).unwrap_err().to_string();
            assert!(error.starts_with("invalid type: sequence, expected an object"), "{json}: {error}");
        }
        for json in [r#"{"one":"x"}"#, r#"{"one":null}"#, r#"{"one":{},"other":1}"#, r#"{"one":{},"many":[true]}"#] {
            let error = serde_json::from_str::<Outer>(json).unwrap_err().to_string();
            assert!(error.contains("expected an object"), "{json}: {error}");
        }
    }
}
