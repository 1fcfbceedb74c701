//! Images in memory, sources that can be held up or broken, and mounts of both.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_cache::{Cache, CacheOptions};
use chunkfs_fetch::{
    BlobDescriptor, BlobSource, CONFIG_MEDIA_TYPE, ConvertedManifest, Descriptor, FetchError,
    INDEX_MEDIA_TYPE, ImageSink as _, ImageSource, MANIFEST_MEDIA_TYPE, ManifestSelector,
    MemorySource, Priority, StoredManifest,
};
use chunkfs_format::{BlobId, ChunkSize, Codec, DigestAlgorithm};
use chunkfs_fuse::{Mount, MountError, MountOptions};
use chunkfs_image::Image;
use chunkfs_index::{
    Attributes, Blob, ChunkIndex, Content, IndexBuilder, Location, Node, NodeId, Segment,
    SegmentChunk, Tree,
};
use futures::stream::BoxStream;
use tokio::sync::Semaphore;

/// The chunk size of test images.
pub(crate) const CHUNK: usize = 64 << 10;

/// A part of a file.
pub(crate) enum Part {
    Data(Vec<u8>),
    Hole(u64),
}

/// Returns bytes that differ from place to place and from seed to seed.
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

/// An image that is being made. Every chunk is a blob of its own, so that no request has two.
pub(crate) struct TestImage {
    pub(crate) tree: Tree,
    chunks: Vec<Vec<u8>>,
    positions: HashMap<Vec<u8>, u32>,
}

impl TestImage {
    pub(crate) fn new() -> Self {
        let tree = Tree::new(Attributes { permissions: 0o755, ..Attributes::default() });
        Self { tree, chunks: Vec::new(), positions: HashMap::new() }
    }

    pub(crate) fn root(&self) -> NodeId {
        self.tree.root()
    }

    pub(crate) fn add(&mut self, parent: NodeId, name: &[u8], content: Content) -> NodeId {
        let attributes = Attributes { permissions: 0o755, ..Attributes::default() };
        let node = self.tree.add(Node { attributes, content });
        self.link(parent, name, node);
        node
    }

    pub(crate) fn link(&mut self, parent: NodeId, name: &[u8], node: NodeId) {
        self.tree.children_mut(parent).expect("a directory").insert(name.to_vec(), node);
    }

    pub(crate) fn directory(&mut self, parent: NodeId, name: &[u8]) -> NodeId {
        self.add(parent, name, Content::Directory(Default::default()))
    }

    pub(crate) fn file(&mut self, name: &[u8], parts: Vec<Part>) -> NodeId {
        let mut segments = Vec::new();
        for part in parts {
            match part {
                Part::Hole(len) => segments.push(Segment { len, chunk: None }),
                Part::Data(bytes) => {
                    for chunk in bytes.chunks(CHUNK) {
                        let index = ChunkIndex::new(self.chunk(chunk));
                        let chunk_place = SegmentChunk { index, offset: 0 };
                        let len = chunk.len() as u64;
                        segments.push(Segment { len, chunk: Some(chunk_place) });
                    }
                }
            }
        }
        let root = self.root();
        self.add(root, name, Content::Regular(segments))
    }

    fn chunk(&mut self, bytes: &[u8]) -> u32 {
        let next = self.chunks.len() as u32;
        let position = *self.positions.entry(bytes.to_vec()).or_insert(next);
        if position == next {
            self.chunks.push(bytes.to_vec());
        }
        position
    }

    /// Mounts the image, or prints why that is impossible here.
    pub(crate) fn serve(self) -> Option<Served> {
        self.serve_with(MountOptions::default())
    }

    pub(crate) fn serve_with(self, options: MountOptions) -> Option<Served> {
        let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
        if let Err(error) = device {
            eprintln!("skipped: /dev/fuse cannot be used: {error}");
            return None;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
        let runtime = runtime.expect("a runtime");
        let source = Arc::new(self.source(&runtime));
        let selector = ManifestSelector::Tag("test".to_owned());
        // A small memory tier: reading again means fetching again.
        let cache_options = CacheOptions::new(runtime.handle().clone()).with_memory_len_max(1);
        let cache = Cache::open(cache_options);
        let opened = Image::open_source(
            "test",
            Arc::clone(&source) as Arc<dyn ImageSource>,
            &selector,
            &cache,
            chunkfs_image::OpenOptions::default().with_readahead_len_max(0),
        );
        let image = runtime.block_on(opened).expect("the image is sound");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mount = Mount::new(image.clone(), folder.path(), options);
        let mount = mount.expect("the image can be mounted");
        Some(Served { mount, folder, source, image, _runtime: runtime })
    }

    fn source(self, runtime: &tokio::runtime::Runtime) -> TestSource {
        let memory = MemorySource::new();
        let algorithm = DigestAlgorithm::Blake3;
        let chunk_size = ChunkSize::new(CHUNK as u64).expect("a valid chunk size");
        let mut builder = IndexBuilder::new(algorithm, chunk_size);
        for chunk in self.chunks {
            let (id, len) = (algorithm.chunk_id(&chunk), chunk.len() as u32);
            let blob = memory.insert_blob(Bytes::from(chunk));
            let blob = builder.add_blob(Blob { id: blob.id, len: blob.len }).expect("room");
            let location = Location { blob, offset: 0, stored_len: len, codec: Codec::Raw };
            builder.add_chunk(id, len, location).expect("room");
        }
        let index = builder.build(&self.tree).expect("the tree is sound");
        let index = memory.insert_blob(index.compress().expect("zstd works").into());
        let config = memory.insert_blob(Bytes::from_static(b"{}"));
        let manifest = ConvertedManifest {
            config: Descriptor::new(CONFIG_MEDIA_TYPE, &config),
            index: Descriptor::new(INDEX_MEDIA_TYPE, &index),
            blobs: Vec::new(),
            fragments: Vec::new(),
            annotations: Default::default(),
        };
        let tag = ManifestSelector::Tag("test".to_owned());
        let put = memory.put_manifest(&tag, MANIFEST_MEDIA_TYPE, manifest.to_json().into());
        runtime.block_on(put).expect("memory takes everything");
        TestSource { memory, gates: Mutex::default(), faults: Mutex::default() }
    }
}

/// A mounted test image. Fields are dropped in this order.
pub(crate) struct Served {
    pub(crate) mount: Mount,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) source: Arc<TestSource>,
    image: Image,
    _runtime: tokio::runtime::Runtime,
}

impl Served {
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Mounts the same image elsewhere.
    pub(crate) fn mount_again(&self, mountpoint: &Path) -> Result<Mount, MountError> {
        Mount::new(self.image.clone(), mountpoint, MountOptions::default())
    }
}

/// What is wrong with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// It is gone.
    Missing,
    /// Its bytes are others.
    Corrupt,
}

/// A source in memory whose blobs can be held up or broken.
#[derive(Debug)]
pub(crate) struct TestSource {
    memory: MemorySource,
    gates: Mutex<HashMap<BlobId, Gate>>,
    faults: Mutex<HashSet<(BlobId, Fault)>>,
}

#[derive(Debug, Clone)]
struct Gate {
    arrivals: mpsc::Sender<()>,
    open: Arc<Semaphore>,
}

/// Holds up reads of a blob until it is opened or dropped.
pub(crate) struct GateKeeper {
    arrivals: mpsc::Receiver<()>,
    open: Arc<Semaphore>,
}

impl GateKeeper {
    /// Blocks until somebody reads the blob.
    pub(crate) fn wait_for_reader(&self) {
        self.arrivals.recv().expect("the source lives");
    }

    pub(crate) fn open(&self) {
        self.open.close();
    }
}

impl Drop for GateKeeper {
    fn drop(&mut self) {
        self.open();
    }
}

impl TestSource {
    /// Holds up reads of the chunk with this content.
    pub(crate) fn hold(&self, chunk: &[u8]) -> GateKeeper {
        let (sender, arrivals) = mpsc::channel();
        let open = Arc::new(Semaphore::new(0));
        let gate = Gate { arrivals: sender, open: Arc::clone(&open) };
        self.gates.lock().expect("no panics").insert(BlobId::of(chunk), gate);
        GateKeeper { arrivals, open }
    }

    /// Breaks the chunk with this content.
    pub(crate) fn break_chunk(&self, chunk: &[u8], fault: Fault) {
        self.faults.lock().expect("no panics").insert((BlobId::of(chunk), fault));
    }

    pub(crate) fn mend_all(&self) {
        self.faults.lock().expect("no panics").clear();
    }

    fn has_fault(&self, blob: BlobId, fault: Fault) -> bool {
        self.faults.lock().expect("no panics").contains(&(blob, fault))
    }
}

#[async_trait]
impl BlobSource for TestSource {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        let gate = self.gates.lock().expect("no panics").get(&blob.id).cloned();
        if let Some(gate) = gate {
            // Nobody listens any more once the gate is open.
            let _ = gate.arrivals.send(());
            // Nothing is ever released: waiting ends when the gate is closed down.
            let _ = gate.open.acquire().await;
        }
        if self.has_fault(blob.id, Fault::Missing) {
            return Err(FetchError::NotFound { what: blob.id.to_string() });
        }
        let bytes = self.memory.read_range(blob, range, priority).await?;
        if self.has_fault(blob.id, Fault::Corrupt) {
            let mut bytes = bytes.to_vec();
            bytes[0] ^= 1;
            return Ok(bytes.into());
        }
        Ok(bytes)
    }
}

#[async_trait]
impl ImageSource for TestSource {
    async fn fetch_manifest(
        &self,
        selector: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        self.memory.fetch_manifest(selector).await
    }

    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>> {
        self.memory.stream_blob(blob)
    }
}
