//! Trusted certificate authorities: those of the system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR` where they are set,
//! and always Mozilla's.

use std::error::Error;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::{CertificateError, RootCertStore};
use rustls_native_certs::{CertificateResult, load_certs_from_paths};

const FILE: &str = "SSL_CERT_FILE";
const FOLDERS: &str = "SSL_CERT_DIR";

/// Mozilla's authorities: a slim container or an internal `SSL_CERT_FILE` lacks them.
pub(crate) static MOZILLA: LazyLock<Vec<reqwest::Certificate>> = LazyLock::new(|| {
    let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
    roots.filter_map(|root| reqwest::Certificate::from_der(root).ok()).collect()
});

/// The system's authorities as PEM, for a TLS client that has Mozilla's already. Empty if there are none.
pub fn system_authorities() -> Vec<u8> {
    let mut pem = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // System stores contain old certificates that rustls cannot read; a client would refuse the whole list.
        if RootCertStore::empty().add(certificate.clone()).is_err() {
            continue;
        }
        let text = STANDARD.encode(&certificate);
        pem += &format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    }
    pem.into_bytes()
}

/// Whether the file and the folders that the environment names contain certificates.
pub(crate) fn check() -> Result<(), String> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(file) = named(FILE) {
        judge(FILE, &file, load_certs_from_paths(Some(Path::new(&file)), None))?;
    }
    let Some(folders) = named(FOLDERS) else { return Ok(()) };
    let mut found = CertificateResult::default();
    for folder in std::env::split_paths(&folders) {
        let here = load_certs_from_paths(None, Some(&folder));
        found.certs.extend(here.certs);
        found.errors.extend(here.errors);
    }
    judge(FOLDERS, &folders, found)
}

fn judge(variable: &str, place: &OsStr, found: CertificateResult) -> Result<(), String> {
    if !found.certs.is_empty() {
        return Ok(());
    }
    let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
    Err(format!("{variable} ({}) has no certificate that can be read{why}", place.display()))
}

/// Why a server's certificate was refused, and what to do about it, if that is the cause of `error`.
pub fn refused_certificate(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(refusal)) = error.downcast_ref::<rustls::Error>() {
            return Some(explain(refusal));
        }
        // The source of an I/O error skips the error that it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(wrapped) = wrapped
            && let Some(reason) = refused_certificate(wrapped)
        {
            return Some(reason);
        }
        cause = error.source();
    }
    None
}

fn explain(refusal: &CertificateError) -> String {
    match refusal {
        CertificateError::UnknownIssuer => "its certificate is not signed by an authority that this machine trusts; \
                                            name the authority's certificate in SSL_CERT_FILE"
            .to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired, or this machine's clock is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or this machine's clock is wrong".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name".to_owned()
        }
        other => format!("its certificate is refused ({other:?})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_without_certificates_is_named() {
        let nowhere = Path::new("/nowhere");
        for (variable, found) in [
            (FILE, load_certs_from_paths(Some(nowhere), None)),
            (FILE, load_certs_from_paths(Some(Path::new("/dev/null")), None)),
            (FOLDERS, load_certs_from_paths(None, Some(nowhere))),
        ] {
            let why = judge(variable, nowhere.as_os_str(), found).unwrap_err();
            assert!(why.starts_with(&format!("{variable} (/nowhere) has no certificate")), "{why}");
        }
    }

    #[test]
    fn a_refused_certificate_is_found_below_other_errors() {
        let refused = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = std::io::Error::other(std::io::Error::other(refused));
        assert!(refused_certificate(&wrapped).is_some_and(|reason| reason.contains("SSL_CERT_FILE")));
        assert_eq!(refused_certificate(&std::io::Error::other("connection refused")), None);
    }
}
