//! The ids and stored bytes of known chunks and packs, so that a change of zstd or of the cut rule
//! is noticed: either changes blobs, and with them what unchanged layers can be reused from.

use std::fmt::Write as _;
use std::path::Path;

use chunkfs_format::{
    BlobId, ChunkEncoder, ChunkSize, Codec, CompressionLevel, DigestAlgorithm, PackSize, Packer,
};

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares line by line, or writes the file to the folder in `CHUNKFS_WRITE_GOLDEN`.
fn assert_golden(name: &str, actual: &str) {
    if let Some(folder) = std::env::var_os("CHUNKFS_WRITE_GOLDEN") {
        return std::fs::write(Path::new(&folder).join(name), actual).unwrap();
    }
    let expected = golden(name);
    for (expected, actual) in expected.lines().zip(actual.lines()) {
        assert_eq!(expected, actual, "{name}");
    }
    assert_eq!(expected.lines().count(), actual.lines().count(), "{name}");
}

/// The first `len` bytes of BLAKE3 in extendable-output mode over the seed as a `u32`.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Lines of decimal numbers, counted from zero.
fn numbers(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len as u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// Zeros but for one byte in `period`, which is noise.
fn mixed(period: usize, len: usize) -> Vec<u8> {
    let noise = noise(7, len);
    noise.iter().enumerate().map(|(at, byte)| if at % period == 0 { *byte } else { 0 }).collect()
}

/// [F-3] [F-9] [F-10]
#[test]
fn chunks_have_their_golden_ids_and_stored_bytes() {
    let mut text = String::from(
        "# input level codec stored_len blake3 sha256 sha256-of-the-stored-bytes (docs/format.md)\n",
    );
    let inputs = [
        ("zeros 1", vec![0; 1]),
        ("zeros 1048576", vec![0; 1 << 20]),
        ("noise 0 31", noise(0, 31)),
        ("noise 1 65536", noise(1, 65_536)),
        ("numbers 100", numbers(100)),
        ("numbers 4097", numbers(4097)),
        ("numbers 262144", numbers(1 << 18)),
        ("mixed 2 262144", mixed(2, 262_144)),
        ("mixed 64 262144", mixed(64, 262_144)),
    ];
    for (name, content) in &inputs {
        for level in [1, 3, 19] {
            let level = CompressionLevel::new(level).unwrap();
            let mut encoder = ChunkEncoder::new(level).unwrap();
            let (codec, stored) = encoder.encode(content).unwrap();
            let blake3 = DigestAlgorithm::Blake3.chunk_id(content);
            let sha256 = DigestAlgorithm::Sha256.chunk_id(content);
            let (stored_len, stored) = (stored.len(), BlobId::of(stored).to_hex());
            let codec = codec.code();
            writeln!(text, "{name} {level} {codec} {stored_len} {blake3} {sha256} {stored}")
                .unwrap();
        }
    }
    assert_golden("v1-chunks.txt", &text);
}

/// [F-10] The limit itself: zstd must save at least one byte in 32, rounded up.
#[test]
fn a_chunk_is_stored_raw_unless_zstd_saves_a_32nd() {
    let mut encoder = ChunkEncoder::new(CompressionLevel::default()).unwrap();
    let mut is_seen = [false; 2];
    for zeros in 0..400 {
        let content = [noise(3, 4096), vec![0; zeros]].concat();
        let frame_len = zstd::bulk::compress(&content, 3).unwrap().len();
        let limit = content.len() - content.len().div_ceil(32);
        let expected = if frame_len <= limit { Codec::Zstd } else { Codec::Raw };
        assert_eq!(encoder.encode(&content).unwrap().0, expected, "{zeros} zeros");
        is_seen[usize::from(expected == Codec::Zstd)] = true;
    }
    assert_eq!(is_seen, [true, true]);
}

/// [F-9] One frame that states its length, without checksum and dictionary (RFC 8878, 3.1.1.1.1).
#[test]
fn zstd_chunks_are_one_plain_frame() {
    let content = numbers(100_000);
    let mut encoder = ChunkEncoder::new(CompressionLevel::default()).unwrap();
    let (codec, stored) = encoder.encode(&content).unwrap();
    assert_eq!((codec, &stored[..4]), (Codec::Zstd, &[0x28, 0xb5, 0x2f, 0xfd][..]));
    assert_eq!(stored[4] & 0b111, 0, "no checksum, no dictionary");
    assert_eq!(zstd::zstd_safe::get_frame_content_size(stored).ok(), Some(Some(100_000)));
    assert_eq!(zstd::zstd_safe::find_frame_compressed_size(stored), Ok(stored.len()));
}

/// [F-18] [F-19] [F-20] [F-21]
#[test]
fn packs_have_their_golden_borders_and_ids() {
    let mut text = String::from(
        "# chunk_size pack_size, the lengths of files 0, 1, ... whose content is `noise n len`;\n\
         # then for each file: pack offset; then for each pack: length blake3 (docs/format.md)\n",
    );
    let sizes = [(1 << 20, 256 << 10), (64 << 10, 64 << 10), (64 << 10, 8192), (64 << 10, 4096)];
    for (chunk_size, pack_size) in sizes {
        let chunk_size = ChunkSize::new(chunk_size).unwrap();
        let pack_size = PackSize::new(pack_size, chunk_size).unwrap();
        let max = pack_size.bytes() as usize / 2 - 1;
        let lens: Vec<usize> = (0..60).map(|n| 1 + (n * n * 7919) % max.min(40_000)).collect();
        let lens: Vec<usize> = lens.into_iter().chain([max, 1, max, max, 4096 % max, 1]).collect();
        let mut packer = Packer::new(chunk_size, pack_size).unwrap();
        let (mut places, mut packs) = (Vec::new(), Vec::new());
        for (seed, len) in (0..).zip(&lens) {
            let packed = packer.add(&noise(seed, *len));
            packs.extend(packed.completed_before);
            places.push(format!("{} {}", packs.len(), packed.offset));
            packs.extend(packed.completed_after);
        }
        packs.extend(packer.finish());
        writeln!(text, "sizes {} {}", chunk_size.bytes(), pack_size.bytes()).unwrap();
        places.iter().zip(&lens).for_each(|(at, len)| writeln!(text, "file {len} {at}").unwrap());
        for pack in &packs {
            let id = DigestAlgorithm::Blake3.chunk_id(pack);
            writeln!(text, "pack {} {id}", pack.len()).unwrap();
        }
    }
    assert_golden("v1-packs.txt", &text);
}
