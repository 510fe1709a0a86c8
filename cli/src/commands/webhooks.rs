//! `pyrograph webhooks`: endpoints that are notified of the jobs of a project, and the secret that signs events,
//! straight in the database.

use std::time::Duration;

use clap::{Args, Subcommand};
use domain::delivery::signing::{self, CurrentSecret, RotateRequest};
use domain::delivery::webhook::WebhookEvent;
use domain::delivery::webhook::history::{self, Filter, WebhookDelivery};
use domain::webhook::{self, Webhook, WebhookChanges, WebhookRequest};
use domain::{Caller, Database, DeliveryId, WebhookId, project};
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as NoSuchName, StrDeserializer};
use serde_json::{Value, json};

use super::database_options::{DatabaseOptions, every_page};
use super::models::short;
use super::{Outcome, print_json};
use crate::configuration::outbound;
use crate::installation::on_database;
use crate::output::{say, tell};
use crate::services;
use crate::table::Table;

/// Create, list, change and delete webhooks, and see their deliveries
///
/// A webhook is notified of all jobs of a project. The commands work on the database of DATABASE_URL or of the data
/// folder, also while `up` is not running.
#[derive(Debug, Args)]
pub(crate) struct Webhooks {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a webhook
    Create {
        /// URL to which events are posted
        url: String,
        #[command(flatten)]
        events: EventFlags,
        #[command(flatten)]
        place: Place,
    },
    /// List the webhooks of a project, newest first
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Change a webhook; options that are not given stay
    Update {
        /// Id of the webhook
        #[arg(value_name = "ID", value_parser = webhook_id)]
        webhook: WebhookId,
        /// URL to which events are posted
        #[arg(long)]
        url: Option<String>,
        #[command(flatten)]
        events: EventFlags,
        /// Post to it again
        #[arg(long, conflicts_with = "disable")]
        enable: bool,
        /// Post nothing to it
        #[arg(long)]
        disable: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Delete a webhook, with everything that was or would be posted to it
    Delete {
        /// Id of the webhook
        #[arg(value_name = "ID", value_parser = webhook_id)]
        webhook: WebhookId,
        #[command(flatten)]
        place: Place,
    },
    /// Print the secret that signs events
    Secret {
        #[command(flatten)]
        place: Place,
    },
    /// Replace the secret and print the new one
    RotateSecret {
        /// How long older secrets sign beside the new one, such as 1h, at most 7d [default: 1d]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        overlap: Option<Duration>,
        #[command(flatten)]
        place: Place,
    },
    /// List deliveries, newest first, also to endpoints that requests name
    Deliveries {
        /// Only to this webhook
        #[arg(long, value_name = "ID", value_parser = webhook_id)]
        webhook: Option<WebhookId>,
        #[command(flatten)]
        place: Place,
    },
    /// Post an event again
    Redeliver {
        /// Id of the delivery
        #[arg(value_name = "ID", value_parser = delivery_id)]
        delivery: DeliveryId,
        #[command(flatten)]
        place: Place,
    },
}

/// Where the webhooks are.
#[derive(Debug, Args)]
struct Place {
    /// Project
    #[arg(long, default_value = "default", value_name = "NAME")]
    project: String,
    #[command(flatten)]
    database: DatabaseOptions,
}

#[derive(Debug, Args)]
struct EventFlags {
    /// Events to be posted: started, progress, succeeded, failed, canceled [default: the last three]
    #[arg(long, value_name = "EVENTS", value_delimiter = ',', value_parser = event)]
    events: Option<Vec<WebhookEvent>>,
}

fn event(text: &str) -> Result<WebhookEvent, String> {
    let name: StrDeserializer<'_, NoSuchName> = text.into_deserializer();
    let message = |_| "it is none of started, progress, succeeded, failed and canceled".to_owned();
    WebhookEvent::deserialize(name).map_err(message)
}

fn webhook_id(text: &str) -> Result<WebhookId, String> {
    text.parse().map_err(|_| "it is not an id as `pyrograph webhooks list` shows it".to_owned())
}

fn delivery_id(text: &str) -> Result<DeliveryId, String> {
    text.parse().map_err(|_| "it is not an id as `pyrograph webhooks deliveries` shows it".to_owned())
}

impl Place {
    /// Works on the database as the operator in the project.
    async fn work(&self, work: impl AsyncFnOnce(&Caller, &Database) -> Outcome) -> Outcome {
        on_database(&self.database.data_dir, async |pools, operator| {
            let caller = project::enter(operator, &pools.api, &self.project).await;
            work(&services::answered(caller, "could not find the project")?, &pools.api).await
        })
        .await
    }
}

impl Webhooks {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        match self.action {
            Action::Create { url, events, place } => {
                let (guard, request) = (outbound()?, WebhookRequest { url, events: events.events });
                place
                    .work(async |caller, database| {
                        let created = webhook::create(caller, database, &guard, request).await;
                        print(&[services::answered(created, "could not create the webhook")?], &place, false)
                    })
                    .await
            }
            Action::List { place } => {
                place
                    .work(async |caller, database| {
                        let list = async |page| webhook::list(caller, database, &page).await;
                        print(&every_page(list, "could not list the webhooks").await?, &place, true)
                    })
                    .await
            }
            Action::Update { webhook, url, events, enable, disable, place } => {
                let enabled = (enable || disable).then_some(enable);
                let (guard, changes) = (outbound()?, WebhookChanges { url, events: events.events, enabled });
                place
                    .work(async |caller, database| {
                        let changed = webhook::change(caller, database, &guard, webhook, changes).await;
                        print(&[services::answered(changed, "could not change the webhook")?], &place, false)
                    })
                    .await
            }
            Action::Delete { webhook, place } => {
                place
                    .work(async |caller, database| {
                        let deleted = webhook::delete(caller, database, webhook).await;
                        services::answered(deleted, "could not delete the webhook")?;
                        if place.database.json {
                            print_json(&json!({ "id": webhook }))
                        } else {
                            say!("{webhook} is deleted.")
                        }
                    })
                    .await
            }
            Action::Secret { place } => {
                place
                    .work(async |caller, database| {
                        let current = signing::current(caller, database).await;
                        print_secret(&services::answered(current, "could not read the secret")?, &place)
                    })
                    .await
            }
            Action::RotateSecret { overlap, place } => {
                let overlap_seconds = overlap.map(|overlap| i64::try_from(overlap.as_secs()).unwrap_or(i64::MAX));
                let request = RotateRequest { overlap_seconds };
                place
                    .work(async |caller, database| {
                        let rotated = signing::rotate(caller, database, &request).await;
                        print_secret(&services::answered(rotated, "could not replace the secret")?, &place)
                    })
                    .await
            }
            Action::Deliveries { webhook, place } => {
                let filter = Filter { webhook, ..Filter::default() };
                place
                    .work(async |caller, database| {
                        let list = async |page| history::list(caller, database, &filter, &page).await;
                        print_deliveries(&every_page(list, "could not list the deliveries").await?, &place)
                    })
                    .await
            }
            Action::Redeliver { delivery, place } => {
                place
                    .work(async |caller, database| {
                        let again = history::redeliver(caller, database, delivery).await;
                        let again = services::answered(again, "could not post it again")?;
                        if place.database.json {
                            print_json(&shown_delivery(&again))
                        } else {
                            say!("{delivery} is posted again.")
                        }
                    })
                    .await
            }
        }
    }
}

/// Prints webhooks: as JSON, a list or the only one.
fn print(webhooks: &[Webhook], place: &Place, is_list: bool) -> Outcome {
    if place.database.json {
        let shown: Vec<Value> = webhooks.iter().map(shown).collect();
        return match shown.as_slice() {
            [only] if !is_list => print_json(only),
            _ => print_json(&json!(shown)),
        };
    }
    let mut table = Table::new(["URL", "EVENTS", "STATE", "CREATED", "ID"]);
    for webhook in webhooks {
        let events: Vec<&str> = webhook.events.iter().map(|event| event.as_str()).collect();
        table.row([
            webhook.url.clone(),
            events.join(","),
            webhook.disabled_reason.clone().unwrap_or_else(|| "enabled".to_owned()),
            short(&webhook.created_at.to_rfc3339()),
            webhook.id.to_string(),
        ]);
    }
    table.print()
}

/// The webhook as the API shows it.
fn shown(webhook: &Webhook) -> Value {
    json!({
        "id": webhook.id, "url": webhook.url, "events": webhook.events, "enabled": webhook.disabled_at.is_none(),
        "disabled_at": webhook.disabled_at, "disabled_reason": webhook.disabled_reason,
        "created_at": webhook.created_at,
    })
}

fn print_secret(current: &CurrentSecret, place: &Place) -> Outcome {
    if place.database.json {
        return print_json(&json!({
            "secret": current.secret.reveal(), "created_at": current.created_at,
            "previous_until": current.previous_until,
        }));
    }
    say!("{}", current.secret.reveal())?;
    if let Some(until) = current.previous_until {
        tell!("An older secret signs, too, until {}.", until.format("%F %T UTC"));
    }
    Ok(())
}

fn print_deliveries(deliveries: &[WebhookDelivery], place: &Place) -> Outcome {
    if place.database.json {
        return print_json(&deliveries.iter().map(shown_delivery).collect::<Vec<Value>>().into());
    }
    let mut table = Table::new(["EVENT", "STATUS", "TRIES", "ANSWER", "CREATED", "JOB", "ID"]);
    for delivery in deliveries {
        let code = delivery.status_code.map(|code| code.to_string());
        table.row([
            delivery.event.as_str().to_owned(),
            delivery.status.as_str().to_owned(),
            delivery.attempts.to_string(),
            code.or_else(|| delivery.error.clone()).unwrap_or_else(|| "-".to_owned()),
            short(&delivery.created_at.to_rfc3339()),
            delivery.job.to_string(),
            delivery.id.to_string(),
        ]);
    }
    table.print()
}

/// The delivery as the API shows it.
fn shown_delivery(delivery: &WebhookDelivery) -> Value {
    json!({
        "id": delivery.id, "webhook": delivery.webhook, "job": delivery.job, "event": delivery.event,
        "status": delivery.status, "status_code": delivery.status_code, "attempts": delivery.attempts,
        "next_attempt_at": delivery.next_attempt_at, "error": delivery.error, "created_at": delivery.created_at,
        "ended_at": delivery.ended_at,
    })
}
