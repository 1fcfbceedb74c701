//! The transferred form.

use chunkfs_index::{INDEX_LEN_MAX, Index, OpenError};

use crate::fixture::everything;

#[test]
fn the_compressed_form_round_trips_and_is_bounded() {
    let index = everything().build();
    let compressed = index.compress().unwrap();
    let again = Index::decompress(&compressed, INDEX_LEN_MAX).unwrap();
    assert_eq!(again.as_bytes(), index.as_bytes());
    let len = index.as_bytes().len() as u64;
    assert!(Index::decompress(&compressed, len).is_ok());
    let error = Index::decompress(&compressed, len - 1).unwrap_err();
    assert!(matches!(error, OpenError::Transfer { .. }), "{error}");
    for cut in 0..compressed.len() {
        assert!(Index::decompress(&compressed[..cut], INDEX_LEN_MAX).is_err(), "{cut}");
    }
}

/// [F-62]
#[test]
fn anything_but_exactly_one_frame_with_its_length_is_rejected() {
    let index = everything().build();
    let good = index.compress().unwrap();
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0xff];
    let empty = zstd_frame(&[0x20, 0, 1, 0, 0]);
    // A window of 1 KiB instead of a content length, then one empty last block.
    let no_length = zstd_frame(&[0x00, 0x00, 1, 0, 0]);
    for (what, bytes) in [
        ("a second frame", [&good[..], &good].concat()),
        ("an empty second frame", [&good[..], &empty].concat()),
        ("a skippable frame after it", [&good[..], &skippable].concat()),
        ("a skippable frame before it", [&skippable[..], &good].concat()),
        ("a byte after it", [&good[..], &[0]].concat()),
        ("no length", no_length),
        ("an uncompressed index", index.as_bytes().to_vec()),
    ] {
        let error = Index::decompress(&bytes, INDEX_LEN_MAX).map(drop).unwrap_err();
        assert!(matches!(error, OpenError::Transfer { .. }), "{what}: {error}");
    }
    assert_eq!(Index::decompress(&empty, INDEX_LEN_MAX).map(drop), Err(OpenError::NotAnIndex));
}

/// [F-63]
#[test]
fn claimed_lengths_are_checked_before_anything_is_allocated() {
    for claim in [INDEX_LEN_MAX, INDEX_LEN_MAX + 1, 1 << 62, u64::MAX - 2] {
        // A single segment of eight length bytes, then one empty last block.
        let frame = zstd_frame(&[&[0xe0][..], &claim.to_le_bytes(), &[1, 0, 0]].concat());
        let error = Index::decompress(&frame, INDEX_LEN_MAX).map(drop).unwrap_err();
        assert!(matches!(error, OpenError::Transfer { .. }), "{claim}: {error}");
    }
}

/// Returns a zstd frame: its magic, then what is given.
fn zstd_frame(rest: &[u8]) -> Vec<u8> {
    [&[0x28, 0xb5, 0x2f, 0xfd], rest].concat()
}
