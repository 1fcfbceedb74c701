//! Looking after a cache folder: what is in it, what may go, what must stay.
//!
//! All of this blocks: call it on a thread where that is allowed.

use std::io;
use std::path::Path;

use chunkfs_format::{ChunkId, ImageId};

use crate::cache::Cache;
use crate::disk::Disk;
use crate::error::CacheError;
use crate::key::{CacheDomain, StoreKey, image_name};
use crate::loader::ChunkRequest;
use crate::slab::{CacheUsage, ImageEntry};

/// An image and its chunks, as the cache is told of it.
#[derive(Debug, Clone)]
pub struct CachedImage<'a> {
    /// The id of the image.
    pub id: ImageId,
    /// What people call it; shown in [`CacheUsage`].
    pub name: &'a str,
    /// The domain that it was opened in.
    pub domain: Option<&'a CacheDomain>,
    /// All its chunks.
    pub chunks: &'a [ChunkRequest],
}

/// What [`Cache::gc`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Collected {
    /// Chunks that were evicted because the folder was over its bounds.
    pub evicted_chunks: u64,
    /// Bytes of disk given back, those of dead writers and damaged records included.
    pub freed_bytes: u64,
    /// Registrations of images of which nothing was left.
    pub forgotten_images: u64,
}

/// What [`Cache::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Chunks that were read and whose digest is right.
    pub good_chunks: u64,
    /// Bytes of them.
    pub good_bytes: u64,
    /// Chunks that were damaged and are gone now, by their ids in hex.
    pub damaged_chunks: Vec<String>,
    /// Chunks of domains whose bytes no domain that was given knows. They are verified when loaded.
    pub unknown_chunks: u64,
}

impl CachedImage<'_> {
    fn name(&self) -> String {
        image_name(self.domain, &self.id)
    }

    fn entry(&self) -> ImageEntry {
        let key = |chunk: &ChunkRequest| {
            (StoreKey::new(self.domain, &chunk.key()), chunk.uncompressed_len)
        };
        let mut chunks: Vec<_> = self.chunks.iter().map(key).collect();
        chunks.sort_unstable();
        chunks.dedup();
        ImageEntry { name: self.name.to_owned(), chunks }
    }
}

impl Cache {
    fn disk(&self) -> Result<&Disk, CacheError> {
        self.inner.disk.as_ref().ok_or(CacheError::NoFolder)
    }

    fn upkeep<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Disk) -> io::Result<T>,
    ) -> Result<T, CacheError> {
        work(self.disk()?).map_err(|source| CacheError::Upkeep { operation, source })
    }

    /// Registers an image, so that [`usage`](Self::usage) can tell what it takes.
    ///
    /// # Errors
    /// [`CacheError`] if there is no folder or it cannot be written.
    pub fn register(&self, image: &CachedImage<'_>) -> Result<(), CacheError> {
        self.upkeep("an image cannot be registered", |disk| {
            disk.store.register(&image.name(), &image.entry())
        })
    }

    /// Keeps the chunks of an image from being evicted, those that come later too. Durable once it
    /// returns. Fetches nothing: see [`is_complete`](Self::is_complete).
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn pin(&self, image: &CachedImage<'_>) -> Result<(), CacheError> {
        self.upkeep("an image cannot be pinned", |disk| {
            disk.store.pin(&image.name(), &image.entry())
        })
    }

    /// Lets the chunks of an image be evicted again; returns whether it was pinned.
    ///
    /// `id` is that of [`ImageUsage`](crate::ImageUsage).
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn unpin(&self, id: &str) -> Result<bool, CacheError> {
        self.upkeep("an image cannot be unpinned", |disk| disk.store.unpin(id))
    }

    /// Returns whether all chunks of an image are on disk; reads the directory only.
    ///
    /// # Errors
    /// [`CacheError`] if there is no folder or it cannot be read.
    pub fn is_complete(&self, image: &CachedImage<'_>) -> Result<bool, CacheError> {
        self.upkeep("the cache folder cannot be read", |disk| {
            for (key, len) in image.entry().chunks {
                if disk.store.find(&key, len)?.is_none() {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Forgets an image and evicts its chunks, but for those that other registered images have.
    /// Returns the bytes of disk that this gave back, or `None` if there is no such image.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn remove_image(&self, id: &str) -> Result<Option<u64>, CacheError> {
        self.upkeep("an image cannot be removed", |disk| disk.store.remove_image(id))
    }

    /// Returns what is in the folder. Reads the directory and the registrations.
    ///
    /// # Errors
    /// [`CacheError`] if there is no folder or it cannot be read.
    pub fn usage(&self) -> Result<CacheUsage, CacheError> {
        let usage = self.upkeep("the cache folder cannot be read", |disk| disk.store.usage())?;
        Ok(CacheUsage { directory_memory_len: self.inner.directory_memory_len(), ..usage })
    }

    /// Cleans up: what dead writers left, space that nobody accounts for, registrations of which nothing
    /// is left, and what is over the quota or in the reserve. Never needed for correctness.
    ///
    /// # Errors
    /// [`CacheError`] if there is no folder or it cannot be written.
    pub fn gc(&self) -> Result<Collected, CacheError> {
        self.upkeep("the cache folder cannot be cleaned up", |disk| {
            let (swept, forgotten_images) = disk.store.gc()?;
            let (evicted_chunks, freed_bytes) = (swept.evicted_count, swept.freed_len);
            Ok(Collected { evicted_chunks, freed_bytes, forgotten_images })
        })
    }

    /// Reads every chunk and removes those whose bytes are not right. Those of domains can be verified
    /// with the domains only.
    ///
    /// # Errors
    /// [`CacheError`] if there is no folder or it cannot be read.
    pub fn verify(&self, domains: &[CacheDomain]) -> Result<Verified, CacheError> {
        self.upkeep("the cache folder cannot be verified", |disk| {
            let mut verified = Verified::default();
            disk.store.visit(|key, bytes| {
                match bytes {
                    Some(bytes) if is_right(key, bytes, domains) => {
                        verified.good_chunks += 1;
                        verified.good_bytes += bytes.len() as u64;
                        true
                    }
                    // Damaged, or of another domain: whoever loads it will know.
                    Some(_) if key.is_in_domain() => {
                        verified.unknown_chunks += 1;
                        true
                    }
                    _ => {
                        verified.damaged_chunks.push(ChunkId::from_bytes(key.bytes).to_hex());
                        false
                    }
                }
            })?;
            Ok(verified)
        })
    }

    /// Keeps chunks from being evicted while anybody, such as the kernel, has `metadata` open: the
    /// image of a mount that reads the slabs by address. Holds whoever made the mount and whether that
    /// process still lives; ends with the mount. The caller has the file open until the kernel has.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn hold_for_mount(
        &self,
        metadata: &Path,
        domain: Option<&CacheDomain>,
        chunks: &[ChunkRequest],
    ) -> Result<(), CacheError> {
        let key =
            |chunk: &ChunkRequest| (StoreKey::new(domain, &chunk.key()), chunk.uncompressed_len);
        self.upkeep("chunks cannot be held for a mount", |disk| {
            disk.store.hold_for_mount(metadata, chunks.iter().map(key).collect())
        })
    }
}

fn is_right(key: &StoreKey, bytes: &[u8], domains: &[CacheDomain]) -> bool {
    let Some(algorithm) = key.id_algorithm() else { return false };
    let chunk = crate::ChunkKey { algorithm, id: algorithm.chunk_id(bytes) };
    let all = domains.iter().map(Some).chain([None]);
    all.into_iter().any(|domain| StoreKey::new(domain, &chunk) == *key)
}
