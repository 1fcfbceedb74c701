//! Reading a fragment. The bytes are hostile: nothing is allocated that they do not pay for.

use std::collections::BTreeMap;

use chunkfs_format::wire::Cursor;
use chunkfs_format::{BlobId, CHUNK_SIZE_MAX, ChunkId, Codec, GRID};
use chunkfs_index::{Attributes, Blob, BlobIndex, Chunk, Device, Location, Timestamp};

use super::{FRAGMENT_LEN_MAX, Fragment, FragmentError, HOLE, MAGIC, VERSION, kind};
use crate::entry::{EntryKind, LayerEntry, Part, normalize_path, validate_entry};
use crate::pipeline::LayerCounters;

/// The least number of bytes that a record of each table takes.
const BLOB_LEN: usize = 40;
const CHUNK_LEN: usize = 53;
const ENTRY_LEN_MIN: usize = 31;
const PART_LEN: usize = 16;
const XATTR_LEN_MIN: usize = 8;

impl Fragment {
    /// Decompresses and decodes a fragment.
    pub(crate) fn decompress(compressed: &[u8]) -> Result<Self, FragmentError> {
        let error = |problem: &str| FragmentError::Transfer { problem: problem.to_owned() };
        let len = zstd::zstd_safe::get_frame_content_size(compressed)
            .map_err(|_| error("it is not a zstd frame"))?
            .ok_or_else(|| error("the frame does not state its content length"))?;
        // A block of zstd expands to at most 128 KiB and takes at least three bytes.
        if len > FRAGMENT_LEN_MAX || len / (128 << 10) > compressed.len() as u64 {
            return Err(error(&format!("it claims {len} bytes")));
        }
        let capacity = usize::try_from(len).map_err(|_| error("it does not fit into memory"))?;
        let bytes = zstd::bulk::decompress(compressed, capacity)
            .map_err(|source| FragmentError::Transfer { problem: source.to_string() })?;
        Self::decode(&bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FragmentError> {
        let mut decoder = Decoder { cursor: Cursor::new(bytes) };
        if decoder.cursor.take(MAGIC.len(), "the magic")? != MAGIC {
            return Err(decoder.invalid("it is not a fragment"));
        }
        if decoder.cursor.u16("the version")? != VERSION {
            return Err(decoder.invalid("its version is unknown"));
        }
        let counters = LayerCounters {
            files: decoder.cursor.u64("the number of files")?,
            source_bytes: decoder.cursor.u64("the number of bytes")?,
            packed_files: decoder.cursor.u64("the number of packed files")?,
            cut_chunks: decoder.cursor.u64("the number of cut chunks")?,
        };
        let blobs = decoder.table("the blob table", BLOB_LEN, Decoder::blob)?;
        let chunks = decoder.table("the chunk table", CHUNK_LEN, |d| d.chunk(&blobs))?;
        let entries = decoder.table("the entries", ENTRY_LEN_MIN, |d| d.entry(&chunks))?;
        if decoder.cursor.remaining() != 0 {
            return Err(decoder.invalid("bytes follow the last entry"));
        }
        Ok(Self { counters, entries, chunks, blobs })
    }
}

struct Decoder<'a> {
    cursor: Cursor<'a>,
}

impl Decoder<'_> {
    fn invalid(&self, problem: &'static str) -> FragmentError {
        FragmentError::Invalid { offset: self.cursor.offset(), problem }
    }

    /// Reads a count and that many records, each of at least `len_min` bytes.
    fn table<T>(
        &mut self,
        what: &'static str,
        len_min: usize,
        mut record: impl FnMut(&mut Self) -> Result<T, FragmentError>,
    ) -> Result<Vec<T>, FragmentError> {
        let count = self.cursor.u32(what)? as usize;
        if count > self.cursor.remaining() / len_min {
            return Err(self.invalid("a table has more records than there are bytes"));
        }
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            records.push(record(self)?);
        }
        Ok(records)
    }

    fn blob(&mut self) -> Result<Blob, FragmentError> {
        let id = BlobId::from_bytes(self.cursor.array("a blob id")?);
        Ok(Blob { id, len: self.cursor.u64("a blob length")? })
    }

    fn chunk(&mut self, blobs: &[Blob]) -> Result<Chunk, FragmentError> {
        let id = ChunkId::from_bytes(self.cursor.array("a chunk id")?);
        let uncompressed_len = self.cursor.u32("a chunk length")?;
        let blob = self.cursor.u32("a blob number")?;
        let offset = self.cursor.u64("a blob offset")?;
        let stored_len = self.cursor.u32("a stored length")?;
        let codec = Codec::from_code(self.cursor.u8("a codec")?);
        let codec = codec.ok_or(self.invalid("the codec is unknown"))?;
        if uncompressed_len == 0 || uncompressed_len > CHUNK_SIZE_MAX {
            return Err(self.invalid("a chunk is empty or too long"));
        }
        let end = offset.checked_add(stored_len.into());
        let blob_len = blobs.get(blob as usize).map(|blob| blob.len);
        if stored_len == 0 || end.zip(blob_len).is_none_or(|(end, blob_len)| end > blob_len) {
            return Err(self.invalid("a chunk lies outside its blob"));
        }
        let location = Location { blob: BlobIndex::new(blob), offset, stored_len, codec };
        Ok(Chunk { id, uncompressed_len, location })
    }

    fn entry(&mut self, chunks: &[Chunk]) -> Result<LayerEntry, FragmentError> {
        let path = self.path()?;
        let permissions = self.cursor.u16("permissions")?;
        let (uid, gid) = (self.cursor.u32("an owner")?, self.cursor.u32("a group")?);
        let mtime = Timestamp {
            seconds: self.cursor.i64("a time")?,
            nanos: self.cursor.u32("nanoseconds")?,
        };
        if permissions > 0o7777 || mtime.nanos >= 1_000_000_000 {
            return Err(self.invalid("permissions or nanoseconds are out of range"));
        }
        let xattr_list = self.table("the xattrs", XATTR_LEN_MIN, |decoder| {
            let name = decoder.cursor.string("an xattr's name")?.to_vec();
            Ok((name, decoder.cursor.string("an xattr's value")?.to_vec()))
        })?;
        if !xattr_list.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(self.invalid("xattrs are not in ascending order"));
        }
        let xattrs = BTreeMap::from_iter(xattr_list);
        let attributes = Attributes { permissions, uid, gid, mtime, xattrs };
        let kind = match self.cursor.u8("a kind")? {
            kind::WHITEOUT => EntryKind::Whiteout,
            kind::OPAQUE_WHITEOUT => EntryKind::OpaqueWhiteout,
            kind::DIRECTORY => EntryKind::Directory,
            kind::REGULAR => EntryKind::Regular(self.parts(chunks)?),
            kind::SYMLINK => EntryKind::Symlink(self.cursor.string("a link target")?.to_vec()),
            kind::HARD_LINK => EntryKind::HardLink(self.path()?),
            kind::CHAR_DEVICE => EntryKind::CharDevice(self.device()?),
            kind::BLOCK_DEVICE => EntryKind::BlockDevice(self.device()?),
            kind::FIFO => EntryKind::Fifo,
            kind::SOCKET => EntryKind::Socket,
            _ => return Err(self.invalid("the kind of an entry is unknown")),
        };
        let entry = LayerEntry { path, attributes, kind };
        validate_entry(&entry).map_err(|problem| self.invalid(problem))?;
        Ok(entry)
    }

    fn path(&mut self) -> Result<Vec<u8>, FragmentError> {
        let path = self.cursor.string("a path")?;
        match normalize_path(path) {
            Ok(normal) if normal == path => Ok(normal),
            Ok(_) => Err(self.invalid("a path is not in its normal form")),
            Err(problem) => Err(self.invalid(problem)),
        }
    }

    fn device(&mut self) -> Result<Device, FragmentError> {
        let major = self.cursor.u32("a major number")?;
        Ok(Device { major, minor: self.cursor.u32("a minor number")? })
    }

    fn parts(&mut self, chunks: &[Chunk]) -> Result<Vec<Part>, FragmentError> {
        let mut file_len = 0u64;
        self.table("the parts of a file", PART_LEN, |decoder| {
            let len = decoder.cursor.u64("a length")?;
            let chunk = decoder.cursor.u32("a chunk number")?;
            let offset = decoder.cursor.u32("an offset")?;
            file_len = file_len
                .checked_add(len)
                .filter(|file_len| len != 0 && i64::try_from(*file_len).is_ok())
                .ok_or(decoder.invalid("a part is empty or its file too long"))?;
            if chunk == HOLE {
                return match offset {
                    0 => Ok(Part { len, chunk: None }),
                    _ => Err(decoder.invalid("a hole has an offset")),
                };
            }
            let end = u64::from(offset).checked_add(len);
            let chunk_len = chunks.get(chunk as usize).map(|chunk| chunk.uncompressed_len);
            let is_inside = end.zip(chunk_len).is_some_and(|(end, len)| end <= len.into());
            if !is_inside || !offset.is_multiple_of(GRID) {
                return Err(decoder.invalid("a part lies outside its chunk or off the grid"));
            }
            Ok(Part { len, chunk: Some((chunk, offset)) })
        })
    }
}
