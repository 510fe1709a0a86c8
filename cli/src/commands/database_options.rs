//! Options of the commands that work straight on the database (`keys`, `projects`, `webhooks`, `login-link`), and their
//! lists.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use domain::{MAX_LIMIT, Page, PageRequest};

use crate::failure::Failure;
use crate::services;

/// Where the database is, and how results are printed.
#[derive(Debug, Args)]
pub(crate) struct DatabaseOptions {
    /// Data folder of `up`, used if DATABASE_URL is not set
    #[arg(long, env = "PYROGRAPH_DATA_DIR", default_value = ".pyrograph", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// The items of all pages that `list` returns.
pub(super) async fn every_page<T>(
    list: impl AsyncFn(PageRequest) -> domain::Result<Page<T>>,
    attempt: &'static str,
) -> Result<Vec<T>, Failure> {
    let mut items = Vec::new();
    let mut cursor = None;
    loop {
        let page = PageRequest::parse(Some(MAX_LIMIT), cursor.as_deref()).context("a page")?;
        let page = services::answered(list(page).await, attempt)?;
        items.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(items);
        }
    }
}
