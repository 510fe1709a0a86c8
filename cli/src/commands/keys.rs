//! `pyrograph keys`: creates, lists and revokes keys of the API, straight in the database.

use chrono::{DateTime, Datelike as _, TimeDelta, Utc};
use clap::{Args, Subcommand};
use domain::database::Pools;
use domain::key::{self, Key, KeyRequest};
use domain::{Caller, KeyId, Scope, project};
use serde_json::{Value, json};

use super::database_options::{DatabaseOptions, every_page};
use super::models::short;
use super::{Outcome, print_json};
use crate::installation::on_database;
use crate::output::{say, tell};
use crate::services;
use crate::table::Table;

/// Create, list and revoke keys of the API
///
/// An installation without keys serves its own machine only. The first key closes it: from then on, every request needs
/// a key. The commands work on the database of DATABASE_URL or of the data folder, also while `up` is not running.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a key and print it; it is shown only once
    Create {
        /// Name of the key, for people
        #[arg(long, value_name = "NAME")]
        name: String,
        /// What the key may do: read, generate, train, models, admin [default: all but admin; for the first key all]
        #[arg(long, value_name = "SCOPES", value_delimiter = ',', value_parser = scope)]
        scopes: Option<Vec<Scope>>,
        /// How long the key is valid, such as 30d or 12h [default: for ever]
        #[arg(long, value_name = "TIME", value_parser = expiry)]
        expires: Option<DateTime<Utc>>,
        /// Project of the key; created if there is none of this name
        #[arg(long, default_value = "default", value_name = "NAME")]
        project: String,
        #[command(flatten)]
        place: DatabaseOptions,
    },
    /// List the keys of a project, newest first
    List {
        /// Project
        #[arg(long, default_value = "default", value_name = "NAME")]
        project: String,
        #[command(flatten)]
        place: DatabaseOptions,
    },
    /// Revoke a key: requests with it are refused within five seconds
    Revoke {
        /// Id of the key
        #[arg(value_name = "ID", value_parser = key_id)]
        key: KeyId,
        #[command(flatten)]
        place: DatabaseOptions,
    },
}

fn scope(text: &str) -> Result<Scope, String> {
    text.parse().map_err(|_| "it is none of read, generate, train, models and admin".to_owned())
}

/// A time after now.
fn expiry(text: &str) -> Result<DateTime<Utc>, String> {
    let time = humantime::parse_duration(text).map_err(|_| "it is not a duration such as 30d or 12h".to_owned())?;
    let expiry = TimeDelta::from_std(time).ok().and_then(|time| Utc::now().checked_add_signed(time));
    expiry.filter(|expiry| expiry.year() <= 9999).ok_or_else(|| "it ends after the year 9999".to_owned())
}

fn key_id(text: &str) -> Result<KeyId, String> {
    text.parse().map_err(|_| "it is not an id as `pyrograph keys list` shows it".to_owned())
}

impl Keys {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        match self.action {
            Action::Create { name, scopes, expires: expires_at, project, place } => {
                let request = KeyRequest { name, scopes, expires_at };
                on_database(&place.data_dir, async |pools, operator| {
                    let project = project::get_or_create(&operator, &pools.api, &project).await;
                    let project = services::answered(project, "could not find the project")?;
                    create(pools, &operator.in_project(project.id), request, place.json).await
                })
                .await
            }
            Action::List { project, place } => {
                on_database(&place.data_dir, async |pools, operator| {
                    let caller = project::enter(operator, &pools.api, &project).await;
                    list(pools, &services::answered(caller, "could not find the project")?, place.json).await
                })
                .await
            }
            Action::Revoke { key, place } => {
                on_database(&place.data_dir, async |pools, operator| {
                    let project = key::project(&pools.api, key).await;
                    let caller = operator.in_project(services::answered(project, "could not revoke the key")?);
                    services::answered(key::revoke(&caller, &pools.api, key).await, "could not revoke the key")?;
                    if place.json { print_json(&json!({ "id": key })) } else { say!("{key} is revoked.") }
                })
                .await
            }
        }
    }
}

async fn create(pools: &Pools, caller: &Caller, request: KeyRequest, json: bool) -> Outcome {
    let created = key::create(caller, &pools.api, request).await;
    let (key, token) = services::answered(created, "could not create the key")?;
    if json {
        let mut shown = shown(&key);
        shown["key"] = token.reveal().into();
        return print_json(&shown);
    }
    say!("{}", token.reveal())?;
    tell!(
        "Keep it: it is not shown again. Clients send it as `Authorization: Bearer …`, `pyrograph` as --key or \
         PYROGRAPH_KEY."
    );
    Ok(())
}

async fn list(pools: &Pools, caller: &Caller, json: bool) -> Outcome {
    let list = async |page| key::list(caller, &pools.api, &page).await;
    let keys = every_page(list, "could not list the keys").await?;
    if json {
        return print_json(&keys.iter().map(shown).collect::<Vec<Value>>().into());
    }
    let mut table = Table::new(["NAME", "SCOPES", "STATE", "CREATED", "LAST USED", "ID"]);
    for key in keys {
        let time = |time: &DateTime<Utc>| short(&time.to_rfc3339());
        let scopes: Vec<&str> = key.scopes.iter().map(Scope::as_str).collect();
        table.row([
            if key.is_local { format!("{} (of `up`)", key.name) } else { key.name.clone() },
            scopes.join(","),
            state(&key),
            time(&key.created_at),
            key.last_used_at.as_ref().map_or_else(|| "never".to_owned(), time),
            key.id.to_string(),
        ]);
    }
    table.print()
}

fn state(key: &Key) -> String {
    match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked".to_owned(),
        (None, Some(expiry)) if expiry <= Utc::now() => "expired".to_owned(),
        (None, Some(expiry)) => format!("until {}", short(&expiry.to_rfc3339())),
        (None, None) => "valid".to_owned(),
    }
}

/// The key as the API shows it.
fn shown(key: &Key) -> Value {
    json!({
        "id": key.id, "name": key.name, "scopes": key.scopes.iter().collect::<Vec<_>>(), "local": key.is_local,
        "created_at": key.created_at, "expires_at": key.expires_at, "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_a_duration() {
        for text in ["30d", "12h", "1year 2s"] {
            assert!(expiry(text).unwrap() > Utc::now(), "{text}");
        }
        for text in ["", "3", "soon", "-1d", "2027-01-31T12:00:00Z"] {
            assert_eq!(expiry(text).unwrap_err(), "it is not a duration such as 30d or 12h", "{text}");
        }
        assert!(expiry("9000years").unwrap_err().contains("9999"));
    }
}
