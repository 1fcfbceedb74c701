//! Where large files are cut.

use crate::chunking::ChunkSize;
use crate::wire::{Cursor, Truncated};

/// How many bytes from the start of a file decide where it is cut: 4 KiB.
pub const PIECE_HEAD_LEN: usize = 4096;

/// The most bytes of a piece of an ELF file.
const ELF_PIECE_LEN: u64 = 512 << 10;
/// The most bytes of a piece that a writable segment of an ELF file lies in.
const ELF_WRITABLE_PIECE_LEN: u64 = 128 << 10;

/// The length of a program header.
const PROGRAM_HEADER_LEN: u64 = 56;
/// A segment that is loaded, and the flag of those that are writable.
const PT_LOAD: u32 = 1;
const PF_W: u32 = 2;

/// Knows where a large file is cut into pieces, each of which is a chunk.
///
/// Most files are cut where their offset is a multiple of the chunk size: they are read in order
/// or not at all. Programs and libraries are mapped, and a start touches them here and there, so they
/// are cut finer: at multiples of 512 KiB, and of 128 KiB where a writable segment lies, since
/// relocations touch single pages all over it. Which parts these are is read from the program
/// headers in the first [`PIECE_HEAD_LEN`] bytes of 64-bit little-endian ELF files; a file whose
/// headers lie elsewhere or make no sense has no such parts.
#[derive(Debug, Clone)]
pub struct PieceCutter {
    piece_len: u64,
    fine_len: u64,
    /// The file ranges of writable segments.
    writable: Vec<(u64, u64)>,
}

impl PieceCutter {
    /// Creates the cutter of a file from its first bytes: [`PIECE_HEAD_LEN`], or all if it is shorter.
    pub fn new(chunk_size: ChunkSize, head: &[u8]) -> Self {
        let chunk_size = u64::from(chunk_size.bytes());
        let head = head.get(..PIECE_HEAD_LEN).unwrap_or(head);
        if !head.starts_with(b"\x7fELF\x02\x01") {
            return Self { piece_len: chunk_size, fine_len: chunk_size, writable: Vec::new() };
        }
        Self {
            piece_len: chunk_size.min(ELF_PIECE_LEN),
            fine_len: chunk_size.min(ELF_WRITABLE_PIECE_LEN),
            writable: writable_segments(head),
        }
    }

    /// Returns where the piece that holds byte `at` ends, were the file endless.
    pub fn piece_end(&self, at: u64) -> u64 {
        let end_of = |len: u64| (at / len).saturating_add(1).saturating_mul(len);
        let end = end_of(self.piece_len);
        let start = end.saturating_sub(self.piece_len);
        let is_writable = |segment: &(u64, u64)| segment.0 < end && start < segment.1;
        if self.writable.iter().any(is_writable) { end_of(self.fine_len) } else { end }
    }
}

/// Returns the file ranges of the writable segments that the headers in `head` describe.
fn writable_segments(head: &[u8]) -> Vec<(u64, u64)> {
    let u16_at = |at| read(head, at, |cursor| cursor.u16("a field"));
    let u64_at = |at| read(head, at, |cursor| cursor.u64("a field"));
    let (Some(table), Some(56), Some(count)) = (u64_at(32), u16_at(54), u16_at(56)) else {
        return Vec::new();
    };
    let mut segments = Vec::new();
    for position in 0..u64::from(count) {
        // What lies outside the head is not read, so that this ends early.
        let Some(header) = table.checked_add(position * PROGRAM_HEADER_LEN) else { break };
        let fields = read(head, header, |cursor| {
            let (kind, flags) = (cursor.u32("a type")?, cursor.u32("flags")?);
            let offset = cursor.u64("an offset")?;
            cursor.take(16, "addresses")?;
            let len = cursor.u64("a length")?;
            cursor.take(16, "the rest")?;
            Ok((kind, flags, offset, len))
        });
        let Some((kind, flags, offset, len)) = fields else { break };
        if kind == PT_LOAD && flags & PF_W != 0 && len != 0 {
            segments.push((offset, offset.saturating_add(len)));
        }
    }
    segments
}

fn read<T>(
    head: &[u8],
    at: u64,
    field: impl FnOnce(&mut Cursor<'_>) -> Result<T, Truncated>,
) -> Option<T> {
    let rest = head.get(usize::try_from(at).ok()?..)?;
    field(&mut Cursor::new(rest)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk_size(bytes: u64) -> ChunkSize {
        ChunkSize::new(bytes).unwrap()
    }

    /// An ELF file's start with one program header for each (type, flags, offset, length).
    fn head(table: u64, segments: &[(u32, u32, u64, u64)]) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[32..40].copy_from_slice(&table.to_le_bytes());
        head[54..56].copy_from_slice(&56u16.to_le_bytes());
        head[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        head.resize(usize::try_from(table).unwrap().max(64), 0);
        for (kind, flags, offset, len) in segments {
            head.extend(kind.to_le_bytes());
            head.extend(flags.to_le_bytes());
            head.extend(offset.to_le_bytes());
            head.extend([0; 16]);
            head.extend(len.to_le_bytes());
            head.extend([0; 16]);
        }
        head
    }

    /// Where a file of `len` bytes is cut.
    fn cuts(cutter: &PieceCutter, len: u64) -> Vec<u64> {
        let mut cuts = vec![0];
        while let Some(at) = cuts.last().copied().filter(|at| *at < len) {
            cuts.push(cutter.piece_end(at).min(len));
        }
        cuts
    }

    const KIB: u64 = 1 << 10;

    #[test]
    fn files_are_cut_at_multiples_of_the_chunk_size() {
        for head in [&b""[..], b"\x7fEL", b"GIF89a", b"\x7fELF\x01\x01", b"\x7fELF\x02\x02"] {
            let cutter = PieceCutter::new(chunk_size(64 << 10), head);
            assert_eq!(cuts(&cutter, 130 * KIB), [0, 64 * KIB, 128 * KIB, 130 * KIB], "{head:?}");
        }
    }

    /// [F-78]
    #[test]
    fn elf_files_are_cut_finer_where_they_are_writable() {
        // Code, a writable segment that begins in the third piece, and one that is not loaded.
        let segments =
            [(1, 5, 0, 1 << 20), (1, 6, 1200 * KIB, 100 * KIB), (2, 6, 0, 100), (1, 6, 100, 0)];
        let cutter = PieceCutter::new(chunk_size(1 << 20), &head(64, &segments));
        let expected = [0, 512, 1024, 1152, 1280, 1408, 1536, 2000].map(|cut| cut * KIB);
        assert_eq!(cuts(&cutter, 2000 * KIB), expected);
        // The chunk size is the limit.
        let cutter = PieceCutter::new(chunk_size(64 << 10), &head(64, &segments));
        assert_eq!(cuts(&cutter, 200 * KIB), [0, 64, 128, 192, 200].map(|cut| cut * KIB));
    }

    #[test]
    fn a_writable_segment_that_ends_at_a_cut_does_not_reach_the_next_piece() {
        let cutter =
            PieceCutter::new(chunk_size(1 << 20), &head(64, &[(1, 2, 512 * KIB, 512 * KIB)]));
        assert_eq!(cutter.piece_end(512 * KIB - 1), 512 * KIB);
        assert_eq!(cutter.piece_end(512 * KIB), 640 * KIB);
        assert_eq!(cutter.piece_end(1024 * KIB - 1), 1024 * KIB);
        assert_eq!(cutter.piece_end(1024 * KIB), 1536 * KIB);
    }

    #[test]
    fn headers_outside_the_head_and_nonsense_are_ignored() {
        let writable = [(1, 6, 0, u64::MAX)];
        let at_the_end = head(PIECE_HEAD_LEN as u64 - 56, &writable);
        let beyond = head(PIECE_HEAD_LEN as u64 - 55, &writable);
        let mut far = head(64, &writable);
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        let mut other_len = head(64, &writable);
        other_len[54] = 64;
        let overflow = head(64, &[(1, 6, u64::MAX, u64::MAX)]);
        for (name, head, expected) in [
            ("at the end", at_the_end, 128),
            ("beyond", beyond, 512),
            ("far", far, 512),
            ("other length", other_len, 512),
            ("overflow", overflow, 512),
        ] {
            let cutter = PieceCutter::new(chunk_size(1 << 20), &head);
            assert_eq!(cutter.piece_end(0), expected * KIB, "{name}");
            let _ = cutter.piece_end(u64::MAX);
        }
    }
}
