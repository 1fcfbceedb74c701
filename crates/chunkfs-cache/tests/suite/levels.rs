//! What each level of verification does.

use std::time::Duration;

use chunkfs_cache::{Cache, VerifyLevel};
use chunkfs_fetch::Priority;
use chunkfs_format::DigestAlgorithm;

use crate::sim::World;
use crate::support::{Fixture, options};

const LEN: usize = 100_000;

fn fixture(algorithm: DigestAlgorithm) -> Fixture {
    let content = (0..LEN).map(|at| (at % 251) as u8).collect();
    Fixture::of(vec![content], algorithm, &[])
}

/// Opens anew, uses the chunk once, flips a bit under the open cache, and reads 4 KiB elsewhere and
/// 4 KiB with the bit. Returns whether the parts were served without looking at the whole chunk.
async fn read_around_damage(
    algorithm: DigestAlgorithm,
    verify: VerifyLevel,
) -> (bool, bool, usize) {
    let (world, fixture) = (World::new(), fixture(algorithm));
    let options =
        || options().with_memory_len_max(0).with_reserve_len(0).with_disk_pause_min(Duration::ZERO);
    let cache = Cache::with_files(options(), Some(world.files()));
    crate::disk::load_all(&cache, &fixture, verify).await;
    let cache = Cache::with_files(options(), Some(world.files()));
    let loader = cache.loader(fixture.source.clone(), verify).with_chunk_count(1);
    let chunk = &fixture.chunks[0];
    loader.load(chunk, Priority::Demand).await.unwrap();
    assert_eq!(fixture.request_count(), 1);
    world.damage("slab", |bytes| bytes[50_000] ^= 1);
    let mut part = vec![0; 4_096];
    let elsewhere = loader.read_cached(chunk, 0, &mut part);
    assert!(!elsewhere || part == fixture.contents[0][..4_096]);
    let there = loader.read_cached(chunk, 49_000, &mut part);
    let bytes = loader.load(chunk, Priority::Demand).await.unwrap();
    if verify == VerifyLevel::Always {
        assert!(bytes == fixture.contents[0]);
    }
    (elsewhere, there, fixture.request_count())
}

#[tokio::test]
async fn fetch_and_load_believe_what_was_verified_and_always_verifies_what_is_touched() {
    let (blake3, sha256) = (DigestAlgorithm::Blake3, DigestAlgorithm::Sha256);
    for algorithm in [blake3, sha256] {
        for verify in [VerifyLevel::Fetch, VerifyLevel::Load] {
            assert_eq!(read_around_damage(algorithm, verify).await, (true, true, 1));
        }
    }
    assert_eq!(read_around_damage(blake3, VerifyLevel::Always).await, (true, false, 2));
    // SHA-256 has no parts: each read from disk looks at the whole chunk.
    assert_eq!(read_around_damage(sha256, VerifyLevel::Always).await, (false, false, 2));
}

#[tokio::test]
async fn a_tree_is_kept_beside_its_chunk_and_believed_only_when_it_is_right() {
    let (world, fixture) = (World::new(), fixture(DigestAlgorithm::Blake3));
    let options = || options().with_memory_len_max(0).with_reserve_len(0);
    let open = || Cache::with_files(options(), Some(world.files()));
    let first = open();
    for _ in 0..2 {
        crate::disk::load_all(&first, &fixture, VerifyLevel::Always).await;
    }
    let chunk = &fixture.chunks[0];
    for (is_damaged, is_served) in [(false, true), (true, false)] {
        if is_damaged {
            world.damage("trees", |bytes| bytes[40] ^= 1);
        }
        let cache = open();
        let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load).with_chunk_count(1);
        // Another level finds the place.
        loader.load(chunk, Priority::Demand).await.unwrap();
        let cache = open();
        let loader = cache.loader(fixture.source.clone(), VerifyLevel::Always).with_chunk_count(1);
        let mut part = vec![0; 10];
        assert!(!loader.read_cached(chunk, 70_000, &mut part), "its place is not known yet");
        loader.locate(chunk);
        assert_eq!(loader.read_cached(chunk, 70_000, &mut part), is_served);
        assert!(!is_served || part == fixture.contents[0][70_000..70_010]);
    }
    assert_eq!(fixture.request_count(), 1);
}

#[tokio::test]
async fn pages_are_dropped_behind_readers_with_a_page_cache_of_their_own() {
    use std::os::fd::AsFd as _;
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let fixture = fixture(DigestAlgorithm::Blake3);
    let open = || {
        let options = options().with_memory_len_max(0).with_reserve_len(0);
        Cache::open(options.with_folder(folder.path()))
    };
    crate::disk::load_all(&open(), &fixture, VerifyLevel::Load).await;
    for drops_pages in [false, true] {
        let cache = open();
        let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
        let loader = loader.with_chunk_count(1).with_dropped_pages(drops_pages);
        let chunk = &fixture.chunks[0];
        loader.load(chunk, Priority::Demand).await.unwrap();
        let (slab, offset) = loader.resolve(chunk).unwrap();
        rustix::fs::fdatasync(&slab).unwrap();
        // A read that must not wait gets only what is in the page cache.
        let is_cached = || {
            let mut first = [0; 1];
            let parts = &mut [std::io::IoSliceMut::new(&mut first)];
            let flags = rustix::io::ReadWriteFlags::NOWAIT;
            rustix::io::preadv2(slab.as_fd(), parts, offset, flags).is_ok_and(|len| len == 1)
        };
        assert!(is_cached());
        // The kernel takes it as a hint: pages that somebody is just looking at stay for once.
        let mut bytes = vec![0; LEN];
        let mut reads = 0;
        while reads < 100 && loader.read_cached(chunk, 0, &mut bytes) {
            assert!(bytes == fixture.contents[0]);
            reads += 1;
        }
        assert!(if drops_pages { reads < 100 } else { reads == 100 }, "{reads}");
        assert_eq!(is_cached(), !drops_pages);
    }
}
