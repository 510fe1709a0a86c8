//! Configuration from environment variables: database, bucket, leases. No other part of the server side reads
//! the environment; the crates below receive structs.

mod archive;
mod hub;
mod secret;
mod storage;
mod worker_dir;

use std::fmt::Display;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use api::{HostPattern, Names, PublicUrl, Rate};
use domain::database::Addresses;
use domain::job::LeasePolicy;
use domain::prices::Prices;
use domain::storage::{Keys, StorageConfig};
use outgoing::{Guard, Network};
use serde::{Deserialize, Serialize};
use worker::{HubToken, Imports};

pub(crate) use self::archive::{ArchiveSettings, archive, own_archive_bucket};
pub(crate) use self::hub::hub;
pub(crate) use self::secret::secret;
pub(crate) use self::storage::storage_from_environment;
pub(crate) use self::worker_dir::{named_worker_dir, worker_dir};
use crate::failure::Failure;
use crate::output::shown;

/// An environment variable: its name, its meaning, and its default.
type Variable = (&'static str, &'static str, &'static str);

/// Every variable that the program reads. `docs/configuration.md` shows the same table.
#[rustfmt::skip]
const VARIABLES: &[Variable] = &[
    ("PYROGRAPH_SERVER", "server that client commands use", "http://127.0.0.1:8080"),
    ("PYROGRAPH_KEY", "key that client commands send; never printed", "of a running `up`"),
    ("PYROGRAPH_PROJECT", "project in which client commands work, for keys with the scope `admin`", "the key's"),
    ("PYROGRAPH_DATA_DIR", "data folder of `up`, whose services `serve`, `worker` and others use", ".pyrograph"),
    ("PYROGRAPH_PUBLIC_URL", "address of the API as clients reach it, such as a proxy", "as requests name it"),
    ("PYROGRAPH_ALLOWED_HOSTS", "further hosts that requests may name, such as `gpu-box,*.example.com`", "none"),
    ("PYROGRAPH_PROXIES", "reverse proxies whose `X-Forwarded-*` counts, such as `127.0.0.1,10.1.0.0/16`", "none"),
    ("PYROGRAPH_CORS_ORIGINS", "origins whose pages may call the API, such as `https://app.example.com`", "none"),
    ("PYROGRAPH_REQUESTS_PER_SECOND", "requests per second of a key or an account of the Hub; 0: any number", "50"),
    ("PYROGRAPH_REQUEST_BURST", "requests that one of them may send at once", "100"),
    ("PYROGRAPH_ARCHIVE_URL", "where a copy of each picture is archived, such as `s3://bucket/prefix`", "nowhere"),
    ("PYROGRAPH_ARCHIVE_QUALITY", "quality of the JPEG files that are made for the archive", "65"),
    ("PYROGRAPH_ARCHIVE_S3_ENDPOINT", "URL of the S3 service of the archive", "the bucket's"),
    ("PYROGRAPH_ARCHIVE_S3_REGION", "region of the archive", "the bucket's"),
    ("PYROGRAPH_ARCHIVE_S3_ACCESS_KEY_ID", "access key id for the archive", "the bucket's"),
    ("PYROGRAPH_ARCHIVE_S3_SECRET_ACCESS_KEY", "secret key for the archive; never printed or logged", "the bucket's"),
    ("PYROGRAPH_CDN_URL", "address at which a CDN shows the pictures of the bucket to everyone", "none"),
    ("PYROGRAPH_PRICES", "file with a table of prices, by which jobs have costs", "none"),
    ("DATABASE_URL", "Postgres, 14 or later", "`up` runs its own"),
    ("PYROGRAPH_DATABASE_DIRECT_URL", "the same database without a pooler in transaction mode", "DATABASE_URL"),
    ("PYROGRAPH_DATABASE_POOL", "connections of a server for requests, up to 1000; it has at most five others", "5"),
    ("PYROGRAPH_S3_ENDPOINT", "URL of the S3 service, such as R2; with a bucket alone, Amazon S3", "`up` runs its own"),
    ("PYROGRAPH_S3_PUBLIC_ENDPOINT", "the same service as clients reach it; used in presigned URLs", "the endpoint"),
    ("PYROGRAPH_S3_BUCKET", "bucket", "pyrograph"),
    ("PYROGRAPH_S3_REGION", "region", "AWS_REGION, else auto"),
    ("PYROGRAPH_S3_ACCESS_KEY_ID", "access key id", "AWS_ACCESS_KEY_ID or a role"),
    ("PYROGRAPH_S3_SECRET_ACCESS_KEY", "secret key; never printed or logged", "AWS_SECRET_ACCESS_KEY or a role"),
    ("PYROGRAPH_WORKER_DIR", "a worker's cached weights and job files", "`worker` in the data or cache folder"),
    ("PYROGRAPH_CACHE_BYTES", "most bytes of cached weights", "107374182400"),
    ("PYROGRAPH_VRAM_BUDGET", "device memory an engine may use, such as `12GiB`", "80 % of RAM, 90 % of the card"),
    ("PYROGRAPH_WEIGHTS", "format of the denoiser's weights: `full`, `half`, `int8`, `int4` or `auto`", "auto"),
    ("PYROGRAPH_OFFLOAD", "what may be in host memory beside a card: `auto`, `none`, `text` or `blocks`", "auto"),
    ("PYROGRAPH_CHECKPOINT_EVERY", "training steps between two checkpoints", "100"),
    ("PYROGRAPH_IMPORT_DIR", "folder on the worker's machine from which models may be imported", "none"),
    ("PYROGRAPH_OUTBOUND_NETWORKS", "private networks that imports, uploads and webhooks may reach", "none"),
    ("PYROGRAPH_IMPORT_NETWORKS", "private networks that imports may reach, such as `10.1.0.0/16`", "none"),
    ("HF_TOKEN", "Hugging Face token for gated and private repositories; workers only, never logged", ""),
    ("HF_ENDPOINT", "Hugging Face Hub or a mirror of it", "https://huggingface.co"),
    ("PYROGRAPH_HF_ALLOW", "whose Hugging Face tokens the API admits: `account:project[:train],…`", "nobody's"),
    ("PYROGRAPH_GENERATION_SILENCE_MS", "restart an engine that reports no progress for this long", "120000"),
    ("PYROGRAPH_TRAINING_SILENCE_MS", "the same during a training", "600000"),
    ("PYROGRAPH_LEASE_TTL_MS", "a worker silent for this long loses its job; at least three heartbeats", "30000"),
    ("PYROGRAPH_LEASE_BEAT_MS", "time between two heartbeats", "5000"),
    ("PYROGRAPH_REAPER_TICK_MS", "time between two searches for expired leases", "5000"),
    ("PYROGRAPH_SWEEP", "whether `up` and `serve` delete objects without rows: `on` or `off`", "on"),
    ("PYROGRAPH_POSTGRES_BIN", "folder with initdb, pg_ctl and postgres for `up`", "found locally, else from npm"),
    ("DATABASE_URL_FILE", "file that contains DATABASE_URL; the other secrets have such a variable, too", ""),
    ("SSL_CERT_FILE", "file with trusted certificate authorities; SSL_CERT_DIR: a folder", "the system's"),
    ("HTTPS_PROXY", "proxy for outgoing requests; HTTP_PROXY, ALL_PROXY and NO_PROXY count, too", "none"),
    ("PYROGRAPH_LOG", "log filter, such as `info,worker=debug`", "info on servers, warn on clients"),
    ("PYROGRAPH_LOG_FORMAT", "`text` or `json`", "text"),
];

/// The table as `pyrograph --help` shows it.
pub(crate) fn environment_help() -> String {
    let width = VARIABLES.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    let mut help = "Environment:".to_owned();
    for (name, meaning, default) in VARIABLES {
        let default = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        help += &format!("\n  {name:width$}  {meaning}{default}");
    }
    help
}

/// The services that server, worker and migrations need. It holds secrets, so it has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Services {
    pub database_url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_database_url: Option<String>,
    #[serde(with = "StoredStorage")]
    pub storage: StorageConfig,
    /// Whether the bucket is that of `up`, which only its own machine reaches: clients read it through the API.
    #[serde(default)]
    pub behind_api: bool,
}

/// How [`StorageConfig`] is written into the data folder (readable by its owner only).
#[derive(Serialize, Deserialize)]
#[serde(remote = "StorageConfig")]
struct StoredStorage {
    endpoint: String,
    bucket: String,
    region: String,
    keys: Keys,
    public_endpoint: Option<String>,
}

/// The variables that name the services, each also with `_FILE`. A process of `up` reads them from the data folder
/// instead, where they are complete.
pub(crate) const SERVICE_VARIABLES: &[&str] = &[
    "DATABASE_URL",
    "PYROGRAPH_DATABASE_DIRECT_URL",
    "PYROGRAPH_S3_ENDPOINT",
    "PYROGRAPH_S3_BUCKET",
    "PYROGRAPH_S3_REGION",
    "PYROGRAPH_S3_ACCESS_KEY_ID",
    "PYROGRAPH_S3_SECRET_ACCESS_KEY",
];

/// The file in the data folder of a running `up` from which other processes read the addresses of its services.
pub(crate) const SERVICES_FILE: &str = "services.json";

impl Services {
    /// From the environment when it names a database, else from the data folder of a running `up`.
    pub(crate) fn find(data_dir: &Path) -> Result<Self, Failure> {
        if let Some(Addresses { url, direct_url }) = database_from_environment()? {
            let storage = storage::bucket()?.ok_or_else(|| {
                Failure::Usage(
                    "DATABASE_URL is set and PYROGRAPH_S3_ENDPOINT is not; both are needed, or PYROGRAPH_S3_BUCKET for \
                     Amazon S3"
                        .to_owned(),
                )
            })?;
            return Ok(Self { database_url: url, direct_database_url: direct_url, storage, behind_api: false });
        }
        let path = data_dir.join(SERVICES_FILE);
        let text = std::fs::read(&path).map_err(|error| {
            let path = path.display();
            Failure::Usage(match error.kind() {
                ErrorKind::NotFound => format!(
                    "no services: {path} does not exist. Start `pyrograph up`, or name its folder with --data-dir, or \
                     set DATABASE_URL and PYROGRAPH_S3_*"
                ),
                ErrorKind::PermissionDenied => format!(
                    "no services: this user may not read {path}. Run the command as the user of `pyrograph up`, or set \
                     DATABASE_URL and PYROGRAPH_S3_*"
                ),
                _ => format!("no services: cannot read {path}: {error}"),
            })
        })?;
        let mut services: Self =
            serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
        if let Some(endpoint) = public_endpoint()? {
            services.storage.public_endpoint = Some(endpoint);
        }
        Ok(services)
    }

    /// The addresses of the database, which are all that a migration needs.
    pub(crate) fn find_database(data_dir: &Path) -> Result<Addresses, Failure> {
        match database_from_environment()? {
            Some(addresses) => Ok(addresses),
            None => Self::find(data_dir).map(|services| services.database()),
        }
    }

    /// The addresses of the database.
    pub(crate) fn database(&self) -> Addresses {
        Addresses { url: self.database_url.clone(), direct_url: self.direct_database_url.clone() }
    }
}

/// The database that the environment names, if any.
pub(crate) fn database_from_environment() -> Result<Option<Addresses>, Failure> {
    match (secret("DATABASE_URL")?, secret("PYROGRAPH_DATABASE_DIRECT_URL")?) {
        (Some(url), direct_url) => Ok(Some(Addresses { url, direct_url })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Failure::Usage(
            "PYROGRAPH_DATABASE_DIRECT_URL is set and DATABASE_URL is not; set DATABASE_URL to the same database"
                .to_owned(),
        )),
    }
}

/// Connections of a server for requests.
pub(crate) fn database_pool() -> Result<u32, Failure> {
    const DEFAULT: u32 = 5;
    Ok(number("PYROGRAPH_DATABASE_POOL", 1..=1000)?.unwrap_or(DEFAULT))
}

/// The address of the bucket for clients, if it is not the one that this process uses.
pub(crate) fn public_endpoint() -> Result<Option<String>, Failure> {
    let url: Option<api::PublicUrl> = said("PYROGRAPH_S3_PUBLIC_ENDPOINT")?;
    Ok(url.map(|url| url.as_str().to_owned()))
}

/// An address to listen on, as people write it.
///
/// # Errors
/// It is none.
pub(crate) fn bind_address(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    match local {
        Some(port) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        None => text.parse().map_err(|_| {
            "it is not an IP address with a port, such as 127.0.0.1:8080, localhost:8080 or 0.0.0.0:8080".to_owned()
        }),
    }
}

/// The address by which clients reach the API, if the operator has named it.
pub(crate) fn public_url() -> Result<Option<PublicUrl>, Failure> {
    said("PYROGRAPH_PUBLIC_URL")
}

/// The names under which clients reach an API that listens at `bind`.
pub(crate) fn names(bind: IpAddr) -> Result<Names, Failure> {
    let hosts = variable("PYROGRAPH_ALLOWED_HOSTS").unwrap_or_default();
    let hosts = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::parse::<HostPattern>);
    let allowed = hosts.collect::<Result<_, _>>();
    let origins = variable("PYROGRAPH_CORS_ORIGINS").unwrap_or_default();
    let origins = origins.split(',').map(str::trim).filter(|origin| !origin.is_empty()).map(str::parse::<PublicUrl>);
    let origins = origins.collect::<Result<_, _>>();
    Ok(Names {
        bind,
        public_url: public_url()?,
        allowed: allowed.map_err(|wrong| Failure::Usage(format!("PYROGRAPH_ALLOWED_HOSTS: {wrong}")))?,
        origins: origins.map_err(|wrong| Failure::Usage(format!("PYROGRAPH_CORS_ORIGINS: {wrong}")))?,
    })
}

/// How many requests a key may send; `None`: any number.
pub(crate) fn rate() -> Result<Option<Rate>, Failure> {
    let per_second = number("PYROGRAPH_REQUESTS_PER_SECOND", 0..=1_000_000)?.unwrap_or(50);
    let burst = number("PYROGRAPH_REQUEST_BURST", 1..=1_000_000)?.unwrap_or(100);
    Ok(NonZeroU32::new(per_second).zip(NonZeroU32::new(burst)).map(|(per_second, burst)| Rate { per_second, burst }))
}

/// Where a CDN shows the pictures of the bucket, if there is one.
pub(crate) fn cdn() -> Result<Option<PublicUrl>, Failure> {
    said("PYROGRAPH_CDN_URL")
}

/// The table of prices, if there is one.
pub(crate) fn prices() -> Result<Option<Prices>, Failure> {
    let Some(file) = variable("PYROGRAPH_PRICES") else { return Ok(None) };
    let wrong = |why: &dyn Display| Failure::Usage(format!("PYROGRAPH_PRICES, {}: {why}", shown(Path::new(&file))));
    let text = std::fs::read_to_string(&file).map_err(|error| wrong(&error))?;
    Prices::read(&text).map(Some).map_err(|why| wrong(&why.trim_end()))
}

/// A variable that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A whole number from the environment.
///
/// # Errors
/// It is set and not a number in `range`.
pub(crate) fn number<T>(name: &str, range: RangeInclusive<T>) -> Result<Option<T>, Failure>
where
    T: FromStr + PartialOrd + Display,
{
    variable(name).map(|text| whole(name, &text, range)).transpose()
}

fn whole<T>(name: &str, text: &str, range: RangeInclusive<T>) -> Result<T, Failure>
where
    T: FromStr + PartialOrd + Display,
{
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let (least, most) = range.into_inner();
        Failure::Usage(format!("{name} is '{text}', which is not a whole number from {least} to {most}"))
    })
}

/// The value of a variable, if it is set.
///
/// # Errors
/// It is set and cannot be parsed.
pub(crate) fn said<T: FromStr<Err: std::fmt::Display>>(name: &str) -> Result<Option<T>, Failure> {
    let Some(text) = variable(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|error| Failure::Usage(format!("{name}: {error}")))
}

/// A number below this without a unit is refused: as bytes it is no memory for a model, so the unit was forgotten.
const FEWEST_BYTES: u64 = 64 << 20;

/// A number of bytes above 0, such as `12GiB`, `1.5 GiB`, `24GB` or `512B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = text.parse().ok().map(|size: bytesize::ByteSize| size.as_u64());
        let bytes = bytes.filter(|bytes| (1..u64::MAX).contains(bytes));
        if bytes.is_some_and(|bytes| bytes < FEWEST_BYTES) && !text.ends_with(char::is_alphabetic) {
            let unit = match bytes.unwrap_or_default() {
                0..1_024 => format!("{text}GiB"),
                1_024..1_000_000 => format!("{text}MiB"),
                bytes if bytes % 1_000_000 == 0 => format!("{}MB", bytes / 1_000_000),
                _ => format!("{text}B"),
            };
            return Err(format!("'{text}' has no unit and would be bytes; write {unit}, for example"));
        }
        bytes.map(Self).ok_or_else(|| format!("'{text}' is not a number of bytes such as 12GiB or 800MB"))
    }
}

/// Checks the variables for outgoing connections: certificates and proxies.
///
/// # Errors
/// A variable with which no connection can work.
pub(crate) fn check_outgoing() -> Result<(), Failure> {
    outgoing::check_environment().map_err(Failure::Usage)
}

/// Makes an empty variable count as unset for clap too, as everywhere else.
pub(crate) fn without_empty_variables(command: clap::Command) -> clap::Command {
    let empty =
        |argument: &clap::Arg| argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|argument| if empty(&argument) { argument.env(None::<&str>) } else { argument })
        .mut_subcommands(without_empty_variables)
}

/// The command line, whose options no variables set.
pub(crate) fn without_variables(command: clap::Command) -> clap::Command {
    command.mut_args(|argument| argument.env(None::<&str>)).mut_subcommands(without_variables)
}

/// Heartbeats that a lease must last.
const BEATS_PER_LEASE: u32 = 3;

/// The lease policy, with overrides from the environment.
///
/// # Errors
/// Times with which healthy workers would lose their jobs.
pub(crate) fn lease_policy() -> Result<LeasePolicy, Failure> {
    let usual = LeasePolicy::default();
    lasts(LeasePolicy {
        ttl: duration("PYROGRAPH_LEASE_TTL_MS")?.unwrap_or(usual.ttl),
        beat: duration("PYROGRAPH_LEASE_BEAT_MS")?.unwrap_or(usual.beat),
        reaper_tick: duration("PYROGRAPH_REAPER_TICK_MS")?.unwrap_or(usual.reaper_tick),
        ..usual
    })
}

fn lasts(policy: LeasePolicy) -> Result<LeasePolicy, Failure> {
    if policy.ttl >= policy.beat.saturating_mul(BEATS_PER_LEASE) {
        return Ok(policy);
    }
    Err(Failure::Usage(format!(
        "PYROGRAPH_LEASE_TTL_MS is {} and PYROGRAPH_LEASE_BEAT_MS {}: a lease must last {BEATS_PER_LEASE} heartbeats",
        policy.ttl.as_millis(),
        policy.beat.as_millis()
    )))
}

/// Whether a server looks for objects that no row names.
///
/// # Errors
/// A value other than `on` and `off`.
pub(crate) fn sweeps() -> Result<bool, Failure> {
    switch("PYROGRAPH_SWEEP", variable("PYROGRAPH_SWEEP").as_deref())
}

/// A variable that is `on`, which is the default, or `off`.
fn switch(name: &str, value: Option<&str>) -> Result<bool, Failure> {
    match value {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => Err(Failure::Usage(format!("{name} is '{other}', which is neither on nor off"))),
    }
}

/// Where models may be imported from.
pub(crate) fn imports() -> Result<Imports, Failure> {
    let mut imports = Imports::default();
    if let Some(endpoint) = hub::hub_endpoint()? {
        imports.hub = endpoint;
    }
    imports.hub_token = secret("HF_TOKEN")?.map(|token| HubToken(token.trim().to_owned()));
    imports.folder = variable("PYROGRAPH_IMPORT_DIR").map(PathBuf::from);
    if let Some(Err(error)) = imports.folder.as_ref().map(std::fs::read_dir) {
        return Err(Failure::Usage(format!("PYROGRAPH_IMPORT_DIR names a folder that cannot be read: {error}")));
    }
    imports.guard = guard(&["PYROGRAPH_OUTBOUND_NETWORKS", "PYROGRAPH_IMPORT_NETWORKS"])?;
    Ok(imports)
}

/// What deliveries may reach.
pub(crate) fn outbound() -> Result<Guard, Failure> {
    guard(&["PYROGRAPH_OUTBOUND_NETWORKS"])
}

/// The public internet, and the networks that these variables name.
fn guard(variables: &[&str]) -> Result<Guard, Failure> {
    let mut allowed: Vec<Network> = Vec::new();
    for name in variables {
        for network in variable(name).iter().flat_map(|networks| networks.split(',')) {
            let network = network.trim().parse().map_err(|wrong| Failure::Usage(format!("{name}: {wrong}")));
            allowed.push(network?);
        }
    }
    let proxies = outgoing::Proxies::environment().map_err(Failure::Usage)?;
    Ok(Guard::new(allowed).through(proxies))
}

/// A variable in milliseconds, up to a week.
pub(crate) fn duration(variable: &str) -> Result<Option<Duration>, Failure> {
    const WEEK: u64 = 7 * 24 * 60 * 60 * 1000;
    Ok(number(variable, 1..=WEEK)?.map(Duration::from_millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_variable() {
        let page = include_str!("../../docs/configuration.md");
        for (name, meaning, default) in VARIABLES {
            let default = if default.is_empty() { String::new() } else { format!(" [{default}]") };
            let row = format!("| `{name}` | {meaning}{default} |");
            assert!(page.contains(&row), "docs/configuration.md lacks the line\n{row}");
        }
    }

    #[test]
    fn a_number_has_a_range() {
        let pool = |text| whole::<u32>("PYROGRAPH_DATABASE_POOL", text, 1..=1000);
        assert!(pool("1").is_ok() && pool("1000").is_ok());
        for text in ["0", "1001", "4294967295", "99999999999999999999", "-1", "five"] {
            let Err(Failure::Usage(why)) = pool(text) else { panic!("{text} was taken") };
            assert!(why.contains("PYROGRAPH_DATABASE_POOL") && why.contains("from 1 to 1000"), "{why}");
        }
    }

    #[test]
    fn a_switch_is_on_or_off() {
        for (value, is) in [(None, true), (Some("on"), true), (Some("off"), false)] {
            assert!(switch("PYROGRAPH_SWEEP", value).is_ok_and(|on| on == is), "{value:?}");
        }
        let Err(Failure::Usage(why)) = switch("PYROGRAPH_SWEEP", Some("no")) else { panic!("`no` was taken") };
        assert!(why.contains("PYROGRAPH_SWEEP") && why.contains("'no'"), "{why}");
    }

    #[test]
    fn the_documentation_lists_every_secret_that_may_be_in_a_file() {
        let page = include_str!("../../docs/configuration.md");
        for name in secret::SECRETS {
            assert!(page.contains(&format!("`{name}_FILE`")), "docs/configuration.md lacks {name}_FILE");
        }
    }

    #[test]
    fn an_address_to_listen_on_has_a_port() {
        assert_eq!(bind_address("localhost:80"), Ok(SocketAddr::from(([127, 0, 0, 1], 80))));
        assert_eq!(bind_address("[::]:80"), Ok(SocketAddr::from(([0_u16; 8], 80))));
        for text in ["127.0.0.1", "18431", "localhost", "a.example:80", ""] {
            assert!(bind_address(text).unwrap_err().contains("127.0.0.1:8080"), "{text}");
        }
    }

    #[test]
    fn a_folder_without_services_is_named_with_the_flag_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let Err(Failure::Usage(why)) = Services::find(folder.path()) else { panic!("there are services") };
        assert!(why.contains("--data-dir") && why.contains(folder.path().to_str().unwrap()), "{why}");
    }

    #[test]
    fn bytes_are_read_as_people_write_them() {
        let all = [
            ("100000000", 100_000_000),
            ("7B", 7),
            ("12GiB", 12 << 30),
            ("800 MiB", 800 << 20),
            ("24GB", 24_000_000_000),
            ("512B", 512),
            ("1.5GiB", 3 << 29),
        ];
        for (text, bytes) in all {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1", "99999999999GiB", "0", "12 gigs", "12"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        for (text, advice) in [("12", "12GiB"), ("12000", "12000MiB"), ("64000000", "64MB"), ("67108863", "67108863B")]
        {
            let why = text.parse::<ByteSize>().unwrap_err();
            assert!(why.contains(&format!("write {advice}, ")), "{why}");
            assert!(advice.parse::<ByteSize>().is_ok(), "{advice}");
        }
    }

    #[test]
    fn a_lease_lasts_three_beats() {
        let of = |ttl, beat| LeasePolicy {
            ttl: Duration::from_millis(ttl),
            beat: Duration::from_millis(beat),
            ..LeasePolicy::default()
        };
        assert!(lasts(LeasePolicy::default()).is_ok() && lasts(of(1500, 500)).is_ok());
        let Err(Failure::Usage(why)) = lasts(of(100, 5000)) else { panic!("a lease shorter than a beat was taken") };
        assert!(why.contains("PYROGRAPH_LEASE_TTL_MS") && why.contains("5000"), "{why}");
    }

    #[test]
    fn services_survive_the_file() {
        let services = Services {
            database_url: "postgres://u:p@127.0.0.1:1/d".into(),
            direct_database_url: None,
            storage: StorageConfig {
                endpoint: "http://127.0.0.1:2".into(),
                bucket: "b".into(),
                region: "auto".into(),
                keys: Keys::fixed("k", "s"),
                public_endpoint: None,
            },
            behind_api: true,
        };
        let again: Services = serde_json::from_slice(&serde_json::to_vec(&services).unwrap()).unwrap();
        assert_eq!((again.behind_api, again.database_url), (true, services.database_url));
        assert_eq!((again.storage.endpoint, again.storage.keys), (services.storage.endpoint, services.storage.keys));
    }
}
