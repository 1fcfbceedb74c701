//! What does a read cost that needs no network?
//!
//! `memory` reads 4 KiB or 128 KiB at changing offsets of a file whose chunks are all in the memory
//! tier, in the three forms; its baseline copies the same bytes from one buffer. `disk` reads as much of
//! chunks that are in the disk tier only, and in the page cache, at each level of verification after
//! their first use; its baseline is a pread of the same bytes from a plain file. Noise: about 5 %.

use std::fs::File;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use chunkfs_benches::{Content, Numbers, scaled, short};
use chunkfs_convert::{ConvertOptions, Destination, convert_rootfs};
use chunkfs_fetch::{ManifestSelector, MemorySource};
use chunkfs_image::{Cache, CacheOptions, Image, OpenOptions, VerifyLevel};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

fn tag() -> ManifestSelector {
    ManifestSelector::Tag("image".to_owned())
}

/// Converts a folder with one file.
fn convert(runtime: &Runtime, content: &[u8]) -> Arc<MemorySource> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("file"), content).expect("a file can be written");
    let options = ConvertOptions::new(runtime.handle().clone())
        .with_jobs(NonZeroUsize::MIN)
        .with_spool_directory(std::env::temp_dir());
    let store = Arc::new(MemorySource::new());
    let destination = Destination { sink: store.clone(), selector: tag() };
    convert_rootfs(folder.path(), &destination, &[], &options).expect("it can be converted");
    store
}

/// Opens the image without readahead and neighbours, which would do more than what is measured.
fn open(
    runtime: &Runtime,
    store: &Arc<MemorySource>,
    cache: CacheOptions,
    verify: VerifyLevel,
) -> Image {
    let cache = Cache::open(cache);
    let options = OpenOptions::default().with_readahead_len_max(0).with_fetch_neighbours(false);
    let options = options.with_verify(verify);
    let selector = tag();
    let opened = Image::open_source("image", store.clone(), &selector, &cache, options);
    runtime.block_on(opened).expect("the image is good")
}

fn memory(criterion: &mut Criterion, runtime: &Runtime, store: &Arc<MemorySource>, content: &[u8]) {
    let cache = CacheOptions::new(runtime.handle().clone()).with_memory_len_max(256 << 20);
    let image = open(runtime, store, cache, VerifyLevel::Load);
    let file = image.index().lookup_path(b"file").expect("it is there");
    let mut whole = vec![0; content.len()];
    image.read_at_blocking(&file, 0, &mut whole).expect("all chunks are good");
    assert!(whole == content, "the image holds the content");
    for (name, len) in [("4-kib", 4 << 10), ("128-kib", 128 << 10)] {
        let mut group = criterion.benchmark_group(format!("cache/memory-{name}"));
        group.throughput(Throughput::Bytes(len));
        let mut buffer = vec![0; len as usize];
        let steps = content.len() as u64 / len;
        let mut numbers = Numbers::new(3);
        group.bench_function("read_at_blocking", |bencher| {
            bencher.iter(|| {
                let offset = numbers.below(steps) * len;
                image.read_at_blocking(&file, offset, black_box(&mut buffer)).expect("in memory")
            });
        });
        let mut numbers = Numbers::new(3);
        group.bench_function("submit_read", |bencher| {
            bencher.iter(|| {
                let offset = numbers.below(steps) * len;
                image.submit_read(&file, offset, len, |result| {
                    black_box(result.expect("in memory"));
                });
            });
        });
        let mut numbers = Numbers::new(3);
        group.bench_function("baseline-copy", |bencher| {
            bencher.iter(|| {
                let start = (numbers.below(steps) * len) as usize;
                buffer.copy_from_slice(&black_box(content)[start..start + len as usize]);
                black_box(&mut buffer);
            });
        });
        group.finish();
    }
}

fn disk(
    criterion: &mut Criterion,
    runtime: &Runtime,
    store: &Arc<MemorySource>,
    content: &[u8],
    folder: &Path,
) {
    let path = folder.join("baseline");
    std::fs::write(&path, content).expect("it can be written");
    let baseline = File::open(&path).expect("it is there");
    for (name, len) in [("4-kib", 4 << 10), ("128-kib", 128 << 10)] {
        let mut group = criterion.benchmark_group(format!("cache/disk-{name}"));
        group.throughput(Throughput::Bytes(len));
        let mut buffer = vec![0; len as usize];
        let steps = content.len() as u64 / len;
        let mut numbers = Numbers::new(4);
        group.bench_function("baseline-pread", |bencher| {
            bencher.iter(|| {
                let offset = numbers.below(steps) * len;
                baseline.read_exact_at(black_box(&mut buffer), offset).expect("it is there")
            });
        });
        let levels = [
            ("fetch", VerifyLevel::Fetch),
            ("load", VerifyLevel::Load),
            ("always", VerifyLevel::Always),
        ];
        for (level, verify) in levels {
            let cache = CacheOptions::new(runtime.handle().clone()).with_memory_len_max(0);
            let cache = cache.with_folder(folder.join("cache"));
            let image = open(runtime, store, cache, verify);
            let file = image.index().lookup_path(b"file").expect("it is there");
            let mut whole = vec![0; content.len()];
            // The first use, which verifies whole chunks.
            image.read_at_blocking(&file, 0, &mut whole).expect("all chunks are good");
            runtime.block_on(image.cache().flush());
            let before = image.cache().counters();
            let mut numbers = Numbers::new(4);
            group.bench_function(format!("verify-{level}"), |bencher| {
                bencher.iter(|| {
                    let offset = numbers.below(steps) * len;
                    image.read_at_blocking(&file, offset, black_box(&mut buffer)).expect("on disk")
                });
            });
            let after = image.cache().counters();
            assert_eq!(after.demand_requests, before.demand_requests, "all came from disk");
        }
        group.finish();
    }
}

fn cache(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let content = Content::Binary.bytes(5, scaled(32 << 20, 1 << 20));
    let store = convert(&runtime, &content);
    memory(criterion, &runtime, &store, &content);
    let folder = tempfile::tempdir().expect("a temporary folder");
    disk(criterion, &runtime, &store, &content, folder.path());
}

criterion_group! { name = benches; config = short(); targets = cache }
criterion_main!(benches);
