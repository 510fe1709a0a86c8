//! The sender of a request. Every function that reads or writes a user's rows takes a [`Caller`] as its first argument,
//! and its SQL names the caller's project. A row of another project does not exist for the caller: reading it by id is
//! `NotFound`.
//!
//! For now there is one project, and every caller may do everything in it. Not here: how a request proves who sent it
//! (`api`).

use crate::ProjectId;

/// The sender of a request, and the project that it works in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    project: ProjectId,
    principal: Principal,
    scopes: Scopes,
}

/// How the caller was authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Not at all: the installation requires no key.
    Anonymous,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    /// Read what the project has.
    Read,
    /// Make pictures.
    Generate,
    /// Make datasets and train on them.
    Train,
    /// Import, export, load and delete models.
    Models,
    /// Manage projects and workers.
    Admin,
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    pub const ALL: Scopes = Scopes::of(&[Scope::Read, Scope::Generate, Scope::Train, Scope::Models, Scope::Admin]);

    pub const fn of(scopes: &[Scope]) -> Scopes {
        let (mut bits, mut rest) = (0, scopes);
        while let [scope, others @ ..] = rest {
            bits |= 1 << *scope as u8;
            rest = others;
        }
        Scopes(bits)
    }

    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }
}

impl Caller {
    pub fn new(project: ProjectId, principal: Principal, scopes: Scopes) -> Self {
        Self { project, principal, scopes }
    }

    /// The caller at an installation without keys: may do everything in the project `default`.
    pub fn anonymous() -> Self {
        Self::new(ProjectId::DEFAULT, Principal::Anonymous, Scopes::ALL)
    }

    pub fn project(&self) -> ProjectId {
        self.project
    }

    pub fn principal(&self) -> Principal {
        self.principal
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
    }
}
