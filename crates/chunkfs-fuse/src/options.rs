//! How an image is mounted.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use chunkfs_image::ReadError;

/// What is told of every read that failed.
pub(crate) type ReadErrorObserver = Arc<dyn Fn(&ReadError) + Send + Sync>;

/// How an image is mounted.
#[derive(Clone)]
#[non_exhaustive]
pub struct MountOptions {
    /// How many threads take requests from the kernel. Default: 2.
    ///
    /// They only take requests and answer what needs no waiting; reads that wait for a chunk hold
    /// none of them, whatever their number.
    pub threads: NonZeroUsize,
    /// How far the kernel reads ahead of sequential readers, in bytes. Default: 128 KiB.
    ///
    /// The kernel also reads this much around a page fault, so that 1 MiB serves sequential readers
    /// better and makes a start that maps libraries fetch some 8 % more; 256 KiB makes it fetch 3 % more.
    ///
    /// Best effort, as only root may set it; see
    /// [`Mount::read_ahead_len`](crate::Mount::read_ahead_len).
    pub read_ahead_len: u64,
    /// Whether other users than the mounting one may look at the tree. Default: whether the
    /// process runs as root. Others need `user_allow_other` in `/etc/fuse.conf`.
    pub allow_other: Option<bool>,
    /// What stands in the first column of `/proc/mounts`. Default: `chunkfs`.
    ///
    /// Cut to 255 bytes; when an unprivileged process mounts, commas and backslashes become `_`.
    pub source_name: String,
    /// How long the kernel may answer from its caches: names, missing names and attributes.
    /// Default: for ever, since an image never changes.
    pub kernel_cache_timeout: Duration,
    pub(crate) read_error_observer: Option<ReadErrorObserver>,
}

/// 136 years: what fits into the kernel's arithmetic on every architecture.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            threads: NonZeroUsize::new(2).expect("two is not zero"),
            read_ahead_len: 128 << 10,
            allow_other: None,
            source_name: "chunkfs".to_owned(),
            kernel_cache_timeout: FOR_EVER,
            read_error_observer: None,
        }
    }
}

impl MountOptions {
    /// Sets how many threads take requests from the kernel.
    #[must_use]
    pub fn with_threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets how far the kernel reads ahead of sequential readers.
    #[must_use]
    pub fn with_read_ahead_len(mut self, len: u64) -> Self {
        self.read_ahead_len = len;
        self
    }

    /// Sets whether other users may look at the tree.
    #[must_use]
    pub fn with_allow_other(mut self, allow_other: bool) -> Self {
        self.allow_other = Some(allow_other);
        self
    }

    /// Sets what stands in the first column of `/proc/mounts`.
    #[must_use]
    pub fn with_source_name(mut self, name: impl Into<String>) -> Self {
        self.source_name = name.into();
        self
    }

    /// Sets how long the kernel may answer from its caches; longer than 136 years is cut to that.
    #[must_use]
    pub fn with_kernel_cache_timeout(mut self, timeout: Duration) -> Self {
        self.kernel_cache_timeout = timeout.min(FOR_EVER);
        self
    }

    /// Sets what is told of every read that failed, for logging.
    ///
    /// Readers only see `EIO`; the error names the chunk, the blob and the cause. The observer runs
    /// on whichever thread the read ended, before the reader is answered: it must not block, and
    /// must not touch the mount.
    #[must_use]
    pub fn with_read_error_observer(
        mut self,
        observer: impl Fn(&ReadError) + Send + Sync + 'static,
    ) -> Self {
        self.read_error_observer = Some(Arc::new(observer));
        self
    }
}

impl fmt::Debug for MountOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountOptions")
            .field("threads", &self.threads)
            .field("read_ahead_len", &self.read_ahead_len)
            .field("allow_other", &self.allow_other)
            .field("source_name", &self.source_name)
            .field("kernel_cache_timeout", &self.kernel_cache_timeout)
            .finish_non_exhaustive()
    }
}
