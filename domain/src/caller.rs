//! The sender of a request. Every function that reads or writes a user's rows takes a [`Caller`] as its first argument,
//! and its SQL names the caller's project. A row of another project does not exist for the caller: reading it by id is
//! `NotFound`.
//!
//! Not here: how a request proves who sent it (`api`), and which scope a route asks for (`api`).

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Error, KeyId, ProjectId, Result};

/// The sender of a request, and the project that it works in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    project: ProjectId,
    principal: Principal,
    scopes: Scopes,
    /// Address of the client, or of the proxy before it.
    address: Option<IpAddr>,
}

/// How the caller was authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Not at all: the installation has no key.
    Anonymous,
    /// By the database's own password: a command of the operator.
    Operator,
    /// By a key.
    Key(KeyId),
    /// By a token of the Hugging Face Hub; the name of the account that owns it, as the Hub spells it.
    Hub(Arc<str>),
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Scope {
    /// Read what the project has.
    Read,
    /// Make pictures. Implies `read`.
    Generate,
    /// Make datasets and train on them. Implies `read`.
    Train,
    /// Import, export, load and delete models. Implies `read`.
    Models,
    /// Manage keys and projects, and read files of the server's disk.
    Admin,
}

impl Scope {
    pub const ALL: [Scope; 5] = [Scope::Read, Scope::Generate, Scope::Train, Scope::Models, Scope::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Generate => "generate",
            Self::Train => "train",
            Self::Models => "models",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| {
            let message = format!("`{text}` is not a scope; use `read`, `generate`, `train`, `models` or `admin`.");
            Error::invalid("scopes", message)
        })
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    pub const NONE: Scopes = Scopes(0);
    /// Those of a key that asks for none in particular.
    pub const USUAL: Scopes = Scopes::of(&[Scope::Read, Scope::Generate, Scope::Train, Scope::Models]);
    pub const ALL: Scopes = Scopes::of(&Scope::ALL);

    pub const fn of(scopes: &[Scope]) -> Scopes {
        let (mut bits, mut rest) = (0, scopes);
        while let [scope, others @ ..] = rest {
            bits |= 1 << *scope as u8;
            rest = others;
        }
        Scopes(bits)
    }

    /// The set as a row stores it. Errors: `Internal` for a scope that this version does not know.
    pub(crate) fn of_names(names: &[String]) -> Result<Scopes> {
        let scopes = names.iter().map(|name| name.parse::<Scope>().map_err(Error::internal));
        Ok(Self::of(&scopes.collect::<Result<Vec<_>>>()?))
    }

    pub(crate) fn names(self) -> Vec<String> {
        self.iter().map(|scope| scope.as_str().to_owned()).collect()
    }

    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }

    /// With `read`, which `generate`, `train` and `models` imply.
    pub const fn with_implied(self) -> Scopes {
        let reads = self.contains(Scope::Generate) || self.contains(Scope::Train) || self.contains(Scope::Models);
        if reads { Scopes(self.0 | Self::of(&[Scope::Read]).0) } else { self }
    }

    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }
}

impl Caller {
    pub fn new(project: ProjectId, principal: Principal, scopes: Scopes) -> Self {
        Self { project, principal, scopes, address: None }
    }

    /// The caller at an installation without keys: may do everything in the project `default`.
    pub fn anonymous() -> Self {
        Self::new(ProjectId::DEFAULT, Principal::Anonymous, Scopes::ALL)
    }

    /// A command that has the database anyway.
    pub fn operator(project: ProjectId) -> Self {
        Self::new(project, Principal::Operator, Scopes::ALL)
    }

    /// Errors: `Forbidden` without the scope.
    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.scopes.contains(scope) {
            return Ok(());
        }
        let what = if matches!(self.principal, Principal::Hub(_)) { "token" } else { "key" };
        Err(Error::Forbidden { message: format!("The {what} lacks the scope `{}`.", scope.as_str()) })
    }

    /// The same caller at this address.
    #[must_use]
    pub fn at(self, address: Option<IpAddr>) -> Self {
        Self { address, ..self }
    }

    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The same caller in another project.
    pub fn in_project(self, project: ProjectId) -> Self {
        Self { project, ..self }
    }

    pub(crate) fn may_enter_projects(&self) -> bool {
        self.scopes.contains(Scope::Admin)
    }

    pub fn project(&self) -> ProjectId {
        self.project
    }

    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Its key, if it has one.
    pub(crate) fn key(&self) -> Option<KeyId> {
        match self.principal {
            Principal::Key(id) => Some(id),
            Principal::Anonymous | Principal::Operator | Principal::Hub(_) => None,
        }
    }

    /// Its account of the Hugging Face Hub, if it has one.
    pub(crate) fn account(&self) -> Option<&str> {
        match &self.principal {
            Principal::Hub(account) => Some(account),
            Principal::Anonymous | Principal::Operator | Principal::Key(_) => None,
        }
    }

    pub fn scopes(&self) -> Scopes {
        self.scopes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_a_set() {
        let some = Scopes::of(&[Scope::Read, Scope::Train, Scope::Read]);
        assert!(some.contains(Scope::Read) && some.contains(Scope::Train));
        assert!(!some.contains(Scope::Generate) && !some.contains(Scope::Models) && !some.contains(Scope::Admin));
        assert!(Scopes::ALL.contains(Scope::Admin));
        assert_eq!(Scopes::of_names(&some.names()).unwrap(), some);
        assert!(Scopes::of_names(&["root".to_owned()]).is_err());
    }

    #[test]
    fn whoever_makes_something_may_read_it() {
        for scope in [Scope::Generate, Scope::Train, Scope::Models] {
            assert!(Scopes::of(&[scope]).with_implied().contains(Scope::Read), "{scope:?}");
        }
        assert_eq!(Scopes::of(&[Scope::Admin]).with_implied(), Scopes::of(&[Scope::Admin]));
    }
}
