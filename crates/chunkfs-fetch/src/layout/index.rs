//! `index.json`: which manifests a layout holds.

use std::path::Path;

use chunkfs_format::BlobId;
use serde_json::{Map, Value, json};

use crate::error::FetchError;
use crate::manifest::IMAGE_INDEX_MEDIA_TYPE;
use crate::source::{BlobDescriptor, ManifestSelector};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The parsed `index.json`. Fields that this crate does not know are kept as they are.
pub(super) struct LayoutIndex {
    root: Map<String, Value>,
    entries: Vec<Entry>,
}

/// One entry of `manifests`.
pub(super) struct Entry {
    /// `None` if the digest is not a SHA-256; such entries are kept but cannot be selected.
    pub(super) blob: Option<BlobDescriptor>,
    pub(super) media_type: Option<String>,
    tag: Option<String>,
    raw: Value,
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

    pub(super) fn find(&self, selector: &ManifestSelector) -> Option<&Entry> {
        self.entries.iter().find(|entry| match selector {
            ManifestSelector::Tag(tag) => entry.tag.as_ref() == Some(tag),
            ManifestSelector::Digest(id) => entry.blob.is_some_and(|blob| blob.id == *id),
        })
    }

    /// Adds an entry, in the place of the one with the same tag. Returns whether anything changed.
    pub(super) fn insert(
        &mut self,
        selector: &ManifestSelector,
        blob: &BlobDescriptor,
        media_type: &str,
        artifact_type: Option<&str>,
    ) -> bool {
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
            ManifestSelector::Digest(_) if self.find(selector).is_some() => return false,
            ManifestSelector::Digest(_) => None,
        };
        let entry = Entry { blob: Some(*blob), media_type: Some(media_type.to_owned()), tag, raw };
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
