//! How an image is converted.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use chunkfs_format::{ChunkSize, CompressionLevel, DigestAlgorithm, PackSize};
use tokio::runtime::Handle;

use crate::progress::ConvertObserver;

/// The default bound on the stored length of a blob: 64 MiB.
pub const BLOB_LEN_MAX_DEFAULT: u64 = 64 << 20;

/// The version of the encoder: it changes whenever equal options give other bytes.
const ENCODER_VERSION: u32 = 2;

/// How a converted image is put beside its original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachForm {
    /// The destination's tag names an image index of both, the original first, so that runtimes
    /// that know nothing of converted images go on with the original.
    Index,
    /// The converted manifest names the original as its subject; no tag changes.
    Referrer,
}

/// How an image is converted, and by which means.
///
/// The chunk size, pack size, blob length, digest algorithm and level decide what the result is.
/// Everything else decides only how it is made: the result is the same bytes for any `jobs`.
#[derive(Clone)]
#[non_exhaustive]
pub struct ConvertOptions {
    /// The length of every chunk of a large file but its last.
    pub chunk_size: ChunkSize,
    /// The target length of packs; files shorter than half of this share chunks.
    pub pack_size: PackSize,
    /// The largest stored length of a blob. A blob with a single chunk may be longer.
    pub blob_len_max: u64,
    /// The algorithm of chunk ids.
    pub algorithm: DigestAlgorithm,
    /// The zstd level of chunks.
    pub level: CompressionLevel,
    /// The number of threads that compress; reading and sending take a few more that mostly wait.
    pub jobs: NonZeroUsize,
    /// Which image of an image index is converted.
    pub platform: Platform,
    /// The runtime that fetches and pushes. It must have worker threads, or be driven by another
    /// thread meanwhile.
    pub runtime: Handle,
    /// The directory for anonymous temporary files, which hold blobs until they are sent.
    pub spool_directory: PathBuf,
    /// The largest uncompressed length of a layer that is read.
    pub layer_len_max: u64,
    /// Whether and how the result is put beside its original.
    pub attach: Option<AttachForm>,
    /// Who is told of progress.
    pub observer: Option<Arc<dyn ConvertObserver>>,
}

impl ConvertOptions {
    /// Returns the default options: 1 MiB chunks, 1 MiB packs, 64 MiB blobs, BLAKE3, level 3, as
    /// many jobs as there are processors, the host's platform, temporary files in `/var/tmp`,
    /// layers up to 1 TiB.
    pub fn new(runtime: Handle) -> Self {
        Self {
            chunk_size: ChunkSize::default(),
            pack_size: PackSize::default(),
            blob_len_max: BLOB_LEN_MAX_DEFAULT,
            algorithm: DigestAlgorithm::default(),
            level: CompressionLevel::default(),
            jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            platform: Platform::host(),
            runtime,
            spool_directory: PathBuf::from("/var/tmp"),
            layer_len_max: 1 << 40,
            attach: None,
            observer: None,
        }
    }

    /// Sets the chunk size and the pack size, which depend on each other.
    pub fn with_sizes(mut self, chunk_size: ChunkSize, pack_size: PackSize) -> Self {
        (self.chunk_size, self.pack_size) = (chunk_size, pack_size);
        self
    }

    /// Sets the largest stored length of a blob.
    pub fn with_blob_len_max(mut self, blob_len_max: u64) -> Self {
        self.blob_len_max = blob_len_max;
        self
    }

    /// Sets the algorithm of chunk ids.
    pub fn with_algorithm(mut self, algorithm: DigestAlgorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// Sets the zstd level.
    pub fn with_level(mut self, level: CompressionLevel) -> Self {
        self.level = level;
        self
    }

    /// Sets the number of compressing threads.
    pub fn with_jobs(mut self, jobs: NonZeroUsize) -> Self {
        self.jobs = jobs;
        self
    }

    /// Sets which image of an image index is converted.
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Puts the converted image beside its original. The destination must be the repository or layout
    /// that holds the original.
    pub fn with_attach(mut self, attach: Option<AttachForm>) -> Self {
        self.attach = attach;
        self
    }

    /// Sets the directory for temporary files.
    pub fn with_spool_directory(mut self, spool_directory: impl Into<PathBuf>) -> Self {
        self.spool_directory = spool_directory.into();
        self
    }

    /// Sets the largest uncompressed length of a layer.
    pub fn with_layer_len_max(mut self, layer_len_max: u64) -> Self {
        self.layer_len_max = layer_len_max;
        self
    }

    /// Sets who is told of progress.
    pub fn with_observer(mut self, observer: Arc<dyn ConvertObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Returns the text that names everything besides a layer's content that its blobs depend on.
    ///
    /// Fragments carry it; a layer is only reused where it is equal.
    pub fn conversion(&self) -> String {
        let zstd = zstd::zstd_safe::version_number();
        format!(
            "chunkfs/{ENCODER_VERSION} zstd-{}.{}.{} level={} chunk={} pack={} blob={} digest={}",
            zstd / 10_000,
            zstd / 100 % 100,
            zstd % 100,
            self.level,
            self.chunk_size.bytes(),
            self.pack_size.bytes(),
            self.blob_len_max,
            self.algorithm,
        )
    }
}

impl fmt::Debug for ConvertOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConvertOptions")
            .field("conversion", &self.conversion())
            .field("jobs", &self.jobs)
            .field("platform", &self.platform)
            .field("spool_directory", &self.spool_directory)
            .finish_non_exhaustive()
    }
}

/// What an image runs on, in the words of the OCI specification.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// The operating system, such as `linux`.
    pub os: String,
    /// The processor architecture, such as `amd64`.
    pub architecture: String,
    /// The variant of the architecture, such as `v8`; `None` matches any.
    pub variant: Option<String>,
}

impl Platform {
    /// Returns Linux on the architecture that this program was compiled for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Parses `os/architecture` or `os/architecture/variant`, or returns `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/').map(str::to_owned);
        let (os, architecture, variant) = (parts.next()?, parts.next()?, parts.next());
        let is_whole = parts.next().is_none()
            && ![Some(&os), Some(&architecture), variant.as_ref()].contains(&Some(&String::new()));
        is_whole.then_some(Self { os, architecture, variant })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_parse_and_print() {
        for good in ["linux/amd64", "linux/arm64/v8"] {
            assert_eq!(Platform::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm64/", "linux/arm64/v8/x"] {
            assert_eq!(Platform::parse(bad), None, "{bad}");
        }
    }
}
