//! `pyrograph login-link`: a link with which a browser logs in without a key being typed.

use clap::Args;
use domain::session;
use reqwest::Url;
use serde_json::json;

use super::database_options::DatabaseOptions;
use super::{Outcome, print_json};
use crate::client::server_address;
use crate::configuration::public_url;
use crate::installation::on_database;
use crate::output::say;
use crate::services;

/// Print a link with which a browser logs in
///
/// The link works once, within ten minutes, with the rights of the key of `up`, or else of the newest key that may do
/// most.
#[derive(Debug, Args)]
pub(crate) struct LoginLink {
    /// Address of the server as the browser reaches it [default: PYROGRAPH_PUBLIC_URL, else http://127.0.0.1:8080]
    #[arg(long, env = "PYROGRAPH_SERVER", value_name = "URL", value_parser = server_address)]
    server: Option<Url>,
    #[command(flatten)]
    place: DatabaseOptions,
}

impl LoginLink {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        let server = match (self.server, public_url()?) {
            (Some(mut server), _) => {
                server.set_query(None);
                server.set_fragment(None);
                server.as_str().trim_end_matches('/').to_owned()
            }
            (None, Some(public)) => public.as_str().to_owned(),
            (None, None) => "http://127.0.0.1:8080".to_owned(),
        };
        on_database(&self.place.data_dir, async |pools, operator| {
            let link = session::create_link(&operator, &pools.api).await;
            let link = services::answered(link, "could not make the link")?.reveal();
            // The fragment is not sent to the server, so that it is in no log.
            let url = format!("{server}/#login={link}");
            if self.place.json { print_json(&json!({ "url": url })) } else { say!("{url}") }
        })
        .await
    }
}
