//! How an object store is talked to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::registry::hosts::Hosts;

/// How an [`ObjectLayout`](crate::ObjectLayout) talks to its store.
///
/// The defaults suit reads on behalf of a file system, as those of
/// [`RegistryOptions`](crate::RegistryOptions) do: object_store itself would try a request ten
/// times in three minutes.
///
/// Clones share what is learned about hosts: a pause that a store asks for on behalf of one image
/// is kept by all layouts that are connected with clones of the same options.
#[derive(Clone)]
pub struct StoreOptions {
    pub(super) runtime: Handle,
    pub(super) settings: Vec<(String, String)>,
    pub(super) connections_max: usize,
    pub(super) prefetch_connections_max: usize,
    pub(super) connect_timeout: Duration,
    pub(super) progress_timeout: Duration,
    pub(super) deadline: Duration,
    pub(super) retries_max: Option<u32>,
    pub(super) backoff: Duration,
    pub(super) root_certificates_pem: Vec<Vec<u8>>,
    pub(super) hedge_after: Option<Duration>,
    pub(super) hosts: Arc<Hosts>,
}

impl StoreOptions {
    /// Creates options with the default of every value and no settings.
    ///
    /// All requests run on `runtime`, which must have its I/O and time drivers enabled.
    pub fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            settings: Vec::new(),
            connections_max: 16,
            prefetch_connections_max: 10,
            connect_timeout: Duration::from_secs(5),
            progress_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(60),
            retries_max: None,
            backoff: Duration::from_millis(100),
            root_certificates_pem: Vec::new(),
            hedge_after: Some(Duration::from_secs(2)),
            hosts: Arc::default(),
        }
    }

    /// Adds settings by the names of the usual environment variables, in any case:
    /// `AWS_ACCESS_KEY_ID`, `AWS_REGION`, `AWS_ENDPOINT`, `GOOGLE_SERVICE_ACCOUNT`,
    /// `AZURE_STORAGE_ACCOUNT_NAME`, `IDENTITY_ENDPOINT` and so on.
    ///
    /// Names that a store does not know are ignored, so that a whole environment can be given.
    /// Without keys the credentials of the instance, container or workload are used. Values are
    /// never shown. Configuration files of a cloud's tools (`~/.aws`) are not read.
    ///
    /// A few things object_store takes from the environment of the process alone:
    /// `GCE_METADATA_HOST`, `IDENTITY_HEADER`, `AZURITE_BLOB_STORAGE_URL`, and `HOME` for
    /// `.config/gcloud/application_default_credentials.json`.
    pub fn with_settings(
        mut self,
        settings: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        self.settings.extend(settings.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Sets how many requests run at once (16; at least 1 is used).
    pub fn with_connections_max(mut self, connections_max: usize) -> Self {
        self.connections_max = connections_max.max(1);
        self
    }

    /// Sets how many of these requests may be prefetch (10).
    pub fn with_prefetch_connections_max(mut self, prefetch_connections_max: usize) -> Self {
        self.prefetch_connections_max = prefetch_connections_max.max(1);
        self
    }

    /// Sets how long making a connection may take (5 s).
    pub fn with_connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// Sets how long a request may go without any progress before it is tried anew (10 s).
    ///
    /// Less than 1 KiB for each second of this time is no progress.
    pub fn with_progress_timeout(mut self, progress_timeout: Duration) -> Self {
        self.progress_timeout = progress_timeout;
        self
    }

    /// Sets after how long without any progress a demand read sends a second request, beside the
    /// first, and takes what comes first (2 s); `None` for never. So does a read that is too slow to
    /// meet its deadline, after a sixth of that.
    pub fn with_hedge_after(mut self, hedge_after: Option<Duration>) -> Self {
        self.hedge_after = hedge_after;
        self
    }

    /// Sets how long a range read or a small request may take in all, retries included (60 s).
    ///
    /// Small requests to a store that has not yet answered any are given up after a sixth of this.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how often a failed read is tried again, besides two retries within object_store.
    ///
    /// By default demand reads are tried again until their deadline, and other reads 4 times. What
    /// does not look as if it would pass is tried again at most 6 times, and only if the store has
    /// served this layout before; keys that it took until then are waited for.
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

    /// Trusts the certificates in this PEM text in addition to those of the system.
    pub fn with_root_certificates_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates_pem.push(pem.into());
        self
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("settings_count", &self.settings.len())
            .field("connections_max", &self.connections_max)
            .field("prefetch_connections_max", &self.prefetch_connections_max)
            .field("connect_timeout", &self.connect_timeout)
            .field("progress_timeout", &self.progress_timeout)
            .field("deadline", &self.deadline)
            .field("retries_max", &self.retries_max)
            .field("backoff", &self.backoff)
            .field("hedge_after", &self.hedge_after)
            .field("root_certificates_count", &self.root_certificates_pem.len())
            .finish_non_exhaustive()
    }
}
