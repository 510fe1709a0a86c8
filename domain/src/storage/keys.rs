//! The keys that requests to the bucket are signed with.

use std::fmt;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use serde::{Deserialize, Serialize};

/// Where the keys come from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keys {
    /// A pair of keys. With a token they are temporary, and nobody renews them.
    Fixed { access_key: String, secret_key: String, session_token: Option<String> },
    /// Temporary keys that the platform hands out: Amazon's instance roles, containers and web identity. The settings
    /// have Amazon's names in lower case, such as `aws_role_arn`.
    Platform(Vec<(String, String)>),
}

impl Keys {
    /// A pair of keys without a token.
    pub fn fixed(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Self::Fixed { access_key: access_key.into(), secret_key: secret_key.into(), session_token: None }
    }

    pub(super) fn apply(&self, builder: AmazonS3Builder) -> AmazonS3Builder {
        match self {
            Self::Fixed { access_key, secret_key, session_token } => {
                let builder = builder.with_access_key_id(access_key).with_secret_access_key(secret_key);
                match session_token {
                    Some(token) => builder.with_token(token),
                    None => builder,
                }
            }
            Self::Platform(settings) => {
                settings.iter().fold(builder, |builder, (name, value)| match name.parse::<AmazonS3ConfigKey>() {
                    Ok(name) => builder.with_config(name, value),
                    Err(_) => builder,
                })
            }
        }
    }
}

/// Shows no secret.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed { access_key, .. } => f.debug_struct("Fixed").field("access_key", access_key).finish(),
            Self::Platform(settings) => f.debug_tuple("Platform").field(settings).finish(),
        }
    }
}
