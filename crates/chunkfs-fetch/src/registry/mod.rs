//! OCI registries over HTTP, and layouts on web servers by the same rules.
//!
//! From the bottom up: `origin` (which URLs are allowed), `client` (TLS, `proxy` and reqwest), `limits`
//! (connections), `hosts` and `patience` (pauses and retries), `pace` and `progress` (what is too slow),
//! `authorizer` (with `slot`, `token` and `challenge`), `exchange` (one request with its authorization and
//! redirects), `blobs` (what is known of each blob), `ahead` (redirects before they are needed), `range`,
//! `whole` (filled by `filling`, into a `room`), `stream`, `push` and `manifest` (the operations), `sites`
//! (mirrors first), `source` (the public type).

mod ahead;
mod authorizer;
mod blobs;
pub(crate) mod body;
mod challenge;
pub(crate) mod client;
pub(crate) mod counters;
mod credentials;
mod date;
mod docker_config;
mod exchange;
mod filling;
pub(crate) mod hosts;
mod hosts_toml;
mod http_layout;
pub(crate) mod limits;
mod manifest;
mod mirrors;
mod options;
pub(crate) mod origin;
mod outgoing;
pub(crate) mod pace;
pub(crate) mod patience;
pub(crate) mod progress;
mod proxy;
mod push;
mod range;
mod room;
mod sites;
mod slot;
mod source;
mod stream;
mod token;
mod turnstile;
mod whole;

pub use credentials::{
    AnonymousCredentials, Credential, Credentials, CredentialsReason, StaticCredentials,
};
pub use docker_config::DockerConfigCredentials;
pub use http_layout::HttpLayout;
pub use mirrors::Mirror;
pub use options::RegistryOptions;
pub use source::RegistrySource;
