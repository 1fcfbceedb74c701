use std::time::Instant;

use super::*;
use crate::files::DiskFiles;
use crate::slab::record::Queue;

fn store(folder: &std::path::Path) -> SlabStore {
    let settings = StoreSettings { quota_len: None, reserve_len: 0 };
    SlabStore::new(Arc::new(DiskFiles::new(folder)), settings)
}

fn key(number: u64) -> StoreKey {
    let bytes = *blake3::hash(&number.to_le_bytes()).as_bytes();
    StoreKey { bytes, algorithm: 1 }
}

/// Makes records without slots behind them, each of which is found again.
fn fill(folder: &std::path::Path, count: u64) {
    let store = store(folder);
    let generation = store.open().unwrap();
    let _writer = generation.lock().unwrap();
    for number in 0..count {
        let record = Record {
            key: key(number),
            page: number,
            len: 4_096,
            state: State::Ready,
            queue: Queue::Small,
            frequency: 0,
            sequence: number,
            boot: store.boot(),
        };
        generation.directory.insert(&record).unwrap();
    }
}

#[test]
fn a_directory_grows_by_levels_and_finds_everything() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 40_000);
    let store = store(folder.path());
    let generation = store.open().unwrap();
    for number in (0..40_000).step_by(97) {
        assert_eq!(store.find(&key(number), 4_096).unwrap().unwrap().page, number);
    }
    assert_eq!(store.find(&key(40_000), 4_096).unwrap(), None);
    let mut count = 0;
    generation.directory.scan(|_| count += 1).unwrap();
    assert_eq!(count, 40_000);
}

#[test]
fn an_end_page_beyond_all_slabs_starts_a_new_generation() {
    let folder = tempfile::tempdir().unwrap();
    for end_page in [1 << 38, u64::MAX] {
        fill(folder.path(), 10);
        let first = store(folder.path());
        let directory = &first.open().unwrap().directory;
        let words = directory.words().unwrap();
        directory.set_words(&crate::slab::directory::Words { end_page, ..words }).unwrap();
        let second = store(folder.path());
        second.open().unwrap();
        assert_eq!(second.find(&key(3), 4_096).unwrap(), None);
        let place = second.insert(&key(3), &[1; 4_096]).unwrap();
        assert!(matches!(place, crate::slab::Inserted::At(_)), "{place:?}");
    }
}

/// Prints figures: `cargo test --release -p chunkfs-cache a_million -- --ignored --nocapture`.
#[test]
#[ignore = "takes a minute; for figures"]
fn a_million_chunks() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 1_000_000);
    let started = Instant::now();
    let store = store(folder.path());
    store.open().unwrap();
    println!("open: {:?}", started.elapsed());
    let started = Instant::now();
    for number in 0..10_000 {
        assert!(store.find(&key(number * 97), 4_096).unwrap().is_some());
    }
    println!("find: {:?} each", started.elapsed() / 10_000);
    let started = Instant::now();
    let usage = store.usage().unwrap();
    println!("usage: {:?}, {} bytes of directory", started.elapsed(), usage.allocated_len);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!("{}", peak.unwrap_or_default());
}
