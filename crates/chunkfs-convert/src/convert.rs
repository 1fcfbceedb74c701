//! The three conversions.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use chunkfs_fetch::{BlobDescriptor, ImageSink, ImageSource, ManifestSelector};

use crate::error::ConvertError;
use crate::fragment::Fragment;
use crate::image::{Image, ImageLayer};
use crate::options::{ConvertOptions, Platform};
use crate::pipeline::{Context, Network, Upload};
use crate::progress::ConvertEvent;
use crate::publish::{FinishedLayer, FragmentRecord, publish};
use crate::reuse::{ReuseImage, ReuseImages, ReusedLayer};
use crate::run::{LayerInput, LayerPlan, convert_layers};
use crate::statistics::{ConvertReport, Statistics};

/// Where a converted image is put.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The store that takes it.
    pub sink: Arc<dyn ImageSink>,
    /// The tag or digest of its manifest.
    pub selector: ManifestSelector,
}

/// Converts an image of a registry or a layout.
///
/// Layers are read once, from their first byte to their last, as tar, tar+gzip or tar+zstd, and
/// verified against the digests in the manifest and in the configuration. Layers that an image in
/// `reuse` has are not read, and chunks of other layers that it has are not stored again. Memory
/// is bounded by the options and by the number of entries, not by the length of the image.
///
/// Blocks the calling thread, which must not be one that polls futures; it may be one of
/// `spawn_blocking`. All threads that this starts have ended when it returns.
///
/// # Errors
/// Every [`ConvertError`]. On error no manifest was put; blobs that nothing refers to may be left
/// at the destination.
pub fn convert_image(
    source: Arc<dyn ImageSource>,
    selector: &ManifestSelector,
    destination: &Destination,
    reuse: &[ReuseImage],
    options: &ConvertOptions,
) -> Result<ConvertReport, ConvertError> {
    let network = Network::new(options.runtime.clone());
    let image = Image::load(&source, selector, &options.platform, &network)?;
    let reuse = ReuseImages::load(reuse, options, &network)?;
    let (mut sources, mut plans, mut uploads) = (Vec::new(), Vec::new(), Vec::new());
    for (layer, image_layer) in image.layers.iter().enumerate() {
        let ImageLayer { blob, diff_id } = *image_layer;
        let reused = reuse.load_fragment(diff_id, &network, options)?;
        if let Some(ReusedLayer { image, fragment, .. }) = &reused {
            uploads.extend(fragment.blobs.iter().map(|blob| {
                let blob = BlobDescriptor { id: blob.id, len: blob.len };
                Upload::Reuse { blob, image: *image }
            }));
        } else {
            let source = Arc::clone(&source);
            let input = LayerInput::Blob { source, blob, diff_id };
            plans.push(LayerPlan { layer, name: blob.id.to_string(), input });
        }
        sources.push(LayerSource { image_layer: *image_layer, reused });
    }
    let context = Context::new(options, Arc::clone(&destination.sink), &reuse, &network);
    let layer_lens = image.layers.iter().map(|layer| Some(layer.blob.len)).collect();
    context.observe(&ConvertEvent::Planned { layer_lens });
    for (layer, _) in sources.iter().enumerate().filter(|(_, source)| source.reused.is_some()) {
        context.observe(&ConvertEvent::LayerReused { layer });
    }
    let mut converted = convert_layers(&context, plans, uploads)?;
    let mut statistics = Statistics { read_bytes: converted.read_bytes, ..Statistics::default() };
    let mut layers = Vec::with_capacity(sources.len());
    for (layer, LayerSource { image_layer, reused }) in sources.into_iter().enumerate() {
        let (fragment, compressed) = match reused {
            Some(ReusedLayer { fragment, compressed, .. }) => {
                statistics.reused_layers += 1;
                (fragment, compressed)
            }
            None => {
                let stored = converted.layers.remove(&layer).expect("every layer was converted");
                statistics.reused_chunks += stored.reused_chunks;
                let fragment = Fragment::from(stored);
                let compressed = fragment.compress().map_err(ConvertError::Fragment)?;
                (fragment, compressed)
            }
        };
        let ImageLayer { blob, diff_id } = image_layer;
        let record = Some(FragmentRecord { compressed, diff_id, digest: blob.id });
        layers.push(FinishedLayer { name: blob.id.to_string(), fragment, record });
    }
    let config = image.config.to_vec();
    publish(&context, layers, config, (&destination.selector, Some(&image)), statistics)
}

/// A layer and, if it need not be read, what is known of it.
struct LayerSource {
    image_layer: ImageLayer,
    reused: Option<ReusedLayer>,
}

/// Converts a tar archive, plain or compressed with gzip or zstd, to an image of one layer.
///
/// The archive is read as a layer: names that start with `.wh.` are whiteouts and do not appear.
/// `name` stands for the archive in errors. The image gets a configuration that holds only the
/// platform of the options. Blocks as [`convert_image`] does; a `reader` that does not return is
/// waited for even after an error.
///
/// # Errors
/// As [`convert_image`].
pub fn convert_tar(
    reader: impl Read + Send,
    name: &str,
    destination: &Destination,
    reuse: &[ReuseImage],
    options: &ConvertOptions,
) -> Result<ConvertReport, ConvertError> {
    let input = LayerInput::Archive(Box::new(reader));
    let plan = LayerPlan { layer: 0, name: name.to_owned(), input };
    convert_single(plan, destination, reuse, options)
}

/// Converts a directory tree to an image of one layer.
///
/// Owners, permissions, times, xattrs, hard links, holes, devices and sockets are kept as they are,
/// mounts inside the tree are part of it, and nothing is left out. The tree must not change
/// meanwhile; that is noticed where a file's length changes. The image gets a configuration that
/// holds only the platform of the options. Blocks as [`convert_image`] does.
///
/// # Errors
/// As [`convert_image`]; a file that cannot be read is an error.
pub fn convert_rootfs(
    path: &Path,
    destination: &Destination,
    reuse: &[ReuseImage],
    options: &ConvertOptions,
) -> Result<ConvertReport, ConvertError> {
    let input = LayerInput::Directory(path.to_owned());
    let plan = LayerPlan { layer: 0, name: path.display().to_string(), input };
    convert_single(plan, destination, reuse, options)
}

fn convert_single(
    plan: LayerPlan<'_>,
    destination: &Destination,
    reuse: &[ReuseImage],
    options: &ConvertOptions,
) -> Result<ConvertReport, ConvertError> {
    let network = Network::new(options.runtime.clone());
    let reuse = ReuseImages::load(reuse, options, &network)?;
    let context = Context::new(options, Arc::clone(&destination.sink), &reuse, &network);
    context.observe(&ConvertEvent::Planned { layer_lens: vec![None] });
    let name = plan.name.clone();
    let converted = convert_layers(&context, vec![plan], Vec::new())?;
    let mut statistics = Statistics { read_bytes: converted.read_bytes, ..Statistics::default() };
    let mut layers = Vec::new();
    for stored in converted.layers.into_values() {
        statistics.reused_chunks += stored.reused_chunks;
        let fragment = Fragment::from(stored);
        layers.push(FinishedLayer { name: name.clone(), fragment, record: None });
    }
    let config = minimal_config(&options.platform);
    publish(&context, layers, config, (&destination.selector, None), statistics)
}

/// Writes the configuration of an image that never had one.
fn minimal_config(platform: &Platform) -> Vec<u8> {
    let mut config = serde_json::json!({
        "architecture": platform.architecture,
        "config": {},
        "os": platform.os,
        "rootfs": { "type": "layers", "diff_ids": [] },
    });
    if let Some(variant) = &platform.variant {
        config["variant"] = variant.as_str().into();
    }
    config.to_string().into_bytes()
}
