//! What jobs cost: a table of prices that the operator keeps in a file, applied to what jobs have used. Not here: what
//! they have used (`usage`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Units that are paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// Seconds for which the devices of workers were held.
    pub gpu_seconds: f64,
    /// Bytes of results.
    pub bytes: i64,
}

/// A cost by the server's table of prices.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Cost {
    /// Rounded to a millionth.
    #[schema(minimum = 0, example = 0.001204)]
    pub amount: f64,
    /// Code of ISO 4217.
    #[schema(example = "EUR", pattern = "^[A-Z]{3}$")]
    pub currency: String,
}

/// A table of prices, in TOML.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    currency: String,
    /// Of an hour for which a device is held.
    #[serde(default)]
    gpu_hour: f64,
    /// Of a GiB of results.
    #[serde(default)]
    gib: f64,
    /// Prices of jobs with these models, by name.
    #[serde(default)]
    models: BTreeMap<String, ModelPrices>,
}

/// Prices of jobs with one model. One that is left out is that of all models.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelPrices {
    gpu_hour: Option<f64>,
    gib: Option<f64>,
}

const GIB: f64 = (1_u64 << 30) as f64;
const HOUR: f64 = 3600.0;

impl Prices {
    /// Reads a table. Errors: a sentence.
    pub fn read(text: &str) -> Result<Self, String> {
        let prices: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if prices.currency.len() != 3 || !prices.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(format!("`currency` is `{}`, and not a code such as `EUR`", prices.currency));
        }
        let of_models = prices.models.iter().flat_map(|(name, own)| {
            let key = |price| format!("models.{name}.{price}");
            [(key("gpu_hour"), own.gpu_hour), (key("gib"), own.gib)]
        });
        let of_all = [("gpu_hour".to_owned(), Some(prices.gpu_hour)), ("gib".to_owned(), Some(prices.gib))];
        let wrong = |price: f64| !price.is_finite() || price.is_sign_negative();
        match of_all
            .into_iter()
            .chain(of_models)
            .find_map(|(key, price)| Some((key, price.filter(|price| wrong(*price))?)))
        {
            Some((key, price)) => Err(format!("`{key}` is {price}, and not a price")),
            None => Ok(prices),
        }
    }

    /// What a job with this model costs, if it runs with any.
    pub fn cost(&self, model: Option<&str>, used: Used) -> Cost {
        self.cost_of(self.amount(model, used))
    }

    /// The same, not rounded.
    pub(crate) fn amount(&self, model: Option<&str>, used: Used) -> f64 {
        let own = model.and_then(|model| self.models.get(model));
        let gpu_hour = own.and_then(|own| own.gpu_hour).unwrap_or(self.gpu_hour);
        let gib = own.and_then(|own| own.gib).unwrap_or(self.gib);
        used.gpu_seconds / HOUR * gpu_hour + used.bytes as f64 / GIB * gib
    }

    pub(crate) fn cost_of(&self, amount: f64) -> Cost {
        Cost { amount: (amount * 1e6).round() / 1e6, currency: self.currency.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "currency = \"EUR\"\ngpu_hour = 1.8\n[models.flux-dev]\ngpu_hour = 3.6\n[models.\"dog.v2\"]\ngib = 2";

    #[test]
    fn the_price_is_that_of_the_model() {
        let prices = Prices::read(TABLE).unwrap();
        let cost = |model, gpu_seconds, bytes| prices.cost(model, Used { gpu_seconds, bytes }).amount;
        assert_eq!(cost(None, 2.0, 1 << 30), 0.001);
        assert_eq!(cost(Some("ember"), 2.0, 0), 0.001);
        assert_eq!(cost(Some("flux-dev"), 2.0, 0), 0.002);
        assert_eq!(cost(Some("dog.v2"), 2.0, 1 << 29), 1.001);
        assert_eq!(cost(None, 1e-9, 0), 0.0);
        assert_eq!(prices.cost_of(1.0).currency, "EUR");
    }

    #[test]
    fn a_table_that_is_wrong_names_what_is_wrong() {
        for (text, named) in [
            ("", "currency"),
            ("currency = \"euro\"", "`currency` is `euro`"),
            ("currency = \"EUR\"\ngpu_hour = -1", "`gpu_hour` is -1"),
            ("currency = \"EUR\"\ngib = nan", "`gib` is NaN"),
            ("currency = \"EUR\"\ngpu_hour = \"1\"", "gpu_hour"),
            ("currency = \"EUR\"\ngpu_second = 1", "gpu_second"),
            ("currency = \"EUR\"\n[models.x]\ngib = inf", "`models.x.gib` is inf"),
            ("currency = \"EUR\"\n[models.x]\nhour = 1", "hour"),
        ] {
            let why = Prices::read(text).unwrap_err();
            assert!(why.contains(named), "{text:?}: {why}");
        }
    }
}
