//! Integers in JSON, for request fields: `64.0` is one, as JSON Schema says and some clients write.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// For `#[serde(default, deserialize_with = "integer::optional")]`.
pub(crate) fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    Ok(Option::<Integer<T>>::deserialize(deserializer)?.map(|Integer(value)| value))
}

/// For `#[serde(deserialize_with = "integer::required")]`.
pub(crate) fn required<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    Integer::<T>::deserialize(deserializer).map(|Integer(value)| value)
}

struct Integer<T>(T);

impl<'de, T: TryFrom<i64>> Deserialize<'de> for Integer<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntegerVisitor(PhantomData))
    }
}

struct IntegerVisitor<T>(PhantomData<T>);

impl<T: TryFrom<i64>> Visitor<'_> for IntegerVisitor<T> {
    type Value = Integer<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        T::try_from(value).map(Integer).map_err(|_| outside(value, value < 0))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        self.visit_i64(i64::try_from(value).map_err(|_| outside(value, false))?)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        if value.fract() != 0.0 {
            return Err(E::custom(format!("{value} is not an integer")));
        }
        // 2⁶³ is the first that does not fit; the cast is exact below it.
        if !(-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value) {
            return Err(outside(value, value < 0.0));
        }
        self.visit_i64(value as i64)
    }
}

/// For a value that the field's type cannot hold; narrower ranges are checked with the request.
fn outside<E: Error>(value: impl fmt::Display, negative: bool) -> E {
    if negative {
        E::custom(format!("{value} is too small"))
    } else {
        E::custom(format!("{value} is too large; no field takes more than {}", i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    #[derive(serde::Deserialize)]
    struct Holder {
        #[serde(default, deserialize_with = "super::optional")]
        value: Option<u32>,
    }

    #[test]
    fn whole_numbers_are_integers() {
        for (json, value) in [
            ("{}", None),
            (r#"{"value":null}"#, None),
            (r#"{"value":64}"#, Some(64)),
            (r#"{"value":64.0}"#, Some(64)),
            (r#"{"value":1e3}"#, Some(1000)),
        ] {
            assert_eq!(serde_json::from_str::<Holder>(json).unwrap().value, value, "{json}");
        }
        for json in [
            r#"{"value":64.5}"#,
            r#"{"value":-1}"#,
            r#"{"value":1e30}"#,
            r#"{"value":4294967296}"#,
            r#"{"value":18446744073709551615}"#,
            r#"{"value":"64"}"#,
        ] {
            assert!(serde_json::from_str::<Holder>(json).is_err(), "{json}");
        }
    }
}
