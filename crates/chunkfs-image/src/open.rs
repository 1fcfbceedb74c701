//! Opening an image: one manifest, one index, nothing else.

use std::sync::Arc;

use chunkfs_cache::{Cache, CacheDomain, VerifyLevel};
use chunkfs_fetch::{
    ConvertedManifest, FetchError, IMAGE_ID_ANNOTATION, ImageReference, ImageSource,
    ManifestSelector, SearchOptions, fetch_verified, find_converted,
};
use chunkfs_format::BlobId;
use chunkfs_index::{INDEX_LEN_MAX, Index};

use crate::error::OpenError;
use crate::image::Image;

/// How an image is opened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OpenOptions {
    /// How much of what comes from disk is verified.
    pub verify: VerifyLevel,
    /// The most bytes that sequential readers are kept ahead by; less than a chunk turns it off.
    /// Default: 8 MiB.
    pub readahead_len_max: u64,
    /// Whether a missing chunk brings those along that are likely to be wanted next. Default: true.
    ///
    /// Fewer requests for some more bytes: about half the requests for 5 % more bytes when a
    /// large image starts.
    pub fetch_neighbours: bool,
    /// Whether the cache lets go of its folder's pages once they were read: for frontends whose bytes
    /// go into another page cache, so that memory does not hold them twice. Default: false.
    pub drop_pages: bool,
    /// The tenant whose chunks these are; without one they are shared with all who have none.
    pub domain: Option<CacheDomain>,
    /// The longest index that is accepted, uncompressed. Default: 1 GiB.
    pub index_len_max: u64,
    /// How a converted image beside its original is searched for. Default: in an image index, for
    /// this machine's platform; not among referrers.
    pub search: SearchOptions,
    /// How registries are spoken to; without it, anonymously on the cache's runtime.
    #[cfg(feature = "registry")]
    pub registry: Option<chunkfs_fetch::RegistryOptions>,
    /// How object stores are spoken to; without it, without settings on the cache's runtime.
    #[cfg(feature = "object-store")]
    pub store: Option<chunkfs_fetch::StoreOptions>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            verify: VerifyLevel::default(),
            readahead_len_max: 8 << 20,
            fetch_neighbours: true,
            drop_pages: false,
            domain: None,
            index_len_max: INDEX_LEN_MAX,
            search: SearchOptions::default(),
            #[cfg(feature = "registry")]
            registry: None,
            #[cfg(feature = "object-store")]
            store: None,
        }
    }
}

impl OpenOptions {
    /// Sets how much of what comes from disk is verified.
    #[must_use]
    pub fn with_verify(mut self, verify: VerifyLevel) -> Self {
        self.verify = verify;
        self
    }

    /// Sets the most bytes that sequential readers are kept ahead by.
    #[must_use]
    pub fn with_readahead_len_max(mut self, len: u64) -> Self {
        self.readahead_len_max = len;
        self
    }

    /// Sets whether a missing chunk brings those along that are likely to be wanted next.
    #[must_use]
    pub fn with_fetch_neighbours(mut self, fetch: bool) -> Self {
        self.fetch_neighbours = fetch;
        self
    }

    /// Sets whether the cache lets go of its folder's pages once they were read.
    #[must_use]
    pub fn with_drop_pages(mut self, drop: bool) -> Self {
        self.drop_pages = drop;
        self
    }

    /// Sets the tenant whose chunks these are.
    #[must_use]
    pub fn with_domain(mut self, domain: CacheDomain) -> Self {
        self.domain = Some(domain);
        self
    }

    /// Sets the longest index that is accepted, uncompressed.
    #[must_use]
    pub fn with_index_len_max(mut self, len: u64) -> Self {
        self.index_len_max = len;
        self
    }

    /// Sets how a converted image beside its original is searched for.
    #[must_use]
    pub fn with_search(mut self, search: SearchOptions) -> Self {
        self.search = search;
        self
    }

    /// Sets how object stores are spoken to.
    #[cfg(feature = "object-store")]
    #[must_use]
    pub fn with_store(mut self, store: chunkfs_fetch::StoreOptions) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets how registries and web servers are spoken to.
    #[cfg(feature = "registry")]
    #[must_use]
    pub fn with_registry(mut self, registry: chunkfs_fetch::RegistryOptions) -> Self {
        self.registry = Some(registry);
        self
    }
}

impl Image {
    /// Opens the image that a reference names.
    ///
    /// Sends one request for the manifest and one for the index, besides authentication and
    /// redirects. A reference with a digest pins the image: nothing else is ever opened for it.
    ///
    /// # Errors
    /// An [`OpenError`] that names the reference.
    pub async fn open(
        reference: &ImageReference,
        cache: &Cache,
        options: OpenOptions,
    ) -> Result<Self, OpenError> {
        let name = reference.to_string();
        let (source, selector) = connect(reference, cache, &options)
            .await
            .map_err(|source| OpenError::Source { image: name.clone(), source })?;
        let (source, selector) = find_converted(source, &selector, &options.search)
            .await
            .map_err(|source| OpenError::Manifest { image: name.clone(), source })?;
        Self::open_source(&name, source, &selector, cache, options).await
    }

    /// Opens an image of any source, such as an embedder's own; `name` is for messages only.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_source(
        name: &str,
        source: Arc<dyn ImageSource>,
        selector: &ManifestSelector,
        cache: &Cache,
        options: OpenOptions,
    ) -> Result<Self, OpenError> {
        let image = || name.to_owned();
        let stored = source.fetch_manifest(selector).await;
        let manifest_error = |source| OpenError::Manifest { image: image(), source };
        let stored = stored.map_err(manifest_error)?;
        // Sources verify this too, but any embedder may write one, and all else hangs on it.
        let manifest_id = BlobId::of(&stored.bytes);
        if let ManifestSelector::Digest(expected) = selector
            && *expected != manifest_id
        {
            let (expected, actual) = (*expected, manifest_id);
            return Err(manifest_error(FetchError::DigestMismatch { expected, actual }));
        }
        let manifest = ConvertedManifest::parse(&stored.bytes).map_err(manifest_error)?;
        let index_error = |source| OpenError::Index { image: image(), source };
        let blob = manifest.index.blob().map_err(index_error)?;
        let compressed = fetch_verified(&*source, &blob, options.index_len_max).await;
        let compressed = compressed.map_err(index_error)?;
        let index_len_max = options.index_len_max;
        let decompress = move || Index::decompress(&compressed, index_len_max);
        let index = match cache.runtime().spawn_blocking(decompress).await {
            Ok(index) => index,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => return Err(index_error(FetchError::Shutdown)),
            },
        };
        let index = index.map_err(|source| OpenError::InvalidIndex { image: image(), source })?;
        let expected = manifest.annotations.get(IMAGE_ID_ANNOTATION);
        if let Some(expected) = expected.filter(|id| **id != index.image_id().to_string()) {
            let (expected, actual) = (expected.clone(), index.image_id());
            return Err(OpenError::ImageId { image: image(), expected, actual });
        }
        let image = Self::new(image(), index, manifest, manifest_id, source, cache, &options);
        image.register();
        Ok(image)
    }
}

/// Finds the transport that a reference needs.
async fn connect(
    reference: &ImageReference,
    cache: &Cache,
    options: &OpenOptions,
) -> Result<(Arc<dyn ImageSource>, ManifestSelector), FetchError> {
    // Builds without any transport use neither.
    let _ = (cache, options);
    match reference {
        #[cfg(feature = "registry")]
        ImageReference::Registry(registry) => {
            let options = registry_options(cache, options).await;
            let source = chunkfs_fetch::RegistrySource::new(registry.clone(), options)?;
            Ok((Arc::new(source), registry.selector().clone()))
        }
        #[cfg(feature = "layout")]
        ImageReference::Layout(layout) => {
            let source = chunkfs_fetch::OciLayout::open(layout.path(), cache.runtime().clone())?;
            let selector = source.resolve(layout.selector()).await?;
            Ok((Arc::new(source), selector))
        }
        #[cfg(feature = "registry")]
        ImageReference::Store(store) if store.scheme().is_web() => {
            let options = registry_options(cache, options).await;
            let source = chunkfs_fetch::HttpLayout::new(store, options)?;
            let selector = source.resolve(store.selector()).await?;
            Ok((Arc::new(source), selector))
        }
        #[cfg(feature = "object-store")]
        ImageReference::Store(store) => {
            let runtime = cache.runtime().clone();
            let options = options.store.clone();
            let options = options.unwrap_or_else(|| chunkfs_fetch::StoreOptions::new(runtime));
            let source = chunkfs_fetch::ObjectLayout::connect(store, options)?;
            let selector = source.resolve(store.selector()).await?;
            Ok((Arc::new(source), selector))
        }
        #[cfg(not(all(feature = "object-store", feature = "layout")))]
        other => Err(FetchError::InvalidReference {
            text: other.to_string(),
            problem: "this build has no support for such references",
        }),
    }
}

/// Options for registries and web servers. Blobs that a server only gives whole lie in the cache's
/// folder until their chunks are kept, unless the embedder has chosen another one.
#[cfg(feature = "registry")]
async fn registry_options(cache: &Cache, options: &OpenOptions) -> chunkfs_fetch::RegistryOptions {
    let runtime = cache.runtime().clone();
    let given = options.registry.clone();
    let given = given.unwrap_or_else(|| chunkfs_fetch::RegistryOptions::new(runtime));
    if given.has_whole_blobs_folder() {
        return given;
    }
    let (runtime, cache) = (cache.runtime().clone(), cache.clone());
    match runtime.spawn_blocking(move || cache.spare()).await {
        Ok(Some((folder, len_max))) => given.with_whole_blobs_folder(folder, len_max),
        _ => given,
    }
}
