//! Images that were converted before, whose layers and chunks need not be made again.

use std::collections::HashMap;
use std::sync::Arc;

use chunkfs_fetch::{
    BlobDescriptor, CONVERSION_ANNOTATION, ConvertedManifest, DIFF_ID_ANNOTATION, ImageSource,
    ManifestSelector, fetch_verified,
};
use chunkfs_format::{BlobId, ChunkId};
use chunkfs_index::{Blob, ChunkIndex, INDEX_LEN_MAX, Index, Location};

use crate::error::ConvertError;
use crate::fragment::{FRAGMENT_LEN_MAX, Fragment};
use crate::options::ConvertOptions;
use crate::pipeline::Network;

/// A converted image whose layers and chunks are used again where they fit.
///
/// Its index and fragments are taken at their word: the chunks that they name are not read here.
/// Readers verify every chunk, so an image that lies makes files unreadable, never wrong.
#[derive(Debug, Clone)]
pub struct ReuseImage {
    /// Where the image is.
    pub source: Arc<dyn ImageSource>,
    /// Which image it is.
    pub selector: ManifestSelector,
    /// The repository of the *destination's* registry that holds it, if it is there: its blobs are
    /// then mounted instead of copied.
    pub repository: Option<String>,
}

/// The images to be reused, with the tables that conversions look into.
#[derive(Debug, Default)]
pub(crate) struct ReuseImages {
    images: Vec<ReuseImage>,
    indexes: Vec<Index>,
    /// The first image that has each chunk, and its position there.
    chunks: HashMap<ChunkId, (usize, ChunkIndex)>,
    /// The first image that has a fragment of each layer made with the same options.
    fragments: HashMap<BlobId, (usize, BlobDescriptor)>,
}

/// A chunk of a reused image.
#[derive(Debug)]
pub(crate) struct FoundChunk {
    /// The position of the image.
    pub(crate) image: usize,
    pub(crate) blob: Blob,
    /// Where the chunk is; the blob number is that of the image.
    pub(crate) location: Location,
}

impl ReuseImages {
    /// Fetches the manifests and indexes of the images.
    pub(crate) fn load(
        images: &[ReuseImage],
        options: &ConvertOptions,
        network: &Network,
    ) -> Result<Self, ConvertError> {
        let mut loaded = Self::default();
        for image in images {
            loaded.add(image, options, network)?;
        }
        Ok(loaded)
    }

    fn add(
        &mut self,
        image: &ReuseImage,
        options: &ConvertOptions,
        network: &Network,
    ) -> Result<(), ConvertError> {
        const WHAT: &str = "the manifest of an image to be reused";
        let stored = network.run(WHAT, image.source.fetch_manifest(&image.selector))?;
        let transfer = |source| ConvertError::Transfer { what: WHAT.to_owned(), source };
        let manifest = ConvertedManifest::parse(&stored.bytes).map_err(transfer)?;
        let blob = manifest.index.blob().map_err(transfer)?;
        let fetch = fetch_verified(image.source.as_ref(), &blob, INDEX_LEN_MAX);
        let bytes = network.run("the index of an image to be reused", fetch)?;
        let index = Index::decompress(&bytes, INDEX_LEN_MAX).map_err(ConvertError::ReuseIndex)?;
        let position = self.images.len();
        // Ids do not say their algorithm, so those of different algorithms must not meet.
        if index.algorithm() == options.algorithm {
            for (number, chunk) in (0..).zip(index.chunks()) {
                self.chunks.entry(chunk.id).or_insert((position, ChunkIndex::new(number)));
            }
        }
        let conversion = options.conversion();
        for fragment in &manifest.fragments {
            let annotation = |name: &str| fragment.annotations.get(name);
            let diff_id = annotation(DIFF_ID_ANNOTATION).and_then(|text| text.parse().ok());
            if let Some(diff_id) = diff_id
                && annotation(CONVERSION_ANNOTATION) == Some(&conversion)
            {
                let blob = fragment.blob().map_err(transfer)?;
                self.fragments.entry(diff_id).or_insert((position, blob));
            }
        }
        self.images.push(image.clone());
        self.indexes.push(index);
        Ok(())
    }

    pub(crate) fn image(&self, position: usize) -> &ReuseImage {
        &self.images[position]
    }

    /// Finds a chunk of this id and length.
    pub(crate) fn find_chunk(&self, id: &ChunkId, uncompressed_len: u32) -> Option<FoundChunk> {
        let (image, chunk) = *self.chunks.get(id)?;
        let index = self.indexes.get(image)?;
        let chunk = index.chunk(chunk)?;
        let blob = index.blob(chunk.location.blob)?;
        let found = FoundChunk { image, blob, location: chunk.location };
        (chunk.uncompressed_len == uncompressed_len).then_some(found)
    }

    /// Fetches the fragment of a layer, if an image has one that was made with the same options.
    pub(crate) fn load_fragment(
        &self,
        diff_id: BlobId,
        network: &Network,
        options: &ConvertOptions,
    ) -> Result<Option<ReusedLayer>, ConvertError> {
        let Some((image, blob)) = self.fragments.get(&diff_id) else { return Ok(None) };
        let source = self.image(*image).source.as_ref();
        let bytes = network.run(blob.id, fetch_verified(source, blob, FRAGMENT_LEN_MAX))?;
        let fragment = Fragment::decompress(&bytes)
            .map_err(|source| ConvertError::ReuseFragment { layer: diff_id, source })?;
        let chunk_size = options.chunk_size.bytes();
        let fits = fragment.chunks.iter().all(|chunk| chunk.uncompressed_len <= chunk_size);
        Ok(fits.then_some(ReusedLayer { image: *image, fragment, compressed: bytes.into() }))
    }
}

/// A layer that need not be read.
#[derive(Debug)]
pub(crate) struct ReusedLayer {
    /// The position of the image that has it.
    pub(crate) image: usize,
    pub(crate) fragment: Fragment,
    /// The fragment as stored.
    pub(crate) compressed: Vec<u8>,
}
