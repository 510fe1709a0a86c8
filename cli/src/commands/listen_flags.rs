//! Where a server listens, and for whom; shared by `up` and `serve`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use api::Proxies;
use clap::Args;

use crate::configuration::bind_address;

#[derive(Debug, Clone, Args)]
pub(crate) struct ListenFlags {
    /// Address of the API, or unix:PATH for `serve` behind a proxy on this machine
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub bind: Bind,
    /// Permissions of the file of a Unix socket, in octal
    #[arg(long, default_value = "660", value_name = "MODE", value_parser = socket_mode)]
    pub socket_mode: u32,
    /// Reverse proxies whose X-Forwarded-* and Forwarded headers count: addresses and networks, separated by commas
    ///
    /// The client of a request is then the last address of the list that is none of these. From all others, these
    /// headers change nothing. A Unix socket counts as 127.0.0.1.
    #[arg(long, env = "PYROGRAPH_PROXIES", default_value = "", hide_default_value = true, value_name = "LIST")]
    pub proxies: Proxies,
    /// Serve other machines although there is no key: everyone who reaches the API may do everything
    ///
    /// Without it, a server without keys serves its own machine only. It has no effect once the installation has had a
    /// key.
    #[arg(long)]
    pub open: bool,
    /// Send nothing: a `pyrograph worker --queues outbox` uploads pictures to URLs of callers, archives pictures and
    /// posts webhooks
    #[arg(long)]
    pub no_outbox: bool,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bind {
    Address(SocketAddr),
    /// A Unix socket.
    Socket(PathBuf),
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("it names no file, as in unix:/run/pyrograph/api.sock".to_owned()),
            Some(path) => Ok(Self::Socket(path.into())),
            None => bind_address(text).map(Self::Address),
        }
    }
}

/// As `--bind` takes it.
impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Bind {
    /// The address; a Unix socket counts as one of this machine.
    pub(crate) fn ip(&self) -> IpAddr {
        match self {
            Self::Address(address) => address.ip(),
            Self::Socket(_) => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

fn socket_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "it is no mode of a file, such as 660 or 600".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_listen_at() {
        for text in ["127.0.0.1:8080", "[::]:80", "unix:/run/api.sock", "unix:api.sock"] {
            assert_eq!(text.parse::<Bind>().unwrap().to_string(), text);
        }
        for text in ["unix:", "/run/api.sock", "unix", "127.0.0.1"] {
            assert!(text.parse::<Bind>().is_err(), "{text}");
        }
        assert_eq!((socket_mode("660"), socket_mode("0600")), (Ok(0o660), Ok(0o600)));
        for text in ["", "rw", "888", "1777", "-1", "99999999999"] {
            assert!(socket_mode(text).is_err(), "{text}");
        }
    }
}
