//! The values that an index hands out.

use chunkfs_format::{BlobId, ChunkId, Codec};

macro_rules! table_index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// Wraps a position in the table; whether the table has it is checked on use.
            pub const fn new(index: u32) -> Self {
                Self(index)
            }

            /// Returns the position in the table.
            pub const fn get(self) -> u32 {
                self.0
            }
        }
    };
}

table_index! {
    /// The position of an inode in the inode table.
    InodeIndex
}
table_index! {
    /// The position of a chunk in the chunk table.
    ChunkIndex
}
table_index! {
    /// The position of a data blob in the blob table.
    BlobIndex
}

impl InodeIndex {
    /// The root directory.
    pub const ROOT: Self = Self(0);

    /// Returns the inode number that readers of a mounted image see: the index plus one.
    pub const fn ino(self) -> u64 {
        self.0 as u64 + 1
    }

    /// Returns the inode with this number, or `None` for zero and for numbers above 2^32.
    pub fn from_ino(ino: u64) -> Option<Self> {
        u32::try_from(ino.checked_sub(1)?).ok().map(Self)
    }
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

impl FileKind {
    /// Returns the type bits of `st_mode`, such as `0o100000` for a regular file.
    pub const fn mode_bits(self) -> u16 {
        match self {
            Self::Fifo => 0o010000,
            Self::CharDevice => 0o020000,
            Self::Directory => 0o040000,
            Self::BlockDevice => 0o060000,
            Self::Regular => 0o100000,
            Self::Symlink => 0o120000,
            Self::Socket => 0o140000,
        }
    }

    /// Returns the kind with these type bits of `st_mode`, or `None` if there is none.
    pub const fn from_mode(mode: u16) -> Option<Self> {
        match mode & 0o170000 {
            0o010000 => Some(Self::Fifo),
            0o020000 => Some(Self::CharDevice),
            0o040000 => Some(Self::Directory),
            0o060000 => Some(Self::BlockDevice),
            0o100000 => Some(Self::Regular),
            0o120000 => Some(Self::Symlink),
            0o140000 => Some(Self::Socket),
            _ => None,
        }
    }
}

/// A point in time: seconds since 1970 (negative before) plus nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds after the second, below 1,000,000,000.
    pub nanos: u32,
}

/// The numbers of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Device {
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
}

/// The attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Its position in the inode table.
    pub index: InodeIndex,
    /// What it is.
    pub kind: FileKind,
    /// The lower 12 bits of `st_mode`: permissions, set-id bits and the sticky bit.
    pub permissions: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The number of names, or of subdirectories plus two for a directory.
    pub link_count: u32,
    /// The time of the last change of the content.
    pub mtime: Timestamp,
    /// The length in bytes of a file's content or of a symbolic link's target, else zero.
    pub len: u64,
    /// The device numbers of a device node, else zeros.
    pub device: Device,
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) xattr_first: u32,
    pub(crate) xattr_count: u16,
    pub(crate) parent: InodeIndex,
}

impl Inode {
    /// Returns `st_mode`: the type bits and the permissions.
    pub const fn mode(&self) -> u16 {
        self.kind.mode_bits() | self.permissions
    }

    /// Returns whether the inode has extended attributes.
    pub const fn has_xattrs(&self) -> bool {
        self.xattr_count != 0
    }

    /// Returns the directory that holds this directory; the root is its own parent.
    ///
    /// For anything but a directory this is the root, since such an inode can have several names.
    pub const fn parent(&self) -> InodeIndex {
        self.parent
    }
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// The name: 1 to 255 bytes without `/` and NUL, not `.` or `..`; not necessarily UTF-8.
    pub name: &'a [u8],
    /// The inode that it names.
    pub inode: InodeIndex,
    /// What that inode is.
    pub kind: FileKind,
    /// The position in the directory, counted from zero in byte order of the names.
    pub position: u32,
}

/// An extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// The full name, such as `security.capability`.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// A chunk: its digest, its length and where it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The digest of the uncompressed bytes.
    pub id: ChunkId,
    /// The number of uncompressed bytes.
    pub uncompressed_len: u32,
    /// Where its stored bytes are.
    pub location: Location,
}

/// Where the stored bytes of a chunk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The blob that holds them.
    pub blob: BlobIndex,
    /// The byte offset in the blob.
    pub offset: u64,
    /// The number of stored bytes.
    pub stored_len: u32,
    /// How they are encoded.
    pub codec: Codec,
}

/// A data blob that an index refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// The SHA-256 of its bytes.
    pub id: BlobId,
    /// Its length in bytes.
    pub len: u64,
}

/// A part of a file that lies in one chunk or is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The offset of the first byte in the file.
    pub file_offset: u64,
    /// The number of bytes, at least one.
    pub len: u64,
    /// Where the bytes are.
    pub source: PieceSource,
}

/// Where the bytes of a [`Piece`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceSource {
    /// Nowhere: they are zero.
    Hole,
    /// In a chunk.
    Chunk {
        /// The chunk.
        index: ChunkIndex,
        /// The offset of the first byte among the chunk's uncompressed bytes.
        offset: u32,
    },
}
