//! Decides which addresses imports, deliveries and webhooks may reach. A URL comes from a client, who must not reach
//! our own network through it: only the public internet is allowed, over `https`, unless the operator allows further
//! networks.
//!
//! [`Guard::admit`] resolves the host itself and returns a client that is pinned to the addresses it has checked, so
//! that a second look-up cannot return others. The client follows no redirects: code that does checks each one here.

mod clients;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

pub use self::clients::GuardedClients;
use crate::{Proxies, direct};

/// Time limit for resolving a host.
const LOOKUP: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(10);
/// Longest wait for the next bytes of a response.
const SILENCE: Duration = Duration::from_secs(30);
/// Ports that may be reached.
const PORTS: [u16; 2] = [443, 8443];

/// A range of addresses: `10.1.0.0/16`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self).map_err(|_| format!("`{text}` is not a network such as 10.1.0.0/16"))
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(first: u16, second: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0), prefix)
}

/// IPv4 networks that are not public, from the IANA special-purpose registry, and the address of Azure's metadata
/// service.
const NOT_PUBLIC_V4: [Ipv4Net; 17] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(168, 63, 129, 16, 32),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 31, 196, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];
/// All public IPv6 addresses …
const UNICAST_V6: Ipv6Net = v6(0x2000, 0, 3);
/// … except those for protocols (Teredo among them), documentation, 6to4, and documentation again.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x2002, 0, 16), v6(0x3fff, 0, 20)];

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => {
            UNICAST_V6.contains(&address)
                && !NOT_PUBLIC_V6.iter().any(|network| network.contains(&address))
                && isatap(address).is_none_or(|address| is_public(address.into()))
        }
    }
}

/// The IPv4 address to which a router of ISATAP would lead (RFC 5214, section 6.1), after any prefix.
fn isatap(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., universal, 0x5efe, _, _] = address.segments() else { return None };
    (universal & !0x0200 == 0).then(|| Ipv4Addr::from_bits(address.to_bits() as u32))
}

/// Why a URL is refused: a sentence that contains neither the URL nor the resolved addresses.
#[derive(Debug, PartialEq, Eq)]
pub enum GuardError {
    /// A retry cannot succeed.
    Forbidden(&'static str),
    /// The host could not be resolved.
    Unknown(String),
}

/// The rule, with the networks that the operator allows.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    allowed: Vec<Network>,
    proxies: Proxies,
}

impl Guard {
    pub fn new(allowed: Vec<Network>) -> Self {
        Self { allowed, proxies: Proxies::default() }
    }

    /// With proxies for the hosts that are not reached directly.
    pub fn through(self, proxies: Proxies) -> Self {
        Self { proxies, ..self }
    }

    /// Whether a proxy leads to `url`.
    pub fn is_proxied(&self, url: &Url) -> bool {
        self.proxies.of(url).is_some()
    }

    /// Checks as much of `url` as can be checked without resolving its host.
    ///
    /// # Errors
    /// `Forbidden` if [`Guard::admit`] would refuse it for every address of its host.
    pub fn vet(&self, url: &Url) -> Result<(), GuardError> {
        check_no_user(url)?;
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::from(address),
            Some(Host::Ipv6(address)) => IpAddr::from(address).to_canonical(),
            // An allowed network may be behind any name.
            Some(Host::Domain(_)) if !self.allowed.is_empty() => return Ok(()),
            Some(Host::Domain(name)) => {
                check_scheme_and_port(url)?;
                return if is_public_name(name) { Ok(()) } else { Err(GuardError::Forbidden(NOT_PUBLIC)) };
            }
            None => return Err(GuardError::Forbidden(NO_HOST)),
        };
        if self.allows(address) {
            return Ok(());
        }
        check_scheme_and_port(url)?;
        if is_public(address) { Ok(()) } else { Err(GuardError::Forbidden(NOT_PUBLIC)) }
    }

    /// A client for this URL only: pinned to addresses that may be reached, or through the proxy, which then resolves
    /// the name.
    pub async fn admit(&self, url: &Url) -> Result<reqwest::Client, GuardError> {
        self.admit_as_resolved(url, look_up).await
    }

    async fn admit_as_resolved<F>(
        &self,
        url: &Url,
        look_up: impl FnOnce(String, u16) -> F,
    ) -> Result<reqwest::Client, GuardError>
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        let mut client = direct()
            .referer(false)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE);
        if let Some(proxy) = self.proxies.of(url) {
            self.check_named(url)?;
            let proxy = reqwest::Proxy::all(proxy.clone()).map_err(|_| GuardError::Forbidden(NO_CLIENT))?;
            client = client.proxy(proxy);
        } else {
            let addresses = self.addresses(url, look_up).await?;
            if let Some(Host::Domain(name)) = url.host() {
                client = client.resolve_to_addrs(name, &addresses);
            }
        }
        client.build().map_err(|_| GuardError::Forbidden(NO_CLIENT))
    }

    /// The rule for a URL that a proxy resolves: an address must be public, and a name must be one of the public
    /// internet. What the name leads to is for the proxy to check.
    fn check_named(&self, url: &Url) -> Result<(), GuardError> {
        check_no_user(url)?;
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::from(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::from(address).to_canonical()),
            Some(Host::Domain(_)) => None,
            None => return Err(GuardError::Forbidden(NO_HOST)),
        };
        if address.is_some_and(|address| self.allows(address)) {
            return Ok(());
        }
        check_scheme_and_port(url)?;
        let public = match (address, url.host_str()) {
            (Some(address), _) => is_public(address),
            (None, name) => name.is_some_and(is_public_name),
        };
        if public { Ok(()) } else { Err(GuardError::Forbidden(NOT_PUBLIC)) }
    }

    /// The addresses behind `url`, all of which may be reached.
    async fn addresses<F>(
        &self,
        url: &Url,
        look_up: impl FnOnce(String, u16) -> F,
    ) -> Result<Vec<SocketAddr>, GuardError>
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        check_no_user(url)?;
        if self.allowed.is_empty() {
            // No address of the name could allow another.
            check_scheme_and_port(url)?;
        }
        let port = url.port_or_known_default().unwrap_or(0);
        let found: Vec<SocketAddr> = match url.host() {
            Some(Host::Ipv4(address)) => vec![(address, port).into()],
            Some(Host::Ipv6(address)) => vec![(address, port).into()],
            Some(Host::Domain(name)) => {
                let found = tokio::time::timeout(LOOKUP, look_up(name.to_owned(), port)).await;
                found.ok().and_then(Result::ok).ok_or_else(|| GuardError::Unknown(name.to_owned()))?
            }
            None => return Err(GuardError::Forbidden(NO_HOST)),
        };
        if found.is_empty() {
            return Err(GuardError::Unknown(url.host_str().unwrap_or_default().to_owned()));
        }
        // An IPv4-mapped IPv6 address counts as the IPv4 address.
        if found.iter().all(|address| self.allows(address.ip().to_canonical())) {
            return Ok(found);
        }
        check_scheme_and_port(url)?;
        let may = |address: &SocketAddr| {
            let address = address.ip().to_canonical();
            is_public(address) || self.allows(address)
        };
        if found.iter().all(may) {
            return Ok(found);
        }
        Err(GuardError::Forbidden(NOT_PUBLIC))
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|Network(network)| network.contains(&address))
    }
}

/// The addresses of a host, as the system resolves it.
async fn look_up(name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((name, port)).await?.collect())
}

const NO_CLIENT: &str = "The HTTP client does not start.";
const NO_HOST: &str = "The address names no host.";
const NOT_PUBLIC: &str = "The address is not on the public internet, and the operator has not allowed its network.";

fn check_no_user(url: &Url) -> Result<(), GuardError> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(());
    }
    Err(GuardError::Forbidden("The address carries a user name or a password."))
}

fn check_scheme_and_port(url: &Url) -> Result<(), GuardError> {
    if url.scheme() != "https" {
        return Err(GuardError::Forbidden("Only https is spoken, but for networks that the operator allowed."));
    }
    if !url.port_or_known_default().is_some_and(|port| PORTS.contains(&port)) {
        return Err(GuardError::Forbidden(
            "Only the ports 443 and 8443 are asked, but for networks that the operator allowed.",
        ));
    }
    Ok(())
}

/// Last labels of names that are used inside networks only: RFC 6761, 6762 and 8375, ICANN's `internal`, and habits.
const NOT_PUBLIC_NAMES: [&str; 9] =
    ["arpa", "corp", "home", "internal", "intranet", "lan", "local", "localdomain", "localhost"];

/// Whether a name may be one of the public internet: it has a dot, and its last label is not one of those above.
fn is_public_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.rsplit_once('.').is_some_and(|(_, last)| !NOT_PUBLIC_NAMES.contains(&last))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const SECRET_PLACES: [&str; 61] = [
        // This machine.
        "127.0.0.1",
        "127.1",
        "127.255.255.254",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "0.1.2.3",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "127。0。0。1",
        "①②⑦.0.0.1",
        // Private networks.
        "10.0.0.1",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "192.168.255.255",
        "100.64.0.1",
        "100.127.255.255",
        "100.100.100.200",
        "[::ffff:10.0.0.1]",
        "[::ffff:192.168.1.1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fdff::1]",
        "[fe80::1]",
        "[fec0::1]",
        "3232235777",
        "0xc0a80101",
        // Metadata services of clouds.
        "169.254.169.254",
        "169.254.170.2",
        "2852039166",
        "0xa9fea9fe",
        "[::ffff:169.254.169.254]",
        "168.63.129.16",
        // Tunnels and address translation.
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::1]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::]",
        "[2001::1]",
        "[2001:0:4136:e378::]",
        // Not assigned to any host.
        "192.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[ff02::1]",
        "[2001:db8::1]",
        "[3fff::1]",
    ];

    #[tokio::test]
    async fn no_way_into_the_network_around() {
        let guard = Guard::default();
        for host in SECRET_PLACES {
            let url = Url::parse(&format!("https://{host}/x")).unwrap_or_else(|error| panic!("{host}: {error}"));
            let found = guard.addresses(&url, look_up).await;
            assert!(matches!(found, Err(GuardError::Forbidden(_))), "{host}: {found:?}");
        }
        for url in [
            "http://1.1.1.1/x",
            "http://1.1.1.1:443/x",
            "ftp://1.1.1.1/x",
            "https://1.1.1.1:22/x",
            "https://1.1.1.1:6379/",
            "https://user@1.1.1.1/",
            "https://:password@1.1.1.1/",
            "file:///etc/passwd",
            "data:text/plain,x",
            "https://1.1.1.1:80/",
            "http://host.invalid/",
        ] {
            let found = guard.addresses(&Url::parse(url).unwrap(), look_up).await;
            assert!(matches!(found, Err(GuardError::Forbidden(_))), "{url}: {found:?}");
        }
        let nobody = guard.addresses(&Url::parse("https://host.invalid/").unwrap(), look_up).await;
        assert_eq!(nobody, Err(GuardError::Unknown("host.invalid".to_owned())));
    }

    /// Behind a proxy the name cannot be resolved here, so that the literal address and the name must suffice.
    #[tokio::test]
    async fn a_proxy_is_no_way_into_the_network_around() {
        let proxies = Proxies::new(None, None, Some("http://127.0.0.1:1"), None).unwrap();
        let guard = Guard::new(vec!["10.1.0.0/16".parse().unwrap()]).through(proxies);
        let forbidden = SECRET_PLACES.iter().map(|host| format!("https://{host}/x"));
        let more = [
            "https://intranet/",
            "https://metadata.google.internal/",
            "https://printer.local/",
            "https://nas.lan./",
            "http://huggingface.co/",
            "https://huggingface.co:22/",
            "https://user@huggingface.co/",
            "http://10.2.0.1/",
        ];
        for url in forbidden.chain(more.map(str::to_owned)) {
            let found = guard.admit(&Url::parse(&url).unwrap()).await;
            assert!(matches!(found, Err(GuardError::Forbidden(_))), "{url}: {found:?}");
        }
        for url in
            ["https://huggingface.co/", "https://nowhere-at-all.net:8443/", "https://1.1.1.1/", "http://10.1.2.3:80/"]
        {
            assert!(guard.admit(&Url::parse(url).unwrap()).await.is_ok(), "{url}");
        }
    }

    #[tokio::test]
    async fn the_public_internet_is_open() {
        for url in [
            "https://1.1.1.1/",
            "https://8.8.8.8:8443/x",
            "https://[2606:4700::1111]/",
            "https://172.32.0.1/",
            "https://100.128.0.1/",
            "https://[::ffff:1.1.1.1]/",
        ] {
            assert!(Guard::default().addresses(&Url::parse(url).unwrap(), look_up).await.is_ok(), "{url}");
        }
    }

    #[tokio::test]
    async fn the_operator_opens_a_network_and_no_more() {
        let guard =
            Guard::new(vec!["127.0.0.2".parse().unwrap(), "10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for (url, open) in [
            ("http://127.0.0.2:8080/x", true),
            ("http://10.1.255.1/", true),
            ("https://[fd12::1]:5000/", true),
            ("http://[::ffff:10.1.2.3]/", true),
            ("http://127.0.0.1/", false),
            ("http://10.2.0.1/", false),
            ("https://[fc00::1]/", false),
            ("http://user@10.1.0.1/", false),
        ] {
            assert_eq!(guard.addresses(&Url::parse(url).unwrap(), look_up).await.is_ok(), open, "{url}");
        }
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "example.com", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
        assert!("0.0.0.0/0".parse::<Network>().unwrap().0.contains(&"203.0.113.9".parse::<IpAddr>().unwrap()));
    }

    /// URLs that must not be asked, each with what the parser makes of it.
    fn forbidden_urls() -> impl Iterator<Item = (&'static str, Option<Url>)> {
        let lines = include_str!("guard/forbidden_urls.txt").lines();
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| (line, Url::parse(line).ok()))
    }

    #[tokio::test]
    async fn no_forbidden_url_is_admitted() {
        let allowed = Guard::new(vec!["127.0.0.2".parse().unwrap(), "fd12::/16".parse().unwrap()]);
        let mut count = 0;
        for (text, url) in forbidden_urls() {
            count += 1;
            let Some(url) = url else { continue };
            for guard in [&Guard::default(), &allowed] {
                let admitted = guard.addresses(&url, look_up).await;
                // A name that this machine does not know leads nowhere.
                let is_refused = matches!(admitted, Err(GuardError::Forbidden(_) | GuardError::Unknown(_)));
                assert!(is_refused, "{text}: {admitted:?}");
                assert!(url.domain().is_some() || matches!(admitted, Err(GuardError::Forbidden(_))), "{text}");
            }
        }
        assert!(count >= 120, "{count}");
    }

    /// A name that leads to another place at every look-up: to one that is allowed, to this machine, or to both.
    #[tokio::test]
    async fn a_name_is_looked_up_once_and_reached_where_it_led_then() {
        let (allowed, canary) = loop {
            let allowed = TcpListener::bind("127.0.0.2:0").await.unwrap();
            let port = allowed.local_addr().unwrap().port();
            if let Ok(canary) = TcpListener::bind(("127.0.0.1", port)).await {
                break (allowed, canary);
            }
        };
        let (good, bad) = (allowed.local_addr().unwrap(), canary.local_addr().unwrap());
        let [reached, caught] = [allowed, canary].map(count_connections);
        let guard = Guard::new(vec!["127.0.0.2".parse().unwrap()]);
        let url = Url::parse(&format!("http://rebinding.example:{}/x", good.port())).unwrap();
        let (looked_up, mut admitted) = (AtomicUsize::new(0), 0);
        for round in 0..ROUNDS {
            let answer = match round % 4 {
                0 => vec![good],
                1 => vec![bad],
                2 => vec![good, bad],
                _ => vec![bad, good],
            };
            let resolver = async |_, _| {
                looked_up.fetch_add(1, Ordering::SeqCst);
                Ok(answer)
            };
            match guard.admit_as_resolved(&url, resolver).await {
                Ok(client) => {
                    assert_eq!(round % 4, 0, "an answer with a forbidden address was taken");
                    assert_eq!(client.get(url.clone()).send().await.unwrap().status(), 200);
                    admitted += 1;
                }
                Err(error) => assert!(matches!(error, GuardError::Forbidden(_)), "{error:?}"),
            }
        }
        assert_eq!((admitted, looked_up.into_inner()), (ROUNDS / 4, ROUNDS));
        assert_eq!((reached.load(Ordering::SeqCst), caught.load(Ordering::SeqCst)), (admitted, 0));
    }

    const ROUNDS: usize = 1000;

    /// Answers every request, and counts the connections.
    fn count_connections(listener: TcpListener) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            }
        });
        count
    }
}
