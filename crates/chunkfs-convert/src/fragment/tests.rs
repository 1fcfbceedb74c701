use chunkfs_format::{BlobId, ChunkId, Codec};
use chunkfs_index::{Attributes, Blob, BlobIndex, Chunk, Device, Location, Timestamp};

use super::{Fragment, FragmentError, MAGIC};
use crate::entry::{EntryKind, LayerEntry, Part};
use crate::pipeline::LayerCounters;

fn fragment() -> Fragment {
    let entry = |path: &[u8], kind| LayerEntry {
        path: path.to_vec(),
        attributes: Attributes {
            permissions: 0o4755,
            uid: u32::MAX,
            gid: 7,
            mtime: Timestamp { seconds: -2, nanos: 999_999_999 },
            xattrs: [(b"user.a".to_vec(), vec![0, 255])].into(),
        },
        kind,
    };
    let parts = vec![
        Part { len: 100, chunk: Some((1, 4096)) },
        Part { len: 1 << 40, chunk: None },
        Part { len: 5000, chunk: Some((0, 0)) },
    ];
    let device = Device { major: 1, minor: u32::MAX };
    let chunk = |byte, uncompressed_len, codec| Chunk {
        id: ChunkId::from_bytes([byte; 32]),
        uncompressed_len,
        location: Location { blob: BlobIndex::new(1), offset: 10, stored_len: 90, codec },
    };
    Fragment {
        counters: LayerCounters { files: 1, source_bytes: 2, packed_files: 3, cut_chunks: 4 },
        entries: vec![
            entry(b"", EntryKind::Directory),
            entry(b"a", EntryKind::Whiteout),
            entry(b"a", EntryKind::OpaqueWhiteout),
            entry(b"a/\xff", EntryKind::Regular(parts)),
            entry(b"s", EntryKind::Symlink(b"../..".to_vec())),
            entry(b"h", EntryKind::HardLink(b"a/\xff".to_vec())),
            entry(b"c", EntryKind::CharDevice(device)),
            entry(b"b", EntryKind::BlockDevice(device)),
            entry(b"f", EntryKind::Fifo),
            entry(b"k", EntryKind::Socket),
        ],
        chunks: vec![chunk(1, 5000, Codec::Zstd), chunk(2, 8192, Codec::Raw)],
        blobs: vec![Blob { id: BlobId::of(b"0"), len: 0 }, Blob { id: BlobId::of(b"1"), len: 100 }],
    }
}

#[test]
fn a_fragment_round_trips() {
    let fragment = fragment();
    assert_eq!(Fragment::decompress(&fragment.compress().unwrap()).unwrap(), fragment);
}

#[test]
fn every_truncation_and_every_extension_is_rejected() {
    let bytes = fragment().encode();
    for len in 0..bytes.len() {
        assert!(Fragment::decode(&bytes[..len]).is_err(), "{len}");
    }
    let longer = [&bytes[..], &[0]].concat();
    let error = Fragment::decode(&longer).unwrap_err();
    assert!(matches!(error, FragmentError::Invalid { .. }), "{error}");
}

#[test]
fn damaged_bytes_are_rejected_or_decode_to_what_they_say() {
    let seed: u64 = 0x5eed;
    println!("seed {seed:#x}");
    let good = fragment().encode();
    let mut state = seed;
    let mut random = |bound: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
        }
        if let Ok(fragment) = Fragment::decode(&bytes) {
            assert_eq!(fragment.encode(), bytes);
        }
    }
}

#[test]
fn a_table_longer_than_the_bytes_is_rejected_before_allocating() {
    let mut bytes = [&MAGIC[..], &1u16.to_le_bytes(), &[0; 32]].concat();
    bytes.extend(u32::MAX.to_le_bytes());
    let error = Fragment::decode(&bytes).unwrap_err();
    assert!(matches!(error, FragmentError::Invalid { offset: 46, .. }), "{error}");
}

#[test]
fn a_frame_that_claims_too_much_is_rejected_before_allocating() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    assert!(matches!(Fragment::decompress(&bomb), Err(FragmentError::Invalid { .. })));
    // A frame header with a single segment of 2^62 bytes.
    let claim =
        [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(1u64 << 62).to_le_bytes(), &[1, 0, 0]].concat();
    assert!(matches!(Fragment::decompress(&claim), Err(FragmentError::Transfer { .. })));
}
