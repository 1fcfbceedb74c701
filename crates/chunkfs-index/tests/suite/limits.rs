//! Limits, and inputs made to be slow.

use std::time::{Duration, Instant};

use chunkfs_index::{Content, Index};

use crate::fixture::{CHUNK, Fixture, directory};

/// Far above what a debug build on a busy machine takes, far below anything quadratic.
const LINEAR: Duration = Duration::from_secs(20);

#[test]
fn many_files_open_in_linear_time_and_are_found() {
    let mut fixture = Fixture::new();
    let root = fixture.tree.root();
    for number in 0..100_000u32 {
        fixture.add(root, format!("file-{number}").as_bytes(), Content::Regular(Vec::new()));
    }
    let index = fixture.build();
    assert_eq!(index.dirent_count(&index.root()), 100_000);
    for number in [0, 1, 9, 10, 50_000, 99_999] {
        assert!(index.lookup(&index.root(), format!("file-{number}").as_bytes()).is_some());
    }
    assert!(index.lookup(&index.root(), b"file-100000").is_none());
}

/// [F-64] Every file names a long run that overlaps the runs of all others.
#[test]
fn shared_runs_of_chunks_and_xattrs_open_in_linear_time() {
    let mut fixture = Fixture::new();
    let root = fixture.tree.root();
    let chunks: Vec<_> = (0..4_000).map(|_| fixture.chunk(CHUNK)).collect();
    for number in 0..500 {
        let run = Content::Regular(chunks[number..].to_vec());
        let file = fixture.add(root, format!("{number}").as_bytes(), run);
        let xattrs = &mut fixture.attributes(file).xattrs;
        xattrs.extend((0..200u32).map(|xattr| (format!("user.{xattr}").into(), vec![1; 10])));
    }
    let index = fixture.build();
    let start = Instant::now();
    let again = Index::open(index.as_bytes().clone()).unwrap();
    assert!(start.elapsed() < LINEAR, "{:?}", start.elapsed());
    assert_eq!(again.chunk_count(), 4_000);
    let file = again.lookup_path(b"499").unwrap();
    assert_eq!(again.pieces(&file, 0, u64::MAX).count(), 3_501);
    assert_eq!(again.xattrs(&file).count(), 200);
}

/// [F-64] Nothing recurses, so that a tree as deep as its inodes is only long.
#[test]
fn a_tree_of_100_000_levels_opens() {
    let mut fixture = Fixture::new();
    let mut directory_above = fixture.tree.root();
    for _ in 0..100_000 {
        directory_above = fixture.add(directory_above, b"d", directory());
    }
    let index = fixture.build();
    let path = b"d/".repeat(100_000);
    assert_eq!(index.lookup_path(&path).unwrap().link_count, 2);
}

/// [F-64] A file with 50,000 names, and 50,000 links with one long shared target.
#[test]
fn huge_link_counts_open_in_linear_time() {
    let mut fixture = Fixture::new();
    let root = fixture.tree.root();
    let file = fixture.add(root, b"file", Content::Regular(Vec::new()));
    for number in 0..50_000 {
        fixture.link(root, format!("link-{number}").as_bytes(), file);
    }
    let index = fixture.build();
    assert_eq!(index.lookup_path(b"link-7").unwrap().link_count, 50_001);
}

/// Run by hand: `cargo test --release -p chunkfs-index opening_60_000 -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn opening_60_000_inodes_takes_milliseconds() {
    let mut fixture = Fixture::new();
    let root = fixture.tree.root();
    for outer in 0..600 {
        let parent = fixture.add(root, format!("directory-{outer}").as_bytes(), directory());
        for inner in 0..100 {
            let content = fixture.file(1 + inner * 2000);
            fixture.add(parent, format!("some-module-{inner}.py").as_bytes(), content);
        }
    }
    let index = fixture.build();
    let compressed = index.compress().unwrap();
    let times = |work: &dyn Fn() -> Index| {
        let mut times: Vec<Duration> = (0..21)
            .map(|_| {
                let start = Instant::now();
                work();
                start.elapsed()
            })
            .collect();
        times.sort();
        (times[0], times[10], times[20])
    };
    println!(
        "{} inodes, {} chunks, {} bytes, {} compressed; least, median, most of 21:",
        index.inode_count(),
        index.chunk_count(),
        index.as_bytes().len(),
        compressed.len()
    );
    println!("open {:?}", times(&|| Index::open(index.as_bytes().clone()).unwrap()));
    println!("decompress {:?}", times(&|| Index::decompress(&compressed, 1 << 30).unwrap()));
}
