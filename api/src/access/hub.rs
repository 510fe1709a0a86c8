//! Callers with a token of the Hugging Face Hub, which says whose it is (`whoami-v2`). The answer about a token counts
//! for a while, and is remembered by the hash of the token: the token itself is neither kept nor logged. Not here: what
//! the owner may do (`hub_rules`).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domain::Scopes;
use reqwest::StatusCode;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::hub_rules::{HubRules, is_account};
use super::lock;

/// Time for the Hub to answer, connecting included.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer, in bytes. The organisations of its user are in it.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Most tokens that are remembered.
const MOST_TOKENS: usize = 10_000;
/// Longest token.
const MAX_TOKEN_CHARS: usize = 512;

/// How long answers of the Hub count.
#[derive(Clone, Copy, Debug)]
pub struct HubTimes {
    /// Until it is asked again.
    pub fresh: Duration,
    /// While the Hub is away, for tokens that were admitted.
    pub away: Duration,
    /// Until a Hub that was away is asked again about the same token.
    pub pause: Duration,
}

impl Default for HubTimes {
    fn default() -> Self {
        Self { fresh: Duration::from_mins(5), away: Duration::from_hours(1), pause: Duration::from_secs(5) }
    }
}

/// The Hub, and whom of its accounts the operator admits.
pub struct Hub {
    http: reqwest::Client,
    address: Url,
    rules: HubRules,
    times: HubTimes,
    /// One lock for each token, so that the Hub is asked once about one that comes with many requests.
    tokens: Mutex<HashMap<Hash, Arc<tokio::sync::Mutex<Option<Told>>>>>,
    /// Until when the answer about a token of the account counts.
    accounts: Mutex<HashMap<Arc<str>, Instant>>,
}

type Hash = [u8; 32];

/// The last word on a token.
#[derive(Clone)]
struct Told {
    verdict: Verdict,
    /// When the Hub said so.
    at: Instant,
    until: Instant,
}

/// What becomes of a token.
#[derive(Clone)]
pub(super) enum Verdict {
    Admitted(Guest),
    /// A sentence that says why.
    Refused(&'static str),
    /// The Hub does not answer, and has not admitted the token within the last hour.
    Unknown,
}

/// The owner of a token that is admitted.
#[derive(Clone)]
pub(super) struct Guest {
    pub account: Arc<str>,
    pub project: Arc<str>,
    pub scopes: Scopes,
}

/// A token of the Hub. It is neither printed nor logged by accident.
pub(crate) struct HubToken(String);

impl HubToken {
    /// The token in a header, if it is one.
    pub(super) fn read(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let rest = text.strip_prefix("hf_").filter(|rest| !rest.is_empty() && rest.bytes().all(allowed))?;
        (rest.len() <= MAX_TOKEN_CHARS).then(|| Self(text.to_owned()))
    }

    fn sha256(&self) -> Hash {
        Sha256::digest(&self.0).into()
    }
}

impl fmt::Debug for HubToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hf_…")
    }
}

/// The part of the answer of `whoami-v2` that is of interest, after the Hub's own client
/// (`packages/hub/src/types/api/api-who-am-i.ts` in huggingface.js).
#[derive(Deserialize)]
struct WhoAmI {
    name: String,
    #[serde(default)]
    orgs: Vec<Organisation>,
    auth: Auth,
}

#[derive(Deserialize)]
struct Organisation {
    name: String,
}

#[derive(Deserialize)]
struct Auth {
    /// Absent for what an application got from a user who logged in there (OAuth).
    #[serde(rename = "accessToken")]
    token: Option<AccessToken>,
}

#[derive(Deserialize)]
struct AccessToken {
    role: String,
    #[serde(rename = "fineGrained")]
    fine_grained: Option<FineGrained>,
}

#[derive(Deserialize)]
struct FineGrained {
    #[serde(default)]
    scoped: Vec<Scoped>,
}

#[derive(Deserialize)]
struct Scoped {
    #[serde(default)]
    permissions: Vec<String>,
}

impl AccessToken {
    /// Whether it reads repositories: a token for inference or webhooks alone does not.
    fn reads(&self) -> bool {
        match (self.role.as_str(), &self.fine_grained) {
            ("read" | "contributor" | "write" | "admin", _) => true,
            ("fineGrained", Some(fine)) => {
                let mut permissions = fine.scoped.iter().flat_map(|scoped| &scoped.permissions);
                permissions.any(|permission| ["repo.content.read", "repo.write"].contains(&permission.as_str()))
            }
            _ => false,
        }
    }
}

impl Hub {
    /// The Hub at `endpoint`, such as `https://huggingface.co`. Errors: the HTTP client does not start.
    pub fn new(endpoint: &Url, rules: HubRules) -> reqwest::Result<Self> {
        // A redirect could lead the token elsewhere.
        let http = outgoing::client().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE).build()?;
        let mut address = endpoint.clone();
        if let Ok(mut path) = address.path_segments_mut() {
            path.pop_if_empty().extend(["api", "whoami-v2"]);
        }
        let times = HubTimes::default();
        Ok(Self { http, address, rules, times, tokens: Mutex::default(), accounts: Mutex::default() })
    }

    /// With other times.
    pub fn with_times(self, times: HubTimes) -> Self {
        Self { times, ..self }
    }

    /// Whom the operator admits.
    pub fn rules(&self) -> &HubRules {
        &self.rules
    }

    /// Whether there was an answer about the token, so that the Hub is perhaps not asked.
    pub(super) fn knows(&self, token: &HubToken) -> bool {
        lock(&self.tokens).contains_key(&token.sha256())
    }

    /// Whether a token of the account was admitted and is not to be asked about again.
    pub(super) fn admits(&self, account: &str) -> bool {
        lock(&self.accounts).get(account).is_some_and(|until| Instant::now() < *until)
    }

    /// What becomes of a caller with the token.
    pub(super) async fn judge(&self, token: &HubToken) -> Verdict {
        let entry = self.entry(token.sha256());
        let mut told = entry.lock().await;
        if let Some(told) = told.as_ref().filter(|told| Instant::now() < told.until) {
            return told.verdict.clone();
        }
        let asked = self.ask(token).await;
        let now = Instant::now();
        let fresh = match asked {
            Ok(verdict) => Told { verdict, at: now, until: now + self.times.fresh },
            Err(why) => {
                tracing::warn!(why, "the Hugging Face Hub was asked about a token and does not answer");
                let admitted = told.take().filter(|told| {
                    matches!(told.verdict, Verdict::Admitted(_)) && now.duration_since(told.at) < self.times.away
                });
                let (verdict, at) = admitted.map_or((Verdict::Unknown, now), |told| (told.verdict, told.at));
                Told { verdict, at, until: now + self.times.pause }
            }
        };
        if let Verdict::Admitted(guest) = &fresh.verdict {
            let mut accounts = lock(&self.accounts);
            if accounts.len() >= MOST_TOKENS {
                accounts.retain(|_, until| now < *until);
            }
            accounts.insert(guest.account.clone(), fresh.until);
        }
        told.insert(fresh).verdict.clone()
    }

    /// The entry of the token with this hash. If there are too many, it is not remembered.
    fn entry(&self, hash: Hash) -> Arc<tokio::sync::Mutex<Option<Told>>> {
        let mut tokens = lock(&self.tokens);
        if let Some(entry) = tokens.get(&hash) {
            return entry.clone();
        }
        if tokens.len() >= MOST_TOKENS {
            let now = Instant::now();
            tokens.retain(|_, entry| match entry.try_lock().as_deref() {
                Ok(Some(Told { verdict: Verdict::Admitted(_), at, .. })) => now.duration_since(*at) < self.times.away,
                Ok(Some(told)) => now < told.until,
                Ok(None) => false,
                Err(_) => true,
            });
        }
        let entry: Arc<tokio::sync::Mutex<Option<Told>>> = Arc::default();
        if tokens.len() < MOST_TOKENS {
            tokens.insert(hash, Arc::clone(&entry));
        }
        entry
    }

    /// Asks the Hub. Errors: it gives no answer that can be used; the sentence has no secret.
    async fn ask(&self, token: &HubToken) -> Result<Verdict, String> {
        let request = self.http.get(self.address.clone()).bearer_auth(&token.0);
        let mut response = request.send().await.map_err(failure)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Ok(Verdict::Refused("The Hugging Face Hub does not know the token."));
            }
            status => return Err(format!("it answers {status}")),
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failure)? {
            answer.extend_from_slice(&chunk);
            if answer.len() > MAX_ANSWER_BYTES {
                return Err("its answer is too long".to_owned());
            }
        }
        let who: WhoAmI = serde_json::from_slice(&answer).map_err(|_| NOT_THE_HUB.to_owned())?;
        if !is_account(&who.name) {
            return Err(NOT_THE_HUB.to_owned());
        }
        Ok(self.admit(&who))
    }

    fn admit(&self, who: &WhoAmI) -> Verdict {
        if !who.auth.token.as_ref().is_some_and(AccessToken::reads) {
            return Verdict::Refused("The token may not read repositories of the Hugging Face Hub.");
        }
        match self.rules.of(&who.name, who.orgs.iter().map(|organisation| organisation.name.as_str())) {
            Some(rule) => Verdict::Admitted(Guest {
                account: who.name.as_str().into(),
                project: rule.project.clone(),
                scopes: rule.scopes(),
            }),
            None => Verdict::Refused("This server does not admit the account of the token."),
        }
    }
}

const NOT_THE_HUB: &str = "what answers at HF_ENDPOINT does not speak the Hub's protocol";

/// Why a request failed, without its address, which may have a password.
fn failure(error: reqwest::Error) -> String {
    outgoing::root_cause(&error.without_url()).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reads(token: Value) -> bool {
        serde_json::from_value::<AccessToken>(token).unwrap().reads()
    }

    #[test]
    fn a_token_reads_or_is_refused() {
        for role in ["read", "write", "admin", "contributor"] {
            assert!(reads(json!({"displayName": "x", "role": role})), "{role}");
        }
        let fine = |scoped: &[&str]| {
            let scoped = json!([{"entity": {"type": "user", "name": "jane"}, "permissions": scoped}]);
            json!({"role": "fineGrained", "fineGrained": {"global": ["inference.serverless.write"], "scoped": scoped}})
        };
        assert!(reads(fine(&["repo.content.read"])) && reads(fine(&["discussion.write", "repo.write"])));
        assert!(!reads(fine(&[])) && !reads(fine(&["user.webhooks.read"])));
        assert!(!reads(json!({"role": "fineGrained"})) && !reads(json!({"role": "god"})));
    }

    #[test]
    fn tokens_have_a_form_and_are_not_printed() {
        for text in ["hf_abcXYZ019", "hf_jwt_a.b-c_d"] {
            let token = HubToken::read(text).expect(text);
            assert_eq!(format!("{token:?}"), "hf_…");
        }
        let long = format!("hf_{}", "a".repeat(513));
        for text in ["", "hf_", "HF_abc", "hf_a b", "hf_é", "hf_a\nb", "pyro_abc", &long] {
            assert!(HubToken::read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_address_is_below_that_of_a_mirror() {
        for (endpoint, address) in [
            ("https://huggingface.co", "https://huggingface.co/api/whoami-v2"),
            ("http://mirror:1/hub/", "http://mirror:1/hub/api/whoami-v2"),
        ] {
            let hub = Hub::new(&endpoint.parse().unwrap(), "acme:shop".parse().unwrap()).unwrap();
            assert_eq!(hub.address.as_str(), address);
        }
    }
}
