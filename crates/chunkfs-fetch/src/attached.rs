//! Converted images beside their originals: in one OCI image index, or as referrers.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_format::BlobId;
use futures::stream::BoxStream;
use serde_json::{Map, Value, json};

use crate::error::FetchError;
use crate::manifest::{
    CONVERTED_ANNOTATION, ConvertedManifest, IMAGE_ARTIFACT_TYPE, IMAGE_INDEX_MEDIA_TYPE,
    MANIFEST_MEDIA_TYPE, ORIGINAL_ANNOTATION,
};
use crate::source::{
    BlobDescriptor, BlobSource, ImageSource, ManifestSelector, Priority, StoredManifest,
};

/// An OCI image index or a Docker manifest list; what this crate does not know is kept as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageIndex {
    root: Map<String, Value>,
    entries: Vec<Value>,
}

impl ImageIndex {
    /// Creates an index without entries.
    pub fn new() -> Self {
        let mut root = Map::new();
        root.insert("schemaVersion".to_owned(), json!(2));
        root.insert("mediaType".to_owned(), json!(IMAGE_INDEX_MEDIA_TYPE));
        Self { root, entries: Vec::new() }
    }

    /// Parses an index; `None` if the JSON is something else, for example a manifest.
    pub fn parse(json: &[u8]) -> Option<Self> {
        let mut root: Map<String, Value> = serde_json::from_slice(json).ok()?;
        match root.remove("manifests")? {
            Value::Array(entries) => Some(Self { root, entries }),
            _ => None,
        }
    }

    /// Returns the media type that the index states; OCI's if it states none.
    pub fn media_type(&self) -> &str {
        self.root.get("mediaType").and_then(Value::as_str).unwrap_or(IMAGE_INDEX_MEDIA_TYPE)
    }

    /// Returns the index as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let mut root = self.root.clone();
        root.insert("manifests".to_owned(), Value::Array(self.entries.clone()));
        serde_json::to_vec(&root).expect("it was parsed from JSON")
    }

    /// Adds the manifest of an original image, unless it is there. `platform` is `{}` if not known.
    pub fn add_original(&mut self, original: &StoredManifest, platform: Value) {
        if self.position(original.id).is_some() {
            return;
        }
        self.entries.push(json!({
            "mediaType": original.media_type.as_deref().unwrap_or(MANIFEST_MEDIA_TYPE),
            "digest": original.id.to_string(),
            "size": original.bytes.len(),
            "platform": platform,
        }));
    }

    /// Adds the manifest of a converted image after all others, with annotations in both directions,
    /// in place of what was attached to the same original before.
    ///
    /// Its platform is `unknown/unknown`, so that runtimes go on choosing the original.
    ///
    /// # Errors
    /// [`FetchError::InvalidManifest`] if the index does not list the original.
    pub fn attach(
        &mut self,
        original: BlobId,
        converted: &BlobDescriptor,
    ) -> Result<(), FetchError> {
        let text = original.to_string();
        self.entries.retain(|entry| annotation(entry, ORIGINAL_ANNOTATION) != Some(&text));
        let position = self.position(original);
        let entry = position.and_then(|position| self.entries.get_mut(position));
        let entry = entry.and_then(Value::as_object_mut).ok_or_else(|| {
            let problem = format!("the image index does not list {original}");
            FetchError::InvalidManifest { problem }
        })?;
        let annotations = entry.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(CONVERTED_ANNOTATION.to_owned(), json!(converted.id.to_string()));
        }
        let mut entry = descriptor(converted);
        entry["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
        entry["annotations"] = json!({ ORIGINAL_ANNOTATION: text });
        self.entries.push(entry);
        Ok(())
    }

    /// Adds an entry for a converted image to a list of referrers; returns whether it was new.
    #[cfg(feature = "registry")]
    pub(crate) fn add_referrer(&mut self, converted: &BlobDescriptor) -> bool {
        let is_new = self.position(converted.id).is_none();
        if is_new {
            self.entries.push(descriptor(converted));
        }
        is_new
    }

    /// Returns the converted image that is attached to the original for `OS/ARCHITECTURE[/VARIANT]`,
    /// or the only one.
    ///
    /// Both entries must name each other: an entry alone changes nothing.
    pub fn converted_for(&self, platform: &str) -> Option<BlobId> {
        let mutual = self.entries.iter().filter_map(|original| {
            let converted = annotation(original, CONVERTED_ANNOTATION)?;
            let id = original.get("digest")?.as_str()?;
            let is_mutual = self.entries.iter().any(|entry| {
                entry.get("digest").and_then(Value::as_str) == Some(converted)
                    && annotation(entry, ORIGINAL_ANNOTATION) == Some(id)
            });
            Some((original, converted.parse().ok()?)).filter(|_| is_mutual)
        });
        let mutual: Vec<(&Value, BlobId)> = mutual.collect();
        let of_platform = mutual.iter().find(|(original, _)| is_platform(original, platform));
        let only = mutual.first().filter(|_| mutual.len() == 1 && self.entries.len() == 2);
        of_platform.or(only).map(|(_, id)| *id)
    }

    /// Returns the converted images in a list of referrers.
    fn converted(&self) -> impl Iterator<Item = BlobId> {
        let is_converted = |entry: &&Value| {
            entry.get("artifactType").and_then(Value::as_str) == Some(IMAGE_ARTIFACT_TYPE)
        };
        let entries = self.entries.iter().filter(is_converted);
        entries.filter_map(|entry| entry.get("digest")?.as_str()?.parse().ok())
    }

    fn position(&self, id: BlobId) -> Option<usize> {
        let id = id.to_string();
        let digest = |entry: &Value| entry.get("digest").and_then(Value::as_str) == Some(&id);
        self.entries.iter().position(digest)
    }
}

impl Default for ImageIndex {
    fn default() -> Self {
        Self::new()
    }
}

fn descriptor(converted: &BlobDescriptor) -> Value {
    json!({
        "mediaType": MANIFEST_MEDIA_TYPE,
        "artifactType": IMAGE_ARTIFACT_TYPE,
        "digest": converted.id.to_string(),
        "size": converted.len,
    })
}

fn annotation<'a>(entry: &'a Value, name: &str) -> Option<&'a str> {
    entry.get("annotations")?.get(name)?.as_str()
}

fn is_platform(entry: &Value, platform: &str) -> bool {
    let mut wanted = platform.split('/');
    let text = |name: &str| entry.pointer(&format!("/platform/{name}")).and_then(Value::as_str);
    text("os") == wanted.next()
        && text("architecture") == wanted.next()
        && wanted.next().is_none_or(|variant| text("variant") == Some(variant))
}

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
    use super::*;

    fn blob(content: &[u8]) -> BlobDescriptor {
        BlobDescriptor { id: BlobId::of(content), len: content.len() as u64 }
    }

    fn original(content: &'static [u8]) -> StoredManifest {
        let bytes = Bytes::from_static(content);
        StoredManifest { id: BlobId::of(&bytes), media_type: None, bytes }
    }

    #[test]
    fn an_attached_image_comes_last_and_is_found_by_its_original() {
        let mut index = ImageIndex::new();
        let platform = json!({ "os": "linux", "architecture": "amd64" });
        index.add_original(&original(b"a"), platform.clone());
        index.add_original(&original(b"a"), platform);
        index.add_original(&original(b"b"), json!({ "os": "linux", "architecture": "arm64" }));
        assert_eq!(index.converted_for("linux/amd64"), None);
        index.attach(original(b"a").id, &blob(b"old")).unwrap();
        index.attach(original(b"a").id, &blob(b"new")).unwrap();
        let index = ImageIndex::parse(&index.to_json()).unwrap();
        assert_eq!(index.entries.len(), 3);
        assert_eq!(index.converted_for("linux/amd64"), Some(blob(b"new").id));
        assert_eq!(index.converted_for("linux/arm64"), None);
        assert_eq!(index.entries[2]["platform"]["os"], "unknown");
        assert!(index.clone().attach(blob(b"z").id, &blob(b"new")).is_err());
        // An entry that the original does not name is nobody's.
        let forged = String::from_utf8(index.to_json()).unwrap();
        let forged = forged.replace(CONVERTED_ANNOTATION, "org.example");
        let forged = ImageIndex::parse(forged.as_bytes()).unwrap();
        assert_eq!(forged.converted_for("linux/amd64"), None);
    }

    #[test]
    fn other_json_is_no_index() {
        for json in ["", "{}", r#"{"manifests":1}"#, r#"{"layers":[]}"#, "[]"] {
            assert_eq!(ImageIndex::parse(json.as_bytes()), None, "{json}");
        }
        let index = ImageIndex::parse(br#"{"manifests":[1,{},{"annotations":1}]}"#).unwrap();
        assert_eq!(index.converted_for("linux/amd64"), None);
    }
}
