//! The reverse proxies that the operator has named, and the client that they speak for: its address, and the scheme and
//! host that it used. The same headers from any other peer change nothing.
//!
//! `X-Forwarded-For`, `-Proto` and `-Host` count, else `Forwarded` (RFC 7239). A proxy appends to the list of
//! addresses, so the client is the last one that is no named proxy: what precedes it was sent by the client itself.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::http::uri::{PathAndQuery, Scheme};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use ipnet::IpNet;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Addresses and networks of reverse proxies, such as `127.0.0.1,10.1.0.0/16`. Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies(Arc<[IpNet]>);

impl FromStr for Proxies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = text.split(',').map(str::trim).filter(|named| !named.is_empty());
        named.map(network).collect::<Result<_, _>>().map(Self)
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    match text.parse::<IpNet>().or_else(|_| address()) {
        Ok(network) if network.prefix_len() > 0 => Ok(network),
        Ok(_) => Err(format!("`{text}` contains every address, so that each client could choose its own")),
        Err(_) => Err(format!("`{text}` is no address or network such as 127.0.0.1 or 10.1.0.0/16")),
    }
}

/// The client that sent a request, as an extension of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// Of the connection, or the one that a named proxy gives.
    pub address: IpAddr,
    /// Whether a named proxy gave the address.
    pub is_forwarded: bool,
    /// How the client reached a named proxy, if the proxy gives it.
    pub scheme: Option<Scheme>,
    /// Whether a named proxy gave two different addresses. It may have passed on a header of the client.
    pub is_ambiguous: bool,
}

impl Client {
    /// The client of a request; `None` if no connection brought the request.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Its address.
    pub(crate) fn address(extensions: &Extensions) -> Option<IpAddr> {
        Self::of(extensions).map(|client| client.address)
    }
}

impl Proxies {
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Determines the [`Client`] of a request that `peer` sent. The request then has the host that the client used.
    pub(crate) fn receive<B>(&self, peer: IpAddr, request: &mut Request<B>) {
        let mut client = Client { address: peer, is_forwarded: false, scheme: None, is_ambiguous: false };
        if self.contains(peer) {
            let [common, standard] = [Forwarded::common(request.headers()), Forwarded::standard(request.headers())];
            let [first, second] = [&common, &standard].map(|forwarded| self.client_of(peer, &forwarded.addresses));
            client.is_ambiguous =
                first.is_some() && second.is_some() && first.map(address_of) != second.map(address_of);
            // A client can send a header that the proxy does not know, so the common ones count first.
            let forwarded = if first.is_none() && second.is_some() { &standard } else { &common };
            let (address, hop) = first.or(second).unwrap_or((peer, 0));
            client.address = address;
            client.is_forwarded = first.or(second).is_some();
            client.scheme =
                at_hop(&forwarded.schemes, hop).and_then(|scheme| match scheme.to_ascii_lowercase().as_str() {
                    "https" => Some(Scheme::HTTPS),
                    "http" => Some(Scheme::HTTP),
                    _ => None,
                });
            if let Some(Ok(host)) = at_hop(&forwarded.hosts, hop).map(HeaderValue::from_str) {
                rename(request, host);
            }
        }
        request.extensions_mut().insert(client);
    }

    /// The client among the addresses that `peer` and the proxies before it saw, and how many named proxies are between
    /// it and `peer`. `None` without a list.
    fn client_of(&self, peer: IpAddr, addresses: &[&str]) -> Option<(IpAddr, usize)> {
        let mut client = (peer, 0);
        for (hop, address) in addresses.iter().rev().enumerate() {
            // A name such as `unknown` or `_hidden` hides everything before it.
            let Some(address) = address_in(address) else { break };
            client = (address, hop);
            if !self.contains(address) {
                break;
            }
        }
        (!addresses.is_empty()).then_some(client)
    }
}

fn address_of((address, _): (IpAddr, usize)) -> IpAddr {
    address
}

/// What proxies say, the nearest last. An empty text means nothing.
struct Forwarded<'a> {
    addresses: Vec<&'a str>,
    schemes: Vec<&'a str>,
    hosts: Vec<&'a str>,
}

impl<'a> Forwarded<'a> {
    fn common(headers: &'a HeaderMap) -> Self {
        let list = |name: &HeaderName| elements(headers, name).collect();
        Self { addresses: list(&FOR), schemes: list(&PROTO), hosts: list(&HOST) }
    }

    fn standard(headers: &'a HeaderMap) -> Self {
        let list = |name: &str| elements(headers, &header::FORWARDED).map(|element| parameter(element, name)).collect();
        Self { addresses: list("for"), schemes: list("proto"), hosts: list("host") }
    }
}

/// The elements of a list that may be spread over several headers.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().map(|value| value.to_str().unwrap_or_default());
    values.flat_map(|value| split(value, ',')).map(str::trim)
}

/// Splits outside quotation marks.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |character| {
        is_quoted ^= character == '"';
        character == separator && !is_quoted
    })
}

/// The value of a parameter in an element of `Forwarded`.
fn parameter<'a>(element: &'a str, name: &str) -> &'a str {
    let mut pairs = split(element, ';').filter_map(|pair| pair.split_once('='));
    let found = pairs.find(|(named, _)| named.trim().eq_ignore_ascii_case(name));
    found.map_or("", |(_, value)| value.trim().trim_matches('"'))
}

/// An address with or without a port. That of IPv6 has brackets where there may be a port.
fn address_in(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()));
    address.map(|address| address.to_canonical())
}

/// The value that belongs to a hop. A proxy may replace the list by one value, where others append to it.
fn at_hop<'a>(values: &[&'a str], hop: usize) -> Option<&'a str> {
    values.iter().rev().nth(hop).or(values.first()).copied().filter(|value| !value.is_empty())
}

fn rename<B>(request: &mut Request<B>, host: HeaderValue) {
    request.headers_mut().insert(header::HOST, host);
    // HTTP/2 has the proxy's own name for us here.
    if request.uri().authority().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "127.0.0.1";

    /// The client of a request of `peer`, and the host that the request then has.
    fn receive(peer: &str, headers: &[(&'static str, &str)]) -> (Client, String) {
        let proxies: Proxies = "127.0.0.1, 10.1.0.0/16,fd00::/8".parse().unwrap();
        let mut request = Request::builder().uri("http://backend/v1/models?limit=1").header("host", "backend");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        proxies.receive(peer.parse().unwrap(), &mut request);
        assert_eq!(request.uri().path_and_query().unwrap(), "/v1/models?limit=1");
        let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
        let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
        assert!(authority.is_none_or(|authority| authority == host));
        (Client::of(request.extensions()).unwrap().clone(), host)
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_proxy() {
        for (value, address) in [
            ("203.0.113.7", "203.0.113.7"),
            ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
            ("198.51.100.1,203.0.113.7, 10.1.2.3", "203.0.113.7"),
            ("127.0.0.1, 203.0.113.7 ,fd00::1", "203.0.113.7"),
            ("203.0.113.7:4711", "203.0.113.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("10.1.2.3", "10.1.2.3"),
            ("203.0.113.7, unknown, 10.1.2.3", "10.1.2.3"),
            ("203.0.113.7, nonsense", PEER),
            ("", PEER),
        ] {
            let (client, host) = receive(PEER, &[("x-forwarded-for", value)]);
            assert_eq!(client.address.to_string(), address, "{value}");
            assert!(client.is_forwarded && !client.is_ambiguous && host == "backend", "{value}");
        }
        let (client, _) = receive(PEER, &[("x-forwarded-for", "203.0.113.7"), ("x-forwarded-for", "198.51.100.1")]);
        assert_eq!(client.address.to_string(), "198.51.100.1", "the headers are one list");
    }

    #[test]
    fn scheme_and_host_are_those_of_the_same_hop() {
        let (client, host) = receive(
            "::ffff:127.0.0.1",
            &[
                ("x-forwarded-for", "198.51.100.1, 203.0.113.7, 10.1.2.3"),
                ("x-forwarded-proto", "ftp, HTTPS, http"),
                ("x-forwarded-host", "evil.example, pictures.example.com, cdn.internal"),
            ],
        );
        assert_eq!((client.scheme, host.as_str()), (Some(Scheme::HTTPS), "pictures.example.com"));
        let (client, host) = receive(
            PEER,
            &[
                ("x-forwarded-for", "203.0.113.7, 10.1.2.3"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "pictures.example.com"),
            ],
        );
        assert_eq!((client.scheme, host.as_str()), (Some(Scheme::HTTPS), "pictures.example.com"), "replaced lists");
    }

    #[test]
    fn the_standard_header_counts_too() {
        for (value, address, scheme, host) in [
            ("for=203.0.113.7;proto=https;host=pictures.example.com", "203.0.113.7", true, "pictures.example.com"),
            ("for=198.51.100.1, For=\"[2001:db8::7]:80\"; Proto=\"https\"", "2001:db8::7", true, "backend"),
            ("for=\"a,b;c\";proto=https, for=203.0.113.7", "203.0.113.7", false, "backend"),
            (
                "for=203.0.113.7;host=a.example, for=10.1.2.3;proto=https;host=b.example",
                "203.0.113.7",
                false,
                "a.example",
            ),
            ("for=_hidden;proto=https", PEER, true, "backend"),
            ("by=203.0.113.43", PEER, false, "backend"),
        ] {
            let (client, seen) = receive(PEER, &[("forwarded", value)]);
            let scheme = scheme.then_some(Scheme::HTTPS);
            assert_eq!(
                (client.address.to_string().as_str(), client.scheme, seen.as_str()),
                (address, scheme, host),
                "{value}"
            );
        }
    }

    #[test]
    fn two_headers_that_disagree_are_noticed() {
        let both = |standard| receive(PEER, &[("x-forwarded-for", "203.0.113.7"), ("forwarded", standard)]).0;
        assert!(both("for=198.51.100.1").is_ambiguous && both("proto=https").is_ambiguous);
        let client = both("for=203.0.113.7;proto=https");
        assert!(!client.is_ambiguous && client.scheme.is_none());
    }

    #[test]
    fn what_others_send_changes_nothing() {
        for peer in ["127.0.0.2", "10.2.0.1", "203.0.113.7", "::1"] {
            let (client, host) = receive(
                peer,
                &[
                    ("x-forwarded-for", "198.51.100.1"),
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-host", "pictures.example.com"),
                    ("forwarded", "for=198.51.100.2;proto=https;host=pictures.example.com"),
                ],
            );
            assert_eq!((client.address.to_string().as_str(), client.scheme, host.as_str()), (peer, None, "backend"));
            assert!(!client.is_forwarded && !client.is_ambiguous);
        }
    }

    #[test]
    fn lists_that_make_no_sense() {
        for text in ["proxy.example", "10.1.0.0/33", "127.0.0.1:80", "0.0.0.0/0", "::/0", "10.1.0.0/16 127.0.0.1", "\0"]
        {
            assert!(text.parse::<Proxies>().is_err(), "{text}");
        }
        assert_eq!("".parse::<Proxies>().unwrap(), Proxies::default());
        assert!("::ffff:127.0.0.1,".parse::<Proxies>().unwrap().contains([127, 0, 0, 1].into()));
    }
}
