//! Verified chunks: from memory, from disk, or fetched, and fetched once however many want them.
//!
//! This crate is the one place where chunks are verified. Whatever a store, a network or another
//! process hands in, a [`Loader`] returns only bytes whose digest is the chunk's id.
//!
//! * [`Cache`]: what all images of a process share: the memory tier, the disk tier, the budgets.
//! * [`Loader`]: loads the chunks of one image from the cache, else from its [`BlobSource`].
//! * [`ChunkRequest`]: a chunk, and where its stored bytes are.
//! * [`Neighbours`]: what to fetch along with a missing chunk.
//! * [`Cache::usage`], [`pin`](Cache::pin), [`gc`](Cache::gc), [`verify`](Cache::verify): upkeep of the
//!   folder, which any number of processes share without a daemon.
//! * [`CacheDomain`]: keeps tenants apart.
//! * [`files`]: the file operations of the disk tier as a trait, for tests.
//! * [`CacheCounters`]: what was hit, missed, fetched and found damaged.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use chunkfs_cache::{Cache, CacheOptions, ChunkRequest, VerifyLevel};
//! use chunkfs_fetch::{BlobDescriptor, MemorySource, Priority};
//! use chunkfs_format::{Codec, DigestAlgorithm};
//!
//! let runtime = tokio::runtime::Runtime::new()?;
//! let source = MemorySource::new();
//! let blob = source.insert_blob(bytes::Bytes::from_static(b"hello chunk"));
//!
//! let cache = Cache::open(CacheOptions::new(runtime.handle().clone()));
//! let loader = cache.loader(Arc::new(source), VerifyLevel::Load);
//! let algorithm = DigestAlgorithm::Blake3;
//! let chunk = ChunkRequest {
//!     algorithm,
//!     id: algorithm.chunk_id(b"chunk"),
//!     uncompressed_len: 5,
//!     blob,
//!     offset: 6,
//!     stored_len: 5,
//!     codec: Codec::Raw,
//!     number: 0,
//! };
//! // Any executor will do; fetching happens on the runtime given above.
//! let bytes = futures::executor::block_on(loader.load(&chunk, Priority::Demand))?;
//! assert_eq!(&bytes[..], b"chunk");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`BlobSource`]: chunkfs_fetch::BlobSource

mod cache;
mod counters;
mod disk;
mod error;
mod fetch;
mod file_lease;
pub mod files;
mod flight;
mod health;
mod key;
mod loader;
mod places;
mod probe;
mod slab;
mod upkeep;
mod writing;

pub use cache::{BackgroundWrite, Cache, CacheOptions};
pub use counters::CacheCounters;
pub use error::{CacheError, LoadError};
pub use health::{DiskEvent, DiskObserver};
pub use key::{CacheDomain, ChunkKey};
pub use loader::{ChunkFuture, ChunkRequest, Loader, Neighbours, VerifyLevel};
pub use slab::{CacheUsage, ImageUsage};
pub use upkeep::{CachedImage, Collected, Verified};
