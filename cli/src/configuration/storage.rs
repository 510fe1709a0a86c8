//! The bucket that the environment names, by our variables or Amazon's own.

use domain::storage::{Keys, StorageConfig};
use url::Url;

use super::secret::secret;
use super::{public_endpoint, variable};
use crate::failure::Failure;

/// Sources of temporary keys: Amazon's variable, and the name that the client of the bucket gives it.
const PLATFORM: [(&str, &str); 9] = [
    ("AWS_WEB_IDENTITY_TOKEN_FILE", "aws_web_identity_token_file"),
    ("AWS_ROLE_ARN", "aws_role_arn"),
    ("AWS_ROLE_SESSION_NAME", "aws_role_session_name"),
    ("AWS_ENDPOINT_URL_STS", "aws_endpoint_url_sts"),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "aws_container_credentials_relative_uri"),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "aws_container_credentials_full_uri"),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "aws_container_authorization_token_file"),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "aws_metadata_endpoint"),
    ("AWS_METADATA_ENDPOINT", "aws_metadata_endpoint"),
];

/// The bucket, if one of our variables names it. Amazon's variables alone do not: many machines have them for other
/// programs.
pub(crate) fn storage_from_environment() -> Result<Option<StorageConfig>, Failure> {
    let ours = ["PYROGRAPH_S3_ENDPOINT", "PYROGRAPH_S3_BUCKET"].iter().any(|name| variable(name).is_some());
    if ours { bucket() } else { Ok(None) }
}

/// The bucket that our variables name, or Amazon's, for commands that cannot run without one.
pub(crate) fn bucket() -> Result<Option<StorageConfig>, Failure> {
    let endpoint = ["PYROGRAPH_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].iter().find_map(|name| {
        let value = variable(name)?;
        Some((*name, value))
    });
    let bucket = variable("PYROGRAPH_S3_BUCKET");
    if endpoint.is_none() && bucket.is_none() {
        return Ok(None);
    }
    let region = ["PYROGRAPH_S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| variable(name));
    let (source, endpoint, region) = match endpoint {
        Some((name, endpoint)) => {
            check_url(name, &endpoint)?;
            (name, endpoint, region.unwrap_or_else(|| "auto".to_owned()))
        }
        None => {
            let region = region.ok_or_else(|| {
                Failure::Usage(
                    "PYROGRAPH_S3_BUCKET is set without PYROGRAPH_S3_ENDPOINT, which means Amazon S3; set AWS_REGION \
                     to the bucket's region"
                        .to_owned(),
                )
            })?;
            ("PYROGRAPH_S3_BUCKET", format!("https://s3.{region}.amazonaws.com"), region)
        }
    };
    let public_endpoint = public_endpoint()?;
    let keys = keys(source, &endpoint)?;
    let bucket = bucket.unwrap_or_else(|| "pyrograph".to_owned());
    Ok(Some(StorageConfig { endpoint, public_endpoint, bucket, region, keys }))
}

pub(super) fn check_url(name: &str, endpoint: &str) -> Result<(), Failure> {
    let url = Url::parse(endpoint).ok();
    if url.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
        return Ok(());
    }
    Err(Failure::Usage(format!("{name} is not a URL such as https://s3.example")))
}

/// Our pair of keys, Amazon's, or what the platform hands out, in the order of Amazon's own programs.
fn keys(source: &str, endpoint: &str) -> Result<Keys, Failure> {
    const OURS: [&str; 2] = ["PYROGRAPH_S3_ACCESS_KEY_ID", "PYROGRAPH_S3_SECRET_ACCESS_KEY"];
    let pair = |[id, key]: [&'static str; 2], access_key: Option<String>, secret_key: Option<String>| {
        let lacks = |name| Failure::Usage(format!("{source} is set and {name} is not"));
        match (access_key, secret_key) {
            (Some(access_key), Some(secret_key)) => Ok(Some((access_key, secret_key))),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(lacks(id)),
            (Some(_), None) => Err(lacks(key)),
        }
    };
    if let Some((access_key, secret_key)) = pair(OURS, secret(OURS[0])?, secret(OURS[1])?)? {
        return Ok(Keys::fixed(access_key, secret_key));
    }
    const AMAZONS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    if let Some((access_key, secret_key)) = pair(AMAZONS, variable(AMAZONS[0]), secret(AMAZONS[1])?)? {
        return Ok(Keys::Fixed { access_key, secret_key, session_token: secret("AWS_SESSION_TOKEN")? });
    }
    let settings: Vec<_> = PLATFORM
        .iter()
        .filter_map(|(name, key)| Some(((*key).to_owned(), variable(name)?.trim_end_matches('/').to_owned())))
        .collect();
    let amazon = Url::parse(endpoint)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned))
        .is_some_and(|host| host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn"));
    // An instance's role needs no variable, but only Amazon has one; elsewhere, the keys were forgotten.
    if settings.is_empty() && !amazon {
        return Err(Failure::Usage(format!(
            "{source} is set and {} is not (nor AWS_ACCESS_KEY_ID, nor a role of Amazon's)",
            OURS[0]
        )));
    }
    Ok(Keys::Platform(settings))
}
