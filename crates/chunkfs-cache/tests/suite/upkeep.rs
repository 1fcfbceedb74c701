//! What is in a folder, and putting it in order.

use chunkfs_cache::{Cache, CachedImage, VerifyLevel};
use chunkfs_fetch::Priority;
use chunkfs_format::{DigestAlgorithm, ImageId};

use crate::disk::load_all;
use crate::sim::World;
use crate::support::{Fixture, options};

fn fixture(numbers: std::ops::Range<u8>) -> Fixture {
    let contents = numbers.map(|number| vec![number; 5_000]).collect();
    Fixture::of(contents, DigestAlgorithm::Blake3, &[])
}

fn image<'a>(id: u8, name: &'a str, fixture: &'a Fixture) -> CachedImage<'a> {
    let id = ImageId::from_bytes([id; 32]);
    CachedImage { id, name, domain: None, chunks: &fixture.chunks }
}

#[tokio::test]
async fn usage_tells_what_each_image_has_of_its_own_and_shares() {
    let world = World::new();
    let cache = Cache::with_files(options().with_reserve_len(0), Some(world.files()));
    let (a, b, nobody) = (fixture(0..10), fixture(6..14), fixture(20..23));
    for (image, fixture) in [(image(1, "a", &a), &a), (image(2, "b", &b), &b)] {
        cache.register(&image).unwrap();
        load_all(&cache, fixture, VerifyLevel::Load).await;
    }
    load_all(&cache, &nobody, VerifyLevel::Load).await;
    // What `a` brought was not fetched for `b`.
    assert_eq!((a.request_count(), b.request_count()), (10, 4));
    let usage = cache.usage().unwrap();
    assert_eq!((usage.chunk_count, usage.chunks_len), (17, 17 * 8_192));
    assert_eq!(usage.unused_len, 3 * 8_192);
    assert!(usage.allocated_len >= usage.chunks_len);
    let found: Vec<_> = usage
        .images
        .iter()
        .map(|image| {
            (
                &image.name[..],
                image.chunk_count,
                image.cached_chunk_count,
                image.own_len,
                image.shared_len,
            )
        })
        .collect();
    let slot = 8_192;
    assert_eq!(found, [("a", 10, 10, 6 * slot, 4 * slot), ("b", 8, 8, 4 * slot, 4 * slot)]);

    // Space comes back when the last user goes.
    assert_eq!(cache.remove_image(&image(1, "a", &a).id.to_hex()).unwrap(), Some(6 * slot));
    assert_eq!(cache.remove_image(&image(1, "a", &a).id.to_hex()).unwrap(), None);
    assert!(cache.is_complete(&image(2, "b", &b)).unwrap());
    assert_eq!(cache.remove_image(&image(2, "b", &b).id.to_hex()).unwrap(), Some(8 * slot));
    let usage = cache.usage().unwrap();
    assert_eq!((usage.chunk_count, usage.images.len()), (3, 0));
}

#[tokio::test]
async fn verify_finds_and_removes_exactly_what_is_damaged() {
    let world = World::new();
    let fixture = fixture(0..10);
    let cache = Cache::with_files(options().with_reserve_len(0), Some(world.files()));
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    for chunk in &fixture.chunks {
        loader.load(chunk, Priority::Demand).await.unwrap();
        cache.flush().await;
    }
    let good = cache.verify(&[]).unwrap();
    assert_eq!((good.good_chunks, good.good_bytes, good.damaged_chunks.len()), (10, 50_000, 0));
    // Slots of 8,192 bytes, filled in order: the padding is nobody's, the chunks 3 and 5 are damaged.
    world.damage("slab", |bytes| {
        for at in [8_100, 3 * 8_192 + 17, 5 * 8_192 + 4_999] {
            bytes[at] ^= 4;
        }
    });
    let bad = cache.verify(&[]).unwrap();
    let ids = [3, 5].map(|number: usize| fixture.chunks[number].id.to_hex());
    assert_eq!((bad.good_chunks, bad.damaged_chunks), (8, ids.to_vec()));
    assert_eq!(cache.verify(&[]).unwrap().good_chunks, 8);
}

#[tokio::test]
async fn gc_gives_back_what_lost_records_leave() {
    let world = World::new();
    let contents = (0..40u8).map(|number| vec![number; 400_000]).collect();
    let fixture = Fixture::of(contents, DigestAlgorithm::Blake3, &[]);
    let cache = Cache::with_files(options().with_reserve_len(0), Some(world.files()));
    load_all(&cache, &fixture, VerifyLevel::Load).await;
    assert!(world.allocated_len() > 16_000_000);
    world.damage("directory", |bytes| bytes[4_096..].fill(0x77));
    let collected = cache.gc().unwrap();
    assert_eq!(collected.evicted_chunks, 0);
    assert_eq!(collected.freed_bytes, 40 * 401_408);
    assert!(world.allocated_len() < 2_000_000, "{}", world.allocated_len());
}

#[tokio::test]
async fn registrations_without_chunks_go_and_a_cache_without_folder_says_so() {
    let world = World::new();
    let fixture = fixture(0..3);
    let cache = Cache::with_files(options().with_reserve_len(0), Some(world.files()));
    cache.register(&image(1, "a", &fixture)).unwrap();
    assert_eq!(cache.usage().unwrap().images.len(), 1);
    assert_eq!(cache.gc().unwrap().forgotten_images, 1);
    assert_eq!(cache.usage().unwrap().images.len(), 0);
    let error = Cache::open(options()).usage().unwrap_err();
    assert_eq!(error.to_string(), "this cache has no folder; open it with one");
}
