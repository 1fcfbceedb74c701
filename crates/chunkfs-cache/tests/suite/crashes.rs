//! Killed processes, lost power, flipped bits: every read is right, and nothing needs repair.

use std::sync::Arc;
use std::time::Duration;

use chunkfs_cache::{Cache, CacheOptions, CachedImage, VerifyLevel};
use chunkfs_fetch::Priority;
use chunkfs_format::{DigestAlgorithm, ImageId};

use crate::sim::{Fault, Random, World};
use crate::support::{Fixture, options};

/// Chunks of one to four groups, and of less than a page.
fn contents(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut random = Random(seed);
    let content = |number: usize| {
        let len = [100, 4_096, 16_384, 20_000, 50_000][number % 5];
        let mut bytes: Vec<u8> = (0..len).map(|at| (at / 97) as u8).collect();
        bytes.iter_mut().step_by(50).for_each(|byte| *byte = random.next() as u8);
        bytes
    };
    (0..count).map(content).collect()
}

fn sim_options() -> CacheOptions {
    options()
        .with_memory_len_max(0)
        .with_reserve_len(0)
        .with_disk_pause_min(Duration::ZERO)
        .with_lease_wait_max(Duration::ZERO)
}

const LEVELS: [VerifyLevel; 3] = [VerifyLevel::Fetch, VerifyLevel::Load, VerifyLevel::Always];

/// Reads parts of random chunks in the way that frontends do, and compares them.
async fn read_some(cache: &Cache, fixture: &Fixture, random: &mut Random, verify: VerifyLevel) {
    let count = fixture.chunks.len();
    let loader = cache.loader(fixture.source.clone(), verify).with_chunk_count(count as u32);
    for _ in 0..12 {
        let number = random.below(count);
        let (chunk, content) = (&fixture.chunks[number], &fixture.contents[number]);
        let start = random.below(content.len());
        let len = 1 + random.below(content.len() - start);
        let mut part = vec![0; len];
        if !loader.read_cached(chunk, start as u64, &mut part) {
            let bytes = loader.load(chunk, Priority::Demand).await.unwrap();
            part.copy_from_slice(&bytes[start..start + len]);
        }
        assert!(part == content[start..start + len], "chunk {number}, {start} + {len}");
    }
}

/// A round of anything that can happen, against the only thing that must hold: reads are right.
async fn live(seed: u64) {
    let mut random = Random(seed);
    let fixture = Fixture::of(contents(seed, 12), DigestAlgorithm::Blake3, &[]);
    let world = World::new();
    // Level `fetch` promises nothing about flipped bits, and is left out where there are such.
    let flips_bits = random.below(2) == 0;
    let quota = [100_000, 200_000, 10_000_000][random.below(3)];
    let open = || Cache::with_files(sim_options().with_quota_len(quota), Some(world.files()));
    let mut caches: Vec<_> = (0..3).map(|_| open()).collect();
    let id = ImageId::from_bytes([1; 32]);
    let image = CachedImage { id, name: "image", domain: None, chunks: &fixture.chunks[..3] };
    for step in 0..25 {
        let cache = random.below(caches.len());
        let verify = LEVELS[if flips_bits { 1 + random.below(2) } else { random.below(3) }];
        match random.below(10) {
            0 => {
                // The process is killed: its handles are closed, whatever it was doing.
                let first = 1 + random.next() % 60;
                world.fail(Some(Fault { first, count: u64::MAX / 2, errno: 5 }));
                read_some(&caches[cache], &fixture, &mut random, verify).await;
                caches[cache].flush().await;
                caches.remove(cache);
                world.fail(None);
                caches.push(open());
            }
            1 => {
                futures::future::join_all(caches.iter().map(Cache::flush)).await;
                caches.clear();
                world.lose_power(&mut random);
                caches.extend((0..3).map(|_| open()));
            }
            2 if flips_bits => {
                // Damage while a chunk is known is noticed at level `always` alone.
                futures::future::join_all(caches.iter().map(Cache::flush)).await;
                caches.clear();
                let part = ["slab", "directory", "trees", "image", "v1"][random.below(5)];
                world.flip_bit(part, &mut random);
                caches.extend((0..3).map(|_| open()));
                read_some(&caches[0], &fixture, &mut random, verify).await;
            }
            3 => drop(caches[cache].pin(&image)),
            4 => drop(caches[cache].gc()),
            5 => drop(caches[cache].unpin(&ImageId::from_bytes([1; 32]).to_hex())),
            _ => read_some(&caches[cache], &fixture, &mut random, verify).await,
        }
        for cache in &caches {
            cache.flush().await;
        }
        if step % 5 == 4 {
            // Lost power may bring back what was evicted, until something is written or cleaned up.
            caches[0].gc().unwrap();
            let allocated = world.allocated_len();
            // The registration and the pin are not chunks.
            assert!(allocated <= quota + 3 * 4_096, "step {step}: {allocated} bytes");
        }
    }
}

/// Runs seeds one by one, so that a failing one can be run alone: `CHUNKFS_SEED=7 cargo test`.
async fn run_seeds(count: u64) {
    let one = std::env::var("CHUNKFS_SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in one.map_or(0..count, |seed: u64| seed..seed + 1) {
        println!("seed {seed}");
        live(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_reads_are_right() {
    run_seeds(150).await;
}

#[tokio::test]
async fn a_thousand_flipped_bits_never_reach_a_reader() {
    for verify in [VerifyLevel::Load, VerifyLevel::Always] {
        let mut random = Random(77);
        let fixture = Fixture::of(contents(3, 6), DigestAlgorithm::Blake3, &[]);
        let world = World::new();
        for round in 0..1_000 {
            let cache = Cache::with_files(sim_options(), Some(world.files()));
            read_some(&cache, &fixture, &mut random, verify).await;
            cache.flush().await;
            let part = ["slab", "slab", "slab", "directory", "trees"][round % 5];
            world.flip_bit(part, &mut random);
            if verify == VerifyLevel::Always {
                // Noticed even while the same handles are open.
                read_some(&cache, &fixture, &mut random, verify).await;
            }
        }
        // The damage was there to be found.
        assert!(fixture.request_count() > 30, "{}", fixture.request_count());
    }
}

#[tokio::test]
async fn a_fill_that_dies_at_any_operation_leaves_nothing_that_blocks_others() {
    let fixture = Fixture::of(contents(1, 3), DigestAlgorithm::Blake3, &[]);
    for first in 1..60 {
        let world = World::new();
        let files = world.files();
        let dying = Cache::with_files(sim_options(), Some(Arc::clone(&files)));
        let other = Cache::with_files(sim_options(), Some(world.files()));
        world.fail(Some(Fault { first, count: u64::MAX / 2, errno: 5 }));
        read_some(&dying, &fixture, &mut Random(first), VerifyLevel::Load).await;
        dying.flush().await;
        drop(dying);
        // Its tasks may end a little later.
        crate::support::until(|| Arc::strong_count(&files) == 1).await;
        world.fail(None);
        let before = fixture.request_count();
        for _ in 0..2 {
            crate::disk::load_all(&other, &fixture, VerifyLevel::Load).await;
        }
        assert!(fixture.request_count() - before <= 3, "{first}");
        other.gc().unwrap();
        let usage = other.usage().unwrap();
        assert_eq!(usage.chunk_count, 3, "{first}");
    }
}

#[tokio::test]
async fn a_reader_never_takes_one_chunk_for_another() {
    // Readers with places of their own, while another process evicts and fills all the time.
    let fixture = Arc::new(Fixture::of(contents(5, 20), DigestAlgorithm::Blake3, &[]));
    let folder = tempfile::tempdir().unwrap();
    let options = || sim_options().with_folder(folder.path()).with_quota_len(150_000);
    let tasks = (0..4).map(|seed| {
        let (fixture, cache) = (Arc::clone(&fixture), Cache::open(options()));
        tokio::spawn(async move {
            let mut random = Random(seed);
            for _ in 0..60 {
                read_some(&cache, &fixture, &mut random, VerifyLevel::Load).await;
            }
            cache.counters().disk_hits
        })
    });
    let hits = futures::future::try_join_all(tasks).await.unwrap();
    assert!(hits.iter().all(|hits| *hits > 0), "{hits:?}");
}
