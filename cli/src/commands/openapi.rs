//! `pyrograph openapi`: prints the OpenAPI document, without a server.

use anyhow::Context as _;
use clap::Args;

use super::Outcome;
use crate::output::unescaped;

/// Print the OpenAPI document of the REST API
///
/// Needs no server. The same document is served at /openapi.json and committed as openapi/openapi.json.
#[derive(Debug, Args)]
pub(crate) struct OpenApi {}

impl OpenApi {
    /// Runs the command.
    pub(crate) fn run(self) -> Outcome {
        unescaped(&api::openapi().to_pretty_json().context("could not write the document")?)
    }
}
