//! Which images use the cache, and which of them are pinned.
//!
//! An image is registered by a file that lists its chunks; a second, empty file pins it. Both have
//! names of their own for each image, so that any number of processes can write them at once.

use std::collections::{HashMap, HashSet};
use std::io;

use super::record::{State, slot_len};
use super::store::SlabStore;
use crate::files::{Durability, Files, OpenMode};
use crate::key::StoreKey;

const MAGIC: &[u8; 8] = b"CHUNKFSR";
const IMAGE_PREFIX: &str = "v1-image-";
const PIN_PREFIX: &str = "v1-pin-";
const CHUNK_LEN: usize = 37;
/// A longer file is not one of ours: 29 million chunks.
const FILE_LEN_MAX: u64 = 1 << 30;
/// Longer names are cut.
const NAME_LEN_MAX: usize = 4096;

/// A registered image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageEntry {
    /// What people call it.
    pub(crate) name: String,
    /// Its chunks and their lengths, each once.
    pub(crate) chunks: Vec<(StoreKey, u32)>,
}

/// What an image takes of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageUsage {
    /// The image's id in hex, or in a domain a keyed digest of it.
    pub id: String,
    /// The reference it was last opened by.
    pub name: String,
    /// Whether its chunks are kept from being evicted.
    pub is_pinned: bool,
    /// Its chunks.
    pub chunk_count: u64,
    /// Those of them that are in the cache.
    pub cached_chunk_count: u64,
    /// Bytes of disk that chunks of no other image take.
    pub own_len: u64,
    /// Bytes of disk that chunks take which other images have too.
    pub shared_len: u64,
}

/// What is in a cache folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CacheUsage {
    /// Bytes of disk that the folder's files take.
    pub allocated_len: u64,
    /// Chunks in the cache.
    pub chunk_count: u64,
    /// Bytes of disk that they take.
    pub chunks_len: u64,
    /// Bytes of disk of those that no registered image has.
    pub unused_len: u64,
    /// Bytes of memory that this process uses to find chunks: some for each chunk of its images.
    pub directory_memory_len: u64,
    /// The images, in the order of their names.
    pub images: Vec<ImageUsage>,
}

impl ImageEntry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let name = self.name.as_bytes();
        let name = name.get(..name.len().min(NAME_LEN_MAX)).unwrap_or(name);
        let mut bytes = Vec::with_capacity(48 + name.len() + self.chunks.len() * CHUNK_LEN);
        bytes.extend_from_slice(MAGIC);
        // Neither is longer than 32 bits: the name is cut, the chunks of an image are numbered so.
        bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        bytes.extend_from_slice(name);
        for (key, len) in &self.chunks {
            bytes.extend_from_slice(&key.bytes);
            bytes.push(key.algorithm);
            bytes.extend_from_slice(&len.to_le_bytes());
        }
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }

    /// Returns the entry, or `None` if the bytes are damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, hash) = bytes.split_last_chunk::<32>()?;
        if blake3::hash(content) != *hash {
            return None;
        }
        let rest = content.strip_prefix(MAGIC)?;
        let (name_len, rest) = rest.split_first_chunk::<4>()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let (name, rest) = rest.split_at_checked(u32::from_le_bytes(*name_len) as usize)?;
        let (chunks, []) = rest.as_chunks::<CHUNK_LEN>() else { return None };
        if chunks.len() != u32::from_le_bytes(*count) as usize {
            return None;
        }
        let chunks = chunks.iter().filter_map(|chunk| {
            let (key, rest) = chunk.split_first_chunk::<32>()?;
            let (algorithm, len) = rest.split_first()?;
            let len = u32::from_le_bytes(len.try_into().ok()?);
            Some((StoreKey { bytes: *key, algorithm: *algorithm }, len))
        });
        Some(Self { name: String::from_utf8_lossy(name).into_owned(), chunks: chunks.collect() })
    }
}

/// Reads a whole small file; `None` if it is not there.
pub(super) fn read_file(files: &dyn Files, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match files.open(name, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > FILE_LEN_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?];
    let len = file.read_at(&mut bytes, 0)?;
    bytes.truncate(len);
    Ok(Some(bytes))
}

/// Removes a file that may not be there.
pub(super) fn remove_file(files: &dyn Files, name: &str) -> io::Result<()> {
    match files.remove(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

impl SlabStore {
    /// Registers an image unless it is registered by this name, so that its use can be told.
    pub(crate) fn register(&self, id: &str, entry: &ImageEntry) -> io::Result<()> {
        let file = format!("{IMAGE_PREFIX}{id}");
        if self.entry(id)?.as_ref() == Some(entry) {
            return Ok(());
        }
        self.files.replace(&file, &entry.encode(), Durability::Lazy)
    }

    fn entry(&self, id: &str) -> io::Result<Option<ImageEntry>> {
        let bytes = read_file(&*self.files, &format!("{IMAGE_PREFIX}{id}"))?;
        Ok(bytes.and_then(|bytes| ImageEntry::decode(&bytes)))
    }

    /// Keeps the chunks of an image from being evicted.
    pub(crate) fn pin(&self, id: &str, entry: &ImageEntry) -> io::Result<()> {
        let file = format!("{IMAGE_PREFIX}{id}");
        self.files.replace(&file, &entry.encode(), Durability::Synced)?;
        self.files.replace(&format!("{PIN_PREFIX}{id}"), &[], Durability::Synced)
    }

    /// Returns whether the image was pinned.
    pub(crate) fn unpin(&self, id: &str) -> io::Result<bool> {
        match self.files.remove(&format!("{PIN_PREFIX}{id}")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// The ids of the registered images, in order, and whether each is pinned.
    pub(crate) fn image_ids(&self) -> io::Result<Vec<(String, bool)>> {
        let names = self.files.list()?;
        let pins: HashSet<_> =
            names.iter().filter_map(|name| name.strip_prefix(PIN_PREFIX)).collect();
        let ids = names.iter().filter_map(|name| name.strip_prefix(IMAGE_PREFIX));
        let mut ids: Vec<_> = ids.map(|id| (id.to_owned(), pins.contains(id))).collect();
        ids.sort();
        Ok(ids)
    }

    /// The chunks of pinned images and of living kernel mounts.
    pub(super) fn pinned_keys(&self) -> io::Result<HashSet<StoreKey>> {
        let mut keys = self.mounted_keys()?;
        for (id, is_pinned) in self.image_ids()? {
            if is_pinned && let Some(entry) = self.entry(&id)? {
                keys.extend(entry.chunks.into_iter().map(|(key, _)| key));
            }
        }
        Ok(keys)
    }

    /// Returns the lengths of all chunks that are there.
    fn ready_chunks(&self) -> io::Result<HashMap<StoreKey, u64>> {
        let mut chunks = HashMap::new();
        self.open()?.directory.scan(|found| {
            if found.record.state == State::Ready {
                chunks.insert(found.record.key, found.record.slot_len());
            }
        })?;
        Ok(chunks)
    }

    pub(crate) fn usage(&self) -> io::Result<CacheUsage> {
        let generation = self.open()?;
        let chunks = self.ready_chunks()?;
        let mut users: HashMap<StoreKey, u32> = HashMap::new();
        let mut entries = Vec::new();
        for (id, is_pinned) in self.image_ids()? {
            let Some(entry) = self.entry(&id)? else { continue };
            for (key, _) in &entry.chunks {
                *users.entry(*key).or_default() += 1;
            }
            entries.push((id, is_pinned, entry));
        }
        let images = entries.into_iter().map(|(id, is_pinned, entry)| {
            let mut usage = ImageUsage {
                id,
                name: entry.name,
                is_pinned,
                chunk_count: entry.chunks.len() as u64,
                cached_chunk_count: 0,
                own_len: 0,
                shared_len: 0,
            };
            for (key, _) in &entry.chunks {
                let Some(len) = chunks.get(key) else { continue };
                usage.cached_chunk_count += 1;
                match users.get(key) {
                    Some(1) => usage.own_len += len,
                    _ => usage.shared_len += len,
                }
            }
            usage
        });
        let mut images: Vec<_> = images.collect();
        images.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        let unused = chunks.iter().filter(|(key, _)| !users.contains_key(key));
        Ok(CacheUsage {
            allocated_len: generation.allocated_len()?,
            chunk_count: chunks.len() as u64,
            chunks_len: chunks.values().sum(),
            unused_len: unused.map(|(_, len)| len).sum(),
            directory_memory_len: 0,
            images,
        })
    }

    /// Forgets an image, and evicts the chunks that no other registered image has.
    pub(crate) fn remove_image(&self, id: &str) -> io::Result<Option<u64>> {
        let Some(entry) = self.entry(id)? else { return Ok(None) };
        remove_file(&*self.files, &format!("{PIN_PREFIX}{id}"))?;
        remove_file(&*self.files, &format!("{IMAGE_PREFIX}{id}"))?;
        let mut kept = self.mounted_keys()?;
        for (other, _) in self.image_ids()? {
            let chunks = self.entry(&other)?.map(|entry| entry.chunks).unwrap_or_default();
            kept.extend(chunks.into_iter().map(|(key, _)| key));
        }
        let generation = self.open()?;
        let writer = generation.lock()?;
        let mut slots = Vec::new();
        for (key, _) in entry.chunks.iter().filter(|(key, _)| !kept.contains(key)) {
            if let Some(found) = generation.directory.find(key)?
                && found.record.state == State::Ready
            {
                slots.push((found.offset, found.record.page, found.record.len));
            }
        }
        self.forget(&writer, &slots)?;
        Ok(Some(slots.iter().map(|(_, _, len)| slot_len(*len)).sum()))
    }

    /// Forgets registrations of which no chunk is there and that are not pinned, and damaged ones.
    pub(super) fn forget_empty_images(&self) -> io::Result<u64> {
        let chunks = self.ready_chunks()?;
        let mut count = 0;
        for (id, is_pinned) in self.image_ids()? {
            let entry = self.entry(&id)?;
            let is_used = entry
                .is_some_and(|entry| entry.chunks.iter().any(|(key, _)| chunks.contains_key(key)));
            if !is_used && !is_pinned {
                remove_file(&*self.files, &format!("{IMAGE_PREFIX}{id}"))?;
                count += 1;
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written_and_damage_is_noticed() {
        let key = |byte| StoreKey { bytes: [byte; 32], algorithm: 1 };
        let entry = ImageEntry {
            name: "docker://a/b:c".to_owned(),
            chunks: vec![(key(1), 5), (key(2), 6)],
        };
        let bytes = entry.encode();
        assert_eq!(ImageEntry::decode(&bytes), Some(entry));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(ImageEntry::decode(&damaged), None, "byte {at}");
            assert_eq!(ImageEntry::decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
