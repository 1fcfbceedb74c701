//! Public behaviour of the cache: how often things are fetched, and that damage never gets out.

use std::collections::VecDeque;
use std::fs;
use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use chunkfs_cache::{
    Cache, CacheOptions, ChunkKey, ChunkRequest, ChunkStore, DirectoryStore, LoadError, VerifyLevel,
};
use chunkfs_fetch::{BlobDescriptor, BlobSource, FetchError, Priority};
use chunkfs_format::{BlobId, ChunkEncoder, Codec, CompressionLevel, DigestAlgorithm};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// What the source does with a request.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// Flips a bit of the first byte.
    Flip,
    Fail,
    /// Returns one byte too few.
    Short,
}

/// A blob in memory that logs its requests, and holds each until a permit is there.
#[derive(Debug)]
struct Source {
    blob: Bytes,
    gate: Semaphore,
    requests: Mutex<Vec<(Range<u64>, Priority)>>,
    faults: Mutex<VecDeque<Fault>>,
}

#[async_trait::async_trait]
impl BlobSource for Source {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        self.requests.lock().unwrap().push((range.clone(), priority));
        self.gate.acquire().await.unwrap().forget();
        let bytes = self.blob.slice(range.start as usize..range.end as usize);
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::None => Ok(bytes),
            Fault::Fail => Err(FetchError::NotFound { what: blob.id.to_string() }),
            Fault::Short => Ok(bytes.slice(1..)),
            Fault::Flip => {
                let mut bytes = bytes.to_vec();
                bytes[0] ^= 1;
                Ok(bytes.into())
            }
        }
    }
}

/// Chunks with different content, next to each other in one blob.
struct Fixture {
    source: Arc<Source>,
    chunks: Vec<ChunkRequest>,
    contents: Vec<Vec<u8>>,
}

impl Fixture {
    fn new(count: usize, faults: &[Fault]) -> Self {
        let mut encoder = ChunkEncoder::new(CompressionLevel::default()).unwrap();
        let contents: Vec<Vec<u8>> =
            (0..count).map(|n| format!("chunk {n} ").repeat(2_000).into_bytes()).collect();
        let mut blob = Vec::new();
        let mut places = Vec::new();
        for content in &contents {
            let (codec, stored) = encoder.encode(content).unwrap();
            places.push((blob.len() as u64, stored.len() as u32, codec));
            blob.extend_from_slice(stored);
        }
        let descriptor = BlobDescriptor { id: BlobId::of(&blob), len: blob.len() as u64 };
        let algorithm = DigestAlgorithm::Blake3;
        let places = places.into_iter().zip(0..);
        let chunks = contents.iter().zip(places).map(|(content, (place, number))| {
            let (offset, stored_len, codec) = place;
            assert_eq!(codec, Codec::Zstd);
            ChunkRequest {
                algorithm,
                id: algorithm.chunk_id(content),
                uncompressed_len: content.len() as u32,
                blob: descriptor,
                offset,
                stored_len,
                codec,
                number,
            }
        });
        let chunks = chunks.collect();
        let source = Source {
            blob: blob.into(),
            gate: Semaphore::new(1_000_000),
            requests: Mutex::default(),
            faults: Mutex::new(faults.iter().copied().collect()),
        };
        Self { source: Arc::new(source), chunks, contents }
    }

    fn close_gate(&self) {
        self.source.gate.forget_permits(usize::MAX >> 4);
    }

    fn requests(&self) -> Vec<Range<u64>> {
        self.source.requests.lock().unwrap().iter().map(|(range, _)| range.clone()).collect()
    }

    fn request_count(&self) -> usize {
        self.source.requests.lock().unwrap().len()
    }
}

fn options() -> CacheOptions {
    CacheOptions::new(Handle::current())
}

/// Lets other tasks run until a condition holds; there is no waiting for time to pass.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_chunk_is_fetched_once_and_then_in_memory() {
    let fixture = Fixture::new(1, &[]);
    let cache = Cache::open(options()).unwrap();
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
    let cache = Cache::open(options()).unwrap();
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
    let cache = Cache::open(options().with_gap_len_max(0)).unwrap();
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
        let cache = Cache::open(options).unwrap();
        let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
        let loads = loader.load_many(&outer, Priority::Demand);
        futures::future::try_join_all(loads).await.unwrap();
        assert_eq!(fixture.request_count() - before, expected);
    }
}

#[tokio::test]
async fn a_chunk_that_arrives_damaged_is_fetched_once_more() {
    let fixture = Fixture::new(1, &[Fault::Flip]);
    let cache = Cache::open(options()).unwrap();
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let bytes = loader.load(&fixture.chunks[0], Priority::Demand).await.unwrap();
    assert_eq!(bytes, fixture.contents[0]);
    assert_eq!(fixture.request_count(), 2);
    assert_eq!(cache.counters().source_verify_failures, 1);
}

#[tokio::test]
async fn a_corrupt_chunk_is_an_error_that_names_it_and_is_not_remembered() {
    let fixture = Fixture::new(2, &[Fault::None, Fault::Flip, Fault::Flip]);
    let cache = Cache::open(options().with_gap_len_max(0)).unwrap();
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
        let cache = Cache::open(options()).unwrap();
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
    let cache = Cache::open(options()).unwrap();
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
    let cache = Cache::open(options()).unwrap();
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
    let cache = Cache::open(options().with_folder(folder.path())).unwrap();
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let loads = loader.load_many(&fixture.chunks, Priority::Prefetch);
    futures::future::try_join_all(loads).await.unwrap();
    cache.flush().await;
    assert_eq!(cache.counters().prefetch_requests, 1);
    assert_eq!(loader.missing(&fixture.chunks), []);
    assert_eq!(loader.get(&fixture.chunks[0]), None, "prefetched chunks stay out of memory");

    // Another image with the same chunks in a blob that cannot be read.
    let other = Fixture::new(3, &[Fault::Fail; 10]);
    let cache = Cache::open(options().with_folder(folder.path())).unwrap();
    let loader = cache.loader(other.source.clone(), VerifyLevel::Load);
    for (chunk, content) in other.chunks.iter().zip(&other.contents) {
        assert_eq!(loader.load(chunk, Priority::Demand).await.unwrap(), content);
    }
    assert_eq!((other.request_count(), cache.counters().disk_hits), (0, 3));
}

fn chunk_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files
}

#[tokio::test]
async fn damage_on_disk_is_fetched_again_at_level_load() {
    type Damage = fn(&Path);
    let damages: [Damage; 4] = [
        |path| {
            let mut bytes = fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 0x80;
            fs::write(path, bytes).unwrap();
        },
        |path| fs::write(path, b"").unwrap(),
        |path| {
            let len = fs::metadata(path).unwrap().len();
            fs::write(path, vec![0; len as usize]).unwrap();
        },
        |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
    ];
    for damage in damages {
        let folder = tempfile::tempdir().unwrap();
        let fixture = Fixture::new(1, &[]);
        for round in 1..=2 {
            let cache = Cache::open(options().with_folder(folder.path())).unwrap();
            let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
            let bytes = loader.load(&fixture.chunks[0], Priority::Demand).await.unwrap();
            assert_eq!(bytes, fixture.contents[0]);
            assert_eq!(fixture.request_count(), round);
            cache.flush().await;
            if round == 1 {
                chunk_files(folder.path()).iter().for_each(|path| damage(path));
            }
        }
    }
}

/// A disk that fails.
#[derive(Debug)]
struct BrokenStore;

impl ChunkStore for BrokenStore {
    fn read(&self, _: &ChunkKey, _: u32) -> std::io::Result<Option<Vec<u8>>> {
        Err(std::io::ErrorKind::PermissionDenied.into())
    }

    fn contains(&self, _: &ChunkKey, _: u32) -> bool {
        false
    }

    fn write(&self, _: &ChunkKey, _: &[u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::StorageFull.into())
    }

    fn remove(&self, _: &ChunkKey) -> std::io::Result<()> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

#[tokio::test]
async fn a_broken_disk_is_counted_and_readers_notice_nothing() {
    let fixture = Fixture::new(1, &[]);
    let cache = Cache::with_store(options(), Some(Arc::new(BrokenStore)));
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let bytes = loader.load(&fixture.chunks[0], Priority::Demand).await.unwrap();
    assert_eq!(bytes, fixture.contents[0]);
    cache.flush().await;
    assert_eq!(cache.counters().disk_errors, 2);
}

#[tokio::test]
async fn memory_stays_within_its_limit_and_evicted_chunks_come_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(40, &[]);
    let chunk_len = fixture.contents[39].len() as u64;
    let options = options().with_folder(folder.path()).with_memory_len_max(5 * chunk_len);
    let cache = Cache::open(options).unwrap();
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
    let cache = Cache::open(options()).unwrap();
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
    let cache = Cache::open(CacheOptions::new(runtime.handle().clone())).unwrap();
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let load = loader.load(&fixture.chunks[0], Priority::Demand);
    assert_eq!(futures::executor::block_on(load).unwrap(), fixture.contents[0]);
}

#[test]
fn a_runtime_that_shuts_down_ends_loads_with_an_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = Fixture::new(1, &[]);
    fixture.close_gate();
    let cache = Cache::open(CacheOptions::new(runtime.handle().clone())).unwrap();
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Load);
    let load = loader.load(&fixture.chunks[0], Priority::Demand);
    drop(runtime);
    let error = futures::executor::block_on(load).unwrap_err();
    assert!(matches!(error, LoadError::Shutdown { .. }), "{error}");
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = CacheOptions::new(runtime.handle().clone()).with_folder(file.path());
    let error = Cache::open(options).unwrap_err();
    assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
}

#[test]
fn many_threads_and_processes_may_write_one_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let content = vec![7; 100_000];
    let algorithm = DigestAlgorithm::Blake3;
    let key = ChunkKey { algorithm, id: algorithm.chunk_id(&content) };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let store = DirectoryStore::open(folder.path()).unwrap();
                for _ in 0..50 {
                    store.write(&key, &content).unwrap();
                    assert_eq!(store.read(&key, 100_000).unwrap().as_ref(), Some(&content));
                }
            });
        }
    });
    assert_eq!(chunk_files(folder.path()).len(), 1);
}

/// The futures can be sent to other threads.
fn assert_send<T: Future + Send>(_: &T) {}

#[tokio::test]
async fn chunk_futures_can_move_between_threads() {
    let fixture = Fixture::new(1, &[]);
    let cache = Cache::open(options()).unwrap();
    let loader = cache.loader(fixture.source.clone(), VerifyLevel::Fetch);
    let load = loader.load(&fixture.chunks[0], Priority::Demand);
    assert_send(&load);
    tokio::spawn(load).await.unwrap().unwrap();
}
