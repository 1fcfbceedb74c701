//! OCI image indexes: what a tag names when it names several manifests.

use chunkfs_format::BlobId;
use serde_json::{Map, Value, json};

use crate::error::FetchError;
use crate::manifest::{
    CONVERTED_ANNOTATION, IMAGE_ARTIFACT_TYPE, IMAGE_INDEX_MEDIA_TYPE, MANIFEST_MEDIA_TYPE,
    ORIGINAL_ANNOTATION,
};
use crate::source::{BlobDescriptor, StoredManifest};

/// An OCI image index or a Docker manifest list; what this crate does not know is kept as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageIndex {
    root: Map<String, Value>,
    pub(crate) entries: Vec<Value>,
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
    pub(crate) fn converted(&self) -> impl Iterator<Item = BlobId> {
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

pub(crate) fn descriptor(converted: &BlobDescriptor) -> Value {
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

pub(crate) fn is_platform(entry: &Value, platform: &str) -> bool {
    let mut wanted = platform.split('/');
    let text = |name: &str| entry.pointer(&format!("/platform/{name}")).and_then(Value::as_str);
    text("os") == wanted.next()
        && text("architecture") == wanted.next()
        && wanted.next().is_none_or(|variant| text("variant") == Some(variant))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn blob(content: &[u8]) -> BlobDescriptor {
        BlobDescriptor { id: BlobId::of(content), len: content.len() as u64 }
    }

    fn original(content: &'static [u8]) -> StoredManifest {
        let bytes = Bytes::from_static(content);
        StoredManifest { id: BlobId::of(&bytes), media_type: None, bytes }
    }

    /// [F-79]
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
