//! How often things are fetched, and that damage never gets out.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use chunkfs_cache::{Cache, CacheOptions, ChunkRequest, LoadError, VerifyLevel};
use chunkfs_fetch::Priority;
use chunkfs_format::DigestAlgorithm;

use crate::support::{Fault, Fixture, options, until};

#[tokio::test]
async fn a_chunk_is_fetched_once_and_then_in_memory() {
    let fixture = Fixture::new(1, &[]);
    let cache = Cache::open(options());
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    assert_eq!(loader.get(&fixture.chunks[0]), None);
    for _ in 0..3 {
        let bytes = loader.load(&fixture.chunks[0], Priority::Demand).await.unwrap();
        assert_eq!(bytes, fixture.contents[0]);
    }
    assert_eq!(fixture.request_count(), 1);
    let counters = cache.counters();
    assert_eq!((counters.demand_requests, counters.memory_hits), (1, 2));
    assert_eq!(counters.demand_bytes, u64::from(fixture.chunks[0].stored_len));
}

#[tokio::test]
async fn a_hundred_readers_of_a_chunk_cause_one_request() {
    let fixture = Fixture::new(1, &[]);
    fixture.close_gate();
    let cache = Cache::open(options());
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let loads: Vec<_> =
        (0..100).map(|_| loader.load(&fixture.chunks[0], Priority::Demand)).collect();
    until(|| fixture.request_count() == 1).await;
    fixture.source.gate.add_permits(1);
    for load in loads {
        assert_eq!(load.await.unwrap(), fixture.contents[0]);
    }
    assert_eq!(fixture.request_count(), 1);
    assert_eq!(cache.counters().joined_loads, 99);
}

#[tokio::test]
async fn neighbours_are_fetched_by_one_request_and_distant_chunks_are_not() {
    let fixture = Fixture::new(4, &[]);
    let cache = Cache::open(options().with_gap_len_max(0));
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let wanted = [fixture.chunks[3], fixture.chunks[0], fixture.chunks[1]];
    let loads = loader.load_many(&wanted, Priority::Demand);
    let contents: Vec<Bytes> = futures::future::try_join_all(loads).await.unwrap();
    assert_eq!(contents, [&fixture.contents[3], &fixture.contents[0], &fixture.contents[1]]);
    let mut requests = fixture.requests();
    requests.sort_by_key(|range| range.start);
    let len = fixture.source.blob.len() as u64;
    assert_eq!(requests, [0..fixture.chunks[2].offset, fixture.chunks[3].offset..len]);
}

#[tokio::test]
async fn a_small_gap_is_bridged_and_a_request_has_a_largest_length() {
    let fixture = Fixture::new(3, &[]);
    let gap = u64::from(fixture.chunks[1].stored_len);
    let outer = [fixture.chunks[0], fixture.chunks[2]];
    let len = fixture.source.blob.len() as u64;
    for (options, expected) in [
        (options().with_gap_len_max(gap), 1),
        (options().with_gap_len_max(gap - 1), 2),
        (options().with_request_len_max(len), 1),
        (options().with_request_len_max(len - 1), 2),
    ] {
        let before = fixture.request_count();
        let cache = Cache::open(options);
        let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
        let loads = loader.load_many(&outer, Priority::Demand);
        futures::future::try_join_all(loads).await.unwrap();
        assert_eq!(fixture.request_count() - before, expected);
    }
}

#[tokio::test]
async fn a_chunk_that_arrives_damaged_is_fetched_once_more() {
    let fixture = Fixture::new(1, &[Fault::Flip]);
    let cache = Cache::open(options());
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let bytes = loader.load(&fixture.chunks[0], Priority::Demand).await.unwrap();
    assert_eq!(bytes, fixture.contents[0]);
    assert_eq!(fixture.request_count(), 2);
    assert_eq!(cache.counters().source_verify_failures, 1);
}

#[tokio::test]
async fn a_corrupt_chunk_is_an_error_that_names_it_and_is_not_remembered() {
    let fixture = Fixture::new(2, &[Fault::None, Fault::Flip, Fault::Flip]);
    let cache = Cache::open(options().with_gap_len_max(0));
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    loader.load(&fixture.chunks[0], Priority::Demand).await.unwrap();
    let chunk = fixture.chunks[1];
    let error = loader.load(&chunk, Priority::Demand).await.unwrap_err();
    let LoadError::Corrupt { chunk: id, blob, offset, .. } = &error else { panic!("{error}") };
    assert_eq!((*id, *blob, *offset), (chunk.id, chunk.blob.id, chunk.offset));
    assert!(error.is_corrupt() && !error.is_retryable());
    assert_eq!(loader.load(&chunk, Priority::Demand).await.unwrap(), fixture.contents[1]);
}

#[tokio::test]
async fn a_failed_fetch_is_an_error_for_all_waiters_and_the_next_load_tries_again() {
    for fault in [Fault::Fail, Fault::Short] {
        let fixture = Fixture::new(2, &[fault]);
        let cache = Cache::open(options());
        let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
        for load in loader.load_many(&fixture.chunks, Priority::Demand) {
            assert!(matches!(load.await, Err(LoadError::Unavailable { .. })), "{fault:?}");
        }
        let bytes = loader.load(&fixture.chunks[1], Priority::Demand).await.unwrap();
        assert_eq!(bytes, fixture.contents[1]);
    }
}

#[tokio::test]
async fn dropping_the_last_waiter_ends_the_fetch_and_a_new_one_starts_afresh() {
    let fixture = Fixture::new(1, &[]);
    fixture.close_gate();
    let cache = Cache::open(options());
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let first = loader.load(&fixture.chunks[0], Priority::Demand);
    let second = loader.load(&fixture.chunks[0], Priority::Demand);
    until(|| fixture.request_count() == 1).await;
    drop(first);
    drop(second);
    // The source is held by this test, the fixture and, while it runs, the fetch.
    until(|| Arc::strong_count(&fixture.source) == 2).await;
    fixture.source.gate.add_permits(1);
    let bytes = loader.load(&fixture.chunks[0], Priority::Demand).await.unwrap();
    assert_eq!((bytes.as_ref(), fixture.request_count()), (&fixture.contents[0][..], 2));
}

#[tokio::test]
async fn one_of_two_waiters_may_leave() {
    let fixture = Fixture::new(1, &[]);
    fixture.close_gate();
    let cache = Cache::open(options());
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let first = loader.load(&fixture.chunks[0], Priority::Demand);
    let second = loader.load(&fixture.chunks[0], Priority::Demand);
    until(|| fixture.request_count() == 1).await;
    drop(first);
    fixture.source.gate.add_permits(1);
    assert_eq!(second.await.unwrap(), fixture.contents[0]);
    assert_eq!(fixture.request_count(), 1);
}

#[tokio::test]
async fn the_disk_tier_survives_the_cache_and_is_shared_by_sources() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(3, &[]);
    let cache = Cache::open(options().with_folder(folder.path()));
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let loads = loader.load_many(&fixture.chunks, Priority::Prefetch);
    futures::future::try_join_all(loads).await.unwrap();
    cache.flush().await;
    assert_eq!(cache.counters().prefetch_requests, 1);
    assert_eq!(loader.missing(&fixture.chunks), []);
    assert_eq!(loader.get(&fixture.chunks[0]), None, "prefetched chunks stay out of memory");

    // Another image with the same chunks in a blob that cannot be read.
    let other = Fixture::new(3, &[Fault::Fail; 10]);
    let cache = Cache::open(options().with_folder(folder.path()));
    let loader = cache.loader(other.source.clone(), VerifyLevel::Load);
    for (chunk, content) in other.chunks.iter().zip(&other.contents) {
        assert_eq!(loader.load(chunk, Priority::Demand).await.unwrap(), content);
    }
    assert_eq!((other.request_count(), cache.counters().disk_hits), (0, 3));
}

#[tokio::test]
async fn memory_stays_within_its_limit_and_evicted_chunks_come_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(40, &[]);
    let chunk_len = fixture.contents[39].len() as u64;
    let options = options().with_folder(folder.path()).with_memory_len_max(5 * chunk_len);
    let cache = Cache::open(options);
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    for chunk in &fixture.chunks {
        loader.load(chunk, Priority::Demand).await.unwrap();
    }
    cache.flush().await;
    let in_memory = fixture.chunks.iter().filter(|chunk| loader.get(chunk).is_some()).count();
    assert!((1..=5).contains(&in_memory), "{in_memory}");
    for (chunk, content) in fixture.chunks.iter().zip(&fixture.contents) {
        assert_eq!(loader.load(chunk, Priority::Demand).await.unwrap(), content);
    }
    assert_eq!(fixture.request_count(), 40);
}

#[tokio::test]
async fn chunks_of_different_algorithms_are_different_chunks() {
    let fixture = Fixture::new(1, &[]);
    let cache = Cache::open(options());
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    loader.load(&fixture.chunks[0], Priority::Demand).await.unwrap();
    let forged = ChunkRequest { algorithm: DigestAlgorithm::Sha256, ..fixture.chunks[0] };
    assert_eq!(loader.get(&forged), None);
    let error = loader.load(&forged, Priority::Demand).await.unwrap_err();
    assert!(error.is_corrupt(), "{error}");
}

#[test]
fn futures_need_no_runtime_of_their_own() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = Fixture::new(1, &[]);
    let cache = Cache::open(CacheOptions::new(runtime.handle().clone()));
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let load = loader.load(&fixture.chunks[0], Priority::Demand);
    assert_eq!(futures::executor::block_on(load).unwrap(), fixture.contents[0]);
}

#[test]
fn a_runtime_that_shuts_down_ends_loads_with_an_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = Fixture::new(1, &[]);
    fixture.close_gate();
    let cache = Cache::open(CacheOptions::new(runtime.handle().clone()));
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let load = loader.load(&fixture.chunks[0], Priority::Demand);
    drop(runtime);
    let error = futures::executor::block_on(load).unwrap_err();
    assert!(matches!(error, LoadError::Shutdown { .. }), "{error}");
}

/// The futures can be sent to other threads.
fn assert_send<T: Future + Send>(_: &T) {}

#[tokio::test]
async fn chunk_futures_can_move_between_threads() {
    let fixture = Fixture::new(1, &[]);
    let cache = Cache::open(options());
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Fetch);
    let load = loader.load(&fixture.chunks[0], Priority::Demand);
    assert_send(&load);
    tokio::spawn(load).await.unwrap().unwrap();
}
