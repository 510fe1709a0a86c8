//! The archive of pictures that the environment names, if there is one.

use domain::storage::{Keys, StorageConfig, is_own_folder};

use super::secret::secret;
use super::storage::check_url;
use super::{number, variable};
use crate::failure::Failure;

const URL: &str = "PYROGRAPH_ARCHIVE_URL";
const ENDPOINT: &str = "PYROGRAPH_ARCHIVE_S3_ENDPOINT";
const KEYS: [&str; 2] = ["PYROGRAPH_ARCHIVE_S3_ACCESS_KEY_ID", "PYROGRAPH_ARCHIVE_S3_SECRET_ACCESS_KEY"];
/// Quality of the JPEG files that are made for the archive.
const QUALITY: u8 = 65;

/// Where pictures are archived.
pub(crate) struct ArchiveSettings {
    pub storage: StorageConfig,
    /// Without `/` at its ends; may be empty.
    pub prefix: String,
    pub quality: u8,
}

/// The archive. What its variables leave open is as for `main`, the bucket of the installation.
pub(crate) fn archive(main: &StorageConfig) -> Result<Option<ArchiveSettings>, Failure> {
    let Some((bucket, prefix)) = place()? else { return Ok(None) };
    if bucket == main.bucket && is_own_folder(&prefix) && variable(ENDPOINT).is_none() {
        return Err(Failure::Usage(format!(
            "{URL}: the folder `{prefix}` of the bucket is Pyrograph's; name another one"
        )));
    }
    let endpoint = variable(ENDPOINT);
    if let Some(endpoint) = &endpoint {
        check_url(ENDPOINT, endpoint)?;
    }
    let keys = match (secret(KEYS[0])?, secret(KEYS[1])?) {
        (Some(access_key), Some(secret_key)) => Keys::fixed(access_key, secret_key),
        (None, None) => main.keys.clone(),
        (Some(_), None) => return Err(Failure::Usage(format!("{} is set and {} is not", KEYS[0], KEYS[1]))),
        (None, Some(_)) => return Err(Failure::Usage(format!("{} is set and {} is not", KEYS[1], KEYS[0]))),
    };
    let storage = StorageConfig {
        endpoint: endpoint.unwrap_or_else(|| main.endpoint.clone()),
        public_endpoint: None,
        bucket,
        region: variable("PYROGRAPH_ARCHIVE_S3_REGION").unwrap_or_else(|| main.region.clone()),
        keys,
    };
    let quality = number("PYROGRAPH_ARCHIVE_QUALITY", 1..=100)?.unwrap_or(QUALITY);
    Ok(Some(ArchiveSettings { storage, prefix, quality }))
}

/// The bucket that `up` must create, if the archive is on its own server.
pub(crate) fn own_archive_bucket() -> Result<Option<String>, Failure> {
    let place = place()?;
    Ok(place.filter(|_| variable(ENDPOINT).is_none()).map(|(bucket, _)| bucket))
}

fn place() -> Result<Option<(String, String)>, Failure> {
    let Some(url) = variable(URL) else { return Ok(None) };
    let place = parse(&url);
    place.map(Some).ok_or_else(|| Failure::Usage(format!("{URL} is not an address such as s3://bucket/prefix")))
}

/// Bucket and prefix.
fn parse(url: &str) -> Option<(String, String)> {
    let place = url.strip_prefix("s3://")?;
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let named = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
        && bucket.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && bucket.bytes().next_back().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!_.*'()-=".contains(&byte);
    let is_folder = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain);
    let is_prefix = prefix.is_empty() || prefix.len() <= 512 && prefix.split('/').all(is_folder);
    (named && is_prefix).then(|| (bucket.to_owned(), prefix.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_a_bucket_and_perhaps_a_prefix() {
        let place = |bucket: &str, prefix: &str| Some((bucket.to_owned(), prefix.to_owned()));
        assert_eq!(parse("s3://archive"), place("archive", ""));
        assert_eq!(parse("s3://archive/"), place("archive", ""));
        assert_eq!(parse("s3://my.archive-1/shop/2026"), place("my.archive-1", "shop/2026"));
        assert_eq!(parse("s3://archive/shop/"), place("archive", "shop"));
        for wrong in [
            "",
            "archive",
            "s3:archive",
            "s3://",
            "s3://ab",
            "s3:///prefix",
            "s3://Archive",
            "s3://-archive",
            "https://archive.s3.amazonaws.com",
            "s3://key:secret@archive",
            "s3://archive//shop",
            "s3://archive/../etc",
            "s3://archive/a b",
            "s3://archive/a?b",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
