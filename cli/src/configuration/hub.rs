//! The Hugging Face Hub: where it is, and whose tokens the API admits.

use anyhow::Context as _;
use api::{Hub, HubRules};
use url::Url;

use crate::configuration::{said, variable};
use crate::failure::Failure;

/// Where the Hub is, if not at its usual place.
///
/// # Errors
/// It is not a URL.
pub(crate) fn hub_endpoint() -> Result<Option<Url>, Failure> {
    let Some(text) = variable("HF_ENDPOINT") else { return Ok(None) };
    let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let wrong = || Failure::Usage("HF_ENDPOINT is not a URL such as https://huggingface.co".to_owned());
    url.ok_or_else(wrong).map(Some)
}

/// The Hub, if PYROGRAPH_HF_ALLOW admits callers with its tokens.
///
/// # Errors
/// A rule that makes no sense.
pub(crate) fn hub() -> Result<Option<Hub>, Failure> {
    const USUAL: &str = "https://huggingface.co";
    let Some(rules) = said::<HubRules>("PYROGRAPH_HF_ALLOW")? else { return Ok(None) };
    let endpoint = match hub_endpoint()? {
        Some(endpoint) => endpoint,
        None => Url::parse(USUAL).context("the address of the Hub")?,
    };
    Ok(Some(Hub::new(&endpoint, rules).context("could not start the HTTP client")?))
}
