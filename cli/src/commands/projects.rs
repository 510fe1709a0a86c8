//! `pyrograph projects`: creates and lists projects, straight in the database.

use clap::{Args, Subcommand};
use domain::project::{self, Project, ProjectRequest};
use serde_json::{Value, json};

use super::database_options::{DatabaseOptions, every_page};
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
        place: DatabaseOptions,
    },
    /// List the projects, newest first
    List {
        #[command(flatten)]
        place: DatabaseOptions,
    },
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
