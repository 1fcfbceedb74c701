//! The command line.
//!
//! Doc comments here are help texts, in which brackets mark what may be left out.
#![expect(rustdoc::broken_intra_doc_links)]

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use chunkfs_convert::Platform;
use chunkfs_fetch::{FetchError, ImageReference, ManifestSelector};
use chunkfs_format::{ChunkSize, CompressionLevel, DigestAlgorithm, PackSize, SizeError};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

pub(crate) use crate::cache_arguments::{
    CacheArguments, CacheCommand, CachedImageArguments, PinArguments, UsageArguments,
};
pub(crate) use crate::registry_arguments::RegistryArguments;

const IMAGE_FORMS: &str = "docker://HOST[:PORT]/REPOSITORY[:TAG|@DIGEST], oci:FOLDER[:TAG], \
                           s3://BUCKET/PREFIX[:TAG], gs://, az:// or https://HOST/PATH[:TAG]";

/// The length of chunks that small files share, where the chunk size allows it.
const PACK_SIZE_DEFAULT: u64 = 1 << 20;

/// Loads container images lazily: convert once, then start before the download is done.
///
/// An IMAGE is docker://HOST[:PORT]/REPOSITORY[:TAG|@DIGEST], oci:FOLDER[:TAG],
/// s3://BUCKET/PREFIX[:TAG], gs://BUCKET/PREFIX[:TAG], az://CONTAINER/PREFIX[:TAG] or
/// http(s)://HOST/PATH[:TAG].
#[derive(Debug, Parser)]
#[command(name = "chunkfs", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Convert an image, a tar archive or a folder
    Convert(ConvertArguments),
    /// Mount a converted image; files are fetched when they are read
    Mount(MountArguments),
    /// Unmount an image
    #[command(visible_alias = "umount")]
    Unmount(UnmountArguments),
    /// Show what a converted image consists of
    Inspect(InspectArguments),
    /// List files of a converted image
    Ls(LsArguments),
    /// Write the content of a file to standard output
    Cat(CatArguments),
    /// Write the whole tree as a tar archive
    Export(ExportArguments),
    /// Check every structure and every chunk of a converted image at its source
    Verify(VerifyArguments),
    /// Fetch all chunks of a converted image into the cache
    Pull(PullArguments),
    /// Look after the cache folder
    #[command(subcommand)]
    Cache(CacheCommand),
}

#[derive(Debug, Args)]
pub(crate) struct ConvertArguments {
    /// An image, rootfs:FOLDER or tar:FILE (- for stdin)
    #[arg(value_parser = parse_source)]
    pub(crate) source: Source,
    /// An image with a :TAG
    #[arg(value_parser = parse_destination)]
    pub(crate) destination: ImageReference,
    /// Reuse the layers and chunks of this converted image (repeatable)
    #[arg(long, value_name = "IMAGE", value_parser = parse_image)]
    pub(crate) reuse: Vec<ImageReference>,
    /// Put the result beside its original, in the same repository or layout [default form: index]
    #[arg(long, value_enum, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "index")]
    pub(crate) attach: Option<Attach>,
    /// Choose this image of a multi-platform index, as OS/ARCHITECTURE[/VARIANT]
    #[arg(long, value_parser = parse_platform)]
    pub(crate) platform: Option<Platform>,
    /// The length of chunks: a power of two from 64K to 16M
    #[arg(long, value_name = "BYTES", default_value = "1M", value_parser = parse_chunk_size)]
    pub(crate) chunk_size: ChunkSize,
    /// The length of chunks that small files share; 0 gives every file its own [default: 1M, or
    /// the chunk size if that is less]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) pack_size: Option<u64>,
    /// The largest data blob, compressed
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = parse_bytes)]
    pub(crate) blob_size: u64,
    /// How chunks are named
    #[arg(long, value_enum, default_value_t = Digest::Blake3)]
    pub(crate) digest: Digest,
    /// The zstd level, from 1 (fast) to 19 (small)
    #[arg(long, default_value = "3", value_parser = parse_level)]
    pub(crate) level: CompressionLevel,
    /// The number of threads that compress [default: the number of processors]
    #[arg(long, value_name = "COUNT", value_parser = parse_count)]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Print statistics as one JSON object at the end
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
}

impl ConvertArguments {
    /// Returns the length of shared chunks: as asked for, else the default that fits.
    pub(crate) fn pack_size(&self) -> Result<PackSize, SizeError> {
        let fitting = PACK_SIZE_DEFAULT.min(self.chunk_size.bytes().into());
        PackSize::new(self.pack_size.unwrap_or(fitting), self.chunk_size)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attach {
    /// The destination's tag names an image index with both; other runtimes use the original
    Index,
    /// The result refers to the original; no tag changes
    Referrer,
}

/// What is converted.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Image(ImageReference),
    Rootfs(PathBuf),
    Tar(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(reference) => reference.fmt(f),
            Self::Rootfs(path) => write!(f, "rootfs:{}", path.display()),
            Self::Tar(path) => write!(f, "tar:{}", path.display()),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Digest {
    Blake3,
    Sha256,
}

impl From<Digest> for DigestAlgorithm {
    fn from(digest: Digest) -> Self {
        match digest {
            Digest::Blake3 => Self::Blake3,
            Digest::Sha256 => Self::Sha256,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct MountArguments {
    /// The converted image
    #[arg(value_parser = parse_image)]
    pub(crate) image: ImageReference,
    /// An existing folder
    pub(crate) mountpoint: PathBuf,
    #[command(flatten)]
    pub(crate) cache: CacheArguments,
    /// What to fetch before it is read
    #[arg(long, value_enum, default_value_t = PrefetchMode::None)]
    pub(crate) prefetch: PrefetchMode,
    /// The number of requests that prefetch has under way
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = parse_count)]
    pub(crate) prefetch_workers: NonZeroUsize,
    /// When to verify chunks
    #[arg(long, value_enum, default_value_t = Verify::Load)]
    pub(crate) verify: Verify,
    /// How files are served
    #[arg(long, value_enum, default_value_t = Frontend::Fuse)]
    pub(crate) frontend: Frontend,
    /// Let the kernel read this far ahead
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) read_ahead: Option<u64>,
    /// Write statistics to this file when the mount ends, and on SIGUSR1
    #[arg(long, value_name = "FILE")]
    pub(crate) stats: Option<PathBuf>,
    /// Return when the mount answers, and serve it in the background
    #[arg(long)]
    pub(crate) daemon: bool,
    /// Set for the background process of --daemon: print a line when the mount answers
    #[arg(long, hide = true, conflicts_with = "daemon")]
    pub(crate) report_ready: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrefetchMode {
    None,
    All,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Verify {
    /// When they are fetched
    Fetch,
    /// Also when they are first used from the cache folder
    Load,
    /// Whenever anything is read from the cache folder
    Always,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Frontend {
    Fuse,
}

#[derive(Debug, Args)]
pub(crate) struct UnmountArguments {
    /// The folder on which an image is mounted
    pub(crate) mountpoint: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// The converted image
    #[arg(value_parser = parse_image)]
    pub(crate) image: ImageReference,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
}

#[derive(Debug, Args)]
pub(crate) struct LsArguments {
    /// Show mode, links, owner, length and time
    #[arg(short = 'l', long)]
    pub(crate) long: bool,
    /// Go into folders
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// The converted image
    #[arg(value_parser = parse_image)]
    pub(crate) image: ImageReference,
    /// A path in the image, with or without a leading slash
    #[arg(default_value = "/")]
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
}

#[derive(Debug, Args)]
pub(crate) struct CatArguments {
    /// The converted image
    #[arg(value_parser = parse_image)]
    pub(crate) image: ImageReference,
    /// A path in the image, with or without a leading slash; symbolic links are followed
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The converted image
    #[arg(value_parser = parse_image)]
    pub(crate) image: ImageReference,
    /// The archive to write (- for stdout)
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// The converted image
    #[arg(value_parser = parse_image)]
    pub(crate) image: ImageReference,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
}

#[derive(Debug, Args)]
pub(crate) struct PullArguments {
    /// The converted image
    #[arg(value_parser = parse_image)]
    pub(crate) image: ImageReference,
    #[command(flatten)]
    pub(crate) cache: CacheArguments,
    /// The number of requests under way
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = parse_count)]
    pub(crate) workers: NonZeroUsize,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
}

/// Parses the command line; exits with code 2 if it is wrong.
pub(crate) fn parse() -> Arguments {
    let arguments = Arguments::parse();
    if let Command::Convert(convert) = &arguments.command
        && let Err(problem) = convert.pack_size()
    {
        let mut command = Arguments::command();
        command.build();
        let convert = command.find_subcommand_mut("convert");
        let convert = convert.expect("the command line has the subcommand `convert`");
        convert.error(ErrorKind::ValueValidation, problem).exit();
    }
    arguments
}

/// Parses the name of an image; suggests the scheme that was probably meant.
pub(crate) fn parse_image(text: &str) -> Result<ImageReference, String> {
    let problem = match text.parse() {
        Ok(reference) => return Ok(reference),
        Err(problem) => problem,
    };
    if text.contains("://") || text.starts_with("oci:") {
        return Err(FetchError::to_string(&problem));
    }
    let (folder, _) = text.rsplit_once(':').unwrap_or((text, ""));
    let scheme =
        if Path::new(text).exists() || Path::new(folder).exists() { "oci:" } else { "docker://" };
    Err(format!("write {scheme}{text}; an image is {IMAGE_FORMS}"))
}

fn parse_source(text: &str) -> Result<Source, String> {
    if let Some(path) = text.strip_prefix("rootfs:") {
        return Ok(Source::Rootfs(path.into()));
    }
    if let Some(path) = text.strip_prefix("tar:") {
        return Ok(Source::Tar(path.into()));
    }
    if !text.contains("://") && !text.starts_with("oci:") {
        return Err(format!("write {IMAGE_FORMS}, rootfs:FOLDER or tar:FILE"));
    }
    text.parse().map(Source::Image).map_err(|problem: FetchError| problem.to_string())
}

fn parse_destination(text: &str) -> Result<ImageReference, String> {
    let reference = parse_image(text)?;
    match reference.selector() {
        Some(ManifestSelector::Tag(_)) => Ok(reference),
        Some(_) => Err("a digest cannot be chosen; end it with :TAG".to_owned()),
        None => Err("it names no tag; end it with :TAG".to_owned()),
    }
}

fn parse_chunk_size(text: &str) -> Result<ChunkSize, String> {
    ChunkSize::new(parse_bytes(text)?).map_err(|problem| problem.to_string())
}

/// Parses a number of bytes with an optional suffix K, M or G.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits_len = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, suffix) = text.split_at(digits_len);
    let shift = match suffix {
        "" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        _ => return Err("write a number with an optional K, M or G, such as 256K".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "write a number of bytes".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is too large".to_owned())
}

fn parse_count(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "write a number from 1 on".to_owned())
}

fn parse_level(text: &str) -> Result<CompressionLevel, String> {
    let level = text.parse().ok().and_then(CompressionLevel::new);
    level.ok_or_else(|| "write a level from 1 to 19".to_owned())
}

fn parse_platform(text: &str) -> Result<Platform, String> {
    Platform::parse(text).ok_or_else(|| "write OS/ARCHITECTURE, such as linux/amd64".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn byte_counts_have_suffixes() {
        let cases = [("0", 0), ("12", 12), ("64K", 65_536), ("1M", 1 << 20), ("2GiB", 2 << 30)];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1T", "1.5M", "99999999999999999999", "18446744073709551615K"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
