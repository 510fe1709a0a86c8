//! Where a server listens, and for whom; shared by `up` and `serve`.

use std::net::SocketAddr;

use clap::Args;

use crate::configuration::bind_address;

#[derive(Debug, Clone, Args)]
pub(crate) struct ListenFlags {
    /// Address of the API
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS", value_parser = bind_address)]
    pub bind: SocketAddr,
    /// Serve other machines although there is no key: everyone who reaches the API may do everything
    ///
    /// Without it, a server without keys serves its own machine only. It has no effect once the installation has had a
    /// key.
    #[arg(long)]
    pub open: bool,
}
