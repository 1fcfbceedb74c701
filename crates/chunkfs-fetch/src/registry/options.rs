//! How a registry is talked to.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::client;
use super::credentials::{AnonymousCredentials, Credentials};
use super::hosts::Hosts;
use super::mirrors::{Mirror, Mirrors};
use super::whole::WholeOptions;

/// How a [`RegistrySource`](crate::RegistrySource) talks to its registry.
///
/// The defaults suit reads on behalf of a file system: errors surface within a minute.
///
/// Clones share what is learned about hosts: a pause that a registry asks for on behalf of one
/// image is kept by all images whose sources are made from clones of the same options.
#[derive(Clone)]
pub struct RegistryOptions {
    pub(super) runtime: Handle,
    pub(super) credentials: Arc<dyn Credentials>,
    pub(super) plain_http: bool,
    pub(super) loopback_https: bool,
    pub(super) connections_max: usize,
    pub(super) prefetch_connections_max: usize,
    pub(super) connect_timeout: Duration,
    pub(super) progress_timeout: Duration,
    pub(super) deadline: Duration,
    pub(super) retries_max: Option<u32>,
    pub(super) backoff: Duration,
    pub(super) user_agent: String,
    pub(super) root_certificates_pem: Vec<Vec<u8>>,
    pub(super) proxies: Vec<(String, String)>,
    /// Whether these options are those of a mirror, which others stand behind.
    pub(super) is_of_mirror: bool,
    pub(super) whole_blobs: WholeOptions,
    pub(super) hedge_after: Option<Duration>,
    pub(super) hosts: Arc<Hosts>,
    pub(super) mirrors: Mirrors,
}

impl RegistryOptions {
    /// Creates options with the default of every value and no credentials.
    ///
    /// All requests run on `runtime`, which must have its I/O and time drivers enabled.
    pub fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            credentials: Arc::new(AnonymousCredentials),
            plain_http: false,
            loopback_https: false,
            connections_max: 16,
            prefetch_connections_max: 10,
            connect_timeout: Duration::from_secs(5),
            progress_timeout: Duration::from_secs(15),
            deadline: Duration::from_secs(60),
            retries_max: None,
            backoff: Duration::from_millis(100),
            user_agent: concat!("chunkfs/", env!("CARGO_PKG_VERSION")).to_owned(),
            root_certificates_pem: Vec::new(),
            proxies: Vec::new(),
            is_of_mirror: false,
            whole_blobs: WholeOptions { memory_len_max: 128 << 20, folder: None },
            hedge_after: Some(Duration::from_secs(2)),
            hosts: Arc::default(),
            mirrors: Mirrors::default(),
        }
    }

    /// Sets where secrets come from; the default is anonymous access.
    pub fn with_credentials(mut self, credentials: Arc<dyn Credentials>) -> Self {
        self.credentials = credentials;
        self
    }

    /// Sets whether to use plain HTTP with a registry on another machine; the default is no.
    ///
    /// Registries on loopback addresses are always talked to by plain HTTP, unless
    /// [`with_loopback_https`](Self::with_loopback_https) says otherwise.
    pub fn with_plain_http(mut self, plain_http: bool) -> Self {
        self.plain_http = plain_http;
        self
    }

    /// Sets whether to use HTTPS with a registry on a loopback address; the default is no.
    pub fn with_loopback_https(mut self, loopback_https: bool) -> Self {
        self.loopback_https = loopback_https;
        self
    }

    /// Sets how many requests run at once (16; at least 1 is used).
    pub fn with_connections_max(mut self, connections_max: usize) -> Self {
        self.connections_max = connections_max.max(1);
        self
    }

    /// Sets how many of these requests may be prefetch (10). One is always left for demand reads,
    /// if there are two or more.
    pub fn with_prefetch_connections_max(mut self, prefetch_connections_max: usize) -> Self {
        self.prefetch_connections_max = prefetch_connections_max.max(1);
        self
    }

    /// Sets how long making a connection may take (5 s).
    pub fn with_connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// Sets how long a request may go without any progress before it is tried anew (15 s).
    ///
    /// Less than 1 KiB for each second of this time is no progress.
    pub fn with_progress_timeout(mut self, progress_timeout: Duration) -> Self {
        self.progress_timeout = progress_timeout;
        self
    }

    /// Asks a mirror before the registry `host` (with port, if it has one); several are asked in order.
    ///
    /// A mirror gets one retry and a quarter of the deadline, at most 15 s. One that fails is passed
    /// over for a second, longer with each further failure, by all sources of these options. Blobs
    /// that are read whole for conversion, and all writes, go to the registry itself.
    pub fn with_mirror(mut self, host: impl Into<String>, mirror: Mirror) -> Self {
        self.mirrors.given.push((host.into(), mirror));
        self
    }

    /// Reads mirrors from a folder with containerd's layout: `HOST/hosts.toml`, else
    /// `_default/hosts.toml`. The files are read whenever a source is made.
    ///
    /// `server`, `capabilities`, `ca`, `header` and `override_path` are heeded; `client` and
    /// `skip_verify` are errors, other settings are ignored.
    pub fn with_hosts_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.mirrors.hosts_folder = Some(folder.into());
        self
    }

    /// Sets after how long without any progress a demand read sends a second request, beside the
    /// first, and takes what comes first (2 s); `None` for never. So does a read that is too slow to
    /// meet its deadline, after a sixth of that.
    ///
    /// Only blobs whose ranges are known to be readable get second requests, one per read.
    pub fn with_hedge_after(mut self, hedge_after: Option<Duration>) -> Self {
        self.hedge_after = hedge_after;
        self
    }

    /// Sets how long a range read or a small request may take in all, retries included (60 s).
    ///
    /// Streams and pushes of whole blobs are bounded by progress only.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how often a failed request is tried again.
    ///
    /// By default demand reads are tried again until their deadline, so that a mount survives a
    /// registry that is away for a while, and all other requests 4 times.
    pub fn with_retries_max(mut self, retries_max: u32) -> Self {
        self.retries_max = Some(retries_max);
        self
    }

    /// Sets the pause before the first retry (100 ms); each further one is about twice as long,
    /// up to 5 s.
    pub fn with_backoff(mut self, backoff: Duration) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets the `User-Agent` (`chunkfs/VERSION`).
    pub fn with_user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = user_agent.into();
        self
    }

    /// Trusts the certificates in this PEM text in addition to those of the system.
    pub fn with_root_certificates_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates_pem.push(pem.into());
        self
    }

    /// Uses HTTP proxies by the names of the usual environment variables, in any case: `HTTPS_PROXY`,
    /// `HTTP_PROXY`, `ALL_PROXY`, and `NO_PROXY` for the hosts that are asked directly, as this machine
    /// always is. Other names are ignored, so that a whole environment can be given.
    pub fn with_proxies(
        mut self,
        settings: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        let settings = settings.into_iter().map(|(name, value)| (name.into(), value.into()));
        self.proxies.extend(settings);
        self
    }

    /// Sets how many bytes of whole blobs are kept in memory for servers that ignore ranges
    /// (128 MiB), where there is no [folder](Self::with_whole_blobs_folder) for them. Blobs that are
    /// larger are read from their start for each range on such servers.
    pub fn with_whole_blobs_len_max(mut self, whole_blobs_len_max: u64) -> Self {
        self.whole_blobs.memory_len_max = whole_blobs_len_max;
        self
    }

    /// Keeps whole blobs in files of this folder instead of in memory, `len_max` bytes in all. The files
    /// have no names and are gone with the source.
    pub fn with_whole_blobs_folder(mut self, folder: impl Into<PathBuf>, len_max: u64) -> Self {
        self.whole_blobs.folder = Some((folder.into(), len_max));
        self
    }

    /// Returns whether there is a folder for whole blobs.
    pub fn has_whole_blobs_folder(&self) -> bool {
        self.whole_blobs.folder.is_some()
    }
}

impl RegistryOptions {
    pub(super) fn client(&self, needs_roots: bool) -> client::Settings<'_> {
        client::Settings {
            connect_timeout: self.connect_timeout,
            idle_max: self.connections_max,
            user_agent: &self.user_agent,
            root_certificates_pem: &self.root_certificates_pem,
            proxies: &self.proxies,
            needs_roots,
        }
    }
}

impl fmt::Debug for RegistryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryOptions")
            .field("credentials", &self.credentials)
            .field("plain_http", &self.plain_http)
            .field("loopback_https", &self.loopback_https)
            .field("connections_max", &self.connections_max)
            .field("prefetch_connections_max", &self.prefetch_connections_max)
            .field("connect_timeout", &self.connect_timeout)
            .field("progress_timeout", &self.progress_timeout)
            .field("deadline", &self.deadline)
            .field("retries_max", &self.retries_max)
            .field("backoff", &self.backoff)
            .field("user_agent", &self.user_agent)
            .field("proxies_count", &self.proxies.len())
            .field("root_certificates_count", &self.root_certificates_pem.len())
            .field("whole_blobs", &self.whole_blobs)
            .field("hedge_after", &self.hedge_after)
            .field("mirrors", &self.mirrors)
            .finish()
    }
}
