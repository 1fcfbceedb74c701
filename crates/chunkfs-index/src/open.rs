//! Opening: bytes to an [`Index`] whose every later read can rely on what was checked here.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use chunkfs_format::{ChunkSize, DigestAlgorithm, ImageHasher, ImageId};
use zerocopy::FromBytes as _;

use crate::error::OpenError;
use crate::record::{
    MAGIC, RECORD_COUNT_END, SECTION_ALIGN, SECTION_COUNT_MAX, SectionEntry, SectionKind,
    Superblock, VERSION_MAJOR,
};
use crate::validate;

/// An opened index: the whole tree of an image and the map of its chunks.
///
/// Cheap to clone; clones share the bytes. All accessors work on the bytes in place.
#[derive(Clone)]
pub struct Index {
    pub(crate) bytes: Bytes,
    pub(crate) sections: [(usize, usize); SectionKind::ALL.len()],
    algorithm: DigestAlgorithm,
    chunk_size: ChunkSize,
    image_id: ImageId,
}

impl fmt::Debug for Index {
    /// Writes what it is, not its megabytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("image_id", &self.image_id)
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl Index {
    /// Opens an index, checking every record and the image id.
    ///
    /// Whatever the bytes are, this neither panics nor allocates more than four bytes per inode,
    /// per chunk and per xattr, in three allocations that are freed again. It takes time linear in
    /// the length: about 2 ms per MiB. A memory map serves as well, through `Bytes::from_owner`.
    ///
    /// # Errors
    /// Every [`OpenError`] but [`OpenError::Transfer`].
    pub fn open(bytes: Bytes) -> Result<Self, OpenError> {
        let index = Self::parse(bytes)?;
        validate::validate(&index)?;
        let actual = index.compute_image_id();
        if actual != index.image_id {
            return Err(OpenError::ImageId { expected: index.image_id, actual });
        }
        Ok(index)
    }

    pub(crate) fn parse(bytes: Bytes) -> Result<Self, OpenError> {
        let actual = bytes.len() as u64;
        if !bytes.starts_with(&MAGIC) {
            return Err(OpenError::NotAnIndex);
        }
        let (superblock, rest) = Superblock::read_from_prefix(&bytes)
            .map_err(|_| OpenError::Length { expected: size_of::<Superblock>() as u64, actual })?;
        let version = superblock.version_major.get();
        if version != VERSION_MAJOR {
            return Err(OpenError::UnknownVersion { version });
        }
        let features = superblock.features_incompatible.get();
        if features != 0 {
            return Err(OpenError::UnknownFeatures { features });
        }
        let expected = superblock.total_len.get();
        if expected != actual {
            return Err(OpenError::Length { expected, actual });
        }
        let section_count = superblock.section_count.get();
        if section_count > SECTION_COUNT_MAX {
            return Err(OpenError::Superblock { problem: "it has too many sections" });
        }
        let table_len = usize::from(section_count) * size_of::<SectionEntry>();
        let table = rest
            .get(..table_len)
            .ok_or(OpenError::Superblock { problem: "the section table is cut off" })?;
        if superblock_checksum(&superblock, table) != superblock.checksum {
            return Err(OpenError::Superblock { problem: "its checksum does not match" });
        }
        let algorithm = DigestAlgorithm::from_code(superblock.digest_algorithm)
            .ok_or(OpenError::Superblock { problem: "the digest algorithm is unknown" })?;
        let chunk_size = 1u64
            .checked_shl(superblock.chunk_size_log2.into())
            .and_then(|chunk_size| ChunkSize::new(chunk_size).ok())
            .ok_or(OpenError::Superblock { problem: "the chunk size is out of range" })?;
        let sections = parse_sections(table, size_of::<Superblock>() + table_len, &bytes)?;
        let image_id = ImageId::from_bytes(superblock.image_id);
        Ok(Self { bytes, sections, algorithm, chunk_size, image_id })
    }

    /// Returns the id of the image: equal for equal trees with equal chunks.
    pub fn image_id(&self) -> ImageId {
        self.image_id
    }

    /// Returns the algorithm of the image's chunk ids.
    pub fn algorithm(&self) -> DigestAlgorithm {
        self.algorithm
    }

    /// Returns the length of every chunk of a large file but its last.
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// Returns the bytes that the index was opened from.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(crate) fn section(&self, kind: SectionKind) -> &[u8] {
        let (start, end) = self.sections[kind.position()];
        self.bytes.get(start..end).unwrap_or(&[])
    }

    fn compute_image_id(&self) -> ImageId {
        let covered = SectionKind::ALL[..SectionKind::COVERED_COUNT].iter();
        image_id(self.algorithm, self.chunk_size, covered.map(|kind| self.section(*kind)))
    }
}

/// Computes the id of the image with these sections, in the order of their kinds.
pub(crate) fn image_id<'a>(
    algorithm: DigestAlgorithm,
    chunk_size: ChunkSize,
    covered: impl Iterator<Item = &'a [u8]>,
) -> ImageId {
    let mut hasher = ImageHasher::new();
    hasher.update(&[algorithm.code(), chunk_size_log2(chunk_size)]);
    covered.for_each(|section| hasher.update(section));
    hasher.finish()
}

pub(crate) fn chunk_size_log2(chunk_size: ChunkSize) -> u8 {
    // A power of two below 2^32, so the logarithm is below 32.
    chunk_size.bytes().trailing_zeros() as u8
}

/// The first eight bytes of BLAKE3 over the superblock, its checksum taken as zero, and the table.
pub(crate) fn superblock_checksum(superblock: &Superblock, table: &[u8]) -> [u8; 8] {
    use zerocopy::IntoBytes as _;

    let mut hasher = blake3::Hasher::new();
    hasher.update(Superblock { checksum: [0; 8], ..*superblock }.as_bytes());
    hasher.update(table);
    let mut checksum = [0; 8];
    hasher.finalize_xof().fill(&mut checksum);
    checksum
}

/// Checks that the known sections are all there, in order, aligned, inside the file and apart.
fn parse_sections(
    table: &[u8],
    data_start: usize,
    bytes: &[u8],
) -> Result<[(usize, usize); SectionKind::ALL.len()], OpenError> {
    let mut sections = [(0, 0); SectionKind::ALL.len()];
    let mut found = 0;
    let mut previous_kind = 0;
    let mut previous_end = data_start;
    for (entry, raw) in table.chunks_exact(size_of::<SectionEntry>()).enumerate() {
        let error = |problem| OpenError::Section { entry: entry as u32, problem };
        let raw = SectionEntry::read_from_bytes(raw)
            .map_err(|_| error("the section table is cut off"))?;
        let kind = raw.kind.get();
        if kind <= previous_kind {
            return Err(error("the kinds are not in ascending order"));
        }
        if raw.reserved.get() != 0 {
            return Err(error("a reserved field is not zero"));
        }
        let range = section_range(&raw, bytes.len()).ok_or(error("it lies outside the index"))?;
        if range.start != previous_end.next_multiple_of(SECTION_ALIGN) {
            return Err(error("it does not follow the section before"));
        }
        let padding = bytes.get(previous_end..range.start);
        if padding.is_none_or(|padding| padding.iter().any(|byte| *byte != 0)) {
            return Err(error("the padding before it is not zero"));
        }
        if let Some(known) = SectionKind::ALL.iter().find(|known| **known as u32 == kind) {
            if range.len() % known.record_len() != 0 {
                return Err(error("it is not a whole number of records"));
            }
            let count = u32::try_from(range.len() / known.record_len());
            if count.is_err() || count == Ok(RECORD_COUNT_END) {
                return Err(error("it has more records than can be numbered"));
            }
            sections[known.position()] = (range.start, range.end);
            found += 1;
        }
        previous_kind = kind;
        previous_end = range.end;
    }
    if found != SectionKind::ALL.len() {
        return Err(OpenError::Superblock { problem: "a section is missing" });
    }
    if previous_end != bytes.len() {
        return Err(OpenError::Superblock { problem: "bytes follow the last section" });
    }
    Ok(sections)
}

fn section_range(entry: &SectionEntry, total_len: usize) -> Option<Range<usize>> {
    let start = usize::try_from(entry.offset.get()).ok()?;
    let end = start.checked_add(usize::try_from(entry.len.get()).ok()?)?;
    (end <= total_len).then_some(start..end)
}
