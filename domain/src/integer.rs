//! Integers in JSON, for request fields: `64.0` is one, as JSON Schema says and some clients write. Each field states
//! its range, so that a value that its type cannot hold is refused with it; a value that the type holds is checked with
//! the other fields of the request, so that all that is wrong is reported at once.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// From here on, a number with a fraction or an exponent may not be the one that was written: serde_json reads `n.0` as
/// 10·n / 10, with 10·n rounded to the 53 bits of an `f64`.
const INEXACT: f64 = (1_u64 << 50) as f64;

/// For `#[serde(default, deserialize_with = "integer::optional::<_, _, LEAST, MOST>")]`.
pub(crate) fn optional<'de, D, T, const LEAST: i64, const MOST: i64>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    Ok(Option::<Integer<T, LEAST, MOST>>::deserialize(deserializer)?.map(|Integer(value)| value))
}

/// For `#[serde(deserialize_with = "integer::required::<_, _, LEAST, MOST>")]`.
pub(crate) fn required<'de, D, T, const LEAST: i64, const MOST: i64>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    Integer::<T, LEAST, MOST>::deserialize(deserializer).map(|Integer(value)| value)
}

/// As [`optional`], for a field that null resets: `None` if it is left out.
/// For `#[serde(default, deserialize_with = "integer::nullable::<_, _, LEAST, MOST>")]`.
pub(crate) fn nullable<'de, D, T, const LEAST: i64, const MOST: i64>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    optional::<D, T, LEAST, MOST>(deserializer).map(Some)
}

struct Integer<T, const LEAST: i64, const MOST: i64>(T);

impl<'de, T: TryFrom<i64>, const LEAST: i64, const MOST: i64> Deserialize<'de> for Integer<T, LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntegerVisitor(PhantomData))
    }
}

struct IntegerVisitor<T, const LEAST: i64, const MOST: i64>(PhantomData<T>);

impl<T: TryFrom<i64>, const LEAST: i64, const MOST: i64> Visitor<'_> for IntegerVisitor<T, LEAST, MOST> {
    type Value = Integer<T, LEAST, MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        T::try_from(value).map(Integer).map_err(|_| outside(value, LEAST, MOST))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        self.visit_i64(i64::try_from(value).map_err(|_| outside(value, LEAST, MOST))?)
    }

    /// Also for integers of more than 64 bits.
    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        if value.abs() < INEXACT {
            if value.fract() != 0.0 {
                return Err(E::custom(format!("{value} is not an integer")));
            }
            return self.visit_i64(value as i64);
        }
        // Each bound is rounded to the nearest `f64`, as the value was, so that a value beyond one is outside.
        if value < LEAST as f64 || value > MOST as f64 {
            // The value as it was written is not known.
            return Err(outside("It", LEAST, MOST));
        }
        Err(E::custom("It is not exact as it is written; write it without fraction and exponent"))
    }
}

fn outside<E: Error>(value: impl fmt::Display, least: i64, most: i64) -> E {
    E::custom(format!("{value} is outside the range {least} to {most}"))
}

#[cfg(test)]
mod tests {
    #[derive(Debug, serde::Deserialize)]
    struct Holder {
        #[serde(default, deserialize_with = "super::optional::<_, _, 1, 200>")]
        value: Option<u32>,
        #[serde(default, deserialize_with = "super::optional::<_, _, -1, { i64::MAX }>")]
        seed: Option<i64>,
    }

    fn refusal(json: &str) -> String {
        let error = serde_json::from_str::<Holder>(json).expect_err(json).to_string();
        error.rsplit_once(" at line ").unwrap().0.to_owned()
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
        assert_eq!(refusal(r#"{"value":64.5}"#), "64.5 is not an integer");
        assert!(refusal(r#"{"value":"64"}"#).ends_with("expected an integer"));
    }

    #[test]
    fn what_no_type_holds_is_outside_the_field_s_range() {
        for (number, named) in [
            ("-1", "-1"),
            ("-5", "-5"),
            ("4294967296", "4294967296"),
            ("1000000000000", "1000000000000"),
            ("1e12", "1000000000000"),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            // These are read as other numbers.
            ("-9223372036854775809", "It"),
            ("18446744073709551616", "It"),
            ("9007199254740993.0", "It"),
            ("1e30", "It"),
        ] {
            let wanted = format!("{named} is outside the range 1 to 200");
            assert_eq!(refusal(&format!(r#"{{"value":{number}}}"#)), wanted);
        }
        for (number, named) in [
            ("9223372036854775808", "9223372036854775808"),
            ("-9223372036854775809", "It"),
            ("-9007199254740993.0", "It"),
            ("18446744073709551616", "It"),
            ("1e30", "It"),
        ] {
            let wanted = format!("{named} is outside the range -1 to 9223372036854775807");
            assert_eq!(refusal(&format!(r#"{{"seed":{number}}}"#)), wanted);
        }
    }

    #[test]
    fn a_number_that_is_not_exact_is_refused() {
        for number in ["9007199254740993.0", "9007199254740991.0", "9.007199254740993e15", "9223372036854775807.0"] {
            let refused = refusal(&format!(r#"{{"seed":{number}}}"#));
            assert!(refused.ends_with("write it without fraction and exponent"), "{number}: {refused}");
        }
        for (number, seed) in [
            ("9007199254740993", 9_007_199_254_740_993),
            ("9223372036854775807", i64::MAX),
            ("1125899906842623.0", (1 << 50) - 1),
            ("1e15", 1_000_000_000_000_000),
        ] {
            let read: Holder = serde_json::from_str(&format!(r#"{{"seed":{number}}}"#)).unwrap();
            assert_eq!(read.seed, Some(seed), "{number}");
        }
    }
}
