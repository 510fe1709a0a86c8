//! A company's own certificate authority, and nginx or Caddy with a certificate of it in front of a server.

use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::process::Process;
use crate::programs::debian_program;
use crate::stack::free_port;
use crate::wait::{seconds, until};

/// An authority that no machine trusts by itself.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key, as PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn create() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let folder = tempfile::tempdir().expect("temporary folder");
        std::fs::write(folder.path().join("authority.pem"), issuer.pem()).expect("a file");
        Self { issuer, folder }
    }

    /// The file with the authority's certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// A certificate for host names or addresses.
    pub fn issue(&self, names: &[&str]) -> Issued {
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let key = KeyPair::generate().expect("a key");
        let certificate = params.expect("names").signed_by(&key, &self.issuer).expect("a certificate");
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// Caddy that speaks TLS in front of another server.
pub struct Caddy {
    _process: Process,
    _folder: TempDir,
}

impl Caddy {
    /// An example of a site whose certificate and key are in `folder`, and which listens at `port`. `None`, and the
    /// calling test is noted as skipped, without Caddy.
    pub async fn of_example(folder: TempDir, port: u16, site: &str) -> Option<Self> {
        let mut command = debian_program("caddy")?;
        let path = folder.path();
        std::fs::write(
            path.join("Caddyfile"),
            format!("{{\n    admin off\n    auto_https disable_redirects\n}}\n{site}"),
        )
        .expect("a file");
        command.env("HOME", path).current_dir(path).args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]);
        let mut process = Process::start("caddy", &path.join("caddy.log"), command);
        until(seconds(20), "Caddy listens", || {
            assert!(process.is_alive(), "Caddy ended: {}", process.log());
            async { std::net::TcpStream::connect(("127.0.0.1", port)).ok() }
        })
        .await;
        Some(Self { _process: process, _folder: folder })
    }
}

/// nginx that speaks TLS in front of another server.
pub struct Nginx {
    /// For instance `https://127.0.0.1:8443`.
    pub url: String,
    pub port: u16,
    _process: Process,
    _folder: TempDir,
}

impl Nginx {
    /// Passes every request on to `upstream` (`http://…`), with a certificate for `names` and 127.0.0.1. `None`, and
    /// the calling test is noted as skipped, without nginx.
    pub async fn start(authority: &Authority, names: &[&str], upstream: &str) -> Option<Self> {
        let command = debian_program("nginx")?;
        let folder = tempfile::tempdir().expect("temporary folder");
        let port = free_port();
        let issued = authority.issue(&[names, &["127.0.0.1"]].concat());
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
        write("server.pem", &issued.certificate);
        write("server.key", &issued.key);
        let server = format!(
            "server {{\n    listen 127.0.0.1:{port} ssl;\n    ssl_certificate server.pem;\n    ssl_certificate_key \
             server.key;\n    client_max_body_size 0;\n    location / {{\n      proxy_pass {upstream};\n      \
             proxy_http_version 1.1;\n      proxy_set_header Host $http_host;\n      \
             proxy_request_buffering off;\n      proxy_buffering off;\n    }}\n  }}"
        );
        let process = Self::run(command, &folder, port, &server).await;
        Some(Self { url: format!("https://127.0.0.1:{port}"), port, _process: process, _folder: folder })
    }

    /// Passes every request on to `upstream`, with nothing but `proxy_pass` and without TLS. `None` as above.
    pub async fn bare(upstream: &str) -> Option<Self> {
        let command = debian_program("nginx")?;
        let folder = tempfile::tempdir().expect("temporary folder");
        let port = free_port();
        let server =
            format!("server {{\n    listen 127.0.0.1:{port};\n    location / {{ proxy_pass {upstream}; }}\n  }}");
        let process = Self::run(command, &folder, port, &server).await;
        Some(Self { url: format!("http://127.0.0.1:{port}"), port, _process: process, _folder: folder })
    }

    /// An example of a site whose certificate and key are in `folder`, and which listens at `port`. `None` as above.
    pub async fn of_example(folder: TempDir, port: u16, site: &str) -> Option<Self> {
        let process = Self::run(debian_program("nginx")?, &folder, port, site).await;
        Some(Self { url: format!("https://127.0.0.1:{port}"), port, _process: process, _folder: folder })
    }

    async fn run(mut command: Command, folder: &TempDir, port: u16, server: &str) -> Process {
        std::fs::write(folder.path().join("nginx.conf"), configuration(folder.path(), server)).expect("a file");
        command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
        let mut process = Process::start("nginx", &folder.path().join("nginx.log"), command);
        until(seconds(10), "nginx listens", || {
            assert!(process.is_alive(), "nginx ended: {}", process.log());
            async { std::net::TcpStream::connect(("127.0.0.1", port)).ok() }
        })
        .await;
        process
    }
}

fn configuration(folder: &Path, server: &str) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {folder}/{kind};\n"))
        .collect();
    format!(
        "daemon off;\nmaster_process off;\nerror_log stderr;\npid {folder}/nginx.pid;\nevents {{}}\nhttp {{\n  \
         access_log off;\n{temporary}  {server}\n}}\n"
    )
}
