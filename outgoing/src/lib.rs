//! Connections to other servers: which certificates are trusted, which proxy is used, and which addresses may be reached
//! for users. The first two rules hold for the bucket, imports, the Hub, the command line and Postgres.
//!
//! This crate reads the environment variables that every program on a machine shares: `SSL_CERT_FILE`, `SSL_CERT_DIR`,
//! `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.

mod guard;
mod proxies;
mod trust;

use std::error::Error;

use reqwest::ClientBuilder;

pub use guard::{Guard, GuardError, GuardedClients, Network};
pub use proxies::Proxies;
pub use trust::{refused_certificate, system_authorities};

/// Checks the variables above, so that a mistake is reported at the start and not by each request.
///
/// # Errors
/// A sentence that names the variable, without its value, which may contain a password.
pub fn check_environment() -> Result<(), String> {
    Proxies::environment()?;
    trust::check()
}

/// The innermost cause of an error, which says what happened. The outer ones describe the attempt.
pub fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest
}

/// A client that trusts our authorities and uses the proxies of the environment.
pub fn client() -> ClientBuilder {
    let proxies = Proxies::environment().unwrap_or_default();
    direct().proxy(reqwest::Proxy::custom(move |url| proxies.of(url).cloned()))
}

/// As [`client`], without a proxy.
pub fn direct() -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("pyrograph/", env!("CARGO_PKG_VERSION")))
        .tls_certs_merge(trust::MOZILLA.iter().cloned())
        .no_proxy()
}
