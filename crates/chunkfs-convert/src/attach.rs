//! Making a converted image visible: by a tag of its own, or beside its original.
//!
//! What gives the name its meaning is always written last.

use bytes::Bytes;
use chunkfs_fetch::{
    BlobDescriptor, ConvertedManifest, Descriptor, FetchError, ImageIndex, MANIFEST_LEN_MAX,
    MANIFEST_MEDIA_TYPE, ManifestSelector, ORIGINAL_ANNOTATION,
};
use chunkfs_format::BlobId;
use serde_json::{Value, json};

use crate::error::ConvertError;
use crate::image::Image;
use crate::options::AttachForm;
use crate::pipeline::Context;

/// Puts the manifest where `original` and the options say; returns its digest.
pub(crate) fn put(
    context: &Context<'_>,
    mut manifest: ConvertedManifest,
    original: Option<&Image>,
    destination: &ManifestSelector,
) -> Result<BlobId, ConvertError> {
    let Some((form, original)) = context.options.attach.zip(original) else {
        let put = put_manifest(context, &manifest, manifest.to_json(), Some(destination))?;
        return Ok(put.id);
    };
    let id = original.manifest.id;
    manifest.annotations.insert(ORIGINAL_ANNOTATION.to_owned(), id.to_string());
    match form {
        AttachForm::Index => {
            let converted = put_manifest(context, &manifest, manifest.to_json(), None)?;
            let index = image_index(original, &converted)?;
            let (media_type, json) = (index.media_type().to_owned(), index.to_json());
            let put = context.sink.put_manifest(destination, &media_type, json.into());
            context.network.run("the image index", put)?;
            Ok(converted.id)
        }
        AttachForm::Referrer => {
            let media_type = original.manifest.media_type.as_deref().unwrap_or(MANIFEST_MEDIA_TYPE);
            let blob = BlobDescriptor { id, len: original.manifest.bytes.len() as u64 };
            let json = manifest.to_json_with_subject(&Descriptor::new(media_type, &blob));
            let converted = put_manifest(context, &manifest, json, None)?;
            let list = context.sink.list_referrer(id, &converted);
            context.network.run("the list of referrers", list)?;
            Ok(converted.id)
        }
    }
}

/// Puts a manifest, by its digest if no name is given; in the plain form if the other is refused.
fn put_manifest(
    context: &Context<'_>,
    manifest: &ConvertedManifest,
    json: Vec<u8>,
    name: Option<&ManifestSelector>,
) -> Result<BlobDescriptor, ConvertError> {
    let put = |json: Vec<u8>| {
        if json.len() as u64 > MANIFEST_LEN_MAX {
            let problem = format!("it lists {} blobs; raise the blob length", manifest.blobs.len());
            return Err(ConvertError::InvalidImage { what: "the converted manifest", problem });
        }
        let by_digest = ManifestSelector::Digest(BlobId::of(&json));
        let selector = name.unwrap_or(&by_digest);
        let len = json.len() as u64;
        let put = context.sink.put_manifest(selector, MANIFEST_MEDIA_TYPE, Bytes::from(json));
        let id = context.network.run("the converted manifest", put)?;
        Ok(BlobDescriptor { id, len })
    };
    let refusal = match put(json) {
        Err(error) if is_refusal(&error) => error,
        result => return result,
    };
    // If the registry refuses this, too, its first reason is the telling one.
    put(manifest.to_plain_json()).map_err(|_| refusal)
}

/// Returns whether a registry may have refused a manifest for its types.
fn is_refusal(error: &ConvertError) -> bool {
    let ConvertError::Transfer { source: FetchError::Status { status, .. }, .. } = error else {
        return false;
    };
    matches!(status, 400 | 405 | 406 | 415 | 422)
}

/// Returns the image index of the original, or a new one, with the converted image.
fn image_index(original: &Image, converted: &BlobDescriptor) -> Result<ImageIndex, ConvertError> {
    let invalid = |problem: String| ConvertError::InvalidImage { what: "the image index", problem };
    let mut index = match &original.index {
        Some(stored) => ImageIndex::parse(&stored.bytes)
            .ok_or_else(|| invalid("it lists no manifests".to_owned()))?,
        None => ImageIndex::new(),
    };
    if original.index.is_none() {
        index.add_original(&original.manifest, platform(&original.config));
    }
    index.attach(original.manifest.id, converted).map_err(|error| invalid(error.to_string()))?;
    Ok(index)
}

/// Returns the platform of an image as its configuration states it.
fn platform(config: &[u8]) -> Value {
    let config: Value = serde_json::from_slice(config).unwrap_or_default();
    let mut platform = json!({});
    for name in ["architecture", "os", "os.version", "variant"] {
        if let Some(value) = config.get(name).filter(|value| value.is_string()) {
            platform[name] = value.clone();
        }
    }
    platform
}
