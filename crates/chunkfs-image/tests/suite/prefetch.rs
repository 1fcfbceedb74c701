//! Filling the cache in the background.

use std::sync::Arc;

use chunkfs_fetch::Priority;
use chunkfs_image::{Cache, CacheOptions, Image, PrefetchOptions};
use tokio::runtime::Handle;

use crate::support::{
    CHUNK, Fault, GatedSource, SHAPES, file, memory_cache, noise, plain_options, until,
};

/// A cache whose requests have a chunk or two each, so that there are many.
fn small_requests() -> CacheOptions {
    CacheOptions::new(Handle::current()).with_request_len_max(2 * CHUNK as u64).with_gap_len_max(0)
}

async fn assert_all_readable(image: &Image) {
    for (name, content) in &SHAPES.0 {
        let bytes = image.read(&file(image, name), 0, u64::MAX).await.unwrap();
        assert!(bytes == content, "{}", name.escape_ascii());
    }
}

fn sorted_ranges(source: &GatedSource) -> Vec<(chunkfs_format::BlobId, u64, u64)> {
    let requests = source.requests();
    let mut ranges: Vec<_> = requests
        .iter()
        .map(|request| (request.blob.id, request.range.start, request.range.end))
        .collect();
    ranges.sort_unstable();
    ranges
}

#[tokio::test]
async fn every_chunk_is_fetched_once_and_everything_is_readable_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    for (options, worker_count) in [
        (small_requests(), 0),
        (small_requests().with_folder(folder.path()), 1),
        (small_requests(), 10),
    ] {
        let cache = Cache::open(options);
        let source = GatedSource::new(&SHAPES.1);
        let image = source.open(&cache, plain_options()).await;
        let prefetch = image.prefetch(PrefetchOptions::default().with_worker_count(worker_count));
        let watcher = prefetch.watcher();
        let chunk_count = u64::from(image.index().chunk_count());
        assert_eq!(prefetch.chunk_count(), chunk_count);
        assert_eq!(prefetch.wait().await.unwrap(), chunk_count);
        assert_eq!(watcher.finished_count(), chunk_count);
        // The data blobs are exactly their chunks, so together the requests are the whole blobs.
        let ranges = sorted_ranges(&source);
        for pair in ranges.windows(2) {
            assert!(pair[0].0 != pair[1].0 || pair[0].2 == pair[1].1, "no gap, nothing twice");
        }
        let blobs_len: u64 = image.index().blobs().map(|blob| blob.len).sum();
        assert_eq!(source.request_bytes(), blobs_len);
        assert!(source.requests().iter().all(|request| request.priority == Priority::Prefetch));
        let request_count = source.request_count();
        assert_all_readable(&image).await;
        assert_eq!(source.request_count(), request_count);
        assert_eq!(cache.counters().prefetch_chunks, chunk_count);
        // Nothing is missing, so another one has nothing to do.
        assert_eq!(image.prefetch(PrefetchOptions::default()).wait().await.unwrap(), chunk_count);
        assert_eq!(source.request_count(), request_count);
    }
}

#[tokio::test]
async fn a_full_disk_tier_needs_no_request_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let options = small_requests().with_folder(folder.path());
    let cache = Cache::open(options.clone());
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&cache, plain_options()).await;
    image.prefetch(PrefetchOptions::default()).wait().await.unwrap();
    cache.flush().await;
    drop((image, cache));

    let cache = Cache::open(options);
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&cache, plain_options()).await;
    image.prefetch(PrefetchOptions::default()).wait().await.unwrap();
    assert_all_readable(&image).await;
    assert_eq!(source.requests(), []);
}

#[tokio::test]
async fn an_interrupted_prefetch_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let options = small_requests().with_folder(folder.path());
    let cache = Cache::open(options.clone());
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&cache, plain_options()).await;
    source.close(Priority::Prefetch);
    source.prefetch.add_permits(3);
    let prefetch = image.prefetch(PrefetchOptions::default().with_worker_count(1));
    until(|| source.request_count() == 4).await;
    drop(prefetch);
    until(|| Arc::strong_count(&source) == 3).await;
    cache.flush().await;
    let first = source.requests()[..3].to_vec();
    drop((image, cache));

    let cache = Cache::open(options);
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&cache, plain_options()).await;
    image.prefetch(PrefetchOptions::default()).wait().await.unwrap();
    assert!(first.iter().all(|request| !source.requests().contains(request)));
    let first_len: u64 = first.iter().map(|request| request.range.end - request.range.start).sum();
    let blobs_len: u64 = image.index().blobs().map(|blob| blob.len).sum();
    assert_eq!(first_len + source.request_bytes(), blobs_len);
}

#[tokio::test]
async fn readers_are_served_while_a_prefetch_is_held_up() {
    let cache = Cache::open(small_requests());
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&cache, plain_options()).await;
    source.close(Priority::Prefetch);
    let prefetch = image.prefetch(PrefetchOptions::default().with_worker_count(3));
    until(|| source.request_count() == 3).await;
    let held: Vec<_> = source.requests();
    // Whatever no worker has asked for yet is there at once.
    let index = image.index();
    let mut served_count = 0;
    for (name, content) in &SHAPES.0 {
        let file = file(&image, name);
        let is_held = index.pieces(&file, 0, u64::MAX).any(|piece| match piece.source {
            chunkfs_index::PieceSource::Hole => false,
            chunkfs_index::PieceSource::Chunk { index: chunk, .. } => {
                let chunk = index.chunk(chunk).unwrap();
                let blob = index.blob(chunk.location.blob).unwrap().id;
                let is_in = |held: &crate::support::Request| {
                    held.blob.id == blob && held.range.contains(&chunk.location.offset)
                };
                held.iter().any(is_in)
            }
        });
        if !is_held {
            assert!(image.read(&file, 0, u64::MAX).await.unwrap() == content);
            served_count += usize::from(!content.is_empty());
        }
    }
    assert!(served_count >= 3, "{served_count}");
    let counters = cache.counters();
    assert_eq!((counters.prefetch_requests, counters.demand_requests > 0), (0, true));
    source.prefetch.add_permits(1_000);
    prefetch.wait().await.unwrap();
    assert_all_readable(&image).await;
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_there_are_workers() {
    let cache = Cache::open(small_requests());
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&cache, plain_options()).await;
    source.close(Priority::Prefetch);
    let prefetch = image.prefetch(PrefetchOptions::default().with_worker_count(2));
    for answered_count in 0..4 {
        until(|| source.request_count() == answered_count + 2).await;
        source.prefetch.add_permits(1);
    }
    until(|| source.request_count() == 6).await;
    drop(prefetch);
}

#[tokio::test]
async fn a_chunk_that_cannot_be_fetched_is_counted_and_the_others_are_fetched() {
    let cache = Cache::open(small_requests());
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&cache, plain_options()).await;
    let batches = image.chunk_batches();
    source.push_faults(&[Fault::Fail]);
    let prefetch = image.prefetch(PrefetchOptions::default().with_worker_count(1));
    let error = prefetch.wait().await.unwrap_err();
    assert_eq!(error.failed_count, batches[0].len() as u64);
    assert_eq!(error.chunk_count, u64::from(image.index().chunk_count()));
    assert!(error.source.is_not_found(), "{error}");
    assert_eq!(source.request_count(), batches.len());
    // A second one fetches what is missing.
    image.prefetch(PrefetchOptions::default()).wait().await.unwrap();
    assert_eq!(source.request_count(), batches.len() + 1);
}

#[test]
fn a_runtime_that_shuts_down_is_an_error() {
    let own = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let source = GatedSource::new(&SHAPES.1);
    let cache = memory_cache(own.handle().clone());
    let image = own.block_on(source.open(&cache, plain_options()));
    source.close(Priority::Prefetch);
    let prefetch = image.prefetch(PrefetchOptions::default());
    own.block_on(until(|| source.request_count() > 0));
    drop(own);
    let error = futures::executor::block_on(prefetch.wait()).unwrap_err();
    assert_eq!(error.failed_count, error.chunk_count);
}

#[tokio::test]
async fn batches_are_bounded_by_stored_and_by_uncompressed_bytes() {
    // 48 MiB that compress to nearly nothing, each chunk different.
    let mut content = vec![b'-'; 48 << 20];
    for (number, chunk) in content.chunks_mut(CHUNK).enumerate() {
        chunk[..16].copy_from_slice(&noise(number as u64 + 1, 16));
    }
    let store = crate::support::convert_files(&[("text", content), ("noise", noise(9, 6 << 20))]);
    let image = crate::support::open(&store, plain_options()).await;
    let batches = image.chunk_batches();
    let stored = |batch: &[chunkfs_cache::ChunkRequest]| -> u64 {
        batch.iter().map(|chunk| u64::from(chunk.stored_len)).sum()
    };
    let uncompressed = |batch: &[chunkfs_cache::ChunkRequest]| -> u64 {
        batch.iter().map(|chunk| u64::from(chunk.uncompressed_len)).sum()
    };
    assert!(batches.iter().all(|batch| stored(batch) <= 8 << 20));
    assert!(batches.iter().all(|batch| uncompressed(batch) <= 16 << 20));
    assert!(batches.iter().any(|batch| uncompressed(batch) == 16 << 20));
    let chunk_count: usize = batches.iter().map(Vec::len).sum();
    assert_eq!(chunk_count, image.index().chunk_count() as usize);
    assert_eq!(batches.len(), 4);
}
