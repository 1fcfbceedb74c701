//! Making images, converting them, and reading the result back without the code under test.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};

use chunkfs_convert::{
    ConvertError, ConvertOptions, ConvertReport, Destination, ReuseImage, convert_image,
};
use chunkfs_fetch::{
    ConvertedManifest, ImageSink, ImageSource, ManifestSelector, MemorySource, Priority,
    fetch_verified,
};
use chunkfs_format::{BlobId, ChunkDecoder, ChunkSize, PackSize};
use chunkfs_index::{FileKind, INDEX_LEN_MAX, Index, Inode, InodeIndex, PieceSource};
use tokio::runtime::{Handle, Runtime};

use crate::archive::{Archive, Entry};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

pub(crate) fn runtime() -> Handle {
    RUNTIME.handle().clone()
}

pub(crate) fn tag(name: &str) -> ManifestSelector {
    ManifestSelector::Tag(name.to_owned())
}

/// Small sizes, so that small inputs reach every branch.
pub(crate) fn options() -> ConvertOptions {
    let chunk_size = ChunkSize::new(64 << 10).unwrap();
    ConvertOptions::new(runtime())
        .with_sizes(chunk_size, PackSize::new(16 << 10, chunk_size).unwrap())
        .with_jobs(NonZeroUsize::new(2).unwrap())
        .with_spool_directory(std::env::temp_dir())
}

/// A layer of a test image: its stored form and its archive.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) stored: Vec<u8>,
    pub(crate) diff_id: BlobId,
    pub(crate) media_type: &'static str,
}

impl Layer {
    pub(crate) fn tar(archive: Vec<u8>) -> Self {
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        Self { diff_id: BlobId::of(&archive), stored: archive, media_type }
    }

    pub(crate) fn stored_as(self, stored: Vec<u8>, media_type: &'static str) -> Self {
        Self { stored, media_type, ..self }
    }
}

/// Puts an image of these layers under the tag `image`.
pub(crate) fn put_image(source: &MemorySource, layers: &[Layer]) {
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64", "config": { "Env": ["A=b"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = source.insert_blob(config.to_string().into_bytes().into());
    let descriptors: Vec<_> = layers
        .iter()
        .map(|layer| {
            let blob = source.insert_blob(layer.stored.clone().into());
            let digest = blob.id.to_string();
            serde_json::json!({ "mediaType": layer.media_type, "digest": digest, "size": blob.len })
        })
        .collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.id.to_string(), "size": config.len,
        },
        "layers": descriptors,
    });
    put_manifest(source, "image", media_type, &manifest);
}

pub(crate) fn put_manifest(
    source: &MemorySource,
    name: &str,
    media_type: &str,
    manifest: &serde_json::Value,
) -> BlobId {
    let bytes = manifest.to_string().into_bytes().into();
    runtime().block_on(source.put_manifest(&tag(name), media_type, bytes)).unwrap()
}

/// Converts the image `image` of a source to `converted` of the same store.
pub(crate) fn convert_in(
    store: &Arc<MemorySource>,
    options: &ConvertOptions,
) -> Result<ConvertReport, ConvertError> {
    convert(Arc::clone(store) as _, Arc::clone(store) as _, &[], options)
}

pub(crate) fn convert(
    source: Arc<dyn ImageSource>,
    sink: Arc<dyn ImageSink>,
    reuse: &[ReuseImage],
    options: &ConvertOptions,
) -> Result<ConvertReport, ConvertError> {
    let destination = Destination { sink, selector: tag("converted") };
    convert_image(source, &tag("image"), &destination, reuse, options)
}

/// Converts layers of entries and returns the result.
pub(crate) fn convert_layers(
    layers: impl IntoIterator<Item = Vec<Entry>>,
) -> Result<Tree, ConvertError> {
    let archives = layers.into_iter().map(|entries| Archive::new(entries).finish());
    convert_archives(archives, &options())
}

pub(crate) fn convert_archives(
    archives: impl IntoIterator<Item = Vec<u8>>,
    options: &ConvertOptions,
) -> Result<Tree, ConvertError> {
    let layers: Vec<_> = archives.into_iter().map(Layer::tar).collect();
    let store = Arc::new(MemorySource::new());
    put_image(&store, &layers);
    let report = convert_in(&store, options)?;
    Ok(read_image(&*store, &report))
}

/// A file as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) kind: FileKind,
    pub(crate) permissions: u16,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The content, or the target of a symbolic link.
    pub(crate) content: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) inode: InodeIndex,
    pub(crate) link_count: u32,
    /// The bytes in holes.
    pub(crate) hole_len: u64,
}

pub(crate) type Tree = BTreeMap<Vec<u8>, File>;

/// Fetches the manifest and opens the index of the image that a report describes.
pub(crate) fn open_image(
    source: &dyn ImageSource,
    report: &ConvertReport,
) -> (ConvertedManifest, Index) {
    runtime().block_on(async {
        let selector = ManifestSelector::Digest(report.manifest);
        let stored = source.fetch_manifest(&selector).await.unwrap();
        let manifest = ConvertedManifest::parse(&stored.bytes).unwrap();
        let blob = manifest.index.blob().unwrap();
        let compressed = fetch_verified(source, &blob, INDEX_LEN_MAX).await.unwrap();
        let index = Index::decompress(&compressed, INDEX_LEN_MAX).unwrap();
        assert_eq!(index.image_id(), report.image_id);
        (manifest, index)
    })
}

/// Reads every file of a converted image, chunk by chunk, each one verified.
pub(crate) fn read_image(source: &dyn ImageSource, report: &ConvertReport) -> Tree {
    let (manifest, index) = open_image(source, report);
    let listed: Vec<_> = manifest.blobs.iter().map(|blob| blob.blob().unwrap()).collect();
    for blob in index.blobs() {
        assert!(listed.iter().any(|listed| listed.id == blob.id), "{} is not listed", blob.id);
    }
    let mut reader = Reader { source, index: &index, decoder: ChunkDecoder::new().unwrap() };
    let mut tree = Tree::new();
    let mut pending = vec![(Vec::new(), index.root())];
    while let Some((path, inode)) = pending.pop() {
        for dirent in index.dirents(&inode, 0) {
            let mut child = path.clone();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend_from_slice(dirent.name);
            pending.push((child, index.inode(dirent.inode).unwrap()));
        }
        let file = reader.read(&inode);
        tree.insert(path, file);
    }
    tree
}

struct Reader<'a> {
    source: &'a dyn ImageSource,
    index: &'a Index,
    decoder: ChunkDecoder,
}

impl Reader<'_> {
    fn read(&mut self, inode: &Inode) -> File {
        let mut content = self.index.symlink_target(inode).unwrap_or_default().to_vec();
        let mut hole_len = 0;
        for piece in self.index.pieces(inode, 0, u64::MAX) {
            assert_eq!(piece.file_offset - hole_len, content.len() as u64);
            match piece.source {
                // Holes are left out of the content when they are too long to be written down.
                PieceSource::Hole if piece.len > 16 << 20 => hole_len += piece.len,
                PieceSource::Hole => content.resize(content.len() + piece.len as usize, 0),
                PieceSource::Chunk { index, offset } => {
                    let bytes = self.chunk(index);
                    let end = offset as usize + piece.len as usize;
                    content.extend_from_slice(&bytes[offset as usize..end]);
                }
            }
        }
        let holes = self.index.pieces(inode, 0, u64::MAX);
        let holes = holes.filter(|piece| piece.source == PieceSource::Hole);
        File {
            kind: inode.kind,
            permissions: inode.permissions,
            owner: (inode.uid, inode.gid),
            mtime: (inode.mtime.seconds, inode.mtime.nanos),
            xattrs: self
                .index
                .xattrs(inode)
                .map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec()))
                .collect(),
            content,
            device: (inode.device.major, inode.device.minor),
            inode: inode.index,
            link_count: inode.link_count,
            hole_len: holes.map(|piece| piece.len).sum(),
        }
    }

    fn chunk(&mut self, index: chunkfs_index::ChunkIndex) -> Vec<u8> {
        let chunk = self.index.chunk(index).unwrap();
        let blob = self.index.blob(chunk.location.blob).unwrap();
        let blob = chunkfs_fetch::BlobDescriptor { id: blob.id, len: blob.len };
        let start = chunk.location.offset;
        let range = start..start + u64::from(chunk.location.stored_len);
        let stored = self.source.read_range(&blob, range, Priority::Demand);
        let stored = runtime().block_on(stored).unwrap();
        let mut bytes = Vec::new();
        let (algorithm, codec) = (self.index.algorithm(), chunk.location.codec);
        let len = chunk.uncompressed_len;
        self.decoder.decode(algorithm, chunk.id, len, codec, &stored, &mut bytes).unwrap();
        bytes
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

/// The names in a tree, without the root.
pub(crate) fn names(tree: &Tree) -> Vec<String> {
    let name = |name: &Vec<u8>| name.escape_ascii().to_string();
    tree.keys().filter(|name| !name.is_empty()).map(name).collect()
}
