//! Finding converted images beside their originals: in one OCI image index, or as referrers.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_format::BlobId;
use futures::stream::BoxStream;

use crate::counters::FetchCounters;
use crate::error::FetchError;
use crate::image_index::{ImageIndex, is_platform};
use crate::manifest::{ConvertedManifest, ORIGINAL_ANNOTATION};
use crate::source::{
    BlobDescriptor, BlobSource, ImageSource, ManifestSelector, Priority, StoredManifest,
};

/// How a converted image is searched for when a name stands for something else.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SearchOptions {
    /// The platform of the original, as `OS/ARCHITECTURE[/VARIANT]`.
    pub platform: String,
    /// Whether referrers count. Default: no, because whoever may push to a repository can add a
    /// referrer to any image in it, and so change what its name means.
    pub follow_referrers: bool,
}

impl SearchOptions {
    /// Searches for the converted image of an original for this platform, without referrers.
    pub fn new(platform: impl Into<String>) -> Self {
        Self { platform: platform.into(), follow_referrers: false }
    }

    /// Sets whether referrers count.
    #[must_use]
    pub fn with_follow_referrers(mut self, follow: bool) -> Self {
        self.follow_referrers = follow;
        self
    }
}

impl Default for SearchOptions {
    /// Searches for the converted image of an original for Linux on the architecture that this
    /// program was compiled for.
    fn default() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new(format!("linux/{architecture}"))
    }
}

/// Finds the converted image that a name stands for: itself, or what is attached to it.
///
/// Returns the digest of its manifest, and the source with that manifest in memory: reading it costs
/// no second request. One request if the name is that of a converted image; one or two more else.
///
/// # Errors
/// [`FetchError::NotConverted`] if there is none.
pub async fn find_converted(
    source: Arc<dyn ImageSource>,
    selector: &ManifestSelector,
    search: &SearchOptions,
) -> Result<(Arc<dyn ImageSource>, ManifestSelector), FetchError> {
    let stored = source.fetch_manifest(selector).await?;
    if ConvertedManifest::parse(&stored.bytes).is_ok() {
        return Ok(remembering(source, stored));
    }
    let index = ImageIndex::parse(&stored.bytes);
    let attached = index.as_ref().and_then(|index| index.converted_for(&search.platform));
    if let Some(id) = attached {
        let stored = source.fetch_manifest(&ManifestSelector::Digest(id)).await?;
        return Ok(remembering(source, stored));
    }
    if !search.follow_referrers {
        // The caller says what is wrong with it.
        return Ok(remembering(source, stored));
    }
    let subject = match &index {
        None => stored.id,
        Some(index) => {
            let entry = index.entries.iter().find(|entry| is_platform(entry, &search.platform));
            let id = entry.and_then(|entry| entry.get("digest")?.as_str()?.parse().ok());
            id.ok_or(FetchError::NotConverted)?
        }
    };
    let referrers = match source.fetch_referrers(subject).await {
        Ok(referrers) => ImageIndex::parse(&referrers.bytes).unwrap_or_default(),
        Err(error) if error.is_not_found() => ImageIndex::new(),
        Err(error) => return Err(error),
    };
    let id = referrers.converted().last().ok_or(FetchError::NotConverted)?;
    let stored = source.fetch_manifest(&ManifestSelector::Digest(id)).await?;
    // A list of referrers is anyone's; the manifest itself must name the original.
    let manifest = ConvertedManifest::parse(&stored.bytes)?;
    if manifest.annotations.get(ORIGINAL_ANNOTATION) != Some(&subject.to_string()) {
        return Err(FetchError::NotConverted);
    }
    Ok(remembering(source, stored))
}

fn remembering(
    source: Arc<dyn ImageSource>,
    manifest: StoredManifest,
) -> (Arc<dyn ImageSource>, ManifestSelector) {
    let selector = ManifestSelector::Digest(manifest.id);
    (Arc::new(Remembering { source, manifest }), selector)
}

/// A source with one manifest in memory.
#[derive(Debug)]
struct Remembering {
    source: Arc<dyn ImageSource>,
    manifest: StoredManifest,
}

#[async_trait]
impl BlobSource for Remembering {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        self.source.read_range(blob, range, priority).await
    }

    async fn reread_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
        damaged_count: std::num::NonZeroU32,
    ) -> Result<Option<Bytes>, FetchError> {
        self.source.reread_range(blob, range, priority, damaged_count).await
    }

    fn holds_whole(&self, blob: BlobId) -> bool {
        self.source.holds_whole(blob)
    }

    fn release_whole(&self, blob: BlobId) {
        self.source.release_whole(blob);
    }

    fn counters(&self) -> FetchCounters {
        self.source.counters()
    }

    fn place(&self) -> String {
        self.source.place()
    }
}

#[async_trait]
impl ImageSource for Remembering {
    async fn fetch_manifest(
        &self,
        manifest: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        if *manifest == ManifestSelector::Digest(self.manifest.id) {
            return Ok(self.manifest.clone());
        }
        self.source.fetch_manifest(manifest).await
    }

    async fn fetch_referrers(&self, manifest: BlobId) -> Result<StoredManifest, FetchError> {
        self.source.fetch_referrers(manifest).await
    }

    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>> {
        self.source.stream_blob(blob)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::image_index::descriptor;
    use crate::manifest::MANIFEST_MEDIA_TYPE;

    fn blob(content: &[u8]) -> BlobDescriptor {
        BlobDescriptor { id: BlobId::of(content), len: content.len() as u64 }
    }

    /// [F-80] Whoever may push can list what he likes; the manifest itself must name the original.
    #[test]
    fn a_referrer_that_does_not_name_the_original_is_ignored() {
        use crate::source::ImageSink as _;
        futures::executor::block_on(async {
            let source = Arc::new(crate::MemorySource::new());
            let tag = |tag: &str| ManifestSelector::Tag(tag.to_owned());
            let put = |name: ManifestSelector, json: Vec<u8>| {
                let source = source.clone();
                async move { source.put_manifest(&name, MANIFEST_MEDIA_TYPE, json.into()).await }
            };
            let v1 = tag("v1");
            let original = put(v1.clone(), br#"{"layers":[]}"#.to_vec()).await.unwrap();
            let stand_in = tag(&crate::source::referrers_tag(original));
            let with_annotation = |names: Option<BlobId>| {
                let part = crate::Descriptor::new(crate::INDEX_MEDIA_TYPE, &blob(b"index"));
                let annotations = names.map(|id| (ORIGINAL_ANNOTATION.to_owned(), id.to_string()));
                let (config, blobs, fragments) = (part.clone(), Vec::new(), Vec::new());
                let annotations = annotations.into_iter().collect();
                ConvertedManifest { config, index: part, blobs, fragments, annotations }.to_json()
            };
            for (names, is_found) in
                [(None, false), (Some(blob(b"other").id), false), (Some(original), true)]
            {
                let json = with_annotation(names);
                let len = json.len() as u64;
                let id = BlobId::of(&json);
                put(ManifestSelector::Digest(id), json).await.unwrap();
                let list = json!({ "manifests": [descriptor(&BlobDescriptor { id, len })] });
                put(stand_in.clone(), list.to_string().into_bytes()).await.unwrap();
                let search = SearchOptions::default().with_follow_referrers(true);
                let found = find_converted(source.clone(), &v1, &search).await;
                assert_eq!(found.is_ok(), is_found, "{names:?}");
            }
        });
    }
}
