//! `pyrograph projects`: creates, lists, changes and deletes projects, straight in the database.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::str::FromStr;

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::{Args, Subcommand, ValueEnum};
use domain::QuotaChanges;
use domain::project::{
    self, Amount, Deletion, Expired, Project, ProjectChanges, ProjectRequest, Retention, RetentionChanges,
};
use serde_json::{Value, json};

use super::database_options::{DatabaseOptions, every_page};
use super::models::short;
use super::{Outcome, print_json};
use crate::failure::Failure;
use crate::installation::on_database;
use crate::output::{say, tell};
use crate::services;
use crate::table::Table;

/// Create, list, change and delete projects
///
/// What one project has does not exist for another, except models that it shares. The commands work on the database of
/// DATABASE_URL or of the data folder, also while `up` is not running.
#[derive(Debug, Args)]
pub(crate) struct Projects {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a project
    Create {
        /// Name of the project
        name: String,
        #[command(flatten)]
        retention: RetentionFlags,
        /// Whether its pictures are archived, where the server has an archive [default: on]
        #[arg(long, value_name = "SWITCH")]
        archive: Option<Switch>,
        #[command(flatten)]
        place: DatabaseOptions,
    },
    /// List the projects, newest first
    List {
        #[command(flatten)]
        place: DatabaseOptions,
    },
    /// Change quotas and retention of a project; those that are not given stay
    ///
    /// If a running `up` or `serve` would delete something within minutes, it shows how much that is, and asks first.
    Update {
        /// Name of the project
        name: String,
        #[command(flatten)]
        quotas: QuotaFlags,
        #[command(flatten)]
        retention: RetentionFlags,
        /// Whether the pictures of later requests are archived, where the server has an archive
        #[arg(long, value_name = "SWITCH")]
        archive: Option<Switch>,
        /// Show what the retention would delete now, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Do not ask before something is deleted
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: DatabaseOptions,
    },
    /// Delete a project and everything that it has
    ///
    /// Its keys are revoked and its jobs canceled at once. A running `up` or `serve` deletes what it has.
    Delete {
        /// Name of the project
        name: String,
        /// Project that gets the models that it shares
        #[arg(long, value_name = "NAME")]
        move_shared: Option<String>,
        /// Do not ask for the name again
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: DatabaseOptions,
    },
}

/// Each takes a number, or `none` to lift the quota.
#[derive(Debug, Args)]
struct QuotaFlags {
    /// Jobs that may be queued at a time, or `none`
    #[arg(long, value_name = "COUNT")]
    queued_jobs: Option<Limit<i32>>,
    /// Jobs that may run at a time, or `none`; further ones stay queued
    #[arg(long, value_name = "COUNT")]
    running_jobs: Option<Limit<i32>>,
    /// Jobs that may be enqueued on a day of UTC, or `none`
    #[arg(long, value_name = "COUNT")]
    jobs_per_day: Option<Limit<i32>>,
    /// Seconds for which devices may be held on a day of UTC, or `none`
    #[arg(long, value_name = "SECONDS")]
    gpu_seconds_per_day: Option<Limit<i64>>,
    /// Bytes that may be stored, such as 10GiB, or `none`
    #[arg(long, value_name = "BYTES")]
    stored_bytes: Option<Limit<ByteSize>>,
}

/// Each takes a time in days, or `none` to keep for ever.
#[derive(Debug, Args)]
struct RetentionFlags {
    /// How long generations and exports that succeeded are kept, such as 30d, or `none` for ever
    #[arg(long, value_name = "DAYS")]
    keep_outputs: Option<Limit<Days>>,
    /// How long uploaded inputs are kept, or `none` for ever
    #[arg(long, value_name = "DAYS")]
    keep_inputs: Option<Limit<Days>>,
    /// How long events of ended jobs are kept, or `none` for ever; the last event stays
    #[arg(long, value_name = "DAYS")]
    keep_events: Option<Limit<Days>>,
    /// How long jobs that failed or were canceled are kept, or `none` for ever
    #[arg(long, value_name = "DAYS")]
    keep_failed_jobs: Option<Limit<Days>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// A number of days, such as `30d`. Not checked otherwise.
#[derive(Debug, Clone, Copy)]
struct Days(i32);

impl FromStr for Days {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let days = text.strip_suffix('d').unwrap_or(text).parse();
        days.map(Self).map_err(|_| "it is not a number of days such as 30d")
    }
}

/// A number, or `none`.
#[derive(Debug, Clone, Copy)]
struct Limit<T>(Option<T>);

impl<T: FromStr> FromStr for Limit<T>
where
    T::Err: std::fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            _ => text.parse().map(|value| Self(Some(value))).map_err(|error: T::Err| error.to_string()),
        }
    }
}

fn value<T>(flag: Option<Limit<T>>) -> Option<Option<T>> {
    flag.map(|Limit(value)| value)
}

impl RetentionFlags {
    /// `None` if none is given.
    fn changes(self) -> Option<RetentionChanges> {
        let days = |flag| value(flag).map(|days| days.map(|Days(days)| days));
        let changes = RetentionChanges {
            outputs_days: days(self.keep_outputs),
            inputs_days: days(self.keep_inputs),
            events_days: days(self.keep_events),
            failed_jobs_days: days(self.keep_failed_jobs),
        };
        (changes != RetentionChanges::default()).then_some(changes)
    }
}

impl QuotaFlags {
    fn changes(self) -> QuotaChanges {
        // A number of bytes that is too large for the type is beyond the range, too.
        let bytes = |size: ByteSize| i64::try_from(size.as_u64()).unwrap_or(i64::MAX);
        QuotaChanges {
            queued_jobs: value(self.queued_jobs),
            running_jobs: value(self.running_jobs),
            jobs_per_day: value(self.jobs_per_day),
            gpu_seconds_per_day: value(self.gpu_seconds_per_day),
            stored_bytes: value(self.stored_bytes).map(|size| size.map(bytes)),
        }
    }
}

impl Projects {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        match self.action {
            Action::Create { name, retention, archive, place } => {
                let archive = archive.map(|archive| archive == Switch::On);
                let request = ProjectRequest { name, retention: retention.changes(), archive };
                on_database(&place.data_dir, async |pools, operator| {
                    let created = project::create(&operator, &pools.api, request).await;
                    let created = services::answered(created, "could not create the project")?;
                    if place.json { print_json(&shown(&created)) } else { say!("{}", created.name) }
                })
                .await
            }
            Action::List { place } => {
                on_database(&place.data_dir, async |pools, operator| {
                    let list = async |page| project::list(&operator, &pools.api, &page).await;
                    let projects = every_page(list, "could not list the projects").await?;
                    print(&projects, place.json)
                })
                .await
            }
            Action::Update { name, quotas, retention, archive, dry_run, yes, place } => {
                let archive = archive.map(|archive| archive == Switch::On);
                let changes =
                    ProjectChanges { quotas: Some(quotas.changes()), retention: retention.changes(), archive };
                on_database(&place.data_dir, async |pools, operator| {
                    if dry_run || changes.retention.is_some() {
                        let expired = project::would_delete(&operator, &pools.api, &name, &changes).await;
                        let expired = services::answered(expired, "could not look at the project")?;
                        if dry_run {
                            return show_expired(&expired, place.json);
                        }
                        if !yes && !expired.is_empty() {
                            confirm(&name, &format!("this deletes {}", listed(&expired)))?;
                        }
                    }
                    let changed = project::change(&operator, &pools.api, &name, changes).await;
                    let changed = services::answered(changed, "could not change the project")?;
                    if place.json { print_json(&shown(&changed)) } else { print(&[changed], false) }
                })
                .await
            }
            Action::Delete { name, move_shared, yes, place } => {
                if !yes {
                    confirm(&name, &format!("this deletes everything that `{name}` has"))?;
                }
                let request = Deletion { confirm: name, move_shared_to: move_shared };
                on_database(&place.data_dir, async |pools, operator| {
                    let deleted = project::delete(&operator, &pools.api, &request.confirm, &request).await;
                    let deleted = services::answered(deleted, "could not delete the project")?;
                    if place.json {
                        print_json(&json!({ "id": deleted.id, "name": deleted.name }))
                    } else {
                        say!("{} is deleted.", deleted.name)
                    }
                })
                .await
            }
        }
    }
}

/// Asks for the name of the project at the terminal, after saying `what` happens.
fn confirm(name: &str, what: &str) -> Outcome {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::Usage(format!("{what}; give --yes if you mean it.")));
    }
    tell!("Careful: {what}. Type the name of the project to continue:");
    let mut line = String::new();
    stdin.lock().read_line(&mut line).context("could not read from the terminal")?;
    if line.trim() == name { Ok(()) } else { Err(Failure::Usage("nothing is deleted: that is not its name.".into())) }
}

fn show_expired(expired: &Expired, json: bool) -> Outcome {
    if json {
        return print_json(&json!(expired));
    }
    if expired.is_empty() { say!("Nothing would be deleted now.") } else { say!("Now deleted: {}", listed(expired)) }
}

/// What would be deleted, as `3 outputs (1.2 MiB), 40 events`.
fn listed(expired: &Expired) -> String {
    let Expired { outputs, inputs, events, failed_jobs } = *expired;
    let kinds = [("output", outputs), ("input", inputs), ("event", events), ("failed job", failed_jobs)];
    let kinds = kinds.into_iter().filter(|(_, amount)| amount.count > 0).map(|(kind, Amount { count, bytes })| {
        let plural = if count == 1 { "" } else { "s" };
        let size = if bytes > 0 { format!(" ({})", ByteSize(bytes.unsigned_abs())) } else { String::new() };
        format!("{count} {kind}{plural}{size}")
    });
    kinds.collect::<Vec<_>>().join(", ")
}

fn print(projects: &[Project], json: bool) -> Outcome {
    if json {
        return print_json(&projects.iter().map(shown).collect::<Vec<Value>>().into());
    }
    let mut table = Table::new(["NAME", "QUOTAS", "RETENTION", "CREATED", "ID"]);
    for project in projects {
        table.row([
            project.name.clone(),
            quotas(project),
            retention(&project.retention),
            short(&project.created_at.to_rfc3339()),
            project.id.to_string(),
        ]);
    }
    table.print()
}

/// The quotas that a project has, in one cell.
fn quotas(project: &Project) -> String {
    stated(&json!(project.quotas), "")
}

/// What the project does not keep for ever, in one cell.
fn retention(retention: &Retention) -> String {
    let Retention { outputs_days, inputs_days, events_days, failed_jobs_days } = retention;
    let days = json!({
        "outputs": outputs_days, "inputs": inputs_days, "events": events_days, "failed_jobs": failed_jobs_days,
    });
    stated(&days, "d")
}

/// The fields that are not null, each value with its unit.
fn stated(fields: &Value, unit: &str) -> String {
    let stated = fields.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let stated: Vec<String> = stated.map(|(name, value)| format!("{name}={value}{unit}")).collect();
    if stated.is_empty() { "-".to_owned() } else { stated.join(" ") }
}

/// The project as the API shows it.
fn shown(project: &Project) -> Value {
    json!({
        "id": project.id, "name": project.name, "quotas": project.quotas, "retention": project.retention,
        "archive": project.archive, "created_at": project.created_at,
    })
}
