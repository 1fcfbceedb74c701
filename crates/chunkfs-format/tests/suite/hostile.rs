//! What tests and fuzz targets do with stored bytes that may be anything.

use chunkfs_format::{CHUNK_SIZE_MAX, ChunkDecoder, ChunkId, Codec, CodecError, DigestAlgorithm};

/// Decodes the rest of `input` as a chunk. Its first byte is the codec (bit 0) and the algorithm
/// (bit 1), the next three are the length.
pub(crate) fn decode_fuzz_input(input: &[u8]) {
    let Some((&[mode, a, b, c], stored)) = input.split_first_chunk::<4>() else { return };
    let codec = if mode & 1 == 0 { Codec::Raw } else { Codec::Zstd };
    let algorithm = match mode & 2 {
        0 => DigestAlgorithm::Blake3,
        _ => DigestAlgorithm::Sha256,
    };
    let len = u32::from_le_bytes([a, b, c, 0]);
    let mut decoder = ChunkDecoder::new().expect("there is enough memory");
    let mut output = Vec::new();
    let mut decode = |id| decoder.decode(algorithm, id, len, codec, stored, &mut output);
    // No bytes are known that have this digest, so that decoding fails and tells the real one.
    let id = match decode(ChunkId::from_bytes([0; 32])) {
        Err(CodecError::Digest { actual, .. }) => actual,
        Err(error) => {
            assert!(error.is_corrupt(), "{error}");
            assert!(output.is_empty(), "a failed decode leaves nothing behind");
            return;
        }
        Ok(()) => panic!("bytes with a digest of zeros"),
    };
    decode(id).expect("the right id is accepted");
    assert_eq!((output.len(), algorithm.chunk_id(&output)), (len as usize, id));
    assert!(output.capacity() <= CHUNK_SIZE_MAX as usize, "{}", output.capacity());
}
