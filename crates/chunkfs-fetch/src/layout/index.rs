//! `index.json`: which manifests a layout holds.

use std::fmt;
use std::path::Path;

use chunkfs_format::BlobId;
use serde_json::{Map, Value, json};

use crate::error::FetchError;
use crate::manifest::IMAGE_INDEX_MEDIA_TYPE;
use crate::source::{BlobDescriptor, ManifestSelector};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The largest `index.json` that is read: some 50,000 tags.
pub(super) const INDEX_LEN_MAX: u64 = 16 << 20;
/// The content of the file `oci-layout`.
pub(super) const VERSION_TEXT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The parsed `index.json`. Fields that this crate does not know are kept as they are.
pub(super) struct LayoutIndex {
    root: Map<String, Value>,
    entries: Vec<Entry>,
}

/// One entry of `manifests`.
struct Entry {
    /// `None` if the digest is not a SHA-256; such entries are kept but cannot be selected.
    blob: Option<BlobDescriptor>,
    media_type: Option<String>,
    tag: Option<String>,
    raw: Value,
}

/// A manifest that is to be stored and listed.
pub(super) struct NewManifest {
    pub(super) blob: BlobDescriptor,
    selector: ManifestSelector,
    media_type: String,
    artifact_type: Option<String>,
}

impl NewManifest {
    /// Checks that `bytes` may be stored under `selector`.
    pub(super) fn parse(
        selector: &ManifestSelector,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Self, FetchError> {
        let id = selector.check_content(bytes)?;
        let json: Value = serde_json::from_slice(bytes)
            .map_err(|error| FetchError::InvalidManifest { problem: error.to_string() })?;
        let artifact_type = json.get("artifactType").and_then(Value::as_str);
        Ok(Self {
            blob: BlobDescriptor { id, len: bytes.len() as u64 },
            selector: selector.clone(),
            media_type: media_type.to_owned(),
            artifact_type: artifact_type.map(str::to_owned),
        })
    }
}

impl LayoutIndex {
    pub(super) fn empty() -> Self {
        let mut root = Map::new();
        root.insert("schemaVersion".to_owned(), json!(2));
        root.insert("mediaType".to_owned(), json!(IMAGE_INDEX_MEDIA_TYPE));
        Self { root, entries: Vec::new() }
    }

    pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Self, FetchError> {
        let invalid = |problem: String| FetchError::InvalidLayout {
            path: path.to_owned(),
            problem: format!("index.json: {problem}"),
        };
        let mut root: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        let entries = match root.remove("manifests") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(entries)) => entries,
            Some(_) => return Err(invalid("`manifests` is not an array".to_owned())),
        };
        let entries = entries.into_iter().map(Entry::parse).collect();
        Ok(Self { root, entries })
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut root = self.root.clone();
        let entries = self.entries.iter().map(|entry| entry.raw.clone()).collect();
        root.insert("manifests".to_owned(), Value::Array(entries));
        serde_json::to_vec(&root).expect("it was parsed from JSON")
    }

    pub(super) fn tags(&self) -> Vec<String> {
        self.entries.iter().filter_map(|entry| entry.tag.clone()).collect()
    }

    /// Returns the digest of the only manifest.
    pub(super) fn only(&self, path: &Path) -> Result<BlobId, FetchError> {
        let mut ids = self.entries.iter().filter_map(|entry| entry.blob).map(|blob| blob.id);
        let Some(first) = ids.next() else {
            let what = format!("a manifest in {}", path.display());
            return Err(FetchError::NotFound { what });
        };
        if ids.any(|id| id != first) {
            return Err(FetchError::Ambiguous {
                path: path.to_owned(),
                count: self.entries.len(),
                tags: self.tags(),
            });
        }
        Ok(first)
    }

    /// Returns digest and media type of the selected manifest; one with a digest need not be listed.
    ///
    /// # Errors
    /// [`FetchError::NotFound`] if no manifest has the tag; `place` is where, for the message.
    pub(super) fn find(
        &self,
        selector: &ManifestSelector,
        place: impl fmt::Display,
    ) -> Result<(BlobId, Option<String>), FetchError> {
        let entry = self.entry(selector);
        let media_type = entry.and_then(|entry| entry.media_type.clone());
        match (selector, entry.and_then(|entry| entry.blob)) {
            (ManifestSelector::Digest(id), _) => Ok((*id, media_type)),
            (_, Some(blob)) => Ok((blob.id, media_type)),
            (ManifestSelector::Tag(tag), None) => {
                Err(FetchError::NotFound { what: format!("tag {tag} in {place}") })
            }
        }
    }

    fn entry(&self, selector: &ManifestSelector) -> Option<&Entry> {
        self.entries.iter().find(|entry| match selector {
            ManifestSelector::Tag(tag) => entry.tag.as_ref() == Some(tag),
            ManifestSelector::Digest(id) => entry.blob.is_some_and(|blob| blob.id == *id),
        })
    }

    /// Adds an entry, in the place of the one with the same tag. Returns whether anything changed.
    pub(super) fn insert(&mut self, manifest: &NewManifest) -> bool {
        let NewManifest { blob, selector, media_type, artifact_type } = manifest;
        let mut raw = json!({
            "mediaType": media_type,
            "digest": blob.id.to_string(),
            "size": blob.len,
        });
        if let Some(artifact_type) = artifact_type {
            raw["artifactType"] = json!(artifact_type);
        }
        let tag = match selector {
            ManifestSelector::Tag(tag) => {
                raw["annotations"] = json!({ REF_NAME: tag });
                Some(tag.clone())
            }
            ManifestSelector::Digest(_) if self.entry(selector).is_some() => return false,
            ManifestSelector::Digest(_) => None,
        };
        let entry = Entry { blob: Some(*blob), media_type: Some(media_type.clone()), tag, raw };
        let old = self.entries.iter_mut().find(|old| old.tag.is_some() && old.tag == entry.tag);
        match old {
            Some(old) if old.raw == entry.raw => return false,
            Some(old) => *old = entry,
            None => self.entries.push(entry),
        }
        true
    }
}

impl Entry {
    fn parse(raw: Value) -> Self {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let id = raw.get("digest").and_then(Value::as_str).and_then(|digest| digest.parse().ok());
        let len = raw.get("size").and_then(Value::as_u64);
        let blob = id.zip(len).map(|(id, len)| BlobDescriptor { id, len });
        let tag = text(raw.get("annotations").and_then(|annotations| annotations.get(REF_NAME)));
        let media_type = text(raw.get("mediaType"));
        Self { blob, media_type, tag, raw }
    }
}
