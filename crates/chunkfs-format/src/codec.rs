//! Chunks to stored bytes and back.

use std::fmt;

use zstd::bulk::{Compressor, Decompressor};

use crate::chunking::CHUNK_SIZE_MAX;
use crate::digest::{ChunkId, DigestAlgorithm};

/// How the bytes of a chunk are stored in a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// As they are.
    Raw,
    /// As one zstd frame (RFC 8878), without dictionary and without content checksum.
    Zstd,
}

impl Codec {
    /// Returns the number that stands for this codec in stored structures.
    pub const fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    /// Returns the codec with this stored number, or `None` if there is none.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// A zstd compression level from 1 (fast) to 19 (small); the default is 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CompressionLevel(u8);

impl CompressionLevel {
    /// Checks that `level` is from 1 to 19.
    ///
    /// Higher levels need more memory to decode than readers should be asked for.
    pub const fn new(level: u8) -> Option<Self> {
        if 1 <= level && level <= 19 { Some(Self(level)) } else { None }
    }

    /// Returns the level as a number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for CompressionLevel {
    fn default() -> Self {
        Self(3)
    }
}

impl fmt::Display for CompressionLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A chunk could not be encoded, or stored bytes are not the chunk that was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The zstd library refused to compress, for want of memory.
    #[error("zstd could not compress a chunk of {uncompressed_len} bytes")]
    Compress {
        /// The uncompressed length of the chunk.
        uncompressed_len: usize,
        /// What zstd said.
        source: std::io::Error,
    },
    /// A compression or decompression context could not be created, for want of memory.
    #[error("zstd could not create a context")]
    Context {
        /// What zstd said.
        source: std::io::Error,
    },
    /// The stored bytes are not one whole zstd frame, or decode to more than the chunk's length.
    #[error(
        "chunk {expected}: {stored_len} stored bytes are not a valid zstd frame of at most {uncompressed_len} bytes"
    )]
    Frame {
        /// The chunk that was asked for.
        expected: ChunkId,
        /// The number of stored bytes given.
        stored_len: usize,
        /// The length that they should decode to.
        uncompressed_len: u32,
        /// What zstd said.
        source: std::io::Error,
    },
    /// The stored bytes decode to another length than the chunk's.
    #[error("chunk {expected} decodes to {actual_len} bytes instead of {uncompressed_len}")]
    Length {
        /// The chunk that was asked for.
        expected: ChunkId,
        /// Its length.
        uncompressed_len: u32,
        /// The length of what the stored bytes decode to.
        actual_len: usize,
    },
    /// The stored bytes decode to another chunk.
    #[error("chunk {expected} decodes to bytes with the digest {actual}")]
    Digest {
        /// The chunk that was asked for.
        expected: ChunkId,
        /// The id of what the stored bytes decode to.
        actual: ChunkId,
    },
    /// The length asked for is above the largest allowed chunk size.
    #[error(
        "chunk {expected} is said to be {uncompressed_len} bytes long, above the limit of {CHUNK_SIZE_MAX}"
    )]
    TooLong {
        /// The chunk that was asked for.
        expected: ChunkId,
        /// The length that it was said to have.
        uncompressed_len: u32,
    },
}

impl CodecError {
    /// Returns whether the stored bytes are to blame, so that another copy may be good.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Frame { .. } | Self::Length { .. } | Self::Digest { .. })
    }
}

/// Encodes chunks, reusing one compression context and one output buffer.
///
/// The output is a function of the input, the level and the version of the zstd library alone.
pub struct ChunkEncoder {
    compressor: Compressor<'static>,
    output: Vec<u8>,
}

impl ChunkEncoder {
    /// Creates an encoder; its context takes 1 to 90 MiB, more at higher levels.
    ///
    /// # Errors
    /// [`CodecError::Context`] if there is not enough memory.
    pub fn new(level: CompressionLevel) -> Result<Self, CodecError> {
        let context = |source| CodecError::Context { source };
        let mut compressor = Compressor::new(i32::from(level.0)).map_err(context)?;
        compressor.include_checksum(false).map_err(context)?;
        compressor.include_dictid(false).map_err(context)?;
        Ok(Self { compressor, output: Vec::new() })
    }

    /// Encodes one chunk and returns how it is to be stored and the bytes to store.
    ///
    /// A chunk that zstd does not make at least 1/32 smaller is stored raw, which spares every
    /// reader the decoding.
    ///
    /// # Errors
    /// [`CodecError::Compress`] if zstd runs out of memory.
    pub fn encode<'a>(
        &'a mut self,
        uncompressed: &'a [u8],
    ) -> Result<(Codec, &'a [u8]), CodecError> {
        let error = |source| CodecError::Compress { uncompressed_len: uncompressed.len(), source };
        self.output.resize(zstd::zstd_safe::compress_bound(uncompressed.len()), 0);
        let stored_len = self
            .compressor
            .compress_to_buffer(uncompressed, self.output.as_mut_slice())
            .map_err(error)?;
        let is_smaller = stored_len <= uncompressed.len() - uncompressed.len().div_ceil(32);
        match self.output.get(..stored_len) {
            Some(stored) if is_smaller => Ok((Codec::Zstd, stored)),
            _ => Ok((Codec::Raw, uncompressed)),
        }
    }
}

impl fmt::Debug for ChunkEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkEncoder")
    }
}

/// Decodes and verifies chunks, reusing one decompression context.
pub struct ChunkDecoder {
    decompressor: Decompressor<'static>,
}

impl ChunkDecoder {
    /// Creates a decoder; its context takes about 100 KiB.
    ///
    /// # Errors
    /// [`CodecError::Context`] if there is not enough memory.
    pub fn new() -> Result<Self, CodecError> {
        let decompressor = Decompressor::new().map_err(|source| CodecError::Context { source })?;
        Ok(Self { decompressor })
    }

    /// Replaces the content of `output` by the chunk `id`, decoded from `stored`.
    ///
    /// On success `output` holds exactly `uncompressed_len` bytes whose digest is `id`. On error it
    /// is empty. Never allocates more than `uncompressed_len` bytes, whatever `stored` says.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] if the length is above the limit, else one of the variants for which
    /// [`CodecError::is_corrupt`] holds.
    pub fn decode(
        &mut self,
        algorithm: DigestAlgorithm,
        id: ChunkId,
        uncompressed_len: u32,
        codec: Codec,
        stored: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let result = self.decode_unverified(id, uncompressed_len, codec, stored, output);
        let verified = result.and_then(|()| verify_chunk(algorithm, id, uncompressed_len, output));
        if verified.is_err() {
            output.clear();
        }
        verified
    }

    fn decode_unverified(
        &mut self,
        expected: ChunkId,
        uncompressed_len: u32,
        codec: Codec,
        stored: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        output.clear();
        if uncompressed_len > CHUNK_SIZE_MAX {
            return Err(CodecError::TooLong { expected, uncompressed_len });
        }
        match codec {
            Codec::Raw if stored.len() == uncompressed_len as usize => {
                output.extend_from_slice(stored);
            }
            Codec::Raw => {
                let actual_len = stored.len();
                return Err(CodecError::Length { expected, uncompressed_len, actual_len });
            }
            Codec::Zstd => {
                output.reserve_exact(uncompressed_len as usize);
                let stored_len = stored.len();
                self.decompressor.decompress_to_buffer(stored, output).map_err(|source| {
                    CodecError::Frame { expected, stored_len, uncompressed_len, source }
                })?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ChunkDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkDecoder")
    }
}

/// Checks the length and the digest of uncompressed chunk bytes.
fn verify_chunk(
    algorithm: DigestAlgorithm,
    expected: ChunkId,
    uncompressed_len: u32,
    bytes: &[u8],
) -> Result<(), CodecError> {
    if bytes.len() != uncompressed_len as usize {
        return Err(CodecError::Length { expected, uncompressed_len, actual_len: bytes.len() });
    }
    let actual = algorithm.chunk_id(bytes);
    if actual != expected {
        return Err(CodecError::Digest { expected, actual });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn decode(
        content: &[u8],
        len: u32,
        codec: Codec,
        stored: &[u8],
    ) -> Result<Vec<u8>, CodecError> {
        let id = DigestAlgorithm::Blake3.chunk_id(content);
        let mut output = b"left over".to_vec();
        let result = ChunkDecoder::new().unwrap().decode(
            DigestAlgorithm::Blake3,
            id,
            len,
            codec,
            stored,
            &mut output,
        );
        assert!(result.is_ok() || output.is_empty(), "a failed decode leaves nothing behind");
        result.map(|()| output)
    }

    #[test]
    fn boundary_lengths_round_trip() {
        let mut encoder = ChunkEncoder::new(CompressionLevel::default()).unwrap();
        for len in [0, 1, 31, 32, 33, 4095, 4096, 4097, (1 << 20) - 1, 1 << 20, (1 << 20) + 1] {
            for content in [vec![b'a'; len], noise(len)] {
                let (codec, stored) = encoder.encode(&content).unwrap();
                assert!(stored.len() <= content.len(), "raw is never longer");
                let decoded = decode(&content, len as u32, codec, stored).unwrap();
                assert_eq!(decoded, content);
            }
        }
    }

    #[test]
    fn incompressible_chunks_are_stored_raw() {
        let mut encoder = ChunkEncoder::new(CompressionLevel::default()).unwrap();
        let content = noise(100_000);
        assert_eq!(encoder.encode(&content).unwrap(), (Codec::Raw, &content[..]));
        assert_eq!(encoder.encode(&[0; 100_000]).unwrap().0, Codec::Zstd);
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let content = b"some text that compresses, some text that compresses".repeat(20);
        let mut encoder = ChunkEncoder::new(CompressionLevel::default()).unwrap();
        let (codec, stored) = encoder.encode(&content).unwrap();
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // A few header bits carry no meaning for the content (reserved, single-segment choice).
            match decode(&content, content.len() as u32, codec, &damaged) {
                Ok(decoded) => assert_eq!(decoded, content, "bit {bit}"),
                Err(error) => assert!(error.is_corrupt(), "bit {bit}: {error}"),
            }
        }
    }

    #[test]
    fn a_frame_that_decodes_to_more_than_the_chunk_is_an_error() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        let error = decode(&[0; 4096], 4096, Codec::Zstd, &bomb).unwrap_err();
        assert!(matches!(error, CodecError::Frame { .. }), "{error}");
        let error = decode(&[0; 4096], u32::MAX, Codec::Zstd, &bomb).unwrap_err();
        assert!(matches!(error, CodecError::TooLong { .. }), "{error}");
    }

    #[test]
    fn wrong_lengths_and_wrong_chunks_are_errors() {
        let content = [5; 1000];
        let stored = zstd::bulk::compress(&content, 3).unwrap();
        for (codec, stored) in [(Codec::Raw, &content[..]), (Codec::Zstd, &stored)] {
            let error = decode(&content, 1001, codec, stored).unwrap_err();
            assert!(matches!(error, CodecError::Length { actual_len: 1000, .. }), "{error}");
            let error = decode(&[6; 1000], 1000, codec, stored).unwrap_err();
            assert!(matches!(error, CodecError::Digest { .. }), "{error}");
        }
        for cut in [0, 1, stored.len() - 1] {
            assert!(decode(&content, 1000, Codec::Zstd, &stored[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn levels_and_codes_are_exact() {
        let levels = [0, 1, 19, 20].map(|level| CompressionLevel::new(level).is_some());
        assert_eq!(levels, [false, true, true, false]);
        assert_eq!(Codec::from_code(Codec::Raw.code()), Some(Codec::Raw));
        assert_eq!(Codec::from_code(Codec::Zstd.code()), Some(Codec::Zstd));
        assert_eq!(Codec::from_code(2), None);
    }
}
