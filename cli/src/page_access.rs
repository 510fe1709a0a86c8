//! Which pages read and write files in the bucket, and the bucket's CORS rule with which they may.

use anyhow::Context as _;
use api::{Names, PublicUrl};
use domain::Storage;
use domain::storage::{Cors, CorsRule};

use crate::configuration::Services;
use crate::failure::Failure;

/// Whether pages reach the bucket at an address of another origin than the API's.
pub(crate) fn is_needed(services: &Services) -> bool {
    !services.behind_api || services.storage.public_endpoint.is_some()
}

/// The rule for the pages of the API, which this machine reaches at `url`, and for those that may call it.
pub(crate) fn rule(names: &Names, url: &str) -> CorsRule {
    let mut origins = match &names.public_url {
        Some(public) => vec![public.origin()],
        None => vec![url.to_owned(), url.replacen("127.0.0.1", "localhost", 1)],
    };
    origins.extend(names.origins.iter().map(PublicUrl::origin));
    origins.dedup();
    CorsRule::of(origins)
}

/// The origins of `rule` whose pages may not use the bucket; `None` if the service does not say.
pub(crate) async fn missing(storage: &Storage, rule: &CorsRule) -> domain::Result<Option<Vec<String>>> {
    let rules = match storage.cors().await? {
        Cors::Unknown => return Ok(None),
        Cors::Missing => Vec::new(),
        Cors::Rules(rules) => rules,
    };
    let mut origins = rule.allowed_origins.clone();
    origins.retain(|origin| !rules.iter().any(|rule| rule.allows(origin)));
    Ok(Some(origins))
}

/// Sets the rule of a bucket that has none. Rules that somebody else has set are left alone.
pub(crate) async fn set(services: Services, names: Names, url: String) {
    let rule = rule(&names, &url);
    match try_set(&services, &rule).await {
        Ok(true) => tracing::info!(origins = ?rule.allowed_origins, "pages of these origins may use the bucket"),
        Ok(false) => tracing::warn!(
            "pages of {} may not use the bucket; `pyrograph doctor` prints a CORS rule that allows it",
            rule.allowed_origins.join(", ")
        ),
        Err(failure) => tracing::warn!("the bucket's CORS rules are not known: {failure}"),
    }
}

/// Whether pages may use the bucket now.
async fn try_set(services: &Services, rule: &CorsRule) -> Result<bool, Failure> {
    let storage = Storage::new(&services.storage).context("storage")?;
    match storage.cors().await.context("the bucket")? {
        Cors::Missing => Ok(storage.set_cors(rule).await.context("the bucket")?),
        Cors::Rules(_) => {
            Ok(missing(&storage, rule).await.context("the bucket")?.is_some_and(|origins| origins.is_empty()))
        }
        Cors::Unknown => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_has_every_origin_of_our_pages() {
        let local = rule(&Names::default(), "http://127.0.0.1:8080");
        assert_eq!(local.allowed_origins, ["http://127.0.0.1:8080", "http://localhost:8080"]);
        let names = Names {
            public_url: Some("https://pictures.example.com/pyro".parse().unwrap()),
            origins: vec!["https://app.example.com".parse().unwrap()],
            ..Names::default()
        };
        let public = rule(&names, "http://127.0.0.1:8080");
        assert_eq!(public.allowed_origins, ["https://pictures.example.com", "https://app.example.com"]);
    }
}
