//! The directory: which chunk lies where, in one file of fixed records.
//!
//! A header page, then levels of buckets: the first level has [`FIRST_LEVEL_BUCKETS`], each further
//! one twice as many as the one before. A key has one bucket in each level and its record is in any
//! of them. Records are read without a lock and written under the writer's lock of the generation;
//! a torn record fails its checksum and counts as free, which costs a fetch.

use std::io;
use std::sync::Arc;

use super::record::{RECORD_LEN, Record};
use crate::files::CacheFile;
use crate::key::StoreKey;

pub(crate) const FIRST_LEVEL_BUCKETS: u64 = 256;
const BUCKET_LEN: usize = 4096;
const BUCKET_RECORDS: usize = BUCKET_LEN / RECORD_LEN;
/// 2^34 records in the last level: more than any disk holds.
const LEVELS_MAX: u32 = 20;
/// What is read at once when all records are visited.
const SCAN_LEN: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"CHUNKFSD";
/// Where the words that change start.
const WORDS_OFFSET: u64 = 64;
const WORDS_LEN: usize = 48;

/// The words of the header. Written under the writer's lock; `evictions` is read without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Words {
    /// How often chunks were evicted; raised before their space is given back.
    pub(crate) evictions: u64,
    /// The next place in a queue.
    pub(crate) sequence: u64,
    /// The bytes that all slots take, as far as it is known.
    pub(crate) used_len: u64,
    /// The page after the last one that was handed out.
    pub(crate) end_page: u64,
    /// The boot in which these words were written.
    pub(crate) boot: u64,
}

#[derive(Debug)]
pub(crate) struct Directory {
    file: Arc<dyn CacheFile>,
}

/// A record and where it is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) record: Record,
    pub(crate) offset: u64,
}

impl Directory {
    /// Wraps a file whose header is that of this generation, or returns `None`.
    pub(crate) fn open(file: Arc<dyn CacheFile>, generation: u64) -> io::Result<Option<Self>> {
        let mut bytes = [0; 32];
        let len = file.read_at(&mut bytes, 0)?;
        Ok((len == bytes.len() && bytes == header(generation)).then_some(Self { file }))
    }

    /// Makes an empty file the directory of a generation.
    pub(crate) fn create(file: Arc<dyn CacheFile>, generation: u64, boot: u64) -> io::Result<Self> {
        let directory = Self { file };
        directory.set_words(&Words { boot, ..Words::default() })?;
        directory.file.write_at(&header(generation), 0)?;
        Ok(directory)
    }

    pub(crate) fn file(&self) -> &Arc<dyn CacheFile> {
        &self.file
    }

    /// Returns how often chunks were evicted.
    pub(crate) fn evictions(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        match self.file.read_at(&mut bytes, WORDS_OFFSET)? {
            8 => Ok(u64::from_le_bytes(bytes)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Returns the words.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) if they are damaged.
    pub(crate) fn words(&self) -> io::Result<Words> {
        let mut bytes = [0; WORDS_LEN];
        let len = self.file.read_at(&mut bytes, WORDS_OFFSET)?;
        let (words, _) = bytes.as_chunks::<8>();
        if len != bytes.len() || words[5] != words_checksum(&bytes) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let [evictions, sequence, used_len, end_page, boot] =
            [words[0], words[1], words[2], words[3], words[4]].map(u64::from_le_bytes);
        Ok(Words { evictions, sequence, used_len, end_page, boot })
    }

    pub(crate) fn set_words(&self, words: &Words) -> io::Result<()> {
        let Words { evictions, sequence, used_len, end_page, boot } = *words;
        let mut fields = [evictions, sequence, used_len, end_page, boot, 0].map(u64::to_le_bytes);
        fields[5] = words_checksum(fields.as_flattened());
        self.file.write_at(fields.as_flattened(), WORDS_OFFSET)
    }

    /// Finds the record of a key: in one read for each level there is.
    pub(crate) fn find(&self, key: &StoreKey) -> io::Result<Option<Found>> {
        self.visit_buckets(key, |_, bucket| bucket.find(key))
    }

    /// Writes the record of a key that has none: in the first free place, in a new level if need be.
    pub(crate) fn insert(&self, record: &Record) -> io::Result<u64> {
        let free = self.visit_buckets(&record.key, |_, bucket| bucket.free_offset())?;
        let offset = match free {
            Some(offset) => offset,
            None => self.add_level(&record.key)?,
        };
        self.put(offset, Some(record))?;
        Ok(offset)
    }

    /// Reads the record at an offset.
    pub(crate) fn read(&self, offset: u64) -> io::Result<Option<Record>> {
        let mut bytes = [0; RECORD_LEN];
        let len = self.file.read_at(&mut bytes, offset)?;
        Ok(if len == RECORD_LEN { Record::decode(&bytes) } else { None })
    }

    /// Replaces the record at an offset, or frees its place.
    pub(crate) fn put(&self, offset: u64, record: Option<&Record>) -> io::Result<()> {
        let bytes = record.map_or([0; RECORD_LEN], Record::encode);
        self.file.write_at(&bytes, offset)
    }

    /// Visits all records.
    pub(crate) fn scan(&self, mut visit: impl FnMut(Found)) -> io::Result<()> {
        let mut offset = BUCKET_LEN as u64;
        let mut bytes = vec![0; SCAN_LEN];
        loop {
            let len = self.file.read_at(&mut bytes, offset)?;
            let (records, _) = bytes.get(..len).unwrap_or_default().as_chunks::<RECORD_LEN>();
            for (place, record) in (offset..).step_by(RECORD_LEN).zip(records) {
                if let Some(record) = Record::decode(record) {
                    visit(Found { record, offset: place });
                }
            }
            if len < bytes.len() {
                return Ok(());
            }
            offset += len as u64;
        }
    }

    fn visit_buckets<T>(
        &self,
        key: &StoreKey,
        mut visit: impl FnMut(u32, &Bucket) -> Option<T>,
    ) -> io::Result<Option<T>> {
        for level in 0..LEVELS_MAX {
            let mut bucket = Bucket { offset: bucket_offset(level, key), bytes: [0; BUCKET_LEN] };
            match self.file.read_at(&mut bucket.bytes, bucket.offset)? {
                0 => break,
                // Beyond the end, which damage alone can cut, all places are free.
                _ => {
                    if let Some(found) = visit(level, &bucket) {
                        return Ok(Some(found));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Makes room for a level and returns the first place of the key's bucket there.
    fn add_level(&self, key: &StoreKey) -> io::Result<u64> {
        let len = self.file.len()?;
        let level = (0..LEVELS_MAX).find(|level| level_offset(*level) >= len);
        let level = level.ok_or(io::ErrorKind::StorageFull)?;
        self.file.set_len(level_offset(level + 1))?;
        Ok(bucket_offset(level, key))
    }
}

struct Bucket {
    offset: u64,
    bytes: [u8; BUCKET_LEN],
}

impl Bucket {
    fn records(&self) -> impl Iterator<Item = (u64, &[u8; RECORD_LEN])> {
        let (records, _) = self.bytes.as_chunks::<RECORD_LEN>();
        (self.offset..).step_by(RECORD_LEN).zip(records)
    }

    fn find(&self, key: &StoreKey) -> Option<Found> {
        let same = self.records().filter(|(_, bytes)| bytes.starts_with(&key.bytes));
        let decoded = same.filter_map(|(offset, bytes)| {
            Record::decode(bytes).map(|record| Found { record, offset })
        });
        decoded.into_iter().find(|found| found.record.key == *key)
    }

    fn free_offset(&self) -> Option<u64> {
        let mut free = self.records().filter(|(_, bytes)| Record::decode(bytes).is_none());
        free.next().map(|(offset, _)| offset)
    }
}

const _: () = assert!(BUCKET_RECORDS == 64, "docs/format.md, section 12");

fn header(generation: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&generation.to_le_bytes());
    let hash = blake3::hash(&bytes[..16]);
    bytes[16..].copy_from_slice(&hash.as_bytes()[..16]);
    bytes
}

fn words_checksum(bytes: &[u8]) -> [u8; 8] {
    let hash = blake3::hash(bytes.get(..WORDS_LEN - 8).unwrap_or(bytes));
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Where a level starts: after the header page and the levels before.
fn level_offset(level: u32) -> u64 {
    (1 + FIRST_LEVEL_BUCKETS * ((1 << level) - 1)) * BUCKET_LEN as u64
}

fn bucket_offset(level: u32, key: &StoreKey) -> u64 {
    let bucket = key.number() % (FIRST_LEVEL_BUCKETS << level);
    level_offset(level) + bucket * BUCKET_LEN as u64
}
