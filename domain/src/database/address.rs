//! The address of a database: a URL of which every parameter is known, so that nothing in it is printed or ignored
//! without a word.

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

/// Parameters that have an effect.
const UNDERSTOOD: [&str; 17] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// Parameters of libpq and of other clients that managed databases put into their URLs. They are accepted without
/// effect.
const WITHOUT_EFFECT: [&str; 19] = [
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "connection_limit",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "pgbouncer",
    "pool_timeout",
    "sslnegotiation",
    "sslsni",
    "statement-cache-capacity",
    "statement_cache_size",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// A checked address, with the variable that named it.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) variable: &'static str,
    pub(super) options: PgConnectOptions,
}

impl Address {
    /// Reads the URL that the environment variable `variable` contains.
    ///
    /// # Errors
    /// A sentence that names the variable and the parameter, without any value.
    pub(super) fn parse(variable: &'static str, text: &str) -> Result<Self, String> {
        let not_a_url = || {
            format!(
                "{variable} is not a URL of a Postgres database, such as postgres://user:password@host:5432/name. In \
                 user name and password, write %23 for #, %2F for /, %3F for ? and %40 for @."
            )
        };
        let mut url = Url::parse(text.trim()).map_err(|_| not_a_url())?;
        let right = matches!(url.scheme(), "postgres" | "postgresql") && !url.cannot_be_a_base();
        if !right || url.fragment().is_some() {
            return Err(not_a_url());
        }
        let mut parameters = Vec::new();
        let mut own_authority = std::env::var_os("PGSSLROOTCERT").is_some();
        let mut verify = None;
        for (name, value) in url.query_pairs().into_owned() {
            if WITHOUT_EFFECT.contains(&name.as_str()) {
                tracing::debug!(variable, parameter = name, "a parameter without effect");
                continue;
            }
            let is_option = name.starts_with("options[") && name.ends_with(']');
            if !is_option && !UNDERSTOOD.contains(&name.as_str()) {
                return Err(unknown(variable, &name));
            }
            if matches!(name.as_str(), "sslrootcert" | "ssl-root-cert" | "ssl-ca") {
                // libpq 16: the authorities of the system, which we trust anyway.
                if value == "system" {
                    verify = Some(PgSslMode::VerifyFull);
                    continue;
                }
                own_authority = true;
            }
            let file = matches!(
                name.as_str(),
                "sslrootcert" | "ssl-root-cert" | "ssl-ca" | "sslcert" | "ssl-cert" | "sslkey" | "ssl-key"
            );
            if file && !value.contains("-----BEGIN") && std::fs::File::open(&value).is_err() {
                return Err(format!("{variable}: the parameter `{name}` names a file that cannot be read"));
            }
            let alone = Url::parse_with_params("postgres://localhost/", [(&name, &value)]).map_err(|_| not_a_url())?;
            if alone.as_str().parse::<PgConnectOptions>().is_err() {
                return Err(format!("{variable}: the parameter `{name}` has a value that it cannot have"));
            }
            parameters.push((name, value));
        }
        url.set_query(None);
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(&parameters);
        }
        let options: PgConnectOptions = url.as_str().parse().map_err(|_| not_a_url())?;
        // Poolers refuse it, and values are exchanged in binary.
        let mut options = options.extra_float_digits(None);
        if let Some(mode) = verify {
            options = options.ssl_mode(mode);
        }
        if !own_authority && matches!(options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
            let authorities = outgoing::system_authorities();
            if !authorities.is_empty() {
                options = options.ssl_root_cert_from_pem(authorities);
            }
        }
        Ok(Self { variable, options })
    }

    /// Host and port, or the socket.
    pub(super) fn place(&self) -> String {
        match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", self.options.get_host(), self.options.get_port()),
        }
    }

    pub(super) fn role(&self) -> &str {
        self.options.get_username()
    }

    /// The database's name; by default that of the role.
    pub(super) fn database(&self) -> &str {
        self.options.get_database().unwrap_or(self.role())
    }
}

/// Text that is not a name may be a part of a password that was not escaped.
fn unknown(variable: &str, name: &str) -> String {
    let plain = |character: char| character.is_ascii_lowercase() || matches!(character, '_' | '-');
    if name.len() <= 30 && name.chars().all(plain) {
        format!("{variable}: the parameter `{name}` is unknown. Known are {}.", UNDERSTOOD.join(", "))
    } else {
        format!("{variable} has an unknown parameter. Known are {}.", UNDERSTOOD.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, String> {
        Address::parse("DATABASE_URL", text)
    }

    #[test]
    fn an_unknown_parameter_is_named_without_its_value() {
        for (text, name) in [
            ("postgres://h/d?user=u&pasword=canary", "`pasword`"),
            ("postgres://u@h/d?sslmode=canary", "`sslmode`"),
            ("postgres://u@h/d?port=canary", "`port`"),
            ("postgres://u@h/d?sslrootcert=/canary", "`sslrootcert`"),
            ("postgres://h/d?user=u&canary=1", "unknown parameter"),
            ("postgres://h/d?user=u&Canary%20x", "unknown parameter"),
        ] {
            let Err(why) = parse(text) else { panic!("{text} was taken") };
            let shown = why.replace("parameter `canary`", "unknown parameter");
            assert!(why.contains("DATABASE_URL") && shown.contains(name) && !shown.contains("anary"), "{why}");
        }
    }

    #[test]
    fn what_is_no_url_is_told_without_it() {
        for text in [
            "somewhere",
            "mysql://u:canary@h/d",
            "postgres:canary",
            "postgres://u:can#ary@h/d",
            "postgres://u:can/ary@h/d",
            "postgres://u:1#canary@h/d",
            "postgres://u:can?ary@h/d",
            "",
        ] {
            let Err(why) = parse(text) else { panic!("{text} was taken") };
            assert!(why.contains("DATABASE_URL") && !why.contains("ary"), "{why}");
        }
    }

    #[test]
    fn urls_of_managed_databases_are_taken() {
        let neon = "postgresql://u:p@ep-x-pooler.eu.example/neondb?sslmode=require&channel_binding=require";
        let supabase = "postgres://postgres.abc:p@pooler.example:6543/postgres?pgbouncer=true&connection_limit=1";
        for (text, database) in [(neon, "neondb"), (supabase, "postgres"), ("postgres:///d?host=/run/postgresql", "d")]
        {
            assert_eq!(parse(text).map(|address| address.database().to_owned()), Ok(database.to_owned()), "{text}");
        }
        let system = parse("postgres://h/d?sslrootcert=system").map(|address| address.options.get_ssl_mode() as u8);
        assert_eq!(system, Ok(PgSslMode::VerifyFull as u8));
    }
}
