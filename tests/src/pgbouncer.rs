//! PgBouncer in front of a database, as Debian configures it but for address, users and mode.

use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use crate::process::Process;
use crate::programs::debian_program;
use crate::stack::free_port;
use crate::wait::{seconds, until};

/// A running pooler.
pub struct PgBouncer {
    /// Leads to the same database through the pooler.
    pub url: String,
    _process: Process,
    _folder: TempDir,
}

impl PgBouncer {
    /// `mode` is `session`, `transaction` or `statement`. `None`, and the calling test is noted as skipped, without the
    /// program.
    pub async fn start(database_url: &str, mode: &str) -> Option<Self> {
        let mut command = debian_program("pgbouncer")?;
        // postgres://user:password@127.0.0.1:port/name?…
        let parts: Vec<&str> = database_url.split([':', '/', '@', '?']).collect();
        let [_, _, _, user, password, host, server, ..] = parts.as_slice() else { panic!("a URL of the tests") };
        let folder = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .expect("temporary folder");
        let port = free_port();
        let users = folder.path().join("users");
        std::fs::write(&users, format!("\"{user}\" \"{password}\"\n")).expect("a file");
        let configuration = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = {mode}\n",
            users.display()
        );
        std::fs::write(&configuration, text).expect("a file");
        // It refuses to run as root.
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        command.arg(&configuration);
        let mut process = Process::start("pgbouncer", &folder.path().join("log"), command);
        until(seconds(10), "PgBouncer listens", || {
            assert!(process.is_alive(), "PgBouncer ended: {}", process.log());
            async { std::net::TcpStream::connect(("127.0.0.1", port)).ok() }
        })
        .await;
        let url = database_url.replace(&format!("@{host}:{server}/"), &format!("@127.0.0.1:{port}/"));
        Some(Self { url, _process: process, _folder: folder })
    }
}
