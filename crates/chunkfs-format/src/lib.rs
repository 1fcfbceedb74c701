//! Digests, chunk codec, chunking rules and wire primitives of the chunkfs image format.
//!
//! This is the bottom layer of chunkfs. It holds everything that decides *which bytes* an image
//! consists of, and nothing that reads or sends them: no files, no sockets, no async, no `unsafe`.
//!
//! * [`ChunkId`], [`BlobId`], [`ImageId`]: the three kinds of digest, which cannot be mixed up.
//! * [`DigestAlgorithm`]: how a chunk id is computed; one image uses one algorithm.
//! * [`ChunkEncoder`], [`ChunkDecoder`]: uncompressed chunk to stored bytes and back. Decoding
//!   verifies: a decoder never hands out bytes whose digest differs from the one asked for.
//! * [`ChunkSize`], [`PieceCutter`], [`PackSize`], [`Packer`]: where files are cut and how small ones
//!   share a chunk.
//! * [`wire`]: a bounds-checked cursor and a writer for little-endian records.
//!
//! # Example
//!
//! ```
//! use chunkfs_format::{ChunkDecoder, ChunkEncoder, CompressionLevel, DigestAlgorithm};
//!
//! let content = b"hello ".repeat(1000);
//! let id = DigestAlgorithm::Blake3.chunk_id(&content);
//! let mut encoder = ChunkEncoder::new(CompressionLevel::default())?;
//! let (codec, stored) = encoder.encode(&content)?;
//! assert!(stored.len() < content.len());
//!
//! let mut decoder = ChunkDecoder::new()?;
//! let mut output = Vec::new();
//! decoder.decode(DigestAlgorithm::Blake3, id, content.len() as u32, codec, stored, &mut output)?;
//! assert_eq!(output, content);
//! # Ok::<(), chunkfs_format::CodecError>(())
//! ```
//!
//! The byte-level rules are normative in `docs/format.md`.
#![forbid(unsafe_code)]

mod chunking;
mod codec;
mod digest;
mod pack;
mod piece;
pub mod wire;

pub use chunking::{CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, ChunkSize, GRID, PackSize, SizeError};
pub use codec::{ChunkDecoder, ChunkEncoder, Codec, CodecError, CompressionLevel};
pub use digest::{
    BlobHasher, BlobId, ChunkId, DigestAlgorithm, DigestParseError, ImageHasher, ImageId,
};
pub use pack::{PACK_LANE_COUNT, PackedFile, Packer, pack_lane};
pub use piece::{PIECE_HEAD_LEN, PieceCutter};
