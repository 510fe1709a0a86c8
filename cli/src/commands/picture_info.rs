//! `pyrograph picture-info FILE`: how a picture was made.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::{Outcome, print_json};
use crate::client::{self, Client, ClientOptions, PictureInfo as Info};
use crate::output::say;

/// Show how a picture was made
///
/// Reads the records of Pyrograph, AUTOMATIC1111, ComfyUI and InvokeAI in PNG, JPEG and WebP files, and prints them as
/// a request for a generation. `pyrograph generate --from FILE` sends that request.
#[derive(Debug, Args)]
pub(crate) struct PictureInfo {
    /// The picture
    pub file: PathBuf,
    /// Checkpoint to translate for, by name or id [default: the one in the record]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    #[command(flatten)]
    pub client: ClientOptions,
}

impl PictureInfo {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        let client = Client::new(&self.client)?;
        let answer = client::picture_info(&client, &self.file, self.model.as_deref()).await?;
        if self.client.json {
            return print_json(&answer);
        }
        let info: Info = Client::understand(answer)?;
        let Some(request) = &info.request else { return say!("{}", info.says_nothing(&self.file)) };
        say!("made by {}", info.program.as_deref().unwrap_or("an unknown program"))?;
        for (field, value) in request {
            match value {
                Value::String(text) => say!("  {field:<20} {text}")?,
                other => say!("  {field:<20} {other}")?,
            }
        }
        for one in &info.unmapped {
            say!("  not translated       {}: {}", one.title(), one.reason)?;
        }
        Ok(())
    }
}
