//! The data folder of `pyrograph up` and its services: a lock, Postgres, S3. Opening it twice is refused; after a kill
//! everything is found again.
//!
//!     .pyrograph/
//!       lock           held while `up` runs
//!       settings.json  the ports to keep between starts
//!       key.json       the key of `up` for its user's commands (0600), once the installation has another key
//!       services.json  addresses and secrets of the services (0600); exists only while they run
//!       demo.json      the training of the last `demo`, which the next one replaces
//!       postgres/  s3/  worker/  tools/

use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use domain::database::{Addresses, PoolSizes, Pools};
use domain::storage::{Keys, StorageConfig};
use domain::{Caller, ProjectId};
use embedded::{Postgres, S3};
use serde::{Deserialize, Serialize};

use crate::commands::Outcome;
use crate::configuration::{
    SERVICES_FILE, Services, database_from_environment, own_archive_bucket, public_endpoint, storage_from_environment,
};
use crate::failure::Failure;
use crate::services::{self, of_postgres};

const LOCK: &str = "lock";
const POSTGRES: &str = "postgres";

/// An open data folder with running services.
pub(crate) struct Installation {
    folder: PathBuf,
    services: Services,
    postgres: Postgres,
    /// `None` when the environment names another bucket.
    s3: Option<S3>,
    /// Released by the operating system when this process ends, however it ends.
    _lock: File,
}

/// Settings kept between starts.
#[derive(Default, Serialize, Deserialize)]
struct Settings {
    s3_port: Option<u16>,
}

impl Installation {
    /// Opens `folder`, created if missing, and starts the services that the environment does not name.
    ///
    /// # Errors
    /// Another process has it open. No service is left running after any error.
    pub(crate) async fn open(folder: &Path) -> Result<Self, Failure> {
        let (database, named) = (database_from_environment()?, storage_from_environment()?);
        public_endpoint()?;
        let folder = created(folder)?;
        let lock = lock(&folder)?;
        let mut postgres = match &database {
            Some(database) => Postgres::external(database.url.clone()),
            None => Postgres::own(&folder.join(POSTGRES)).await.map_err(of_postgres)?,
        };
        let database = database.unwrap_or_else(|| Addresses { url: postgres.url().to_owned(), direct_url: None });
        match start_storage(&folder, named, database).await {
            Ok((s3, services)) => {
                postgres.keep();
                Ok(Self { folder, services, postgres, s3, _lock: lock })
            }
            Err(failure) => {
                let _ = postgres.stop().await;
                Err(failure)
            }
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the database is if it is not in the folder.
    pub(crate) fn database_outside(&self) -> Option<&Path> {
        self.postgres.folder().filter(|place| !place.starts_with(&self.folder))
    }

    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// From now on the services are about to be stopped, by this process or by the signal that it got.
    pub(crate) fn stopping(&self) {
        self.postgres.stopping();
    }

    /// Stops the services in order and closes the folder. Services named by the environment are not affected.
    pub(crate) async fn close(self) -> Result<(), Failure> {
        if let Some(s3) = self.s3 {
            s3.stop().await;
        }
        let _ = fs::remove_file(self.folder.join(SERVICES_FILE));
        self.postgres.stop().await.context("Postgres did not stop")?;
        Ok(())
    }
}

/// For a process that exits at once: ends the services in `folder` that would outlive it, as after a crash.
pub(crate) fn quit(folder: &Path) {
    let holder = fs::read_to_string(folder.join(LOCK)).unwrap_or_default();
    if holder == std::process::id().to_string() {
        Postgres::quit(&folder.join(POSTGRES));
    }
}

/// Runs `work` on the database of an installation, as its operator, with the schema up to date. The database is that of
/// the environment or of a running `up`; where `up` does not run on `folder`, its Postgres is started for as long.
pub(crate) async fn on_database(folder: &Path, work: impl AsyncFnOnce(&Pools, Caller) -> Outcome) -> Outcome {
    if let Some(addresses) = database_from_environment()? {
        return on_pools(&addresses, work).await;
    }
    let folder = created(folder)?;
    let Some(_lock) = try_lock(&folder)? else {
        return on_pools(&Services::find(&folder)?.database(), work).await;
    };
    let postgres = Postgres::own(&folder.join(POSTGRES)).await.map_err(of_postgres)?;
    let addresses = Addresses { url: postgres.url().to_owned(), direct_url: None };
    let done = on_pools(&addresses, work).await;
    postgres.stop().await.context("Postgres did not stop")?;
    done
}

/// The data folder, created if it is missing.
///
/// Errors: `Usage` for a path that Postgres cannot have.
fn created(folder: &Path) -> Result<PathBuf, Failure> {
    embedded::check_path(folder).map_err(of_postgres)?;
    fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    Ok(folder.canonicalize().with_context(|| format!("could not open {}", folder.display()))?)
}

async fn on_pools(addresses: &Addresses, work: impl AsyncFnOnce(&Pools, Caller) -> Outcome) -> Outcome {
    let pools = services::database(addresses, PoolSizes::WORKER).await?;
    services::migrate(&pools).await?;
    let done = work(&pools, Caller::operator(ProjectId::DEFAULT)).await;
    pools.close().await;
    done
}

/// Takes the folder for this process.
fn lock(folder: &Path) -> Result<File, Failure> {
    try_lock(folder)?.ok_or_else(|| {
        let holder = fs::read_to_string(folder.join(LOCK)).unwrap_or_default();
        Failure::Failed(anyhow::anyhow!(
            "{} is in use by another `pyrograph` (process {}). Stop that one, or choose another folder with \
             --data-dir.",
            folder.display(),
            if holder.is_empty() { "unknown" } else { holder.trim() }
        ))
    })
}

/// Takes the folder for this process; `None` if another one has it.
fn try_lock(folder: &Path) -> Result<Option<File>, Failure> {
    let path = folder.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("could not write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            // Shown to a user who finds the folder locked.
            file.set_len(0)
                .and_then(|()| std::io::Write::write_all(&mut &file, std::process::id().to_string().as_bytes()))
                .context("could not write the lock")?;
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(Failure::Failed(anyhow::Error::new(error).context(format!("could not lock {}", path.display()))))
        }
    }
}

/// Starts S3 unless the environment has `named` a bucket, and writes the addresses of all services for other processes.
async fn start_storage(
    folder: &Path,
    named: Option<StorageConfig>,
    database: Addresses,
) -> Result<(Option<S3>, Services), Failure> {
    let (s3, storage) = if let Some(storage) = named {
        (None, storage)
    } else {
        let s3 = start_s3(folder).await?;
        if let Some(bucket) = own_archive_bucket()? {
            s3.create_bucket(&bucket).context("the bucket of the archive")?;
        }
        let storage = StorageConfig {
            endpoint: s3.endpoint(),
            bucket: s3.bucket().to_owned(),
            region: "auto".to_owned(),
            keys: Keys::fixed(s3.access_key(), s3.secret_key()),
            public_endpoint: public_endpoint()?,
        };
        (Some(s3), storage)
    };
    let services = Services {
        database_url: database.url,
        direct_database_url: database.direct_url,
        storage,
        behind_api: s3.is_some(),
    };
    write_private(&folder.join(SERVICES_FILE), &services)?;
    Ok((s3, services))
}

/// Starts S3 on the port of the last start, so that addresses stay the same, or on another if that one is taken.
async fn start_s3(folder: &Path) -> Result<S3, Failure> {
    let path = folder.join("settings.json");
    let mut settings: Settings =
        fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let files = folder.join("s3");
    let s3 = match S3::start(&files, at(settings.s3_port.unwrap_or(0))).await {
        Ok(s3) => s3,
        Err(_) if settings.s3_port.is_some() => S3::start(&files, at(0)).await.context("S3")?,
        Err(error) => return Err(Failure::Failed(anyhow::Error::new(error).context("S3"))),
    };
    let port = s3.endpoint().rsplit(':').next().and_then(|port| port.parse().ok());
    if settings.s3_port != port {
        settings.s3_port = port;
        write_private(&path, &settings)?;
    }
    Ok(s3)
}

/// Writes a file that only its owner can read. It is written to a temporary file and renamed, so that no reader sees
/// half of it.
pub(crate) fn write_private<T: Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    use std::io::Write as _;
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = tempfile::Builder::new().prefix(".part-").tempfile_in(folder).and_then(|mut file| {
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.persist(path)?;
        Ok(())
    });
    Ok(written.with_context(|| format!("could not write {}", path.display()))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_second_to_come_is_told_who_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let Err(why) = lock(folder.path()) else { panic!("locked twice") };
        assert!(why.to_string().contains(&std::process::id().to_string()), "{why}");
        drop(first);
        lock(folder.path()).unwrap();
    }

    #[test]
    fn secrets_are_for_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("services.json");
        write_private(&path, &"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
