//! From converted layers to an image at the destination.

use std::collections::{BTreeMap, HashMap};

use chunkfs_fetch::{
    BLOB_MEDIA_TYPE, BlobDescriptor, CONFIG_MEDIA_TYPE, CONVERSION_ANNOTATION, ConvertedManifest,
    DIFF_ID_ANNOTATION, Descriptor, FRAGMENT_MEDIA_TYPE, IMAGE_ID_ANNOTATION, INDEX_MEDIA_TYPE,
    LAYER_DIGEST_ANNOTATION, ManifestSelector,
};
use chunkfs_format::BlobId;
use chunkfs_index::{BlobIndex, ChunkIndex, Index, IndexBuilder, Location};

use crate::attach;
use crate::error::ConvertError;
use crate::fragment::Fragment;
use crate::image::Image;
use crate::merge::Merger;
use crate::pipeline::{Context, LayerCounters, put_bytes};
use crate::statistics::{ConvertReport, Statistics};

/// A layer whose content is at the destination.
#[derive(Debug)]
pub(crate) struct FinishedLayer {
    /// What errors call it.
    pub(crate) name: String,
    pub(crate) fragment: Fragment,
    /// The compressed fragment and its annotations, for layers that can be told again by a digest.
    pub(crate) record: Option<FragmentRecord>,
}

/// A fragment as it is kept with the image.
#[derive(Debug)]
pub(crate) struct FragmentRecord {
    pub(crate) compressed: Vec<u8>,
    pub(crate) diff_id: BlobId,
    /// The digest of the layer as stored originally.
    pub(crate) digest: BlobId,
}

/// Merges the layers, and puts index, fragments, configuration and manifest.
///
/// `statistics` holds what was counted so far.
pub(crate) fn publish(
    context: &Context<'_>,
    layers: Vec<FinishedLayer>,
    config: Vec<u8>,
    (destination, original): (&ManifestSelector, Option<&Image>),
    mut statistics: Statistics,
) -> Result<ConvertReport, ConvertError> {
    let mut blobs: Vec<BlobDescriptor> = Vec::new();
    let mut fragments = Vec::new();
    let mut merger = Merger::new();
    let mut table = ChunkTable::new(context);
    statistics.layers = layers.len() as u64;
    for FinishedLayer { name, fragment, record } in layers {
        if let Some(record) = record {
            fragments.push(put_fragment(context, record)?);
        }
        let chunks = table.add_layer(&fragment, &mut blobs)?;
        // Counters of reused fragments are whatever their writer says.
        let LayerCounters { files, source_bytes, packed_files, cut_chunks } = fragment.counters;
        statistics.files = statistics.files.saturating_add(files);
        statistics.source_bytes = statistics.source_bytes.saturating_add(source_bytes);
        statistics.packed_files = statistics.packed_files.saturating_add(packed_files);
        statistics.duplicate_chunks = statistics.duplicate_chunks.saturating_add(cut_chunks);
        merger
            .add_layer(fragment.entries, &chunks)
            .map_err(|source| ConvertError::Layer { layer: name, source })?;
    }
    statistics.duplicate_chunks =
        statistics.duplicate_chunks.saturating_sub(table.chunk_count.into());
    let index = table.builder.build(&merger.into_tree())?;
    let compressed = index.compress()?;
    count_index(&mut statistics, &index, compressed.len());
    statistics.blobs = blobs.len() as u64;
    let index_blob = put_bytes(context, compressed)?;
    let config_blob = put_bytes(context, config)?;
    let image_id = index.image_id();
    let manifest = ConvertedManifest {
        config: Descriptor::new(CONFIG_MEDIA_TYPE, &config_blob),
        index: Descriptor::new(INDEX_MEDIA_TYPE, &index_blob),
        blobs: blobs.iter().map(|blob| Descriptor::new(BLOB_MEDIA_TYPE, blob)).collect(),
        fragments,
        annotations: BTreeMap::from([(IMAGE_ID_ANNOTATION.to_owned(), image_id.to_string())]),
    };
    let manifest = attach::put(context, manifest, original, destination)?;
    let transferred = context.uploader.statistics();
    statistics.present_bytes = transferred.present_bytes;
    statistics.pushed_bytes = transferred.pushed_bytes;
    statistics.mounted_bytes = transferred.mounted_bytes;
    statistics.copied_bytes = transferred.copied_bytes;
    Ok(ConvertReport { manifest, image_id, statistics })
}

fn count_index(statistics: &mut Statistics, index: &Index, compressed_len: usize) {
    statistics.index_bytes = compressed_len as u64;
    statistics.chunks = index.chunk_count().into();
    for chunk in index.chunks() {
        statistics.unique_bytes += u64::from(chunk.uncompressed_len);
        statistics.stored_bytes += u64::from(chunk.location.stored_len);
    }
}

fn put_fragment(context: &Context<'_>, record: FragmentRecord) -> Result<Descriptor, ConvertError> {
    let blob = put_bytes(context, record.compressed)?;
    let mut descriptor = Descriptor::new(FRAGMENT_MEDIA_TYPE, &blob);
    descriptor.annotations = BTreeMap::from([
        (DIFF_ID_ANNOTATION.to_owned(), record.diff_id.to_string()),
        (LAYER_DIGEST_ANNOTATION.to_owned(), record.digest.to_string()),
        (CONVERSION_ANNOTATION.to_owned(), context.options.conversion()),
    ]);
    Ok(descriptor)
}

/// The chunks and blobs of all layers.
struct ChunkTable {
    builder: IndexBuilder,
    blob_by_id: HashMap<BlobId, BlobIndex>,
    /// The different chunks so far.
    chunk_count: u32,
}

impl ChunkTable {
    fn new(context: &Context<'_>) -> Self {
        let builder = IndexBuilder::new(context.options.algorithm, context.options.chunk_size);
        Self { builder, blob_by_id: HashMap::new(), chunk_count: 0 }
    }

    /// Adds a layer's tables and returns what its chunk numbers stand for. Chunks that a lower
    /// layer has stay there.
    fn add_layer(
        &mut self,
        fragment: &Fragment,
        blobs: &mut Vec<BlobDescriptor>,
    ) -> Result<Vec<ChunkIndex>, ConvertError> {
        let mut blob_indexes = Vec::with_capacity(fragment.blobs.len());
        for blob in &fragment.blobs {
            let index = match self.blob_by_id.get(&blob.id) {
                Some(index) => *index,
                None => {
                    blobs.push(BlobDescriptor { id: blob.id, len: blob.len });
                    let index = self.builder.add_blob(*blob)?;
                    self.blob_by_id.insert(blob.id, index);
                    index
                }
            };
            blob_indexes.push(index);
        }
        let mut chunks = Vec::with_capacity(fragment.chunks.len());
        for chunk in &fragment.chunks {
            let number = chunk.location.blob.get() as usize;
            let blob = *blob_indexes.get(number).expect("fragments are checked when decoded");
            let location = Location { blob, ..chunk.location };
            let index = self.builder.add_chunk(chunk.id, chunk.uncompressed_len, location)?;
            self.chunk_count = self.chunk_count.max(index.get() + 1);
            chunks.push(index);
        }
        Ok(chunks)
    }
}
