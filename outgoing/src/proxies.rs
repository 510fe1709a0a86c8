//! Which proxy leads to a server.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, LazyLock};

use hyper_util::client::proxy::matcher::Matcher;
use url::{Host, Url};

/// The variables that name proxies. Lower case takes precedence.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"];

/// Proxies for `http` and `https`, and the hosts that are reached without them.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Option<Arc<Rules>>);

#[derive(Debug)]
struct Rules {
    /// Knows the syntax of NO_PROXY.
    matcher: Matcher,
    http: Option<Url>,
    https: Option<Url>,
}

static ENVIRONMENT: LazyLock<Result<Proxies, String>> = LazyLock::new(|| {
    let value = |name: &str| {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        set(&name.to_lowercase()).or_else(|| set(name))
    };
    let [https, http, all, no] = VARIABLES.map(value);
    Proxies::new(https.as_deref(), http.as_deref(), all.as_deref(), no.as_deref())
});

impl Proxies {
    /// As the environment says.
    ///
    /// # Errors
    /// The name of the variable that is wrong, and what it should be.
    pub fn environment() -> Result<Self, String> {
        ENVIRONMENT.clone()
    }

    /// As the four variables say.
    ///
    /// # Errors
    /// As [`Self::environment`].
    pub fn new(https: Option<&str>, http: Option<&str>, all: Option<&str>, no: Option<&str>) -> Result<Self, String> {
        let all = all.map(|proxy| parse("ALL_PROXY", proxy)).transpose()?;
        let https = https.map(|proxy| parse("HTTPS_PROXY", proxy)).transpose()?.or_else(|| all.clone());
        let http = http.map(|proxy| parse("HTTP_PROXY", proxy)).transpose()?.or(all);
        if https.is_none() && http.is_none() {
            return Ok(Self::default());
        }
        let text = |proxy: &Option<Url>| proxy.as_ref().map(ToString::to_string).unwrap_or_default();
        let matcher =
            Matcher::builder().https(text(&https)).http(text(&http)).no(no.unwrap_or_default().to_owned()).build();
        Ok(Self(Some(Arc::new(Rules { matcher, http, https }))))
    }

    /// The proxy for `url`, if there is one. This machine and its link are never reached through a proxy: the bucket of
    /// `up` and the metadata services of clouds are there.
    pub fn of(&self, url: &Url) -> Option<&Url> {
        let rules = self.0.as_ref()?;
        if is_near(url) {
            return None;
        }
        let uri: http::Uri = format!("{}://{}/", url.scheme(), url.host_str()?).parse().ok()?;
        rules.matcher.intercept(&uri)?;
        match url.scheme() {
            "https" => rules.https.as_ref(),
            _ => rules.http.as_ref(),
        }
    }
}

/// As curl does, a proxy without a scheme speaks `http`.
fn parse(name: &str, text: &str) -> Result<Url, String> {
    let text = text.trim();
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    Url::parse(&full)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| format!("{name} is not the address of an HTTP proxy, such as http://proxy.example:3128"))
}

fn is_near(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => is_near_address(address.into()),
        Some(Host::Ipv6(address)) => is_near_address(address.into()),
        None => false,
    }
}

fn is_near_address(address: IpAddr) -> bool {
    /// Amazon's metadata service.
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local() || address.is_unspecified(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local() || address == METADATA,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn proxy<'a>(proxies: &'a Proxies, url: &str) -> Option<&'a str> {
        proxies.of(&Url::parse(url).unwrap()).map(Url::as_str)
    }

    #[test]
    fn each_scheme_has_its_proxy_and_exceptions_have_none() {
        let no = "internal.example, .corp, 10.0.0.0/8";
        let proxies = Proxies::new(Some("http://u:p@tls:3128"), Some("plain:8080"), None, Some(no)).unwrap();
        assert_eq!(proxy(&proxies, "https://huggingface.co/x"), Some("http://u:p@tls:3128/"));
        assert_eq!(proxy(&proxies, "http://huggingface.co:81/x"), Some("http://plain:8080/"));
        for url in ["https://internal.example/", "https://a.corp/", "http://10.1.2.3/"] {
            assert_eq!(proxy(&proxies, url), None, "{url}");
        }
        let all = Proxies::new(None, None, Some("http://all:1"), Some("*")).unwrap();
        assert_eq!(proxy(&all, "https://huggingface.co/x"), None);
    }

    #[test]
    fn this_machine_and_metadata_services_are_reached_directly() {
        let proxies = Proxies::new(None, None, Some("http://all:1"), None).unwrap();
        assert_eq!(proxy(&proxies, "http://example.com/"), Some("http://all:1/"));
        for url in [
            "http://127.0.0.1:9/",
            "http://127.9.9.9/",
            "http://localhost:8080/",
            "http://a.localhost/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://169.254.169.254/",
            "http://[fd00:ec2::254]/",
        ] {
            assert_eq!(proxy(&proxies, url), None, "{url}");
        }
    }

    #[test]
    fn a_wrong_proxy_is_named_without_its_value() {
        for wrong in ["socks5://user:secret@host:1", "http://user:secret@", "http://user:secret@host:port"] {
            let why = Proxies::new(Some(wrong), None, None, None).unwrap_err();
            assert!(why.contains("HTTPS_PROXY") && !why.contains("secret"), "{why}");
        }
        assert!(Proxies::new(None, None, None, Some("x")).unwrap().0.is_none());
    }
}
