//! The disk tier of one process: damage, faults, places.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chunkfs_cache::{Cache, CacheDomain, CacheOptions, DiskEvent, VerifyLevel};
use chunkfs_fetch::Priority;

use crate::sim::{Fault, World};
use crate::support::{Fixture, options};

const EIO: i32 = 5;
const EACCES: i32 = 13;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EDQUOT: i32 = 122;

/// Loads every chunk and checks its content.
pub(crate) async fn load_all(cache: &Cache, fixture: &Fixture, verify: VerifyLevel) {
    let count = fixture.chunks.len() as u32;
    let loader = cache.loader(fixture.source.clone(), verify).with_chunk_count(count);
    for (chunk, content) in fixture.chunks.iter().zip(&fixture.contents) {
        let bytes = loader.load(chunk, Priority::Demand).await.unwrap();
        assert!(bytes == content, "chunk {}", chunk.number);
    }
    cache.flush().await;
}

fn no_memory() -> CacheOptions {
    options().with_memory_len_max(0).with_reserve_len(0).with_disk_pause_min(Duration::ZERO)
}

#[tokio::test]
async fn damage_on_disk_is_fetched_again_at_level_load() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage, usize); 9] = [
        ("slab", |bytes| bytes[7_000] ^= 0x80, 1),
        ("slab", |bytes| bytes.truncate(20_000), 3),
        ("slab", |bytes| bytes.clear(), 3),
        ("slab", |bytes| bytes.fill(0), 3),
        ("directory", |bytes| bytes.clear(), 3),
        ("directory", |bytes| bytes[3] ^= 1, 3),
        ("directory", |bytes| bytes[88] ^= 1, 3),
        ("directory", |bytes| bytes[4_096..].fill(0xa5), 3),
        ("trees", |bytes| bytes.fill(1), 0),
    ];
    for (number, (part, damage, refetched_count)) in damages.into_iter().enumerate() {
        let (world, fixture) = (World::new(), Fixture::new(3, &[]));
        let open = || Cache::with_files(no_memory(), Some(world.files()));
        load_all(&open(), &fixture, VerifyLevel::Load).await;
        assert_eq!(fixture.request_count(), 3);
        world.damage(part, damage);
        load_all(&open(), &fixture, VerifyLevel::Load).await;
        assert_eq!(fixture.request_count(), 3 + refetched_count, "damage {number} of {part}");
        // What was fetched again is kept again.
        load_all(&open(), &fixture, VerifyLevel::Load).await;
        assert_eq!(fixture.request_count(), 3 + refetched_count, "damage {number} of {part}");
    }
}

#[tokio::test]
async fn whatever_operation_fails_readers_get_the_right_bytes() {
    for errno in [EIO, ENOSPC, EDQUOT, EROFS, EACCES] {
        for count in [1, u64::MAX / 2] {
            let mut first = 1;
            loop {
                let (world, fixture) = (World::new(), Fixture::new(4, &[]));
                world.fail(Some(Fault { first, count, errno }));
                let quota = 3 * 20_480 + 16 * 4_096;
                let open =
                    || Cache::with_files(no_memory().with_quota_len(quota), Some(world.files()));
                for _ in 0..2 {
                    load_all(&open(), &fixture, VerifyLevel::Always).await;
                }
                let cache = open();
                load_all(&cache, &fixture, VerifyLevel::Load).await;
                // These may fail; they must not do harm.
                let _ = (cache.gc(), cache.usage(), cache.verify(&[]));
                let is_over = world.operation_count() < first;
                world.fail(None);
                load_all(&open(), &fixture, VerifyLevel::Load).await;
                if is_over {
                    break;
                }
                first += 1;
            }
            assert!(first > 50, "the loop went through all operations: {first}");
        }
    }
}

#[tokio::test]
async fn trouble_is_reported_once_and_writing_resumes() {
    let (world, fixture) = (World::new(), Fixture::new(3, &[]));
    let events: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&events);
    let observer = Arc::new(move |event: &DiskEvent<'_>| {
        log.lock().unwrap().push(match event {
            DiskEvent::Failed { operation, error } => format!("{operation}: {:?}", error.kind()),
            other => format!("{other:?}"),
        });
    });
    world.fail(Some(Fault { first: 1, count: u64::MAX / 2, errno: ENOSPC }));
    let cache = Cache::with_files(no_memory().with_disk_observer(observer), Some(world.files()));
    load_all(&cache, &fixture, VerifyLevel::Load).await;
    let reported = ["the cache folder cannot be opened: StorageFull".to_owned()];
    assert_eq!(*events.lock().unwrap(), reported);
    assert!(cache.counters().disk_errors > 3);
    world.fail(None);
    load_all(&cache, &fixture, VerifyLevel::Load).await;
    assert_eq!(events.lock().unwrap()[1..], ["Recovered"]);
    assert_eq!(fixture.request_count(), 6);
    load_all(&cache, &fixture, VerifyLevel::Load).await;
    assert_eq!(fixture.request_count(), 6);
}

#[tokio::test]
async fn a_folder_that_disappears_is_made_anew() {
    let (world, fixture) = (World::new(), Fixture::new(3, &[]));
    let cache = Cache::with_files(no_memory(), Some(world.files()));
    load_all(&cache, &fixture, VerifyLevel::Load).await;
    world.remove_all();
    // Still served from the open files.
    load_all(&cache, &fixture, VerifyLevel::Load).await;
    assert_eq!(fixture.request_count(), 3);
    let more = Fixture::of(vec![vec![1; 5_000]], chunkfs_format::DigestAlgorithm::Blake3, &[]);
    load_all(&cache, &more, VerifyLevel::Load).await;
    load_all(&cache, &more, VerifyLevel::Load).await;
    assert_eq!(more.request_count(), 1);
    assert!(world.names().iter().any(|name| name.contains("slab")), "{:?}", world.names());
    let fresh = Cache::with_files(no_memory(), Some(world.files()));
    load_all(&fresh, &more, VerifyLevel::Load).await;
    assert_eq!(more.request_count(), 1);
}

#[tokio::test]
async fn a_folder_that_is_none_is_reported_and_does_without() {
    let fixture = Fixture::new(1, &[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let cache = Cache::open(no_memory().with_folder(file.path()));
    load_all(&cache, &fixture, VerifyLevel::Load).await;
    assert!(cache.counters().disk_errors > 0);
    let error = cache.usage().unwrap_err();
    assert_eq!(error.to_string(), "the cache folder cannot be read");
}

#[tokio::test]
async fn files_are_private_and_slabs_are_on_the_grid() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    let fixture = Fixture::new(3, &[]);
    let cache = Cache::open(no_memory().with_folder(&path));
    load_all(&cache, &fixture, VerifyLevel::Always).await;
    load_all(&cache, &fixture, VerifyLevel::Always).await;
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for entry in std::fs::read_dir(&path).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    for (chunk, content) in fixture.chunks.iter().zip(&fixture.contents) {
        let (fd, offset) = loader.resolve(chunk).unwrap();
        assert_eq!(offset % 4_096, 0);
        let mut bytes = vec![0; content.len().next_multiple_of(4_096)];
        std::fs::File::from(fd).read_exact_at(&mut bytes[..content.len()], offset).unwrap();
        assert!(bytes[..content.len()] == content[..]);
        assert!(bytes[content.len()..].iter().all(|byte| *byte == 0));
    }
}

#[tokio::test]
async fn domains_share_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(2, &[]);
    let cache = Cache::open(options().with_folder(folder.path()).with_reserve_len(0));
    let domains = [None, Some(("a", 1)), Some(("b", 1)), Some(("a", 2))];
    for (round, domain) in domains.into_iter().enumerate() {
        let mut loader =
            cache.loader(fixture.source.clone(), VerifyLevel::Load).with_chunk_count(2);
        if let Some((name, key)) = domain {
            loader = loader.with_domain(CacheDomain::new(name, &[key; 32]));
        }
        assert_eq!(loader.missing(&fixture.chunks).len(), 2);
        for _ in 0..2 {
            for (chunk, content) in fixture.chunks.iter().zip(&fixture.contents) {
                assert!(loader.load(chunk, Priority::Demand).await.unwrap() == content);
            }
        }
        cache.flush().await;
        assert_eq!(fixture.request_count(), 2 * (round + 1));
        assert_eq!(loader.missing(&fixture.chunks).len(), 0);
    }
    assert_eq!(cache.usage().unwrap().chunk_count, 8);
    let verified = cache.verify(&[CacheDomain::new("a", &[1; 32])]).unwrap();
    assert_eq!((verified.good_chunks, verified.damaged_chunks.len()), (4, 0));
    assert_eq!(verified.unknown_chunks, 4);
}

#[tokio::test]
async fn a_chunk_number_that_is_wrong_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::new(6, &[]);
    for chunk in &mut fixture.chunks {
        chunk.number %= 2;
    }
    let cache = Cache::open(no_memory().with_folder(folder.path()));
    load_all(&cache, &fixture, VerifyLevel::Load).await;
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Fetch).with_chunk_count(2);
    for _ in 0..3 {
        for (chunk, content) in fixture.chunks.iter().zip(&fixture.contents) {
            let mut bytes = vec![0; content.len()];
            if !loader.read_cached(chunk, 0, &mut bytes) {
                bytes = loader.load(chunk, Priority::Demand).await.unwrap().to_vec();
            }
            assert!(bytes == *content);
        }
    }
    assert_eq!(fixture.request_count(), 6);
}
