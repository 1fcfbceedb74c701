//! Opens a chunkfs image and reads its files, fetching what is read when it is read.
//!
//! This is the crate to embed. An [`Image`] needs one manifest and one index, two requests in
//! all, before its whole tree is there; content follows chunk by chunk, verified, through a
//! [`Cache`] that all images share.
//!
//! * [`Image`]: [open](Image::open), then read by inode: [async](Image::read),
//!   [blocking](Image::read_at_blocking) or [by callback](Image::submit_read). The tree is the
//!   [`Index`], reached by [`Image::index`].
//! * [`OpenOptions`]: the runtime, the cache, how much to verify.
//! * [`Prefetch`]: fills the cache in the background.
//! * [`Image::counters`]: what was asked for.
//!
//! There is no daemon, no global and no hidden thread: fetching and decoding run on the tokio
//! runtime of the cache. Readahead ends when the last clone of an image is dropped, a read or a
//! prefetch when its own value is.
//!
//! # Example
//!
//! ```no_run
//! use chunkfs_image::{Cache, CacheOptions, Image, OpenOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = tokio::runtime::Handle::current();
//! let cache = Cache::open(CacheOptions::new(runtime).with_folder("/var/cache/chunkfs"));
//! let reference = "docker://registry.example/team/app:v1".parse()?;
//! let image = Image::open(&reference, &cache, OpenOptions::default()).await?;
//!
//! let index = image.index();
//! let etc = index.lookup_path(b"/etc").ok_or("no /etc")?;
//! for entry in index.dirents(&etc, 0) {
//!     println!("{}", String::from_utf8_lossy(entry.name));
//! }
//! let file = index.lookup_path(b"/etc/os-release").ok_or("no such file")?;
//! let head = image.read(&file, 0, 100).await?;
//! println!("{}", String::from_utf8_lossy(&head));
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//! The index is held in memory: about 100 bytes per file. Reads are verified when bytes come from
//! the network, and at level [`VerifyLevel::Load`] whenever they come from disk; what the kernel
//! keeps in its page cache afterwards is the kernel's. One read returns at most [`READ_LEN_MAX`]
//! bytes, unless it fills a buffer of the caller's.
#![forbid(unsafe_code)]

mod cached;
mod error;
mod image;
mod neighbourhood;
mod open;
mod order;
mod prefetch;
mod read;
mod readahead;
mod resolve;

pub use chunkfs_cache::{
    Cache, CacheCounters, CacheDomain, CacheError, CacheOptions, DiskEvent, VerifyLevel,
};
pub use chunkfs_fetch::{ImageReference, ManifestSelector};
pub use chunkfs_index::Index;
pub use error::{OpenError, ReadError};
pub use image::{Image, ImageCounters};
pub use open::OpenOptions;
pub use prefetch::{Prefetch, PrefetchError, PrefetchOptions, PrefetchWatcher};
pub use read::READ_LEN_MAX;
