//! Connects to Postgres and the bucket, for every command that needs them. A service that cannot be reached is reported
//! in one sentence.

use anyhow::{Context as _, anyhow};
use domain::Storage;
use domain::database::{self, Addresses, PoolSizes, Pools, Unusable};
use domain::storage::StorageConfig;

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
    of_schema(database::migrate(&pools.lease).await, "could not update the database schema")
}

/// Makes sure that the schema is this version's, for commands that do not change it.
pub(crate) async fn check_schema(pools: &Pools) -> Result<(), Failure> {
    of_schema(database::check_schema(&pools.lease).await, "could not check the database schema")
}

/// One that another version wrote is reported in one sentence, since no retry helps.
fn of_schema(done: domain::Result<()>, attempt: &'static str) -> Result<(), Failure> {
    match done {
        Err(domain::Error::Conflict { message, .. }) => Err(Failure::Usage(message)),
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
        | Error::Copy { .. } => Failure::Usage(error.to_string()),
        error => Failure::Failed(anyhow!("Postgres: {error}")),
    }
}

/// Whether the bucket answers.
pub(crate) async fn check_storage(storage: &Storage, config: &StorageConfig) -> Result<(), Failure> {
    let StorageConfig { endpoint, bucket, .. } = config;
    storage.check().await.map_err(|error| {
        if let domain::Error::NotFound { noun: "bucket", .. } = error {
            return Failure::Usage(format!(
                "S3: there is no bucket `{bucket}` at {endpoint}. Create it, or name another with PYROGRAPH_S3_BUCKET."
            ));
        }
        let cause = cause(&error.to_string()).to_owned();
        Failure::Failed(anyhow!("S3: the bucket {bucket} at {endpoint} cannot be used: {cause}"))
    })
}

/// The cause in the client's error: the end of its first line, after the request and its retries.
fn cause(error: &str) -> &str {
    let line = error.lines().next().unwrap_or_default();
    line.split_once(" - ").map_or(line, |(_, cause)| cause).trim_end_matches([':', ' '])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_one_line_without_the_request() {
        let long = "unavailable: Generic S3 error: Error performing HEAD http://h/b/k in 1.4s, after 5 retries  - HTTP \
                    error: error sending request\nmore\nand more";
        assert_eq!(cause(long), "HTTP error: error sending request");
        assert_eq!(cause("unavailable: the clock is wrong"), "unavailable: the clock is wrong");
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
