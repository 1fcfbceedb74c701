//! Converting a new version of an image that was converted before.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_convert::{ConvertOptions, ConvertReport, ReuseImage};
use chunkfs_fetch::{
    BlobContent, BlobDescriptor, BlobSource, FetchError, ImageSink, ImageSource, ManifestSelector,
    MemorySource, Priority, StoredManifest,
};
use chunkfs_format::{BlobId, CompressionLevel};
use futures::stream::BoxStream;

use crate::archive::{Archive, Entry, noise};
use crate::support::{Layer, convert, open_image, options, put_image, read_image};

/// A source that remembers which blobs were asked for.
#[derive(Debug, Default)]
struct Recording {
    inner: MemorySource,
    streamed: Mutex<Vec<BlobId>>,
}

#[async_trait]
impl BlobSource for Recording {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: std::ops::Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        self.inner.read_range(blob, range, priority).await
    }
}

#[async_trait]
impl ImageSource for Recording {
    async fn fetch_manifest(
        &self,
        manifest: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        self.inner.fetch_manifest(manifest).await
    }

    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>> {
        self.streamed.lock().unwrap().push(blob.id);
        self.inner.stream_blob(blob)
    }
}

fn base() -> Layer {
    Layer::tar(Archive::new([Entry::file("base", noise(1, 500_000))]).finish())
}

/// A layer with a large file of which only one chunk depends on the version.
fn top(version: u8) -> Layer {
    let mut large = noise(2, 10 * 65_536);
    large[5 * 65_536] = version;
    Layer::tar(Archive::new([Entry::file("large", large)]).finish())
}

fn reuse(source: &Arc<MemorySource>, report: &ConvertReport) -> ReuseImage {
    ReuseImage {
        source: Arc::clone(source) as _,
        selector: ManifestSelector::Digest(report.manifest),
        repository: None,
    }
}

/// Converts the first version, then the second one with the first to be reused.
fn convert_both(
    options: &ConvertOptions,
    second_options: &ConvertOptions,
    same_sink: bool,
) -> (Arc<Recording>, Arc<MemorySource>, ConvertReport) {
    let first_source = Arc::new(MemorySource::new());
    put_image(&first_source, &[base(), top(1)]);
    let first_sink = Arc::new(MemorySource::new());
    let first = convert(first_source, Arc::clone(&first_sink) as _, &[], options).unwrap();
    let source = Arc::new(Recording::default());
    put_image(&source.inner, &[base(), top(2)]);
    let sink = if same_sink { Arc::clone(&first_sink) } else { Arc::new(MemorySource::new()) };
    let reuse = [reuse(&first_sink, &first)];
    let report =
        convert(Arc::clone(&source) as _, Arc::clone(&sink) as _, &reuse, second_options).unwrap();
    let tree = read_image(&*sink, &report);
    assert!(tree[&b"base"[..]].content == noise(1, 500_000));
    assert_eq!(tree[&b"large"[..]].content[5 * 65_536], 2);
    (source, sink, report)
}

#[test]
fn only_the_new_chunk_of_the_changed_layer_is_read_and_pushed() {
    let (source, sink, report) = convert_both(&options(), &options(), true);
    let changed = BlobId::of(&top(2).stored);
    assert_eq!(*source.streamed.lock().unwrap(), [changed]);
    let statistics = report.statistics;
    assert_eq!((statistics.layers, statistics.reused_layers), (2, 1));
    assert_eq!(statistics.reused_chunks, 9);
    assert_eq!(statistics.read_bytes, top(2).stored.len() as u64);
    assert_eq!(statistics.copied_bytes, 0);
    // One raw chunk, the index, the configuration and the fragment of the changed layer.
    let (manifest, _) = open_image(&*sink, &report);
    let len = |descriptor: &chunkfs_fetch::Descriptor| descriptor.blob().unwrap().len;
    let small = len(&manifest.index) + len(&manifest.config) + len(&manifest.fragments[1]);
    assert_eq!(statistics.pushed_bytes, 65_536 + small);
    assert_eq!(manifest.blobs.len(), 3);
}

#[test]
fn blobs_in_use_are_copied_to_another_destination() {
    let (_, sink, report) = convert_both(&options(), &options(), false);
    let (manifest, _) = open_image(&*sink, &report);
    let lens = manifest.blobs.iter().map(|blob| blob.blob().unwrap().len);
    let data_len: u64 = lens.sum();
    assert_eq!(report.statistics.copied_bytes, data_len - 65_536);
}

/// A destination whose registry holds another repository.
#[derive(Debug)]
struct Mounting {
    inner: MemorySource,
    other: Arc<MemorySource>,
}

#[async_trait]
impl ImageSink for Mounting {
    async fn has_blob(&self, blob: &BlobDescriptor) -> Result<bool, FetchError> {
        self.inner.has_blob(blob).await
    }

    async fn mount_blob(&self, blob: &BlobDescriptor, from: &str) -> Result<bool, FetchError> {
        assert_eq!(from, "team/other");
        let bytes = self.other.read_range(blob, 0..blob.len, Priority::Demand).await?;
        self.inner.insert_blob(bytes);
        Ok(true)
    }

    async fn put_blob(
        &self,
        blob: &BlobDescriptor,
        content: BlobContent,
    ) -> Result<(), FetchError> {
        self.inner.put_blob(blob, content).await
    }

    async fn put_manifest(
        &self,
        manifest: &ManifestSelector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<BlobId, FetchError> {
        self.inner.put_manifest(manifest, media_type, bytes).await
    }
}

#[test]
fn blobs_of_another_repository_are_mounted() {
    let source = Arc::new(MemorySource::new());
    put_image(&source, &[base(), top(1)]);
    let other = Arc::new(MemorySource::new());
    let first =
        convert(Arc::clone(&source) as _, Arc::clone(&other) as _, &[], &options()).unwrap();
    let sink = Arc::new(Mounting { inner: MemorySource::new(), other: Arc::clone(&other) });
    let repository = Some("team/other".to_owned());
    let reuse = [ReuseImage { repository, ..reuse(&other, &first) }];
    let second = convert(source, Arc::clone(&sink) as _, &reuse, &options()).unwrap();
    assert_eq!(second.manifest, first.manifest);
    let (manifest, _) = open_image(&sink.inner, &second);
    let lens = manifest.blobs.iter().map(|blob| blob.blob().unwrap().len);
    assert_eq!(second.statistics.mounted_bytes, lens.sum::<u64>());
    assert_eq!(second.statistics.copied_bytes, 0);
}

#[test]
fn a_reused_image_that_lost_a_blob_is_an_error() {
    let source = Arc::new(MemorySource::new());
    put_image(&source, &[base()]);
    let other = Arc::new(MemorySource::new());
    let first =
        convert(Arc::clone(&source) as _, Arc::clone(&other) as _, &[], &options()).unwrap();
    let (manifest, _) = open_image(&*other, &first);
    // The store lost the blob.
    let blob = manifest.blobs[0].blob().unwrap();
    assert!(other.remove_blob(blob.id));
    let sink = Arc::new(MemorySource::new());
    let error = convert(source, Arc::clone(&sink) as _, &[reuse(&other, &first)], &options());
    let text = crate::support::chain(&error.unwrap_err());
    assert!(text.starts_with(&format!("{} could not be transferred", blob.id)), "{text}");
    assert_eq!(sink.blob_count(), 0);
}

#[test]
fn layers_made_with_other_options_are_read_again_but_their_chunks_are_found() {
    let other = options().with_level(CompressionLevel::new(1).unwrap());
    let (source, _, report) = convert_both(&options(), &other, true);
    assert_eq!(source.streamed.lock().unwrap().len(), 2);
    assert_eq!(report.statistics.reused_layers, 0);
    assert_eq!(report.statistics.reused_chunks, 9 + 8);
}

#[test]
fn images_of_another_algorithm_are_of_no_use() {
    let other = options().with_algorithm(chunkfs_format::DigestAlgorithm::Sha256);
    let (_, _, report) = convert_both(&options(), &other, true);
    assert_eq!((report.statistics.reused_layers, report.statistics.reused_chunks), (0, 0));
}

#[test]
fn converting_the_same_image_again_reads_and_pushes_nothing() {
    let source = Arc::new(Recording::default());
    put_image(&source.inner, &[base(), top(1)]);
    let sink = Arc::new(MemorySource::new());
    let first = convert(Arc::clone(&source) as _, Arc::clone(&sink) as _, &[], &options()).unwrap();
    source.streamed.lock().unwrap().clear();
    let reuse = [reuse(&sink, &first)];
    let second = convert(Arc::clone(&source) as _, Arc::clone(&sink) as _, &reuse, &options());
    let second = second.unwrap();
    assert_eq!(source.streamed.lock().unwrap().len(), 0);
    assert_eq!(second.statistics.pushed_bytes, 0);
    assert_eq!((second.manifest, second.image_id), (first.manifest, first.image_id));
}
