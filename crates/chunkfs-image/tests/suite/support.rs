//! Images in memory, and sources that can be held up or broken.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_convert::{ConvertOptions, Destination, convert_rootfs};
use chunkfs_fetch::{
    BlobDescriptor, BlobSource, ConvertedManifest, FetchError, ImageSource, ManifestSelector,
    MemorySource, Priority, StoredManifest,
};
use chunkfs_format::{ChunkSize, PackSize};
use chunkfs_image::{Cache, CacheOptions, Image, OpenOptions};
use chunkfs_index::{Inode, PieceSource};
use futures::stream::BoxStream;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;

/// The chunk size of test images.
pub(crate) const CHUNK: usize = 64 << 10;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

/// A runtime that outlives every test, for tests that are not async.
pub(crate) fn runtime() -> Handle {
    RUNTIME.handle().clone()
}

pub(crate) fn tag() -> ManifestSelector {
    ManifestSelector::Tag("image".to_owned())
}

/// Returns bytes that do not compress and differ from place to place and from seed to seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Converts the folder that `fill` has filled, with packs of at most 16 KiB.
pub(crate) fn convert(fill: impl FnOnce(&Path) + Send) -> Arc<MemorySource> {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let chunk_size = ChunkSize::new(CHUNK as u64).unwrap();
    let options = ConvertOptions::new(runtime())
        .with_sizes(chunk_size, PackSize::new(16 << 10, chunk_size).unwrap())
        .with_jobs(NonZeroUsize::new(2).unwrap())
        .with_spool_directory(std::env::temp_dir());
    let store = Arc::new(MemorySource::new());
    let destination = Destination { sink: store.clone(), selector: tag() };
    // Converting blocks, which a thread of an async test must not.
    let convert = || convert_rootfs(folder.path(), &destination, &[], &options).unwrap();
    std::thread::scope(|scope| scope.spawn(convert).join().unwrap());
    store
}

/// Converts a folder of these files.
pub(crate) fn convert_files(files: &[(&str, Vec<u8>)]) -> Arc<MemorySource> {
    convert(|folder| {
        for (name, content) in files {
            std::fs::write(folder.join(name), content).unwrap();
        }
    })
}

/// Files of all shapes with their content.
pub(crate) type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// One image with files of all shapes.
pub(crate) static SHAPES: LazyLock<(Files, Arc<MemorySource>)> = LazyLock::new(|| {
    let lens = [
        ("empty", 0),
        ("one-byte", 1),
        ("packed-a", 4_000),
        ("packed-b", 4_096),
        ("chunk-less-one", CHUNK - 1),
        ("chunk", CHUNK),
        ("chunk-and-one", CHUNK + 1),
        ("three-chunks", 3 * CHUNK),
        ("five-chunks-and-a-bit", 5 * CHUNK + 777),
    ];
    let mut files: Files = lens
        .iter()
        .map(|(name, len)| (name.as_bytes().to_vec(), noise(name.len() as u64, *len)))
        .collect();
    files.insert(b"text".to_vec(), b"all work and no play\n".repeat(8_000));
    files.insert(b"not-utf8-\xff".to_vec(), b"bytes".to_vec());
    let mut sparse = noise(77, 2 * CHUNK);
    sparse.extend_from_slice(&vec![0; 20 * CHUNK]);
    sparse.extend_from_slice(&noise(78, 100));
    let sparse_files = [(&b"sparse"[..], sparse), (b"hole", vec![0; 300_000])];
    let store = convert(|folder| {
        for (name, content) in &files {
            std::fs::write(folder.join(OsStr::from_bytes(name)), content).unwrap();
        }
        for (name, content) in &sparse_files {
            write_sparse(&folder.join(OsStr::from_bytes(name)), content);
        }
    });
    files.extend(sparse_files.map(|(name, content)| (name.to_vec(), content)));
    (files, store)
});

/// Writes all blocks of a file that are not zero.
fn write_sparse(path: &Path, content: &[u8]) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (number, block) in content.chunks(CHUNK).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, (number * CHUNK) as u64).unwrap();
        }
    }
}

/// A range of a data blob that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) blob: BlobDescriptor,
    pub(crate) range: Range<u64>,
    pub(crate) priority: Priority,
}

/// What the source does with a request for data.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Flips a bit of the first byte.
    Flip,
    Fail,
}

/// An image in memory whose data requests are logged, and held until there is a permit for them.
#[derive(Debug)]
pub(crate) struct GatedSource {
    pub(crate) store: Arc<MemorySource>,
    pub(crate) demand: Semaphore,
    pub(crate) prefetch: Semaphore,
    requests: Mutex<Vec<Request>>,
    faults: Mutex<VecDeque<Fault>>,
}

impl GatedSource {
    /// A source with open gates.
    pub(crate) fn new(store: &Arc<MemorySource>) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            demand: Semaphore::new(1_000_000),
            prefetch: Semaphore::new(1_000_000),
            requests: Mutex::default(),
            faults: Mutex::default(),
        })
    }

    pub(crate) fn gate(&self, priority: Priority) -> &Semaphore {
        match priority {
            Priority::Demand => &self.demand,
            Priority::Prefetch => &self.prefetch,
        }
    }

    pub(crate) fn close(&self, priority: Priority) {
        self.gate(priority).forget_permits(usize::MAX >> 4);
    }

    pub(crate) fn push_faults(&self, faults: &[Fault]) {
        self.faults.lock().unwrap().extend(faults);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn request_count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// How many bytes were asked for.
    pub(crate) fn request_bytes(&self) -> u64 {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|request| request.range.end - request.range.start).sum()
    }

    /// Opens the image and forgets the request for its index.
    pub(crate) async fn open(self: &Arc<Self>, cache: &Cache, options: OpenOptions) -> Image {
        let image = Image::open_source("test", self.clone(), &tag(), cache, options).await;
        self.requests.lock().unwrap().clear();
        image.unwrap()
    }
}

#[async_trait]
impl BlobSource for GatedSource {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        let request = Request { blob: *blob, range: range.clone(), priority };
        self.requests.lock().unwrap().push(request);
        self.gate(priority).acquire().await.unwrap().forget();
        let bytes = self.store.read_range(blob, range, priority).await?;
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            None => Ok(bytes),
            Some(Fault::Fail) => Err(FetchError::NotFound { what: blob.id.to_string() }),
            Some(Fault::Flip) => {
                let mut bytes = bytes.to_vec();
                bytes[0] ^= 1;
                Ok(bytes.into())
            }
        }
    }
}

#[async_trait]
impl ImageSource for GatedSource {
    async fn fetch_manifest(
        &self,
        selector: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        self.store.fetch_manifest(selector).await
    }

    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>> {
        self.store.stream_blob(blob)
    }
}

pub(crate) async fn manifest(store: &MemorySource) -> ConvertedManifest {
    let stored = store.fetch_manifest(&tag()).await.unwrap();
    ConvertedManifest::parse(&stored.bytes).unwrap()
}

/// Options under which a miss brings nothing along, for tests of exactly what is asked for.
pub(crate) fn plain_options() -> OpenOptions {
    OpenOptions::default().with_fetch_neighbours(false)
}

/// A cache in memory that is larger than any test image.
pub(crate) fn memory_cache(runtime: Handle) -> Cache {
    Cache::open(CacheOptions::new(runtime))
}

/// Opens an image whose source is never held up, with an empty cache.
pub(crate) async fn open(store: &Arc<MemorySource>, options: OpenOptions) -> Image {
    let cache = memory_cache(Handle::current());
    Image::open_source("test", store.clone(), &tag(), &cache, options).await.unwrap()
}

pub(crate) fn file(image: &Image, path: &[u8]) -> Inode {
    image.index().lookup_path(path).unwrap()
}

/// The stored bytes of the chunks that a range of a file needs, each counted once.
pub(crate) fn stored_len(image: &Image, file: &Inode, range: Range<u64>) -> u64 {
    let index = image.index();
    let pieces = index.pieces(file, range.start, range.end - range.start);
    let mut chunks: Vec<_> = pieces
        .filter_map(|piece| match piece.source {
            PieceSource::Chunk { index, .. } => Some(index),
            PieceSource::Hole => None,
        })
        .collect();
    chunks.dedup();
    let stored_len = |chunk| u64::from(index.chunk(chunk).unwrap().location.stored_len);
    chunks.into_iter().map(stored_len).sum()
}

/// Lets other tasks run until a condition holds; there is no waiting for time to pass.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// Writes an error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += ": ";
        text += &cause.to_string();
        source = cause.source();
    }
    text
}
