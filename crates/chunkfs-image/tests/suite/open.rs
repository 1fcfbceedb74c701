//! Opening images of memory: what is checked, and what is said.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_fetch::{
    BlobDescriptor, BlobSource, ConvertedManifest, Descriptor, FetchError, IMAGE_ID_ANNOTATION,
    ImageSink as _, ImageSource, MANIFEST_MEDIA_TYPE, ManifestSelector, MemorySource, Priority,
    StoredManifest,
};
use chunkfs_format::BlobId;
use chunkfs_image::{Image, OpenError, OpenOptions};
use futures::stream::BoxStream;
use tokio::runtime::Handle;

use crate::support::{SHAPES, chain, convert_files, file, manifest, memory_cache, open, tag};

async fn open_error(store: &Arc<MemorySource>, options: OpenOptions) -> OpenError {
    let cache = memory_cache(Handle::current());
    let image = Image::open_source("the-name", store.clone(), &tag(), &cache, options).await;
    image.map(|image| panic!("{image:?}")).unwrap_err()
}

async fn put(store: &MemorySource, json: Vec<u8>) {
    store.put_manifest(&tag(), MANIFEST_MEDIA_TYPE, json.into()).await.unwrap();
}

#[tokio::test]
async fn an_opened_image_says_what_it_is() {
    let image = open(&SHAPES.1, OpenOptions::default()).await;
    let stored = SHAPES.1.fetch_manifest(&tag()).await.unwrap();
    assert_eq!(image.manifest_id(), BlobId::of(&stored.bytes));
    assert_eq!(*image.manifest(), manifest(&SHAPES.1).await);
    assert_eq!(image.manifest().annotations[IMAGE_ID_ANNOTATION], image.id().to_string());
    assert_eq!(image.index().inode_count() as usize, SHAPES.0.len() + 1);
    // Its digest opens it again.
    let pinned = ManifestSelector::Digest(image.manifest_id());
    let cache = memory_cache(Handle::current());
    let options = OpenOptions::default();
    let again = Image::open_source("again", SHAPES.1.clone(), &pinned, &cache, options).await;
    assert_eq!(again.unwrap().id(), image.id());
}

#[tokio::test]
async fn the_config_is_the_original_one_and_verified() {
    let store = convert_files(&[("a", b"a".to_vec())]);
    let original = Bytes::from_static(br#"{"os":"linux","config":{"Cmd":["a"]}}"#);
    let mut manifest = manifest(&store).await;
    let blob = store.insert_blob(original.clone());
    manifest.config = Descriptor::new(&manifest.config.media_type.clone(), &blob);
    put(&store, manifest.to_json()).await;
    let image = open(&store, OpenOptions::default()).await;
    assert_eq!(image.config().await.unwrap(), original);
    assert!(store.remove_blob(blob.id));
    let error = image.config().await.unwrap_err();
    assert!(error.is_not_found() && !error.is_retryable(), "{error}");
    assert!(chain(&error).starts_with("the image config cannot be fetched: blob sha256:"));
}

#[tokio::test]
async fn a_missing_image_is_not_found() {
    let error = open_error(&Arc::new(MemorySource::new()), OpenOptions::default()).await;
    assert!(matches!(error, OpenError::Manifest { .. }), "{error}");
    assert!(error.is_not_found() && !error.is_retryable());
    assert!(error.to_string().contains("the-name"), "{error}");
}

#[tokio::test]
async fn an_ordinary_image_is_refused_with_a_remedy() {
    let store = Arc::new(MemorySource::new());
    let layer = store.insert_blob(Bytes::from_static(b"layer")).id;
    let ordinary = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_MEDIA_TYPE}","config":{{"mediaType":
        "application/vnd.oci.image.config.v1+json","digest":"{layer}","size":5}},"layers":[]}}"#
    );
    for json in [ordinary, r#"{"schemaVersion":2,"manifests":[]}"#.to_owned()] {
        put(&store, json.into_bytes()).await;
        let error = open_error(&store, OpenOptions::default()).await;
        assert_eq!(
            chain(&error),
            "the manifest of the-name cannot be used: the manifest is not that of a converted \
             image; convert it first with `chunkfs convert`"
        );
    }
}

#[tokio::test]
async fn a_damaged_manifest_is_refused() {
    let store = Arc::new(MemorySource::new());
    put(&store, b"{".to_vec()).await;
    let error = open_error(&store, OpenOptions::default()).await;
    assert!(matches!(error, OpenError::Manifest { .. }), "{error}");
    assert!(!error.is_not_found() && !error.is_retryable());
}

#[tokio::test]
async fn an_index_of_another_image_is_refused() {
    let store = convert_files(&[("a", b"a".to_vec())]);
    let other = convert_files(&[("b", b"b".to_vec())]);
    let mut forged = manifest(&store).await;
    let expected = forged.annotations[IMAGE_ID_ANNOTATION].clone();
    let index = manifest(&other).await.index;
    let blob = index.blob().unwrap();
    let bytes = other.read_range(&blob, 0..blob.len, Priority::Demand).await.unwrap();
    store.insert_blob(bytes);
    forged.index = index;
    put(&store, forged.to_json()).await;
    let error = open_error(&store, OpenOptions::default()).await;
    let OpenError::ImageId { image, expected: said, actual } = &error else { panic!("{error}") };
    assert_eq!((image.as_str(), said), ("the-name", &expected));
    assert_eq!(*actual, open(&other, OpenOptions::default()).await.id());
}

#[tokio::test]
async fn bytes_that_are_no_index_are_refused() {
    let store = convert_files(&[("a", b"a".to_vec())]);
    let mut forged = manifest(&store).await;
    for bytes in [&b""[..], b"not a frame"] {
        let blob = store.insert_blob(Bytes::from_static(bytes));
        forged.index = Descriptor::new(&forged.index.media_type.clone(), &blob);
        put(&store, forged.to_json()).await;
        let error = open_error(&store, OpenOptions::default()).await;
        assert!(matches!(error, OpenError::InvalidIndex { .. }), "{error}");
        assert!(error.to_string().contains("the-name"), "{error}");
    }
}

#[tokio::test]
async fn an_index_above_the_limit_is_refused_before_it_is_fetched() {
    let image = open(&SHAPES.1, OpenOptions::default()).await;
    let len = image.index().as_bytes().len() as u64;
    for (len_max, is_ok) in [(len, true), (len - 1, false), (0, false)] {
        let cache = memory_cache(Handle::current());
        let options = OpenOptions::default().with_index_len_max(len_max);
        let opened = Image::open_source("name", SHAPES.1.clone(), &tag(), &cache, options).await;
        assert_eq!(opened.is_ok(), is_ok, "{len_max}");
    }
}

/// A source that breaks its promise: it answers with another manifest than the one asked for.
#[derive(Debug)]
struct Liar {
    store: Arc<MemorySource>,
    claimed: BlobId,
}

#[async_trait]
impl BlobSource for Liar {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        self.store.read_range(blob, range, priority).await
    }
}

#[async_trait]
impl ImageSource for Liar {
    async fn fetch_manifest(&self, _: &ManifestSelector) -> Result<StoredManifest, FetchError> {
        let stored = self.store.fetch_manifest(&tag()).await?;
        Ok(StoredManifest { id: self.claimed, ..stored })
    }

    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>> {
        self.store.stream_blob(blob)
    }
}

#[tokio::test]
async fn a_pinned_image_is_verified_whatever_the_source_says() {
    let pinned = BlobId::of(b"another manifest");
    let source = Arc::new(Liar { store: SHAPES.1.clone(), claimed: pinned });
    let actual = SHAPES.1.fetch_manifest(&tag()).await.unwrap().id;
    let cache = memory_cache(Handle::current());
    let options = OpenOptions::default();
    let selector = ManifestSelector::Digest(pinned);
    let opened = Image::open_source("name", source.clone(), &selector, &cache, options.clone());
    let OpenError::Manifest { source: error, .. } = opened.await.unwrap_err() else { panic!() };
    let FetchError::DigestMismatch { expected, actual: found } = error else { panic!("{error}") };
    assert_eq!((expected, found), (pinned, actual));
    // By tag the bytes are taken as they are, and named by their own digest.
    let image = Image::open_source("name", source, &tag(), &cache, options).await.unwrap();
    assert_eq!(image.manifest_id(), actual);
}

#[tokio::test]
async fn a_manifest_without_image_id_opens() {
    let store = convert_files(&[("a", b"a".to_vec())]);
    let mut manifest: ConvertedManifest = manifest(&store).await;
    manifest.annotations = BTreeMap::new();
    put(&store, manifest.to_json()).await;
    let image = open(&store, OpenOptions::default()).await;
    assert_eq!(image.read(&file(&image, b"a"), 0, 10).await.unwrap(), b"a"[..]);
}
