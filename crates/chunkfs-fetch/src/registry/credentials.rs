//! Where secrets come from.

use std::fmt;

use async_trait::async_trait;

use crate::error::FetchError;

/// A secret that a registry accepts. It never shows up in `Debug` output or errors.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// A user name with a password or an access token.
    Password {
        /// The user name.
        username: String,
        /// The password.
        password: String,
    },
    /// An identity token: an OAuth 2 refresh token.
    IdentityToken(String),
}

/// Why a credential is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialsReason {
    /// The registry wants one for the first time.
    Initial,
    /// The one that was given last does not work, or no longer; asking again may give a fresh one.
    Rejected,
}

/// A source of credentials.
///
/// It is asked when a registry first demands authorization, and again whenever the registry refuses
/// what it gave, so that short-lived cloud credentials can be replaced. Calls are not frequent:
/// the answer is kept while it works.
#[async_trait]
pub trait Credentials: Send + Sync + fmt::Debug {
    /// Returns the credential for `host` (with port, if it has one), or `None` for anonymous access.
    ///
    /// # Errors
    /// [`FetchError::Credentials`], made by [`FetchError::credentials`].
    async fn credentials(
        &self,
        host: &str,
        reason: CredentialsReason,
    ) -> Result<Option<Credential>, FetchError>;
}

/// No credentials: what public images need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnonymousCredentials;

/// The same credential for every host.
#[derive(Debug, Clone)]
pub struct StaticCredentials {
    credential: Credential,
}

impl StaticCredentials {
    /// Creates a source that always gives `credential`.
    pub fn new(credential: Credential) -> Self {
        Self { credential }
    }
}

impl Credential {
    /// Creates a credential from a user name and a password.
    pub fn password(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Password { username: username.into(), password: password.into() }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(..)",
            Self::IdentityToken(_) => "IdentityToken(..)",
        })
    }
}

#[async_trait]
impl Credentials for AnonymousCredentials {
    async fn credentials(
        &self,
        _host: &str,
        _reason: CredentialsReason,
    ) -> Result<Option<Credential>, FetchError> {
        Ok(None)
    }
}

#[async_trait]
impl Credentials for StaticCredentials {
    async fn credentials(
        &self,
        _host: &str,
        _reason: CredentialsReason,
    ) -> Result<Option<Credential>, FetchError> {
        Ok(Some(self.credential.clone()))
    }
}
