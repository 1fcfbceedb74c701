//! What goes when the folder is full, and what stays.

use std::time::Duration;

use chunkfs_cache::{Cache, CacheOptions, CachedImage, ChunkRequest, VerifyLevel};
use chunkfs_fetch::Priority;
use chunkfs_format::{DigestAlgorithm, ImageId};

use crate::sim::World;
use crate::support::{Fixture, options};

const CHUNK_LEN: u64 = 65_536;
/// What the directory takes: its header page and the pages of records, of which each chunk needs one.
const DIRECTORY_LEN: u64 = 257 * 4_096;

fn fixture(count: usize, seed: u8) -> Fixture {
    let contents = (0..count)
        .map(|number| {
            let mut bytes = vec![seed; CHUNK_LEN as usize];
            bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
            bytes
        })
        .collect();
    Fixture::of(contents, DigestAlgorithm::Blake3, &[])
}

fn small(count: u64) -> CacheOptions {
    options()
        .with_memory_len_max(0)
        .with_reserve_len(0)
        .with_disk_pause_min(Duration::ZERO)
        .with_quota_len(count * CHUNK_LEN + DIRECTORY_LEN)
}

async fn load(cache: &Cache, fixture: &Fixture, chunks: &[ChunkRequest]) {
    // A new loader each time: what it finds on disk it finds for the first time.
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    for chunk in chunks {
        loader.load(chunk, Priority::Demand).await.unwrap();
    }
    cache.flush().await;
}

fn missing(cache: &Cache, fixture: &Fixture, chunks: &[ChunkRequest]) -> usize {
    cache.loader(fixture.source.clone(), VerifyLevel::Load).missing(chunks).len()
}

#[tokio::test]
async fn the_quota_holds_whatever_is_loaded() {
    let (world, fixture) = (World::new(), fixture(600, 1));
    let cache = Cache::with_files(small(100), Some(world.files()));
    for chunks in fixture.chunks.chunks(10) {
        load(&cache, &fixture, chunks).await;
        assert!(world.allocated_len() <= 100 * CHUNK_LEN + DIRECTORY_LEN);
    }
    let kept = 600 - missing(&cache, &fixture, &fixture.chunks);
    assert!((80..=116).contains(&kept), "{kept}");
    let usage = cache.usage().unwrap();
    assert_eq!((usage.chunk_count, usage.chunks_len), (kept as u64, kept as u64 * CHUNK_LEN));
}

#[tokio::test]
async fn one_scan_does_not_flush_what_is_used_again() {
    let (world, useful, scanned) = (World::new(), fixture(60, 1), fixture(1_000, 2));
    let cache = Cache::with_files(small(200), Some(world.files()));
    load(&cache, &useful, &useful.chunks).await;
    load(&cache, &scanned, &scanned.chunks[..40]).await;
    // Used again, some time after it came.
    load(&cache, &useful, &useful.chunks).await;
    assert_eq!(useful.request_count(), 60);
    load(&cache, &scanned, &scanned.chunks).await;
    let lost = missing(&cache, &useful, &useful.chunks);
    assert!(lost <= 6, "{lost} of 60 useful chunks were lost to a scan");
    // The latest uses are noted in the directory only when there are enough of them.
}

#[tokio::test]
async fn what_comes_back_soon_after_it_was_evicted_is_kept_longer() {
    let (world, useful, scanned) = (World::new(), fixture(20, 1), fixture(2_000, 2));
    let cache = Cache::with_files(small(100), Some(world.files()));
    load(&cache, &useful, &useful.chunks).await;
    let mut scan = scanned.chunks.chunks(130);
    load(&cache, &scanned, scan.next().unwrap()).await;
    assert_eq!(missing(&cache, &useful, &useful.chunks), 20, "evicted for the first time");
    load(&cache, &useful, &useful.chunks).await;
    load(&cache, &scanned, scan.next().unwrap()).await;
    load(&cache, &scanned, scan.next().unwrap()).await;
    let lost = missing(&cache, &useful, &useful.chunks);
    assert!(lost <= 4, "{lost} of 20 were lost again");
}

#[tokio::test]
async fn pinned_images_stay_and_what_does_not_fit_is_served_all_the_same() {
    let (world, pinned, other) = (World::new(), fixture(50, 1), fixture(300, 2));
    let cache = Cache::with_files(small(60), Some(world.files()));
    let id = ImageId::from_bytes([9; 32]);
    let image = CachedImage { id, name: "pinned", domain: None, chunks: &pinned.chunks };
    cache.pin(&image).unwrap();
    assert!(!cache.is_complete(&image).unwrap());
    load(&cache, &pinned, &pinned.chunks).await;
    assert!(cache.is_complete(&image).unwrap());
    load(&cache, &other, &other.chunks).await;
    assert!(cache.is_complete(&image).unwrap());
    // Another process knows of the pin too, even when nothing but pinned chunks is left.
    let tight = small(10).with_quota_len(10 * CHUNK_LEN);
    let tight = Cache::with_files(tight, Some(world.files()));
    load(&tight, &other, &other.chunks[..5]).await;
    assert!(tight.is_complete(&image).unwrap());
    assert!(tight.counters().disk_refusals > 0);
    assert!(cache.unpin(&id.to_hex()).unwrap());
    assert!(!cache.unpin(&id.to_hex()).unwrap());
    let collected = tight.gc().unwrap();
    assert!(collected.evicted_chunks >= 40, "{collected:?}");
    assert!(!cache.is_complete(&image).unwrap());
}

#[tokio::test]
async fn the_reserve_of_the_disk_is_left_to_others() {
    let (world, fixture) = (World::new(), fixture(200, 1));
    let capacity = 120 * CHUNK_LEN + DIRECTORY_LEN;
    world.set_capacity(Some(capacity));
    let options = small(10_000).with_reserve_len(20 * CHUNK_LEN);
    let cache = Cache::with_files(options, Some(world.files()));
    for chunks in fixture.chunks.chunks(5) {
        load(&cache, &fixture, chunks).await;
        assert!(world.allocated_len() + 20 * CHUNK_LEN <= capacity);
    }
    assert!(missing(&cache, &fixture, &fixture.chunks) < 160);
}

#[tokio::test]
async fn chunks_of_a_mount_stay_while_its_metadata_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let metadata = folder.path().join("metadata");
    std::fs::write(&metadata, b"image").unwrap();
    let open_by_kernel = std::fs::File::open(&metadata).unwrap();
    let (held, other) = (fixture(30, 1), fixture(300, 2));
    let cache = Cache::open(small(60).with_folder(folder.path().join("cache")));
    cache.hold_for_mount(&metadata, None, &held.chunks).unwrap();
    load(&cache, &held, &held.chunks).await;
    load(&cache, &other, &other.chunks).await;
    assert_eq!(missing(&cache, &held, &held.chunks), 0);
    drop(open_by_kernel);
    load(&cache, &other, &other.chunks).await;
    assert!(missing(&cache, &held, &held.chunks) > 20);
}
