//! The part of the command line that is about the cache folder.
//!
//! Doc comments here are help texts.

use std::path::PathBuf;

use chunkfs_fetch::ImageReference;
use clap::{Args, Subcommand};

use crate::arguments::{RegistryArguments, parse_bytes, parse_image};

/// Where chunks are kept, and how many.
#[derive(Debug, Args)]
pub(crate) struct CacheArguments {
    /// Keep chunks in this folder [default: $XDG_CACHE_HOME/chunkfs or ~/.cache/chunkfs]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) cache: Option<PathBuf>,
    /// The most bytes of disk that the folder may take [default: all but the reserve]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) cache_quota: Option<u64>,
    /// The bytes of disk to leave to others [default: 1G]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) cache_reserve: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Show what the folder holds, by image
    Usage(UsageArguments),
    /// Bring the folder within its bounds and give back what nobody uses
    Gc(FolderArguments),
    /// Read every chunk and remove those that are damaged; exit code 1 if there were any
    Verify(FolderArguments),
    /// Keep the chunks of an image from being evicted; `pull` fetches them
    Pin(PinArguments),
    /// Let the chunks of an image be evicted again
    Unpin(CachedImageArguments),
    /// Forget an image and evict the chunks that no other image has
    Rm(CachedImageArguments),
}

#[derive(Debug, Args)]
pub(crate) struct FolderArguments {
    #[command(flatten)]
    pub(crate) cache: CacheArguments,
}

#[derive(Debug, Args)]
pub(crate) struct UsageArguments {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) cache: CacheArguments,
}

#[derive(Debug, Args)]
pub(crate) struct PinArguments {
    /// The converted image
    #[arg(value_parser = parse_image)]
    pub(crate) image: ImageReference,
    #[command(flatten)]
    pub(crate) cache: CacheArguments,
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
}

#[derive(Debug, Args)]
pub(crate) struct CachedImageArguments {
    /// Its name or the start of its id, as `cache usage` shows them
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) cache: CacheArguments,
}
