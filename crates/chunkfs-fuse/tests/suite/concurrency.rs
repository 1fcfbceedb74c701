//! Many readers at once.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::thread;

use chunkfs_fuse::MountOptions;

use crate::support::{CHUNK, Part, TestImage, noise};

/// The variable that tells the child of the mapping test which file to map.
const MAPPED_FILE: &str = "CHUNKFS_TEST_MAPPED_FILE";
const MAPPED_CHUNKS: usize = 64;
const MAPPING_THREADS: usize = 16;

#[test]
fn a_slow_chunk_delays_no_other() {
    let mut image = TestImage::new();
    let slow: Vec<Vec<u8>> = (0..8).map(|seed| noise(seed, CHUNK)).collect();
    for (at, content) in slow.iter().enumerate() {
        image.file(format!("slow{at}").as_bytes(), vec![Part::Data(content.clone())]);
    }
    let fast = noise(100, 5 * CHUNK);
    image.file(b"fast", vec![Part::Data(fast.clone())]);
    // One thread takes requests, eight readers wait: none of them may hold it.
    let options = MountOptions::default().with_threads(NonZeroUsize::MIN);
    let Some(served) = image.serve_with(options) else { return };
    let gates: Vec<_> = slow.iter().map(|content| served.source.hold(content)).collect();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..slow.len())
            .map(|at| {
                let path = served.path(format!("slow{at}"));
                scope.spawn(move || fs::read(path).unwrap())
            })
            .collect();
        gates.iter().for_each(|gate| gate.wait_for_reader());
        assert!(fs::read(served.path("fast")).unwrap() == fast);
        assert!(readers.iter().all(|reader| !reader.is_finished()));
        gates.iter().for_each(|gate| gate.open());
        for (reader, content) in readers.into_iter().zip(&slow) {
            assert!(reader.join().unwrap() == *content);
        }
    });
}

#[test]
fn a_slow_part_of_a_file_delays_no_other_part() {
    let mut image = TestImage::new();
    // Far enough apart that no read-ahead reaches from one to the other.
    let (slow, fast) = (noise(1, CHUNK), noise(2, CHUNK));
    let parts = vec![Part::Data(slow.clone()), Part::Hole(64 << 20), Part::Data(fast.clone())];
    image.file(b"file", parts);
    let Some(served) = image.serve() else { return };
    let gate = served.source.hold(&slow);
    let file = File::open(served.path("file")).unwrap();
    let mut buffer = vec![0; CHUNK];
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buffer = vec![0; 4096];
            file.read_exact_at(&mut buffer, 0).unwrap();
            buffer
        });
        gate.wait_for_reader();
        file.read_exact_at(&mut buffer, (CHUNK + (64 << 20)) as u64).unwrap();
        assert!(!reader.is_finished());
        gate.open();
        assert!(reader.join().unwrap() == slow[..4096]);
    });
    assert!(buffer == fast);
}

#[test]
fn many_threads_that_fault_a_cold_mapping_all_get_their_pages() {
    let mut image = TestImage::new();
    image.file(b"file", vec![Part::Data(noise(1, MAPPED_CHUNKS * CHUNK))]);
    let Some(served) = image.serve() else { return };
    // Another process: one that serves itself the pages it faults proves less, and may deadlock.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "concurrency::map_and_check", "--ignored", "--nocapture"])
        .env(MAPPED_FILE, served.path("file"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(served.mount.counters().read_bytes >= (MAPPED_CHUNKS * CHUNK) as u64);
}

/// The child of the test above.
#[test]
#[ignore = "run by another test in a process of its own"]
fn map_and_check() {
    let Some(path) = std::env::var_os(MAPPED_FILE) else {
        return eprintln!("skipped: there is no file to map");
    };
    let file = File::open(Path::new(&path)).unwrap();
    // SAFETY: `Mmap::map` requires that nobody changes the file while the map lives. It lies on a
    // read-only mount of an image, and images never change.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    let expected = noise(1, MAPPED_CHUNKS * CHUNK);
    assert_eq!(map.len(), expected.len());
    let pages = map.len() / 4096;
    let barrier = Barrier::new(MAPPING_THREADS);
    thread::scope(|scope| {
        for thread in 0..MAPPING_THREADS {
            let (map, expected, barrier) = (&map, &expected, &barrier);
            scope.spawn(move || {
                barrier.wait();
                // Each thread in another order, all of them all pages.
                for step in 0..pages {
                    let page = (step * (2 * thread + 1) + thread * 61) % pages;
                    let range = page * 4096..(page + 1) * 4096;
                    assert!(map[range.clone()] == expected[range], "page {page}");
                }
            });
        }
    });
}
