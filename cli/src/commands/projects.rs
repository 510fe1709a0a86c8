//! `pyrograph projects`: creates, lists, changes and deletes projects, straight in the database.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::str::FromStr;

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::{Args, Subcommand};
use domain::QuotaChanges;
use domain::project::{self, Deletion, Project, ProjectChanges, ProjectRequest};
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
        place: DatabaseOptions,
    },
    /// List the projects, newest first
    List {
        #[command(flatten)]
        place: DatabaseOptions,
    },
    /// Change quotas and retention of a project; those that are not given stay
    Update {
        /// Name of the project
        name: String,
        #[command(flatten)]
        quotas: QuotaFlags,
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
    /// Days after which generations and inputs are deleted, or `none`
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<Limit<i32>>,
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

impl QuotaFlags {
    fn changes(self) -> ProjectChanges {
        fn value<T>(flag: Option<Limit<T>>) -> Option<Option<T>> {
            flag.map(|Limit(value)| value)
        }
        // A number of bytes that is too large for the type is beyond the range, too.
        let bytes = |size: ByteSize| i64::try_from(size.as_u64()).unwrap_or(i64::MAX);
        let quotas = QuotaChanges {
            queued_jobs: value(self.queued_jobs),
            running_jobs: value(self.running_jobs),
            jobs_per_day: value(self.jobs_per_day),
            gpu_seconds_per_day: value(self.gpu_seconds_per_day),
            stored_bytes: value(self.stored_bytes).map(|size| size.map(bytes)),
        };
        ProjectChanges { quotas: Some(quotas), retention_days: value(self.retention_days) }
    }
}

impl Projects {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        match self.action {
            Action::Create { name, place } => {
                on_database(&place.data_dir, async |pools, operator| {
                    let created = project::create(&operator, &pools.api, ProjectRequest { name }).await;
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
            Action::Update { name, quotas, place } => {
                let changes = quotas.changes();
                on_database(&place.data_dir, async |pools, operator| {
                    let changed = project::change(&operator, &pools.api, &name, changes).await;
                    let changed = services::answered(changed, "could not change the project")?;
                    if place.json { print_json(&shown(&changed)) } else { print(&[changed], false) }
                })
                .await
            }
            Action::Delete { name, move_shared, yes, place } => {
                if !yes {
                    confirm(&name)?;
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

/// Asks for the name of the project at the terminal.
fn confirm(name: &str) -> Outcome {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::Usage(format!("this deletes everything that `{name}` has; give --yes if you mean it.")));
    }
    tell!("This deletes everything that the project {name} has. Type its name to continue:");
    let mut line = String::new();
    stdin.lock().read_line(&mut line).context("could not read from the terminal")?;
    if line.trim() == name { Ok(()) } else { Err(Failure::Usage("nothing is deleted: that is not its name.".into())) }
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
            project.retention_days.map_or_else(|| "-".to_owned(), |days| format!("{days} d")),
            short(&project.created_at.to_rfc3339()),
            project.id.to_string(),
        ]);
    }
    table.print()
}

/// The quotas that a project has, in one cell.
fn quotas(project: &Project) -> String {
    let stated = json!(project.quotas);
    let stated = stated.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let stated: Vec<String> = stated.map(|(name, value)| format!("{name}={value}")).collect();
    if stated.is_empty() { "-".to_owned() } else { stated.join(" ") }
}

/// The project as the API shows it.
fn shown(project: &Project) -> Value {
    json!({
        "id": project.id, "name": project.name, "quotas": project.quotas, "retention_days": project.retention_days,
        "created_at": project.created_at,
    })
}
