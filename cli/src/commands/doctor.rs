//! `pyrograph doctor`: checks what a server needs, and prints what to change.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use chrono::{DateTime, Utc};
use clap::Args;
use domain::database::{self, PoolSizes, Pools};
use domain::{Caller, ProjectId, Storage, access, delivery};
use reqwest::Url;
use serde::Serialize;
use serde_json::json;

use super::{Outcome, print_json};
use crate::client::server_address;
use crate::configuration::{Services, names};
use crate::failure::Failure;
use crate::output::{say, unescaped};
use crate::table::Table;
use crate::{page_access, services};

/// Most that the clocks of this machine and of the database may differ. Signatures of S3 allow for 15 minutes.
const CLOCKS: Duration = Duration::from_secs(30);

/// Age from which a delivery is late.
const LATE: Duration = Duration::from_hours(1);

/// Check database, bucket, clock and access, and print what to change
///
/// Changes nothing. Prints the CORS rule that the bucket needs, if pages read files from it directly. The exit code is
/// 1 if a check fails.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Address at which the API listens, for the CORS rule; PYROGRAPH_PUBLIC_URL takes precedence
    #[arg(long, env = "PYROGRAPH_SERVER", default_value = "http://127.0.0.1:8080", value_name = "URL",
          value_parser = server_address)]
    server: Url,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
    /// Data folder of a running `up`, used if DATABASE_URL is not set
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    data_dir: PathBuf,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// It works, and is perhaps not as intended.
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    detail: String,
}

impl Doctor {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        let names = names(Ipv4Addr::LOCALHOST.into())?;
        let services = Services::find(&self.data_dir)?;
        let mut checks = database_checks(&services).await;
        let storage = Storage::new(&services.storage).context("storage")?;
        checks.push(match services::check_storage(&storage, &services.storage).await {
            Ok(()) => check("bucket", State::Ok, format!("`{}` answers", services.storage.bucket)),
            Err(failure) => check("bucket", State::Failed, failure.to_string()),
        });
        checks.extend(archive_check(&services).await);
        let rule = page_access::rule(&names, &self.server.origin().ascii_serialization());
        let is_needed = page_access::is_needed(&services);
        checks.push(if is_needed {
            pages(page_access::missing(&storage, &rule).await)
        } else {
            check("CORS rule", State::Ok, "not needed: pages reach the bucket through the API".to_owned())
        });
        let rule = is_needed.then(|| json!({ "CORSRules": [rule] }));
        if self.json {
            print_json(&json!({ "checks": checks, "cors_rule": rule }))?;
        } else {
            show(&checks)?;
            if let Some(rule) = rule {
                say!("")?;
                say!("The CORS rule of the bucket, for `aws s3api put-bucket-cors --cors-configuration`:")?;
                unescaped(&format!("{rule:#}"))?;
            }
        }
        match checks.iter().filter(|check| check.state == State::Failed).count() {
            0 => Ok(()),
            failed => Err(Failure::Failed(anyhow!("{failed} of {} checks failed", checks.len()))),
        }
    }
}

/// The archive, if there is one.
async fn archive_check(services: &Services) -> Option<Check> {
    match services::archive(&services.storage).await {
        Ok(None) => None,
        Ok(Some(archive)) => Some(match archive.check().await {
            Ok(()) => check("archive", State::Ok, "it answers".to_owned()),
            Err(error) => check("archive", State::Warning, format!("{error}; pictures wait for it")),
        }),
        Err(failure) => Some(check("archive", State::Failed, failure.to_string())),
    }
}

fn check(name: &'static str, state: State, detail: String) -> Check {
    Check { name, state, detail }
}

fn show(checks: &[Check]) -> Outcome {
    let mut table = Table::new(["CHECK", "STATE", "DETAIL"]);
    for Check { name, state, detail } in checks {
        let state = match state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failed => "failed",
        };
        table.row([(*name).to_owned(), state.to_owned(), detail.clone()]);
    }
    table.print()
}

async fn database_checks(services: &Services) -> Vec<Check> {
    let pools = match services::database(&services.database(), PoolSizes::WORKER).await {
        Ok(pools) => pools,
        Err(failure) => return vec![check("database", State::Failed, failure.to_string())],
    };
    let checks = match services::check_schema(&pools).await {
        Ok(()) => {
            let schema = check("database", State::Ok, "it answers, with the schema of this version".to_owned());
            let clock = clock(database::server_time(&pools.lease).await, Utc::now());
            vec![schema, clock, keys(&pools).await, outbox(&pools).await]
        }
        Err(failure) => vec![check("database", State::Failed, failure.to_string())],
    };
    pools.close().await;
    checks
}

fn clock(there: domain::Result<DateTime<Utc>>, here: DateTime<Utc>) -> Check {
    let difference = match there {
        Ok(there) => (here - there).abs().to_std().unwrap_or_default(),
        Err(error) => return check("clock", State::Failed, error.to_string()),
    };
    let seconds = difference.as_secs_f64();
    if difference <= CLOCKS {
        return check("clock", State::Ok, format!("{seconds:.1} s from that of the database"));
    }
    let detail = format!(
        "{seconds:.0} s from that of the database. Set both by NTP: presigned URLs and leases depend on the time."
    );
    check("clock", State::Failed, detail)
}

async fn outbox(pools: &Pools) -> Check {
    let queues = match delivery::queues(&Caller::operator(ProjectId::DEFAULT), &pools.api).await {
        Ok(queues) => queues,
        Err(error) => return check("outbox", State::Failed, error.to_string()),
    };
    let is_late = |queue: &delivery::Queue| queue.failed_today > 0 || queue.oldest_seconds > Some(LATE.as_secs_f64());
    let state = if queues.iter().any(is_late) { State::Warning } else { State::Ok };
    let shown = |queue: delivery::Queue| {
        let oldest = queue.oldest_seconds.map(|seconds| format!(" (oldest: {seconds:.0} s)")).unwrap_or_default();
        format!("{}: {} pending{oldest}, {} failed today", queue.target.as_str(), queue.pending, queue.failed_today)
    };
    check("outbox", state, queues.into_iter().map(shown).collect::<Vec<_>>().join("; "))
}

async fn keys(pools: &Pools) -> Check {
    match access::is_closed(&pools.api).await {
        Ok(true) => check("access", State::Ok, "requests need a key".to_owned()),
        Ok(false) => {
            let detail = "no key yet: this machine only. Create one with `pyrograph keys create --name NAME` before a \
                          proxy or a network reaches the API.";
            check("access", State::Warning, detail.to_owned())
        }
        Err(error) => check("access", State::Failed, error.to_string()),
    }
}

fn pages(missing: domain::Result<Option<Vec<String>>>) -> Check {
    let (state, detail) = match missing {
        Ok(Some(origins)) if origins.is_empty() => (State::Ok, "pages may read and write files".to_owned()),
        Ok(Some(origins)) => (State::Warning, format!("pages of {} may not read and write files", origins.join(", "))),
        Ok(None) => (State::Warning, "the service does not show its rules".to_owned()),
        Err(error) => (State::Failed, error.to_string()),
    };
    check("CORS rule", state, detail)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn clocks_may_differ_by_seconds() {
        let now = Utc::now();
        for (seconds, state) in
            [(0, State::Ok), (-20, State::Ok), (20, State::Ok), (-31, State::Failed), (3600, State::Failed)]
        {
            assert_eq!(clock(Ok(now + TimeDelta::seconds(seconds)), now).state, state, "{seconds}");
        }
    }

    #[test]
    fn a_bucket_without_a_rule_is_a_warning() {
        let missing = pages(Ok(Some(vec!["https://a.example".to_owned()])));
        assert!(missing.state == State::Warning && missing.detail.contains("https://a.example"), "{missing:?}");
        assert_eq!(pages(Ok(Some(Vec::new()))).state, State::Ok);
        assert_eq!(pages(Ok(None)).state, State::Warning);
    }
}
