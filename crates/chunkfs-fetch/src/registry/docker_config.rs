//! Docker's `config.json`.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::credentials::{Credential, Credentials, CredentialsReason};
use crate::error::FetchError;
use crate::task;

const CONFIG_LEN_MAX: u64 = 1 << 20;

/// Credentials from docker's `config.json`, or podman's `auth.json`, credential helpers included.
///
/// The file is read whenever a credential is asked for, so a new login is found. A missing file
/// means anonymous access. Helpers (`docker-credential-NAME`) are run as the file says.
///
/// Reading blocks: within a tokio runtime, as a [`RegistrySource`](crate::RegistrySource) calls
/// it, this happens on the blocking pool, elsewhere on the calling thread.
#[derive(Debug, Clone)]
pub struct DockerConfigCredentials {
    path: PathBuf,
}

impl DockerConfigCredentials {
    /// Uses the file at `path`.
    pub fn from_path(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

#[async_trait]
impl Credentials for DockerConfigCredentials {
    async fn credentials(
        &self,
        host: &str,
        _reason: CredentialsReason,
    ) -> Result<Option<Credential>, FetchError> {
        let (path, host) = (self.path.clone(), host.to_owned());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => task::run_blocking(&runtime, move || read(&path, &host)).await,
            Err(_) => read(&path, &host),
        }
    }
}

fn read(path: &Path, host: &str) -> Result<Option<Credential>, FetchError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FetchError::credentials(host, FetchError::io(path, error))),
    };
    let reader = BufReader::new(file.take(CONFIG_LEN_MAX));
    match docker_credential::get_credential_from_reader(reader, config_key(host)) {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Ok(Some(Credential::Password { username, password }))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credential::IdentityToken(token))),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        Err(error) => Err(FetchError::credentials(host, problem(&error))),
    }
}

/// Docker Hub has another name in the file than on the network.
fn config_key(host: &str) -> &str {
    if host == "registry-1.docker.io" { "https://index.docker.io/v1/" } else { host }
}

/// Describes an error without the output of the helper, which may hold the secret.
fn problem(error: &CredentialRetrievalError) -> String {
    match error {
        CredentialRetrievalError::HelperFailure { helper, .. } => {
            format!("the credential helper {helper} failed")
        }
        CredentialRetrievalError::HelperCommunicationError => {
            "the credential helper cannot be run".to_owned()
        }
        CredentialRetrievalError::MalformedHelperResponse => {
            "the credential helper answered with something else than a credential".to_owned()
        }
        CredentialRetrievalError::ConfigReadError => "the file is not valid JSON".to_owned(),
        _ => "the entry of this host cannot be decoded".to_owned(),
    }
}
