//! The OCI manifest of a converted image.
//!
//! The types are our own rather than a library's because the bytes must be a function of the
//! content: annotations are kept in order.

use std::collections::BTreeMap;

use chunkfs_format::BlobId;
use serde::{Deserialize, Serialize};

use crate::error::FetchError;
use crate::source::BlobDescriptor;

/// The `artifactType` of a converted image.
pub const IMAGE_ARTIFACT_TYPE: &str = "application/vnd.chunkfs.image.v1+json";
/// The media type of a compressed index.
pub const INDEX_MEDIA_TYPE: &str = "application/vnd.chunkfs.index.v1+zstd";
/// The media type of a data blob.
pub const BLOB_MEDIA_TYPE: &str = "application/vnd.chunkfs.blob.v1";
/// The media type of a compressed layer fragment.
pub const FRAGMENT_MEDIA_TYPE: &str = "application/vnd.chunkfs.fragment.v1+zstd";
/// The media type of an OCI image manifest.
pub const MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an OCI image index.
pub const IMAGE_INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of an OCI image configuration.
pub const CONFIG_MEDIA_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// The largest manifest that is read: 4 MiB, which is what registries accept.
pub const MANIFEST_LEN_MAX: u64 = 4 << 20;

/// The annotation of a manifest that holds the image id.
pub const IMAGE_ID_ANNOTATION: &str = "org.chunkfs.image.id";
/// The annotation of a converted manifest, and of its entry in an image index, that holds the digest
/// of the original's manifest.
pub const ORIGINAL_ANNOTATION: &str = "org.chunkfs.image.original";
/// The annotation of an original's entry in an image index that holds the digest of the converted
/// manifest.
pub const CONVERTED_ANNOTATION: &str = "org.chunkfs.image.converted";
/// The annotation of a manifest in the plain form, and of its layers: their real media type.
const TYPE_ANNOTATION: &str = "org.chunkfs.type";
/// What layers of the plain form call themselves.
const PLAIN_LAYER_MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
/// The annotation of a fragment that holds the digest of its layer's uncompressed tar.
pub const DIFF_ID_ANNOTATION: &str = "org.chunkfs.layer.diff-id";
/// The annotation of a fragment that holds the digest of its layer as stored originally.
pub const LAYER_DIGEST_ANNOTATION: &str = "org.chunkfs.layer.digest";
/// The annotation of a fragment that names the conversion: options and encoder version.
pub const CONVERSION_ANNOTATION: &str = "org.chunkfs.layer.conversion";

/// The manifest of a converted image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertedManifest {
    /// The configuration of the original image.
    pub config: Descriptor,
    /// The compressed index.
    pub index: Descriptor,
    /// The data blobs, in the order in which layers first use them.
    pub blobs: Vec<Descriptor>,
    /// The fragments of the layers, lowest first.
    pub fragments: Vec<Descriptor>,
    /// Annotations of the whole manifest.
    pub annotations: BTreeMap<String, String>,
}

/// An OCI content descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the blob.
    pub media_type: String,
    digest: String,
    size: u64,
    /// Annotations, in order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Describes a blob without annotations.
    pub fn new(media_type: &str, blob: &BlobDescriptor) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: blob.id.to_string(),
            size: blob.len,
            annotations: BTreeMap::new(),
        }
    }

    /// Returns the blob's digest and length.
    ///
    /// # Errors
    /// [`FetchError::InvalidManifest`] if the digest is not a SHA-256.
    pub fn blob(&self) -> Result<BlobDescriptor, FetchError> {
        let id: BlobId = self.digest.parse().map_err(invalid)?;
        Ok(BlobDescriptor { id, len: self.size })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    schema_version: u32,
    media_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl ConvertedManifest {
    /// Parses and validates the manifest of a converted image.
    ///
    /// # Errors
    /// [`FetchError::NotConverted`] if this is the manifest of something else, for example of an
    /// ordinary image; [`FetchError::InvalidManifest`] if it is no manifest, or a damaged one.
    pub fn parse(json: &[u8]) -> Result<Self, FetchError> {
        let mut raw: RawManifest = match serde_json::from_slice(json) {
            Ok(raw) => raw,
            Err(error) => {
                let is_index = serde_json::from_slice::<serde_json::Value>(json)
                    .is_ok_and(|value| value.get("manifests").is_some());
                return Err(if is_index { FetchError::NotConverted } else { invalid(error) });
            }
        };
        if raw.artifact_type.is_none() {
            raw.restore_types();
        }
        if raw.artifact_type.as_deref() != Some(IMAGE_ARTIFACT_TYPE) {
            return Err(FetchError::NotConverted);
        }
        let mut layers = raw.layers.into_iter();
        let index = layers.next().filter(|layer| layer.media_type == INDEX_MEDIA_TYPE);
        let index = index.ok_or_else(|| invalid("its first layer is not an index"))?;
        let (mut blobs, mut fragments) = (Vec::new(), Vec::new());
        for layer in layers {
            match layer.media_type.as_str() {
                BLOB_MEDIA_TYPE => blobs.push(layer),
                FRAGMENT_MEDIA_TYPE => fragments.push(layer),
                // Layers of other types may be added later; readers skip them.
                _ => {}
            }
        }
        let manifest =
            Self { config: raw.config, index, blobs, fragments, annotations: raw.annotations };
        for descriptor in manifest.descriptors() {
            descriptor.blob()?;
        }
        Ok(manifest)
    }

    /// Returns the manifest as JSON: equal manifests give equal bytes.
    pub fn to_json(&self) -> Vec<u8> {
        self.raw().to_json()
    }

    /// Returns the manifest with a `subject`: the original that it refers to.
    pub fn to_json_with_subject(&self, subject: &Descriptor) -> Vec<u8> {
        RawManifest { subject: Some(subject.clone()), ..self.raw() }.to_json()
    }

    /// Returns the manifest in the form of an ordinary image, for registries that reject others:
    /// what it and its layers really are is in annotations. Readers take both forms.
    pub fn to_plain_json(&self) -> Vec<u8> {
        let mut raw = self.raw();
        raw.artifact_type = None;
        raw.annotations.insert(TYPE_ANNOTATION.to_owned(), IMAGE_ARTIFACT_TYPE.to_owned());
        for layer in &mut raw.layers {
            let real = std::mem::replace(&mut layer.media_type, PLAIN_LAYER_MEDIA_TYPE.to_owned());
            layer.annotations.insert(TYPE_ANNOTATION.to_owned(), real);
        }
        raw.to_json()
    }

    fn raw(&self) -> RawManifest {
        let layers = std::iter::once(&self.index).chain(&self.blobs).chain(&self.fragments);
        RawManifest {
            schema_version: 2,
            media_type: Some(MANIFEST_MEDIA_TYPE.to_owned()),
            artifact_type: Some(IMAGE_ARTIFACT_TYPE.to_owned()),
            config: self.config.clone(),
            layers: layers.cloned().collect(),
            subject: None,
            annotations: self.annotations.clone(),
        }
    }

    /// Iterates over everything that the manifest lists: config, index, blobs, fragments.
    pub fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        [&self.config, &self.index].into_iter().chain(&self.blobs).chain(&self.fragments)
    }
}

impl RawManifest {
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest holds nothing that JSON cannot express")
    }

    /// Turns the plain form into the other.
    fn restore_types(&mut self) {
        self.artifact_type = self.annotations.remove(TYPE_ANNOTATION);
        for layer in &mut self.layers {
            if let Some(real) = layer.annotations.remove(TYPE_ANNOTATION) {
                layer.media_type = real;
            }
        }
    }
}

fn invalid(problem: impl std::fmt::Display) -> FetchError {
    FetchError::InvalidManifest { problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(content: &[u8]) -> BlobDescriptor {
        BlobDescriptor { id: BlobId::of(content), len: content.len() as u64 }
    }

    fn manifest() -> ConvertedManifest {
        let mut fragment = Descriptor::new(FRAGMENT_MEDIA_TYPE, &blob(b"fragment"));
        fragment.annotations.insert(DIFF_ID_ANNOTATION.to_owned(), "sha256:00".to_owned());
        ConvertedManifest {
            config: Descriptor::new(CONFIG_MEDIA_TYPE, &blob(b"{}")),
            index: Descriptor::new(INDEX_MEDIA_TYPE, &blob(b"index")),
            blobs: vec![Descriptor::new(BLOB_MEDIA_TYPE, &blob(b"data"))],
            fragments: vec![fragment],
            annotations: [(IMAGE_ID_ANNOTATION.to_owned(), "blake3:00".to_owned())].into(),
        }
    }

    #[test]
    fn a_manifest_round_trips() {
        let json = manifest().to_json();
        assert_eq!(ConvertedManifest::parse(&json).unwrap(), manifest());
        assert_eq!(ConvertedManifest::parse(&json).unwrap().to_json(), json);
    }

    /// [F-78]
    #[test]
    fn the_plain_form_is_read_as_the_other() {
        let json = manifest().to_plain_json();
        assert_eq!(ConvertedManifest::parse(&json).unwrap(), manifest());
        let text = String::from_utf8(json).unwrap();
        assert!(!text.contains("artifactType"), "{text}");
        assert!(!text.contains(r#""mediaType":"application/vnd.chunkfs"#), "{text}");
    }

    #[test]
    fn a_subject_changes_nothing_for_readers() {
        let subject = Descriptor::new(MANIFEST_MEDIA_TYPE, &blob(b"original"));
        let json = manifest().to_json_with_subject(&subject);
        assert!(String::from_utf8_lossy(&json).contains(r#""subject":{"mediaType""#));
        assert_eq!(ConvertedManifest::parse(&json).unwrap(), manifest());
    }

    #[test]
    fn other_manifests_are_not_converted_images() {
        let json = String::from_utf8(manifest().to_json()).unwrap();
        for other in [
            json.replace(IMAGE_ARTIFACT_TYPE, "application/other"),
            r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(),
        ] {
            let error = ConvertedManifest::parse(other.as_bytes()).unwrap_err();
            assert!(matches!(error, FetchError::NotConverted), "{error}");
        }
    }

    #[test]
    fn damaged_manifests_are_invalid() {
        let json = String::from_utf8(manifest().to_json()).unwrap();
        for damaged in [
            String::new(),
            json[..json.len() - 1].to_owned(),
            json.replace(INDEX_MEDIA_TYPE, BLOB_MEDIA_TYPE),
            json.replace("sha256:", "sha512:"),
            json.replace("\"size\":5", "\"size\":-5"),
        ] {
            let error = ConvertedManifest::parse(damaged.as_bytes()).unwrap_err();
            assert!(matches!(error, FetchError::InvalidManifest { .. }), "{error}");
        }
    }

    #[test]
    fn unknown_layers_are_skipped() {
        let json = String::from_utf8(manifest().to_json()).unwrap();
        let parsed = ConvertedManifest::parse(
            json.replace(FRAGMENT_MEDIA_TYPE, "application/x-later").as_bytes(),
        );
        assert!(parsed.unwrap().fragments.is_empty());
    }
}
