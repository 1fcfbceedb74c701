//! Opening truncated, damaged and forged bytes.

use bytes::Bytes;
use chunkfs_index::{Index, OpenError};

use crate::fixture::{Random, everything};
use crate::hostile::{resign, section, walk};

/// [F-28]
#[test]
fn a_truncated_index_is_rejected_at_every_length() {
    let bytes = everything().build().as_bytes().clone();
    for len in 0..bytes.len() {
        assert!(Index::open(bytes.slice(..len)).is_err(), "{len}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(Index::open(longer.into()), Err(OpenError::Length { .. })));
}

/// [F-29] [F-61]
#[test]
fn every_changed_byte_is_noticed() {
    let bytes = everything().build().as_bytes().to_vec();
    // The padding before the section is zero, which is checked too.
    let locations_start = section(&bytes, 7).unwrap().start;
    for position in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[position] ^= flip;
            match Index::open(Bytes::from(damaged)) {
                Err(_) => {}
                // Locations need no trust: chunks verify themselves.
                Ok(index) => {
                    assert!(position >= locations_start, "byte {position} flipped by {flip:#x}");
                    walk(&index);
                }
            }
        }
    }
}

/// [F-64]
#[test]
fn signed_mutations_are_rejected_or_safe_to_walk() {
    let original = everything().build().as_bytes().to_vec();
    let interesting = [0u8, 1, 2, 0x7f, 0x80, 0xfe, 0xff];
    let (mut opened, mut rejected) = (0, 0);
    for seed in 0..30_000 {
        let mut random = Random(seed);
        let mut bytes = original.clone();
        for _ in 0..=random.next(3) {
            let position = 80 + 8 * 24 + random.next(bytes.len() - 80 - 8 * 24);
            for offset in 0..=random.next(4) {
                if let Some(byte) = bytes.get_mut(position + offset) {
                    *byte = interesting[random.next(interesting.len())];
                }
            }
        }
        resign(&mut bytes);
        match Index::open(bytes.into()) {
            Ok(index) => {
                walk(&index);
                opened += 1;
            }
            Err(_) => rejected += 1,
        }
    }
    // Both must happen, or the mutations test nothing.
    assert!(opened > 1_000 && rejected > 10_000, "{opened} opened, {rejected} rejected");
}

/// [F-4] [F-12] [F-24] [F-25] [F-26] [F-27]
#[test]
fn unknown_versions_features_and_sections_are_told_apart() {
    let bytes = everything().build().as_bytes().to_vec();
    let change = |position: usize, value: u8| {
        let mut changed = bytes.clone();
        changed[position] = value;
        resign(&mut changed);
        Index::open(changed.into())
    };
    assert_eq!(change(0, b'X').unwrap_err(), OpenError::NotAnIndex);
    assert_eq!(change(8, 2).unwrap_err(), OpenError::UnknownVersion { version: 2 });
    assert!(change(10, 9).is_ok(), "minor versions are ignored");
    assert_eq!(change(16, 4).unwrap_err(), OpenError::UnknownFeatures { features: 4 });
    assert!(change(24, 4).is_ok(), "compatible features are ignored");
    assert!(matches!(change(12, 9).unwrap_err(), OpenError::Superblock { .. }));
    assert!(matches!(change(13, 63).unwrap_err(), OpenError::Superblock { .. }));
    assert!(matches!(change(14, 7).unwrap_err(), OpenError::Section { entry: 0, .. }));
}
