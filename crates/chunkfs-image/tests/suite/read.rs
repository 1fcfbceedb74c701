//! All forms of reading return the same bytes.

use std::sync::mpsc;
use std::thread::{self, ThreadId};

use bytes::Bytes;
use chunkfs_image::{Image, READ_LEN_MAX, ReadError};
use chunkfs_index::{Inode, PieceSource};
use futures::FutureExt as _;

use crate::support::{
    CHUNK, GatedSource, SHAPES, chain, convert, file, memory_cache, open, plain_options, runtime,
    until,
};

fn slice(content: &[u8], offset: u64, len: u64) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
    let end = usize::try_from(offset.saturating_add(len)).unwrap_or(usize::MAX).min(content.len());
    &content[start..end]
}

/// Offsets and lengths at all borders of a file and of its chunks.
fn borders(content: &[u8]) -> Vec<u64> {
    let mut borders = vec![0, 1, 4_096, u64::MAX];
    let around = |at: usize| [at.saturating_sub(1) as u64, at as u64, at as u64 + 1];
    for at in [content.len(), CHUNK, 2 * CHUNK, 3 * CHUNK, 22 * CHUNK] {
        borders.extend(around(at));
    }
    borders.sort_unstable();
    borders.dedup();
    borders
}

/// Calls `check` with every file of the image, its content, and all combinations of borders.
fn for_all_ranges(image: &Image, mut check: impl FnMut(&Inode, u64, u64, &[u8])) {
    for (name, content) in &SHAPES.0 {
        let file = file(image, name);
        for offset in borders(content) {
            for len in borders(content) {
                check(&file, offset, len, slice(content, offset, len));
            }
        }
    }
}

fn open_shapes() -> Image {
    // Readahead off, so that it does not hide what reading alone does.
    let options = plain_options().with_readahead_len_max(0);
    runtime().block_on(open(&SHAPES.1, options))
}

#[test]
fn the_image_has_files_of_all_shapes() {
    let image = open_shapes();
    let sources = |name: &str| -> Vec<_> {
        let file = file(&image, name.as_bytes());
        image.index().pieces(&file, 0, u64::MAX).map(|piece| piece.source).collect()
    };
    let is_hole = |source: &PieceSource| *source == PieceSource::Hole;
    assert_eq!(sources("empty"), []);
    assert_eq!(sources("hole"), [PieceSource::Hole]);
    let shape: Vec<bool> = sources("sparse").iter().map(is_hole).collect();
    assert_eq!(shape, [false, false, true, false]);
    let chunk_of = |name| match sources(name)[..] {
        [PieceSource::Chunk { index, offset }] => (index, offset),
        ref other => panic!("{other:?}"),
    };
    let (pack_a, pack_b) = (chunk_of("packed-a"), chunk_of("packed-b"));
    assert!(pack_a.0 == pack_b.0 && pack_a.1 != pack_b.1, "packed into one chunk");
    assert_eq!(sources("five-chunks-and-a-bit").len(), 6);
}

#[test]
fn a_future_returns_the_bytes() {
    let image = open_shapes();
    for_all_ranges(&image, |file, offset, len, expected| {
        let bytes = runtime().block_on(image.read(file, offset, len)).unwrap();
        assert!(bytes == expected, "{file:?} from {offset}, {len} bytes");
    });
}

#[test]
fn a_buffer_is_filled_up_to_the_end_of_the_file() {
    let image = open_shapes();
    for_all_ranges(&image, |file, offset, len, expected| {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(30 * CHUNK);
        let mut buffer = vec![0xaa; len];
        let count = runtime().block_on(image.read_at(file, offset, &mut buffer)).unwrap();
        assert_eq!(count, expected.len());
        let (filled, rest) = buffer.split_at(count);
        assert!(filled == expected, "{file:?} from {offset}, {len} bytes");
        assert!(rest == vec![0xaa; rest.len()], "the rest is left alone");
    });
}

#[test]
fn a_plain_thread_can_block() {
    let image = open_shapes();
    for_all_ranges(&image, |file, offset, len, expected| {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(30 * CHUNK);
        let mut buffer = vec![0xaa; len];
        let count = image.read_at_blocking(file, offset, &mut buffer).unwrap();
        assert!(buffer[..count] == *expected, "{file:?} from {offset}, {len} bytes");
    });
}

#[test]
fn a_callback_gets_the_bytes() {
    let image = open_shapes();
    for_all_ranges(&image, |file, offset, len, expected| {
        let (sender, receiver) = mpsc::channel();
        image.submit_read(file, offset, len, move |result| sender.send(result).unwrap());
        let bytes = receiver.recv().unwrap().unwrap();
        assert!(bytes == expected, "{file:?} from {offset}, {len} bytes");
    });
}

/// Reads by callback and returns the result and the thread that the callback ran on.
fn submit(image: &Image, file: &Inode) -> mpsc::Receiver<(ThreadId, Result<Bytes, ReadError>)> {
    let (sender, receiver) = mpsc::channel();
    image.submit_read(file, 0, u64::MAX, move |result| {
        sender.send((thread::current().id(), result)).unwrap();
    });
    receiver
}

#[test]
fn a_callback_runs_here_if_all_is_in_memory_and_else_on_the_runtime() {
    let source = GatedSource::new(&SHAPES.1);
    let cache = memory_cache(runtime());
    let image = runtime().block_on(source.open(&cache, plain_options()));
    source.close(chunkfs_fetch::Priority::Demand);
    let file = file(&image, b"three-chunks");
    let receiver = submit(&image, &file);
    assert_eq!(receiver.try_recv().unwrap_err(), mpsc::TryRecvError::Empty);
    source.demand.add_permits(100);
    let (thread, result) = receiver.recv().unwrap();
    assert_ne!(thread, thread::current().id());
    assert_eq!(result.unwrap(), SHAPES.0[&b"three-chunks"[..]]);
    let (thread, result) = submit(&image, &file).try_recv().unwrap();
    assert_eq!(thread, thread::current().id());
    assert_eq!(result.unwrap(), SHAPES.0[&b"three-chunks"[..]]);
}

#[test]
fn a_callback_can_be_given_inside_an_executor_and_may_read_again() {
    let image = open_shapes();
    let file = file(&image, b"three-chunks");
    for _ in 0..2 {
        let (sender, receiver) = mpsc::channel();
        futures::executor::block_on(async {
            let again = image.clone();
            image.submit_read(&file, 0, u64::MAX, move |first| {
                let first = first.unwrap();
                again.submit_read(&file, 0, u64::MAX, move |second| {
                    sender.send(first == second.unwrap()).unwrap();
                });
            });
        });
        assert!(receiver.recv().unwrap());
    }
}

#[test]
fn a_callback_is_called_also_if_the_runtime_shuts_down() {
    let own = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let source = GatedSource::new(&SHAPES.1);
    let cache = memory_cache(own.handle().clone());
    let image = own.block_on(source.open(&cache, plain_options()));
    source.close(chunkfs_fetch::Priority::Demand);
    let file = file(&image, b"three-chunks");
    let receiver = submit(&image, &file);
    own.block_on(until(|| source.request_count() == 1));
    drop(own);
    let (_, result) = receiver.recv().unwrap();
    assert!(result.is_err(), "{result:?}");
    // Nothing runs any more, and this is said at once.
    let (_, result) = submit(&image, &file).try_recv().unwrap();
    assert!(result.is_err(), "{result:?}");
}

#[test]
fn nothing_but_regular_files_can_be_read() {
    let image = open_shapes();
    let root = image.index().root();
    let error = runtime().block_on(image.read(&root, 0, 1)).unwrap_err();
    assert!(matches!(error, ReadError::NotAFile { ino: 1 }), "{error}");
    assert_eq!(chain(&error), "inode 1 is not a regular file");
    assert!(image.read_at_blocking(&root, 0, &mut [0]).is_err());
    let counters = image.counters();
    assert_eq!((counters.reads, counters.read_bytes, counters.read_errors), (2, 0, 2));
}

#[test]
fn reads_and_their_bytes_are_counted() {
    let image = open_shapes();
    let file = file(&image, b"chunk");
    runtime().block_on(image.read(&file, 10, 100)).unwrap();
    image.read_at_blocking(&file, CHUNK as u64 - 1, &mut [0; 10]).unwrap();
    let counters = image.counters();
    assert_eq!((counters.reads, counters.read_bytes, counters.read_errors), (2, 101, 0));
}

#[test]
fn a_read_within_one_chunk_copies_nothing() {
    let image = open_shapes();
    let file = file(&image, b"chunk");
    let whole = runtime().block_on(image.read(&file, 0, u64::MAX)).unwrap();
    let part = runtime().block_on(image.read(&file, 100, 50)).unwrap();
    assert_eq!(part.as_ptr(), whole[100..].as_ptr());
}

#[test]
fn a_huge_hole_is_read_in_parts_or_refused() {
    let store = convert(|folder| {
        let file = std::fs::File::create(folder.join("huge")).unwrap();
        file.set_len(5 << 30).unwrap();
    });
    let image = runtime().block_on(open(&store, plain_options()));
    let file = file(&image, b"huge");
    for (offset, len) in [(0, u64::MAX), (0, READ_LEN_MAX + 1), (1, 5 << 30)] {
        let actual = len.min((5 << 30) - offset);
        let error = runtime().block_on(image.read(&file, offset, len)).unwrap_err();
        let ReadError::TooLong { len, len_max, .. } = error else { panic!("{error}") };
        assert_eq!((len, len_max), (actual, READ_LEN_MAX));
    }
    // The end of the file counts, not what was asked for.
    let read = image.read(&file, (5 << 30) - 10, u64::MAX).now_or_never();
    assert_eq!(read.unwrap().unwrap(), [0; 10][..]);
}

#[test]
fn a_long_read_asks_for_its_chunks_in_steps() {
    // 80 MiB of one chunk: a hostile image costs no more than any other.
    let len = 80 << 20;
    let store = convert(|folder| {
        std::fs::write(folder.join("long"), b"0123456789abcdef".repeat(len / 16)).unwrap();
        std::fs::write(folder.join("tail"), b"x").unwrap();
    });
    let image = runtime().block_on(open(&store, plain_options()));
    let file = file(&image, b"long");
    let chunks_per_step = (16 << 20) / CHUNK as u64;
    let asked = || {
        let counters = image.cache().counters();
        counters.demand_chunks + counters.memory_hits + counters.joined_loads
    };
    let read = image.read(&file, 0, u64::MAX);
    assert!(asked() <= chunks_per_step, "{}", asked());
    let bytes = runtime().block_on(read).unwrap();
    assert!(bytes.len() == len && bytes.chunks(16).all(|part| part == b"0123456789abcdef"));
    assert_eq!(asked(), len as u64 / CHUNK as u64);
}
