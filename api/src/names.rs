//! The names under which clients reach the server, and which pages may change something in it.
//!
//! A browser sends requests to a local server for any page that it shows. A page whose name was made to resolve to this
//! machine (DNS rebinding) is recognised by `Host`, a page of another origin by `Origin` or `Sec-Fetch-Site`. Clients
//! that are not browsers send neither of the last two.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use url::Url;

use crate::problem::{Problem, Result};
use crate::proxies::Client;

pub(crate) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The names of one server.
#[derive(Clone, Debug)]
pub struct Names {
    /// Address of the listener.
    pub bind: IpAddr,
    /// Address by which clients reach the server, if the operator named it.
    pub public_url: Option<PublicUrl>,
    /// Further hosts that the operator allows.
    pub allowed: Vec<HostPattern>,
    /// Origins whose pages may read and change everything, with a key and not with a session.
    pub origins: Vec<PublicUrl>,
}

impl Default for Names {
    /// A server that only this machine reaches.
    fn default() -> Self {
        Self { bind: Ipv4Addr::LOCALHOST.into(), public_url: None, allowed: Vec::new(), origins: Vec::new() }
    }
}

/// The pages that may send a request that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Those of this server.
    Own,
    /// Those of the allowed origins, too.
    Allowed,
}

/// An `http` or `https` URL, perhaps with a path: where a proxy serves the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(Url);

impl FromStr for PublicUrl {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        url.map(Self).ok_or_else(|| "it is not an address such as https://pictures.example.com or …/prefix".to_owned())
    }
}

impl PublicUrl {
    /// Without a `/` at its end.
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }
}

/// A host that the operator allows: `pictures.example.com`, `*.example.com`, an IP address, or `*` for every host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern(Pattern);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Every,
    Below(String),
    Exactly(Host),
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("'{text}' is not a host such as pictures.example.com, *.example.com or 10.0.0.7");
        if text == "*" {
            return Ok(Self(Pattern::Every));
        }
        let (below, text) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        // Without its brackets an IPv6 address is not an authority.
        let host = match text.parse::<IpAddr>() {
            Ok(address) => Host::Address(address.to_canonical()),
            Err(_) => text.parse().ok().as_ref().and_then(Host::of).ok_or_else(wrong)?,
        };
        match (below, host) {
            (false, host) => Ok(Self(Pattern::Exactly(host))),
            (true, Host::Name(name)) => Ok(Self(Pattern::Below(format!(".{name}")))),
            (true, Host::Address(_)) => Err(wrong()),
        }
    }
}

impl HostPattern {
    fn allows(&self, host: &Host) -> bool {
        match (&self.0, host) {
            (Pattern::Every, _) => true,
            (Pattern::Exactly(allowed), host) => allowed == host,
            (Pattern::Below(end), Host::Name(name)) => name.ends_with(end),
            (Pattern::Below(_), Host::Address(_)) => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// In lower case, without a dot at its end.
    Name(String),
    Address(IpAddr),
}

impl Host {
    /// The host of an authority, if it is well formed.
    pub(crate) fn of(authority: &Authority) -> Option<Self> {
        let host = authority.host();
        let has_bad_port = authority.port().is_none() && authority.as_str() != host;
        if host.is_empty() || has_bad_port || authority.as_str().contains('@') {
            return None;
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Some(match bare.parse::<IpAddr>() {
            Ok(address) => Self::Address(address.to_canonical()),
            Err(_) => Self::Name(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()),
        })
    }
}

impl Host {
    /// Whether it is a name of the machine itself, to programs that run there.
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

impl Names {
    /// Whether machines other than this one reach the server.
    pub fn is_open(&self) -> bool {
        !self.bind.is_loopback()
    }

    /// Checks that the request names this server.
    pub(crate) fn check_host(&self, uri: &Uri, version: Version, headers: &HeaderMap) -> Result<()> {
        let unreadable = || Problem::field(StatusCode::BAD_REQUEST, "Host", "It is not a host name with a port.");
        let mut is_named = false;
        if let Some(authority) = uri.authority() {
            self.check_authority(authority, Host::of(authority).ok_or_else(unreadable)?)?;
            is_named = true;
        }
        for value in headers.get_all(header::HOST) {
            let authority: Authority = value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(unreadable)?;
            self.check_authority(&authority, Host::of(&authority).ok_or_else(unreadable)?)?;
            is_named = true;
        }
        // Every browser sends it; HTTP/1.0 does not require it.
        if !is_named && version > Version::HTTP_10 {
            return Err(Problem::field(StatusCode::BAD_REQUEST, "Host", "The request has none."));
        }
        Ok(())
    }

    fn check_authority(&self, authority: &Authority, host: Host) -> Result<()> {
        if self.is_ours(&host) {
            return Ok(());
        }
        let message = format!(
            "`{authority}` is not a name of this server. If clients reach it there, set PYROGRAPH_PUBLIC_URL to that \
             address, or add the host to PYROGRAPH_ALLOWED_HOSTS, and restart the server."
        );
        Err(Problem::field(StatusCode::FORBIDDEN, "Host", message))
    }

    fn is_ours(&self, host: &Host) -> bool {
        let known = match host {
            // An address cannot be made to resolve to another one, so a server of every address takes every address.
            Host::Address(address) => self.bind.is_unspecified() || *address == self.bind.to_canonical(),
            Host::Name(_) => false,
        };
        known
            || host.is_loopback()
            || self.public_url.as_ref().and_then(PublicUrl::host).as_ref() == Some(host)
            || self.allowed.iter().any(|pattern| pattern.allows(host))
    }

    /// Refuses a request that may change something and that another page than `pages` makes a browser send. `scheme` is
    /// how the client reached a named proxy, if the proxy gives it.
    pub(crate) fn check_page(
        &self,
        pages: Pages,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        scheme: Option<&Scheme>,
    ) -> Result<()> {
        if is_safe(method) {
            return Ok(());
        }
        let of_header = || headers.get(header::HOST)?.to_str().ok()?.parse().ok();
        let authority = uri.authority().cloned().or_else(of_header);
        let authority = authority.as_ref();
        let refused = |message: String| Err(Problem::field(StatusCode::FORBIDDEN, "Origin", message));
        let foreign = |page: &str| {
            refused(format!(
                "A page of {page} may not change anything here. If this is the address at which people open this \
                 server, set PYROGRAPH_PUBLIC_URL to it and restart the server."
            ))
        };
        let site = headers.get(SEC_FETCH_SITE).map(|value| value.as_bytes().trim_ascii().to_ascii_lowercase());
        let origin = headers.get(header::ORIGIN).map(|value| value.to_str().unwrap_or("null"));
        match (site.as_deref(), origin) {
            (Some(b"same-origin" | b"none"), _) | (None, None) => Ok(()),
            (site, Some(origin)) => {
                let Ok(page) = Url::parse(origin) else { return foreign("an unknown origin") };
                let name = page.origin().ascii_serialization();
                match pages {
                    Pages::Allowed if self.is_own_page(&page, authority, scheme) || self.allows_page(&page) => Ok(()),
                    // A browser that says that it is another site knows both addresses.
                    Pages::Own if site.is_none() && self.is_own_page(&page, authority, scheme) => Ok(()),
                    Pages::Own if self.allows_page(&page) => {
                        refused(format!("A page of `{name}` may call with a key, and not log in or use a session."))
                    }
                    _ => foreign(&format!("`{name}`")),
                }
            }
            (Some(_), None) => foreign("another origin"),
        }
    }

    /// Whether the client of a request reaches the server over TLS: as a named proxy says, else at the public address,
    /// if that is `https`.
    pub(crate) fn is_tls(&self, client: Option<&Client>, headers: &HeaderMap) -> bool {
        if let Some(scheme) = client.and_then(|client| client.scheme.as_ref()) {
            return *scheme == Scheme::HTTPS;
        }
        let Some(public) = self.public_url.as_ref().filter(|public| public.0.scheme() == "https") else { return false };
        // A client of the same network may reach it without the proxy.
        let named = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok());
        let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()?.parse::<Url>().ok());
        named.as_ref().and_then(Host::of) == public.host() || origin.is_some_and(|origin| origin.scheme() == "https")
    }

    /// The allowed origins, as a browser writes them.
    pub(crate) fn origins(&self) -> impl Iterator<Item = HeaderValue> {
        self.origins.iter().filter_map(|page| page.origin().parse().ok())
    }

    fn allows_page(&self, page: &Url) -> bool {
        self.origins.iter().any(|origin| origin.0.origin() == page.origin())
    }

    /// Whether the page comes from the address that the request is sent to. A proxy may have changed `Host`; then the
    /// public address shows it. Of an address with another scheme than the page, the default port is another one.
    fn is_own_page(&self, page: &Url, authority: Option<&Authority>, scheme: Option<&Scheme>) -> bool {
        let same = || {
            let authority = authority?;
            let page_host = page.host_str()?.parse::<Authority>().ok().as_ref().and_then(Host::of)?;
            let scheme = scheme.map(Scheme::as_str).or_else(|| self.public_scheme(authority));
            let port = authority.port_u16().or(default_port(scheme.unwrap_or(page.scheme())));
            let is_of_scheme = scheme.is_none_or(|scheme| scheme == page.scheme());
            Some(Host::of(authority)? == page_host && port == page.port_or_known_default() && is_of_scheme)
        };
        same() == Some(true) || self.public_url.as_ref().is_some_and(|public| public.0.origin() == page.origin())
    }

    /// The scheme of the public address, if that is where the request was sent.
    fn public_scheme(&self, authority: &Authority) -> Option<&str> {
        let public = self.public_url.as_ref()?;
        let port = authority.port_u16().or(default_port(public.0.scheme()));
        let is_public = Host::of(authority) == public.host() && port == public.0.port_or_known_default();
        is_public.then_some(public.0.scheme())
    }
}

impl PublicUrl {
    /// As a browser writes it: `https://pictures.example.com`.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    fn host(&self) -> Option<Host> {
        self.0.host_str()?.parse().ok().as_ref().and_then(Host::of)
    }
}

/// Whether a request of this method changes nothing (RFC 9110, section 9.2.1).
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(names: &Names, method: Method, headers: &[(&'static str, &str)]) -> Option<u16> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        let uri = Uri::from_static("/v1/inputs");
        let checked = names.check_host(&uri, Version::HTTP_11, &headers);
        let page = |pages| names.check_page(pages, &method, &uri, &headers, None);
        let (own, allowed) = (page(Pages::Own), page(Pages::Allowed));
        assert!(own.is_err() || allowed.is_ok(), "our own pages are always allowed: {headers:?}");
        checked.and(allowed).err().map(|problem| problem.status)
    }

    fn open(public_url: Option<&str>, allowed: &[&str]) -> Names {
        Names {
            bind: [0, 0, 0, 0].into(),
            public_url: public_url.map(|url| url.parse().unwrap()),
            allowed: allowed.iter().map(|host| host.parse().unwrap()).collect(),
            origins: Vec::new(),
        }
    }

    #[test]
    fn a_host_is_a_name_of_this_server_or_refused() {
        let local = Names::default();
        for host in
            ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "app.localhost:3", "[::1]:8080", "127.8.9.1", "localhost."]
        {
            assert_eq!(status(&local, Method::GET, &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "192.168.1.5:8080",
            "notlocalhost",
            "0.0.0.0",
        ] {
            assert_eq!(status(&local, Method::GET, &[("host", host)]), Some(403), "{host}");
        }
        for host in ["", "a b", "user@localhost", "localhost:x"] {
            assert_eq!(status(&local, Method::GET, &[("host", host)]), Some(400), "{host}");
        }
        assert_eq!(status(&local, Method::GET, &[]), Some(400));

        let open = open(Some("https://Pictures.example.com/pyro/"), &["*.lan", "gpu-box", "fd00::7"]);
        for host in ["192.168.1.5:8080", "[fe80::1]:8080", "pictures.example.com", "a.lan", "gpu-box:8080", "[fd00::7]"]
        {
            assert_eq!(status(&open, Method::GET, &[("host", host)]), None, "{host}");
        }
        for host in ["evil.example", "lan", "gpu-box.evil.example", "example.com"] {
            assert_eq!(status(&open, Method::GET, &[("host", host)]), Some(403), "{host}");
        }
        let own = Names { bind: [10, 0, 0, 7].into(), ..Names::default() };
        assert_eq!(status(&own, Method::GET, &[("host", "10.0.0.7:8080")]), None);
        assert_eq!(status(&own, Method::GET, &[("host", "10.0.0.8:8080")]), Some(403));
        assert_eq!(status(&open_to_all(), Method::GET, &[("host", "anything.example")]), None);
    }

    fn open_to_all() -> Names {
        open(None, &["*"])
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        let local = Names::default();
        let host = ("host", "localhost:8080");
        for (headers, refused) in [
            (vec![], false),
            (vec![("origin", "http://localhost:8080")], false),
            (vec![("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")], false),
            (vec![("sec-fetch-site", "none")], false),
            (vec![("origin", "http://localhost:3000")], true),
            (vec![("origin", "http://localhost:3000"), ("sec-fetch-site", "same-site")], true),
            (vec![("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")], true),
            (vec![("origin", "https://evil.example")], true),
            (vec![("origin", "null")], true),
            (vec![("origin", "file://")], true),
            (vec![("sec-fetch-site", "cross-site")], true),
        ] {
            let headers: Vec<_> = headers.into_iter().chain([host]).collect();
            for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
                let expected = refused.then_some(403);
                assert_eq!(status(&local, method.clone(), &headers), expected, "{method} {headers:?}");
            }
            assert_eq!(status(&local, Method::GET, &headers), None, "reading has no effect: {headers:?}");
        }
        // Behind a proxy that keeps the host, and behind one that does not.
        let public = Names { public_url: Some("https://pictures.example.com".parse().unwrap()), ..Names::default() };
        let page = ("origin", "https://pictures.example.com");
        assert_eq!(status(&public, Method::POST, &[("host", "pictures.example.com"), page]), None);
        assert_eq!(status(&public, Method::POST, &[("host", "127.0.0.1:8080"), page]), None);
        let plain = [("host", "pictures.example.com"), ("origin", "http://pictures.example.com:81")];
        assert_eq!(status(&public, Method::POST, &plain), Some(403));
    }

    #[test]
    fn a_page_without_tls_is_not_our_own_where_the_server_has_tls() {
        let (public, unknown) = (Some("https://pictures.example.com"), None);
        let (https, http) = (Some(Scheme::HTTPS), Some(Scheme::HTTP));
        for (public_url, scheme, host, origin, own) in [
            (unknown, &https, "a.lan", "https://a.lan", true),
            (unknown, &https, "a.lan", "http://a.lan", false),
            (unknown, &https, "a.lan:443", "https://a.lan", true),
            (unknown, &https, "a.lan:8443", "https://a.lan:8443", true),
            (unknown, &https, "a.lan:8443", "http://a.lan:8443", false),
            (unknown, &http, "a.lan", "http://a.lan", true),
            (unknown, &http, "a.lan", "https://a.lan", false),
            // A proxy that does not say how it was reached.
            (unknown, &None, "a.lan", "http://a.lan", true),
            (unknown, &None, "a.lan", "https://a.lan", true),
            (public, &None, "pictures.example.com", "https://pictures.example.com", true),
            (public, &None, "pictures.example.com", "http://pictures.example.com", false),
            // The same server within its own network.
            (public, &None, "a.lan", "http://a.lan", true),
            // The nearest proxy may be reached without TLS by one that is not named.
            (public, &http, "pictures.example.com", "https://pictures.example.com", true),
        ] {
            let names = open(public_url, &["*"]);
            let headers = [(header::HOST, host), (header::ORIGIN, origin)];
            let headers = headers.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
            let uri = Uri::from_static("/v1/inputs");
            let checked = names.check_page(Pages::Own, &Method::POST, &uri, &headers, scheme.as_ref());
            assert_eq!(checked.is_ok(), own, "{public_url:?} {scheme:?} {headers:?}");
        }
    }

    #[test]
    fn a_session_is_for_our_own_pages() {
        let app = "https://app.example.com";
        let names = Names {
            public_url: Some("https://pictures.example.com".parse().unwrap()),
            origins: vec![app.parse().unwrap()],
            ..Names::default()
        };
        for (origin, site, own, allowed) in [
            (None, None, true, true),
            (Some("https://pictures.example.com"), None, true, true),
            (Some("https://pictures.example.com"), Some("same-origin"), true, true),
            (None, Some("none"), true, true),
            (Some(app), None, false, true),
            (Some(app), Some("same-site"), false, true),
            (Some(app), Some("cross-site"), false, true),
            // It came by a redirect of another site.
            (Some("https://pictures.example.com"), Some("cross-site"), false, true),
            (None, Some("same-site"), false, false),
            (None, Some("cross-site"), false, false),
            (Some("null"), None, false, false),
            (Some("https://evil.example"), None, false, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("pictures.example.com"));
            headers.extend(origin.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))));
            headers.extend(site.map(|site| (SEC_FETCH_SITE, HeaderValue::from_static(site))));
            let uri = Uri::from_static("/v1/inputs");
            let passes = |pages| names.check_page(pages, &Method::POST, &uri, &headers, None).is_ok();
            assert_eq!((passes(Pages::Own), passes(Pages::Allowed)), (own, allowed), "{headers:?}");
        }
    }

    #[test]
    fn public_addresses_and_hosts_that_are_none() {
        for text in
            ["", "pictures.example.com", "ftp://a", "http://", "https://u:p@a", "https://a/?x=1", "https://a/#x"]
        {
            assert!(text.parse::<PublicUrl>().is_err(), "{text}");
        }
        assert_eq!("https://a/b/".parse::<PublicUrl>().unwrap().as_str(), "https://a/b");
        for text in ["", "a b", "*.10.0.0.1", "*.", "http://a"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }
}
