//! The metadata index of a chunkfs image: the whole file tree and the map of its chunks.
//!
//! An index is one byte string. [`Index::open`] checks all of it once, in a single linear pass;
//! afterwards every lookup reads the bytes in place, allocates nothing and cannot fail on bad
//! input, because there is none left. It knows nothing of files, networks or threads.
//!
//! * [`Index`]: open, [look up](Index::lookup_path), [list](Index::dirents), and map
//!   [ranges of files](Index::pieces) to [`Chunk`]s.
//! * [`Inode`], [`Dirent`], [`Xattr`], [`Piece`], [`Blob`]: what it hands out.
//! * [`Tree`] and [`IndexBuilder`]: the write side, for converters.
//!
//! # Example
//!
//! ```
//! use chunkfs_format::{ChunkSize, Codec, DigestAlgorithm, BlobId};
//! use chunkfs_index::{
//!     Attributes, Blob, Content, IndexBuilder, Location, Node, PieceSource, Segment,
//!     SegmentChunk, Tree,
//! };
//!
//! // One file of six bytes, stored raw in one blob.
//! let algorithm = DigestAlgorithm::Blake3;
//! let mut builder = IndexBuilder::new(algorithm, ChunkSize::default());
//! let blob = builder.add_blob(Blob { id: BlobId::of(b"hello\n"), len: 6 })?;
//! let location = Location { blob, offset: 0, stored_len: 6, codec: Codec::Raw };
//! let chunk = builder.add_chunk(algorithm.chunk_id(b"hello\n"), 6, location)?;
//! let mut tree = Tree::new(Attributes { permissions: 0o755, ..Attributes::default() });
//! let segment = Segment { len: 6, chunk: Some(SegmentChunk { index: chunk, offset: 0 }) };
//! let content = Content::Regular(vec![segment]);
//! let file = tree.add(Node { attributes: Attributes::default(), content });
//! let root = tree.root();
//! tree.children_mut(root).unwrap().insert(b"greeting".to_vec(), file);
//! let index = builder.build(&tree)?;
//!
//! let file = index.lookup_path(b"/greeting").unwrap();
//! assert_eq!(file.len, 6);
//! let piece = index.pieces(&file, 2, 100).next().unwrap();
//! assert_eq!((piece.file_offset, piece.len), (2, 4));
//! assert_eq!(piece.source, PieceSource::Chunk { index: chunk, offset: 2 });
//! # Ok::<(), chunkfs_index::BuildError>(())
//! ```
//!
//! # Limits
//! 2^32 - 2 inodes, names and chunks, 4 GiB of names, 65,535 blobs, files up to 2^63 - 1 bytes.
//!
//! The bytes are specified in `docs/format.md`.
#![forbid(unsafe_code)]

mod access;
mod build;
mod error;
mod open;
mod record;
mod transfer;
mod tree;
mod types;
mod validate;

pub use access::Pieces;
pub use build::IndexBuilder;
pub use error::{BuildError, OpenError};
pub use open::Index;
pub use transfer::INDEX_LEN_MAX;
pub use tree::{Attributes, Content, Node, NodeId, Segment, SegmentChunk, Tree};
pub use types::{
    Blob, BlobIndex, Chunk, ChunkIndex, Device, Dirent, FileKind, Inode, InodeIndex, Location,
    Piece, PieceSource, Timestamp, Xattr,
};
