//! Which requests come from the server's own machine, straight from a client and not through a proxy. An installation
//! that has no key serves no others.
//!
//! A proxy on this machine connects from a loopback address, too. It is recognised by the headers that it adds, by
//! HTTP/1.0, which nginx speaks to servers by default, and by names that are not those of this machine.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, Version, header};
use url::Url;

use crate::names::Host;

/// Whether the request was sent by a program on this machine.
pub(crate) fn sent(peer: Option<IpAddr>, version: Version, uri: &Uri, headers: &HeaderMap) -> bool {
    let is_forwarded = |name: &str| name == "forwarded" || name.starts_with("x-forwarded-");
    peer.is_some_and(|peer| peer.to_canonical().is_loopback())
        && version > Version::HTTP_10
        && !headers.keys().any(|name| is_forwarded(name.as_str()))
        && uri.authority().is_none_or(is_loopback)
        && headers.get_all(header::HOST).iter().all(|host| {
            let host = host.to_str().ok().and_then(|host| host.parse().ok());
            host.is_some_and(|host| is_loopback(&host))
        })
        && [header::ORIGIN, header::REFERER].iter().all(|name| headers.get_all(name).iter().all(is_local_page))
}

fn is_loopback(authority: &Authority) -> bool {
    Host::of(authority).is_some_and(|host| host.is_loopback())
}

fn is_local_page(page: &axum::http::HeaderValue) -> bool {
    let url = page.to_str().ok().and_then(|page| Url::parse(page).ok());
    let host = url.as_ref().and_then(Url::host_str).and_then(|host| host.parse().ok());
    host.is_some_and(|host| is_loopback(&host))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn is_sent(peer: &str, version: Version, headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        sent(Some(peer.parse().unwrap()), version, &Uri::from_static("/v1/models"), &headers)
    }

    #[test]
    fn a_program_on_this_machine_is_served() {
        for host in ["127.0.0.1:8080", "localhost", "app.localhost:1", "[::1]:8080"] {
            for peer in ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"] {
                assert!(is_sent(peer, Version::HTTP_11, &[("host", host)]), "{peer} {host}");
            }
        }
        let page = [("host", "localhost:8080"), ("origin", "http://localhost:5173"), ("referer", "http://127.0.0.1/a")];
        assert!(is_sent("127.0.0.1", Version::HTTP_2, &page));
    }

    #[test]
    fn others_and_proxies_are_not() {
        let here = ("host", "localhost:8080");
        assert!(!is_sent("192.168.1.7", Version::HTTP_11, &[here]));
        assert!(!is_sent("127.0.0.1", Version::HTTP_10, &[here]), "nginx with nothing but proxy_pass");
        for header in [
            ("host", "pictures.example.com"),
            ("host", "192.168.1.5:8080"),
            ("forwarded", "for=192.0.2.1"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "localhost"),
            ("x-forwarded-proto", "https"),
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("referer", "https://evil.example/page"),
            ("referer", ""),
        ] {
            assert!(!is_sent("127.0.0.1", Version::HTTP_11, &[here, header]), "{header:?}");
        }
        assert!(!sent(None, Version::HTTP_11, &Uri::from_static("/"), &HeaderMap::new()));
    }
}
