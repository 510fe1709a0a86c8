//! The key of `up` for its user's commands: a file in the data folder that only this user can read. It is made
//! once the installation has another key, since until then no command needs one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use domain::key::Token;
use domain::{Database, access};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::configuration::variable;
use crate::failure::Failure;
use crate::installation::write_private;
use crate::key::Key;

const FILE: &str = "key.json";
/// Held while a key is made.
static MAKING: Mutex<()> = Mutex::const_new(());
/// How often the server looks whether it needs one.
const LOOK: Duration = Duration::from_secs(1);

/// The file. It has no `Debug`.
#[derive(Serialize, Deserialize)]
struct LocalKey {
    /// Address of the API on this machine.
    server: String,
    key: String,
}

/// The key for `server`, if it is the `up` of the data folder.
pub(crate) fn read(server: &Url) -> Option<Key> {
    let folder = variable("PYROGRAPH_DATA_DIR").map_or_else(|| PathBuf::from(".pyrograph"), PathBuf::from);
    let of_this_machine = |url: &Url| match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let file = of_folder(&folder)?;
    let up: Url = file.server.parse().ok()?;
    let same = of_this_machine(server) && server.port_or_known_default() == up.port_or_known_default();
    same.then(|| file.key.parse().ok()).flatten()
}

/// Makes the key of `folder` as soon as the installation asks for keys.
pub(crate) async fn keep(database: Database, folder: PathBuf, server: String) {
    loop {
        match make(&database, &folder, &server).await {
            Ok(Some(_)) => return,
            Ok(None) => {}
            Err(failure) => tracing::warn!("the key for commands of this user was not made: {failure}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Makes the key if the installation asks for keys.
pub(crate) async fn make(database: &Database, folder: &Path, server: &str) -> Result<Option<Key>, Failure> {
    // A second key made at the same moment would delete the first, and the file could keep the deleted one.
    let _making = MAKING.lock().await;
    if !access::is_closed(database).await.context("the database")? {
        return Ok(None);
    }
    let key = match valid(database, folder).await {
        Some(key) => key,
        None => domain::key::create_local(database).await.context("the database")?.reveal(),
    };
    write_private(&folder.join(FILE), &LocalKey { server: server.to_owned(), key: key.clone() })?;
    Ok(key.parse().ok())
}

/// The key of the last start, if it still counts, so that its sessions last.
async fn valid(database: &Database, folder: &Path) -> Option<String> {
    let token: Token = of_folder(folder)?.key.parse().ok()?;
    let grant = domain::key::grant(database, token.id()).await.ok()??;
    grant.admit(&token).map(|_| token.reveal())
}

fn of_folder(folder: &Path) -> Option<LocalKey> {
    serde_json::from_slice(&std::fs::read(folder.join(FILE)).ok()?).ok()
}
