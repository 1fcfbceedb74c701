//! Packs: chunks that several small files share.

use crate::chunking::{ChunkSize, GRID, PackSize};

/// How many lanes of packs a layer has.
pub const PACK_LANE_COUNT: usize = 32;

/// The lane of files of test suites, whatever their kind.
const TEST_LANE: usize = PACK_LANE_COUNT - 1;

/// Returns the lane, below [`PACK_LANE_COUNT`], whose packs take a small file with this path.
///
/// Files of one kind are wanted together: an interpreter that starts reads bytecode and neither
/// sources nor headers beside it. Test suites are installed in the middle of what they test and
/// are hardly ever read: whatever lies below a directory named `test` or `tests` has the last lane.
/// The lane of all else is the first byte of the BLAKE3 digest of the file name's extension, modulo
/// the number of the other lanes. The extension is what follows the last dot of the name, or empty
/// if there is none or the name begins with it.
pub fn pack_lane(path: &[u8]) -> usize {
    let mut components = path.rsplit(|byte| *byte == b'/');
    let name = components.next().unwrap_or_default();
    if components.any(|directory| matches!(directory, b"test" | b"tests")) {
        return TEST_LANE;
    }
    let extension = match name.iter().rposition(|byte| *byte == b'.') {
        None | Some(0) => &[],
        Some(dot) => name.get(dot + 1..).unwrap_or_default(),
    };
    usize::from(blake3::hash(extension).as_bytes()[0]) % TEST_LANE
}

/// Collects small files into packs.
///
/// A pack is an ordinary chunk. Every file in it starts on the 4 KiB grid; the gap before it is
/// zero. Where a pack ends is decided by the content of the files alone: after a file of aligned
/// length `a` the pack is cut if the first 8 bytes of the file's BLAKE3 digest, as a fraction of
/// 2^64, are below `a / pack_size`. Packs so have a mean length of about `pack_size` whatever the
/// sizes of the files, and a changed file moves no border but its own. A pack that would
/// outgrow twice the pack size (or the chunk size, if less) is cut before the file.
///
/// Holds one pack, so at most twice the pack size of memory.
#[derive(Debug)]
pub struct Packer {
    pack_size: u64,
    pack_max: u64,
    buffer: Vec<u8>,
}

/// Where [`Packer::add`] put a file, and the packs that this completed.
#[derive(Debug, PartialEq, Eq)]
pub struct PackedFile {
    /// A pack that ended before this file: the file is in the pack after it.
    pub completed_before: Option<Vec<u8>>,
    /// The byte offset of the file in its pack, a multiple of 4 KiB.
    pub offset: u32,
    /// The pack that ends with this file.
    pub completed_after: Option<Vec<u8>>,
}

impl Packer {
    /// Creates a packer, or returns `None` if `pack_size` is zero.
    ///
    /// A pack size above the chunk size, which only a mix-up of two images' sizes makes possible,
    /// counts as the chunk size.
    pub fn new(chunk_size: ChunkSize, pack_size: PackSize) -> Option<Self> {
        let pack_size = u64::from(pack_size.bytes().min(chunk_size.bytes()));
        let pack_max = (2 * pack_size).min(u64::from(chunk_size.bytes()));
        (pack_size != 0).then(|| Self { pack_size, pack_max, buffer: Vec::new() })
    }

    /// Returns whether a file of this length is packed: it is neither empty nor half a pack or more.
    ///
    /// A longer file gains little from sharing a chunk, and would cost the readers of its neighbours
    /// its bytes.
    pub fn accepts(&self, file_len: u64) -> bool {
        0 < file_len && file_len < self.pack_size / 2
    }

    /// Adds the next file, in the order in which the layer holds them.
    ///
    /// # Panics
    /// If the packer does not [accept](Self::accepts) a file of this length.
    pub fn add(&mut self, file: &[u8]) -> PackedFile {
        assert!(self.accepts(file.len() as u64), "only files that the packer accepts are packed");
        let aligned_len = (file.len() as u64).next_multiple_of(u64::from(GRID));
        let mut start = (self.buffer.len() as u64).next_multiple_of(u64::from(GRID));
        let completed_before =
            if start + file.len() as u64 > self.pack_max { self.take() } else { None };
        if completed_before.is_some() {
            start = 0;
        }
        self.buffer.resize(start as usize, 0);
        self.buffer.extend_from_slice(file);
        let is_cut = self.is_cut_after(file, aligned_len);
        let completed_after = if is_cut { self.take() } else { None };
        PackedFile { completed_before, offset: start as u32, completed_after }
    }

    /// Returns the last pack, or `None` if every file is in a completed one.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        self.take()
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let pack = std::mem::take(&mut self.buffer);
        (!pack.is_empty()).then_some(pack)
    }

    fn is_cut_after(&self, file: &[u8], aligned_len: u64) -> bool {
        let digest = blake3::hash(file);
        let (head, _) = digest.as_bytes().split_first_chunk::<8>().expect("a digest has 32 bytes");
        let fraction = u128::from(u64::from_le_bytes(*head));
        fraction * u128::from(self.pack_size) < u128::from(aligned_len) << 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packer(pack_size: u64) -> Packer {
        let chunk_size = ChunkSize::default();
        Packer::new(chunk_size, PackSize::new(pack_size, chunk_size).unwrap()).unwrap()
    }

    /// Runs `files` through a packer: the packs, and each file's (pack, offset).
    fn pack_all(pack_size: u64, files: &[Vec<u8>]) -> (Vec<Vec<u8>>, Vec<(usize, u32)>) {
        let mut packer = packer(pack_size);
        let (mut packs, mut places) = (Vec::new(), Vec::new());
        for file in files {
            let packed = packer.add(file);
            packs.extend(packed.completed_before);
            places.push((packs.len(), packed.offset));
            packs.extend(packed.completed_after);
        }
        packs.extend(packer.finish());
        (packs, places)
    }

    fn files(count: u32, len: impl Fn(u32) -> usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|n| {
                let mut file = vec![0; len(n)];
                blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut file);
                file
            })
            .collect()
    }

    #[test]
    fn every_file_lies_where_it_was_placed_on_the_grid() {
        let files = files(500, |n| 1 + (n as usize * 7919) % 60_000);
        let (packs, places) = pack_all(256 << 10, &files);
        for (file, (pack, offset)) in files.iter().zip(&places) {
            let offset = *offset as usize;
            assert_eq!(offset % 4096, 0);
            assert_eq!(&packs[*pack][offset..offset + file.len()], &file[..]);
        }
        assert!(packs.iter().all(|pack| pack.len() <= 512 << 10));
    }

    #[test]
    fn mean_pack_length_is_near_the_target_for_small_and_large_files() {
        for len in [100, 4096, 30_000] {
            let (packs, _) = pack_all(256 << 10, &files(2_000, |_| len));
            let mean = packs.iter().map(Vec::len).sum::<usize>() / packs.len();
            assert!((150 << 10..300 << 10).contains(&mean), "{mean} for files of {len}");
        }
    }

    #[test]
    fn a_changed_file_changes_few_packs() {
        let mut changed = files(2_000, |_| 5_000);
        let (before, _) = pack_all(256 << 10, &changed);
        changed[700] = vec![7; 5_000];
        changed.insert(300, vec![9; 3_000]);
        let (after, _) = pack_all(256 << 10, &changed);
        let new = after.iter().filter(|pack| !before.contains(pack)).count();
        assert!(new <= 8, "{new} of {} packs are new", after.len());
    }

    /// [F-77]
    #[test]
    fn lanes_are_a_function_of_the_extension() {
        for (path, like) in [
            (&b"usr/lib/a.py"[..], &b"b.py"[..]),
            (b"a.tar.gz", b"gz.gz"),
            (b".profile", b"etc/passwd"),
            (b"dir.d/file", b"etc/passwd"),
            (b"trailing.", b"etc/passwd"),
            (b"", b"etc/passwd"),
        ] {
            assert_eq!(pack_lane(path), pack_lane(like), "{path:?}");
        }
        // What a starting program reads lies apart from what lies next to it.
        assert_ne!(pack_lane(b"a.pyc"), pack_lane(b"a.py"));
        for path in [&b"test/a.pyc"[..], b"lib/tests/a.py", b"tests/deep/down/README"] {
            assert_eq!(pack_lane(path), PACK_LANE_COUNT - 1, "{path:?}");
        }
        for path in [&b"test"[..], b"lib/tests", b"testing/a.pyc", b"a.tests"] {
            assert_ne!(pack_lane(path), PACK_LANE_COUNT - 1, "{path:?}");
        }
        assert!((0..1000).all(|n| pack_lane(format!("x.{n}").as_bytes()) < PACK_LANE_COUNT));
    }

    #[test]
    fn limits_of_what_is_packed() {
        let packer = packer(8192);
        let accepted = [0, 1, 4095, 4096].map(|len| packer.accepts(len));
        assert_eq!(accepted, [false, true, true, false]);
        let none = PackSize::new(0, ChunkSize::default()).unwrap();
        assert!(Packer::new(ChunkSize::default(), none).is_none());
    }

    #[test]
    fn a_pack_size_above_the_chunk_size_counts_as_the_chunk_size() {
        let chunk_size = ChunkSize::new(64 << 10).unwrap();
        let packer = Packer::new(chunk_size, PackSize::default()).unwrap();
        assert_eq!([32_767, 32_768].map(|len| packer.accepts(len)), [true, false]);
    }

    #[test]
    fn a_pack_never_outgrows_its_maximum() {
        // 4,095 bytes of a file whose digest does not cut: fill to exactly the maximum, then one more.
        let (packs, places) = pack_all(8192, &files(200, |_| 4095));
        assert!(packs.iter().all(|pack| pack.len() <= 16_384));
        assert!(places.iter().all(|(_, offset)| *offset < 16_384));
    }
}
