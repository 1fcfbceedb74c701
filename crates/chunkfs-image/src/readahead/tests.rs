use std::collections::BTreeMap;

use chunkfs_format::DigestAlgorithm;
use chunkfs_index::{
    Attributes, Blob, Content, Index, IndexBuilder, Location, Node, Segment, SegmentChunk, Tree,
};

use super::*;

const CHUNK: u64 = 64 << 10;

/// An index with one file of a few bytes in each of `chunk_counts` many chunks.
fn index(chunk_counts: &[u64]) -> Index {
    let chunk_size = ChunkSize::new(CHUNK).unwrap();
    let algorithm = DigestAlgorithm::Blake3;
    let mut builder = IndexBuilder::new(algorithm, chunk_size);
    let id = chunkfs_format::BlobId::of(b"blob");
    let blob = builder.add_blob(Blob { id, len: CHUNK }).unwrap();
    let location = Location { blob, offset: 0, stored_len: 1, codec: chunkfs_format::Codec::Zstd };
    let id = algorithm.chunk_id(b"chunk");
    let chunk = builder.add_chunk(id, CHUNK as u32, location).unwrap();
    let mut tree = Tree::new(Attributes::default());
    let mut names = BTreeMap::new();
    for (number, chunk_count) in chunk_counts.iter().enumerate() {
        let chunk = SegmentChunk { index: chunk, offset: 0 };
        let segment = Segment { len: CHUNK, chunk: Some(chunk) };
        let content = Content::Regular(vec![segment; *chunk_count as usize]);
        let attributes = Attributes::default();
        names.insert(format!("{number:03}").into_bytes(), tree.add(Node { attributes, content }));
    }
    let root = tree.root();
    *tree.children_mut(root).unwrap() = names;
    builder.build(&tree).unwrap()
}

fn file(index: &Index, number: usize) -> Inode {
    index.lookup_path(format!("{number:03}").as_bytes()).unwrap()
}

/// The number of moves that the tables below are written for.
const MOVES: u32 = 4;

fn readahead(window_max: u64) -> Readahead {
    let readahead = Readahead::new(ChunkSize::new(CHUNK).unwrap(), window_max * CHUNK);
    Readahead { streak_min: MOVES, ..readahead }
}

#[test]
fn eight_moves_make_a_reader_sequential() {
    let index = index(&[100]);
    let file = file(&index, 0);
    let readahead = Readahead::new(ChunkSize::new(CHUNK).unwrap(), 8 * CHUNK);
    let aheads = (0..10).map(|chunk| readahead.advance(&file, chunk * CHUNK..(chunk + 1) * CHUNK));
    let aheads: Vec<_> = aheads.enumerate().filter(|(_, ahead)| !ahead.is_empty()).collect();
    assert_eq!(aheads, [(8, 9 * CHUNK..17 * CHUNK)]);
}

/// Reads chunks of a file of 100 chunks and returns the ranges of chunks that are read ahead.
fn advance_all(window_max: u64, reads: &[(u64, u64)]) -> Vec<(usize, Range<u64>)> {
    let index = index(&[100]);
    let file = file(&index, 0);
    let readahead = readahead(window_max);
    let mut aheads = Vec::new();
    for (number, (first, last)) in reads.iter().enumerate() {
        let ahead = readahead.advance(&file, first * CHUNK..(last + 1) * CHUNK);
        if !ahead.is_empty() {
            aheads.push((number, ahead.start / CHUNK..ahead.end / CHUNK));
        }
    }
    aheads
}

fn singles(chunks: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    chunks.into_iter().map(|chunk| (chunk, chunk)).collect()
}

#[test]
fn reads_cause_exactly_these_readaheads() {
    // Name, window, first and last chunk of each read, chunks ahead after which read.
    type Row = (&'static str, u64, Vec<(u64, u64)>, Vec<(usize, Range<u64>)>);
    let table: Vec<Row> = vec![
        ("four chunks are no sequence", 8, singles([0, 1, 2, 3]), vec![]),
        ("five are", 8, singles([0, 1, 2, 3, 4]), vec![(4, 5..13)]),
        ("anywhere in the file", 8, singles(50..55), vec![(4, 55..63)]),
        (
            "the window is filled up when half of it is used",
            8,
            singles(0..20),
            vec![(4, 5..13), (8, 13..17), (12, 17..21), (16, 21..25)],
        ),
        (
            "the window doubles up to its limit",
            32,
            singles(0..30),
            vec![(4, 5..13), (5, 13..22), (6, 22..39), (22, 39..55)],
        ),
        ("a window of one chunk", 1, singles(0..7), vec![(4, 5..6), (5, 6..7), (6, 7..8)]),
        ("no window", 0, singles(0..50), vec![]),
        ("the end of the file", 8, singles(92..100), vec![(4, 97..100)]),
        ("reads within a chunk are one move", 8, singles([0, 0, 1, 1, 2, 3, 3]), vec![]),
        (
            "long reads are one move each",
            8,
            vec![(0, 3), (4, 7), (8, 11), (12, 15), (16, 19)],
            vec![(4, 20..28)],
        ),
        ("overlapping reads", 8, (0..5).map(|n| (n, n + 1)).collect(), vec![(4, 6..14)]),
        ("two neighbours swapped", 8, singles([0, 2, 1, 3, 4, 5]), vec![(5, 6..14)]),
        ("the first two swapped", 8, singles([1, 0, 2, 3, 4, 5]), vec![(5, 6..14)]),
        (
            "a burst in reverse",
            8,
            singles([0, 1, 2, 3, 4, 8, 7, 6, 5, 9]),
            vec![(4, 5..13), (8, 13..17)],
        ),
        ("a late read changes nothing", 8, singles([0, 1, 2, 0, 3, 4]), vec![(5, 5..13)]),
        ("every second chunk", 8, singles((0..100).step_by(2)), vec![]),
        ("backwards", 8, singles((0..100).rev()), vec![]),
        ("far apart", 8, singles((0..20).flat_map(|n| [n, n + 50])), vec![]),
        ("a jump starts afresh", 8, singles((0..5).chain(50..55)), vec![(4, 5..13), (9, 55..63)]),
        ("a jump back too", 8, singles((50..55).chain(0..5)), vec![(4, 55..63), (9, 5..13)]),
    ];
    for (name, window_max, reads, expected) in table {
        assert_eq!(advance_all(window_max, &reads), expected, "{name}");
    }
}

#[test]
fn everything_read_ahead_is_asked_for_once() {
    for window_max in [1, 2, 3, 8, 64, 1_000] {
        let mut end = u64::from(MOVES) + 1;
        for (read, ahead) in advance_all(window_max, &singles(0..100)) {
            assert!(ahead.start == end && ahead.start > read as u64, "{window_max}: {ahead:?}");
            end = ahead.end;
        }
        assert_eq!(end, 100, "{window_max}");
    }
}

#[test]
fn lengths_around_a_chunk_and_empty_reads_are_left_alone() {
    let index = index(&[0, 1, 2]);
    let readahead = readahead(8);
    for number in 0..3 {
        let file = file(&index, number);
        for range in [0..0, CHUNK..CHUNK, 0..1, 0..file.len, u64::MAX..file.len] {
            assert_eq!(readahead.advance(&file, range.clone()), 0..0, "{number}, {range:?}");
        }
    }
}

#[test]
fn a_window_below_a_chunk_is_none() {
    let chunk_size = ChunkSize::new(CHUNK).unwrap();
    for (len_max, window_max) in [(0, 0), (CHUNK - 1, 0), (CHUNK, 1), (u64::MAX, u64::MAX / CHUNK)]
    {
        assert_eq!(Readahead::new(chunk_size, len_max).window_max, window_max);
    }
}

#[test]
fn the_reader_that_read_longest_ago_is_forgotten() {
    let index = index(&[20; FILES_MAX + 1]);
    let readahead = readahead(8);
    let read = |number: usize, chunk: u64| {
        let file = file(&index, number);
        readahead.advance(&file, chunk * CHUNK..(chunk + 1) * CHUNK)
    };
    let last = u64::from(MOVES);
    for chunk in 0..last {
        for number in 0..FILES_MAX {
            assert_eq!(read(number, chunk), 0..0);
        }
    }
    // File 0 is read again, so file 1 makes room.
    assert!(!read(0, last).is_empty());
    assert_eq!(read(FILES_MAX, 0), 0..0);
    assert_eq!(readahead.readers.lock().unwrap().by_file.len(), FILES_MAX);
    assert!(!read(2, last).is_empty());
    assert_eq!(read(1, last), 0..0);
}
