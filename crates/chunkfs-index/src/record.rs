//! The records as they are stored; `docs/format.md` describes each field.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const MAGIC: [u8; 8] = *b"CHUNKFSI";
pub(crate) const VERSION_MAJOR: u16 = 1;
pub(crate) const VERSION_MINOR: u16 = 0;
/// The `first_chunk` of an extent that is a hole.
pub(crate) const HOLE: u32 = u32::MAX;
/// Sections start on multiples of this.
pub(crate) const SECTION_ALIGN: usize = 8;
/// An index with more sections than this is rejected.
pub(crate) const SECTION_COUNT_MAX: u16 = 64;
/// The most data blobs that an index refers to.
pub(crate) const BLOB_COUNT_MAX: u32 = 65_535;
/// A table has fewer records than this, so that the last position plus one is a `u32` too.
pub(crate) const RECORD_COUNT_END: u32 = u32::MAX;

macro_rules! record {
    ($(#[$doc:meta])* $name:ident, $len:literal, $table:literal { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub(crate) struct $name {
            $(pub(crate) $field: $type,)*
        }

        const _: () = assert!(size_of::<$name>() == $len, concat!("docs/format.md, ", $table));
    };
}

record! {
    /// The first bytes of an index.
    Superblock, 80, "superblock" {
        magic: [u8; 8],
        version_major: U16,
        version_minor: U16,
        digest_algorithm: u8,
        chunk_size_log2: u8,
        section_count: U16,
        features_incompatible: U64,
        features_compatible: U64,
        total_len: U64,
        image_id: [u8; 32],
        checksum: [u8; 8],
    }
}
record! {
    /// Where a section is.
    SectionEntry, 24, "section table" { kind: U32, reserved: U32, offset: U64, len: U64 }
}
record! {
    /// An inode.
    RawInode, 52, "inode" {
        mode: U16,
        xattr_count: U16,
        uid: U32,
        gid: U32,
        link_count: U32,
        mtime_seconds: I64,
        mtime_nanos: U32,
        first: U32,
        len: U64,
        count: U32,
        xattr_first: U32,
        parent: U32,
    }
}
record! {
    /// A name in a directory.
    RawDirent, 12, "dirent" {
        inode: U32,
        name_offset: U32,
        name_len: u8,
        mode_high: u8,
        reserved: U16,
    }
}
record! {
    /// A run of chunks that holds a range of a file.
    RawExtent, 24, "extent" { file_offset: U64, len: U64, first_chunk: U32, chunk_offset: U32 }
}
record! {
    /// A chunk's identity.
    RawChunk, 36, "chunk" { id: [u8; 32], uncompressed_len: U32 }
}
record! {
    /// An extended attribute.
    RawXattr, 16, "xattr" {
        name_offset: U32,
        value_offset: U32,
        name_len: U16,
        reserved: U16,
        value_len: U32,
    }
}
record! {
    /// Where a chunk is stored.
    RawLocation, 16, "location" {
        offset: U64,
        stored_len: U32,
        blob: U16,
        codec: u8,
        reserved: u8,
    }
}
record! {
    /// A data blob.
    RawBlob, 40, "blob" { id: [u8; 32], len: U64 }
}

/// The known sections, in their order in the file; the first six are covered by the image id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SectionKind {
    Inodes = 1,
    Dirents = 2,
    Extents = 3,
    Chunks = 4,
    Xattrs = 5,
    Strings = 6,
    Locations = 7,
    Blobs = 8,
}

impl SectionKind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Inodes,
        Self::Dirents,
        Self::Extents,
        Self::Chunks,
        Self::Xattrs,
        Self::Strings,
        Self::Locations,
        Self::Blobs,
    ];
    /// The sections that the image id covers.
    pub(crate) const COVERED_COUNT: usize = 6;

    pub(crate) const fn position(self) -> usize {
        self as usize - 1
    }

    /// The length of one record; the string pool is a table of bytes.
    pub(crate) const fn record_len(self) -> usize {
        match self {
            Self::Inodes => size_of::<RawInode>(),
            Self::Dirents => size_of::<RawDirent>(),
            Self::Extents => size_of::<RawExtent>(),
            Self::Chunks => size_of::<RawChunk>(),
            Self::Xattrs => size_of::<RawXattr>(),
            Self::Strings => 1,
            Self::Locations => size_of::<RawLocation>(),
            Self::Blobs => size_of::<RawBlob>(),
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Inodes => "inode",
            Self::Dirents => "dirent",
            Self::Extents => "extent",
            Self::Chunks => "chunk",
            Self::Xattrs => "xattr",
            Self::Strings => "string",
            Self::Locations => "location",
            Self::Blobs => "blob",
        }
    }
}
