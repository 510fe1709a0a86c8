//! `pyrograph projects`: creates and lists projects, straight in the database.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use domain::project::{self, Project, ProjectRequest};
use domain::{MAX_LIMIT, PageRequest};
use serde_json::{Value, json};

use super::models::short;
use super::{Outcome, print_json};
use crate::installation::on_database;
use crate::output::say;
use crate::services;
use crate::table::Table;

/// Create and list projects
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
        place: Place,
    },
    /// List the projects, newest first
    List {
        #[command(flatten)]
        place: Place,
    },
}

/// Where the database is, and how results are printed.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Data folder of `up`, used if DATABASE_URL is not set
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
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
                    let mut projects = Vec::new();
                    let mut cursor = None;
                    loop {
                        let page = PageRequest::parse(Some(MAX_LIMIT), cursor.as_deref()).context("a page")?;
                        let listed = project::list(&operator, &pools.api, &page).await;
                        let page = services::answered(listed, "could not list the projects")?;
                        projects.extend(page.items);
                        cursor = page.next_cursor;
                        if cursor.is_none() {
                            break;
                        }
                    }
                    print(&projects, place.json)
                })
                .await
            }
        }
    }
}

fn print(projects: &[Project], json: bool) -> Outcome {
    if json {
        return print_json(&projects.iter().map(shown).collect::<Vec<Value>>().into());
    }
    let mut table = Table::new(["NAME", "CREATED", "ID"]);
    for project in projects {
        table.row([project.name.clone(), short(&project.created_at.to_rfc3339()), project.id.to_string()]);
    }
    table.print()
}

/// The project as the API shows it.
fn shown(project: &Project) -> Value {
    json!({ "id": project.id, "name": project.name, "created_at": project.created_at })
}
