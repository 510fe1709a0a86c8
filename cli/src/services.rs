//! Connects to Postgres and the bucket, for every command that needs them. A service that cannot be reached is reported
//! in one sentence.

use anyhow::{Context as _, anyhow};
use domain::Storage;
use domain::database::{self, Addresses, PoolSizes, Pools, Unusable};
use domain::storage::StorageConfig;
use outbox::Archive;

use crate::configuration::{ArchiveSettings, archive as archive_settings};
use crate::failure::Failure;

/// Connects to the database, as soon as it has connections for this process.
pub(crate) async fn database(addresses: &Addresses, sizes: PoolSizes) -> Result<Pools, Failure> {
    Pools::open(addresses, sizes).await.map_err(|error| match error {
        Unusable::Permanent(why) => Failure::Usage(format!("Postgres: {why}")),
        Unusable::Silent(why) => Failure::Unreachable(format!("Postgres: {why}")),
    })
}

/// Updates the schema.
pub(crate) async fn migrate(pools: &Pools) -> Result<(), Failure> {
    answered(database::migrate(&pools.lease).await, "could not update the database schema")
}

/// Makes sure that the schema is this version's, for commands that do not change it.
pub(crate) async fn check_schema(pools: &Pools) -> Result<(), Failure> {
    answered(database::check_schema(&pools.lease).await, "could not check the database schema")
}

/// The result of an `attempt` with the services. A conflict, such as a schema that another version wrote, is reported
/// in one sentence, since no retry helps.
pub(crate) fn answered<T>(done: domain::Result<T>, attempt: &'static str) -> Result<T, Failure> {
    match done {
        Err(domain::Error::Conflict { message, .. }) => Err(Failure::Usage(message)),
        Err(
            error @ (domain::Error::Invalid { .. } | domain::Error::NotFound { .. } | domain::Error::Unknown { .. }),
        ) => Err(Failure::Refused(error.to_string())),
        Err(error @ domain::Error::Unavailable(_)) => Err(Failure::Unreachable(format!("{attempt}: {error}"))),
        done => Ok(done.context(attempt)?),
    }
}

/// Why Postgres of this installation does not start, in one sentence without a chain of causes.
pub(crate) fn of_postgres(error: embedded::Error) -> Failure {
    use embedded::Error;
    match error {
        Error::NamedBinaries { .. }
        | Error::OtherMajor { .. }
        | Error::Closed { .. }
        | Error::OtherOwner { .. }
        | Error::TwoClusters { .. }
        | Error::Gone { .. }
        | Error::Programs { .. }
        | Error::Path { .. }
        | Error::Copy { .. } => Failure::Usage(error.to_string()),
        error => Failure::Failed(anyhow!("Postgres: {error}")),
    }
}

/// Whether the bucket answers.
pub(crate) async fn check_storage(storage: &Storage, config: &StorageConfig) -> Result<(), Failure> {
    let place = format!("S3 at {}", config.endpoint);
    storage.check().await.map_err(|error| match (error, path_of(&config.endpoint)) {
        (Unusable::Permanent(why), None) => Failure::Usage(format!("{place}: {why}")),
        (Unusable::Silent(why), None) => Failure::Unreachable(format!("{place}: {why}")),
        (Unusable::Permanent(why) | Unusable::Silent(why), Some(path)) => Failure::Usage(format!(
            "{place}: {why}. The endpoint has the path `{path}`, which few services have: name the service alone in \
             PYROGRAPH_S3_ENDPOINT, and the bucket in PYROGRAPH_S3_BUCKET"
        )),
    })
}

/// Opens the archive, if the environment names one. Errors: `Usage` if its bucket does not exist or refuses the keys.
/// An archive that does not answer is reported: pictures wait for it.
pub(crate) async fn archive(main: &StorageConfig) -> Result<Option<Archive>, Failure> {
    let Some(ArchiveSettings { storage: config, prefix, quality }) = archive_settings(main)? else { return Ok(None) };
    let storage = Storage::new(&config).context("the archive")?;
    match storage.check().await {
        Ok(()) => {}
        Err(Unusable::Permanent(why)) => {
            let why = why.replace("PYROGRAPH_S3_BUCKET", "PYROGRAPH_ARCHIVE_URL");
            return Err(Failure::Usage(format!("the archive, S3 at {}: {why}", config.endpoint)));
        }
        Err(Unusable::Silent(why)) => {
            tracing::error!("the archive, S3 at {}: {why}; pictures wait for it", config.endpoint);
        }
    }
    Ok(Some(Archive::new(storage, prefix, quality)))
}

fn path_of(endpoint: &str) -> Option<String> {
    let path = endpoint.parse::<url::Url>().ok()?.path().trim_matches('/').to_owned();
    (!path.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_with_a_path_is_noticed() {
        assert_eq!(path_of("http://127.0.0.1:9000"), None);
        assert_eq!(path_of("https://s3.example.com/"), None);
        assert_eq!(path_of("http://127.0.0.1:9000/pyro/"), Some("pyro".to_owned()));
    }

    #[tokio::test]
    async fn a_database_that_is_not_there_is_told_by_its_address() {
        let addresses = Addresses { url: "somewhere".to_owned(), direct_url: None };
        let Err(Failure::Usage(why)) = database(&addresses, PoolSizes::WORKER).await else {
            panic!("no URL was taken")
        };
        assert!(why.contains("DATABASE_URL"), "{why}");
    }
}
