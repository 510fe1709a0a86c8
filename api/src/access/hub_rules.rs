//! Which accounts of the Hugging Face Hub may call, in which project, and whether they may train:
//! `PYROGRAPH_HF_ALLOW`. Not here: whose a token is (`hub`).

use std::str::FromStr;
use std::sync::Arc;

use domain::{Scope, Scopes, project};

/// The third word of a rule that lets its accounts train.
const TRAIN: &str = "train";
/// Most characters of a name on the Hub.
const MAX_ACCOUNT_CHARS: usize = 96;

/// The rules, at least one, in the order in which they are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubRules(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    accounts: Accounts,
    pub project: Arc<str>,
    trains: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Accounts {
    Every,
    /// A user, or the members of an organisation.
    Of(String),
}

impl Accounts {
    fn have(&self, name: &str) -> bool {
        match self {
            Self::Every => true,
            // The Hub gives a name once, however it is spelled.
            Self::Of(account) => account.eq_ignore_ascii_case(name),
        }
    }
}

impl Rule {
    pub(super) fn scopes(&self) -> Scopes {
        Scopes::of(if self.trains {
            &[Scope::Read, Scope::Generate, Scope::Train]
        } else {
            &[Scope::Read, Scope::Generate]
        })
    }
}

/// `acme:shop,jane:studio:train,*:guests`. A message says which rule is wrong and does not repeat it: someone may have
/// written a token there.
impl FromStr for HubRules {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rules: Vec<Rule> = Vec::new();
        for (index, text) in text.split(',').map(str::trim).filter(|rule| !rule.is_empty()).enumerate() {
            let number = index + 1;
            let rule = rule(text).map_err(|why| format!("rule {number} {why}"))?;
            if rules.last().is_some_and(|last| last.accounts == Accounts::Every) {
                return Err(format!("rule {number} comes after one for every account (`*`), which must be the last"));
            }
            if rules.iter().any(|other| other.accounts == rule.accounts) {
                return Err(format!("rule {number} is for the same account as an earlier one"));
            }
            rules.push(rule);
        }
        if rules.is_empty() {
            return Err("it has no rule such as acme:shop or jane:studio:train".to_owned());
        }
        Ok(Self(rules))
    }
}

fn rule(text: &str) -> Result<Rule, String> {
    let words: Vec<&str> = text.split(':').map(str::trim).collect();
    let (account, project, trains) = match words.as_slice() {
        [account, project] => (*account, *project, false),
        [account, project, TRAIN] => (*account, *project, true),
        _ => return Err("is not of the form account:project or account:project:train".to_owned()),
    };
    let accounts = match account {
        "*" => Accounts::Every,
        account if is_account(account) => Accounts::Of(account.to_ascii_lowercase()),
        _ => return Err("names no account of the Hugging Face Hub, such as acme, or * for every account".to_owned()),
    };
    project::check_name(project).map_err(|_| {
        "names no project; its name has 1 to 63 characters of a-z, 0-9, `_` and `-`, such as shop".to_owned()
    })?;
    Ok(Rule { accounts, project: project.into(), trains })
}

/// Whether the text can be a name of a user or an organisation.
pub(super) fn is_account(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_ACCOUNT_CHARS).contains(&text.len()) && text.bytes().all(allowed)
}

impl HubRules {
    /// The projects that the rules name.
    pub fn projects(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|rule| &*rule.project)
    }

    /// Whether everyone with an account is admitted.
    pub fn admit_everyone(&self) -> bool {
        self.0.iter().any(|rule| rule.accounts == Accounts::Every)
    }

    /// The first rule for a user or for one of the user's organisations.
    pub(super) fn of<'a>(&self, user: &str, organisations: impl Iterator<Item = &'a str> + Clone) -> Option<&Rule> {
        let has = |rule: &&Rule| rule.accounts.have(user) || organisations.clone().any(|name| rule.accounts.have(name));
        self.0.iter().find(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(rules: &'a HubRules, user: &str, organisations: &[&str]) -> Option<(&'a str, usize)> {
        rules.of(user, organisations.iter().copied()).map(|rule| (&*rule.project, rule.scopes().iter().count()))
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rules: HubRules = "acme:shop, Jane:studio:train ,*:guests,".parse().unwrap();
        assert_eq!(rules.projects().collect::<Vec<_>>(), ["shop", "studio", "guests"]);
        assert!(rules.admit_everyone());
        assert_eq!(found(&rules, "jane", &[]), Some(("studio", 3)));
        assert_eq!(found(&rules, "JANE", &["Acme"]), Some(("shop", 2)));
        assert_eq!(found(&rules, "joe", &["acme2"]), Some(("guests", 2)));
        let rules: HubRules = "acme:shop".parse().unwrap();
        assert!(!rules.admit_everyone() && found(&rules, "joe", &["acme-labs", "acme.x"]).is_none());
    }

    #[test]
    fn rules_that_make_no_sense_are_counted_and_not_repeated() {
        for (text, says) in [
            ("", "no rule"),
            (" , ,", "no rule"),
            ("hf_s3cret", "rule 1 is not of the form"),
            ("acme:shop,hf_s3cret:shop:train:x", "rule 2 is not of the form"),
            ("acme:shop:admin", "rule 1 is not of the form"),
            (":shop", "rule 1 names no account"),
            ("a b:shop", "rule 1 names no account"),
            ("acme/s3cret:shop", "rule 1 names no account"),
            ("acme:", "rule 1 names no project"),
            ("acme:S3cret", "rule 1 names no project"),
            ("acme:01930000-0000-7000-8000-000000000000", "rule 1 names no project"),
            ("acme:shop,ACME:other", "rule 2 is for the same account"),
            ("*:shop,acme:shop", "rule 2 comes after"),
            ("*:shop,*:shop", "rule 2 comes after"),
        ] {
            let why = text.parse::<HubRules>().unwrap_err();
            assert!(why.contains(says) && !why.to_lowercase().contains("s3cret"), "{text}: {why}");
        }
    }
}
