//! A layout whose files lie in a store that is not local: manifests and tags.
//!
//! The order of writes is blobs, manifest, `index.json`, so that a reader who finds a tag finds all
//! that it names, whenever the writer stops.

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_format::BlobId;
use serde_json::Value;

use super::index::LayoutIndex;
use crate::error::FetchError;
use crate::manifest::MANIFEST_LEN_MAX;
use crate::source::{BlobDescriptor, ManifestSelector, StoredManifest};

/// The largest `index.json` that is read: some 50,000 tags.
const INDEX_LEN_MAX: u64 = 16 << 20;
const VERSION_PATH: &str = "oci-layout";
const VERSION_TEXT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX_PATH: &str = "index.json";
/// How often a change of `index.json` is tried while others change it, too.
const TRIES_MAX: u32 = 16;

/// The files of a layout, by their path in it.
#[async_trait]
pub(crate) trait LayoutFiles: Send + Sync {
    /// Returns where the layout is, for messages; it holds no secrets.
    fn place(&self) -> String;

    /// Reads a small file whole; `None` if there is none.
    async fn get(&self, path: &str, len_max: u64) -> Result<Option<SmallFile>, FetchError>;

    /// Writes a small file whole if its present version is `expected`; returns false if it is not.
    ///
    /// A store that cannot compare versions writes always.
    async fn put(&self, path: &str, bytes: Bytes, expected: Expected) -> Result<bool, FetchError>;
}

/// A file and its version.
#[derive(Debug, Clone)]
pub(crate) struct SmallFile {
    pub(crate) bytes: Bytes,
    /// What the store calls this version; `None` if it has no names for versions.
    pub(crate) version: Option<FileVersion>,
}

/// The name of a version of a file.
#[derive(Debug, Clone)]
pub(crate) struct FileVersion {
    pub(crate) e_tag: Option<String>,
    #[cfg_attr(not(feature = "object-store"), expect(dead_code, reason = "web servers have none"))]
    pub(crate) version: Option<String>,
}

/// What must be there for a write to happen.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    Anything,
    Nothing,
    Version(FileVersion),
}

/// Returns the path of a blob in a layout.
pub(crate) fn blob_path(blob: BlobId) -> String {
    format!("blobs/sha256/{}", blob.to_hex())
}

/// Returns `selector` if there is one, else the digest of the only manifest.
pub(crate) async fn resolve(
    files: &dyn LayoutFiles,
    selector: Option<&ManifestSelector>,
) -> Result<ManifestSelector, FetchError> {
    if let Some(selector) = selector {
        return Ok(selector.clone());
    }
    let (index, _) = read_index(files).await?;
    index.only(&PathBuf::from(files.place())).map(ManifestSelector::Digest)
}

/// Reads a manifest: two files for a tag, one for a digest.
pub(crate) async fn fetch_manifest(
    files: &dyn LayoutFiles,
    selector: &ManifestSelector,
) -> Result<StoredManifest, FetchError> {
    let (id, media_type) = match selector {
        ManifestSelector::Digest(id) => (*id, None),
        ManifestSelector::Tag(tag) => {
            let (index, _) = read_index(files).await?;
            let entry = index.find(selector);
            let found = entry.and_then(|entry| Some((entry.blob?.id, entry.media_type.clone())));
            let missing =
                || FetchError::NotFound { what: format!("tag {tag} in {}", files.place()) };
            found.ok_or_else(missing)?
        }
    };
    let path = blob_path(id);
    let file = files.get(&path, MANIFEST_LEN_MAX).await?;
    let file = file
        .ok_or_else(|| FetchError::NotFound { what: format!("blob {id} in {}", files.place()) })?;
    let actual = BlobId::of(&file.bytes);
    if actual != id {
        return Err(FetchError::DigestMismatch { expected: id, actual });
    }
    Ok(StoredManifest { id, media_type, bytes: file.bytes })
}

/// Writes a manifest and then, last of all, its entry in `index.json`.
pub(crate) async fn put_manifest(
    files: &dyn LayoutFiles,
    selector: &ManifestSelector,
    media_type: &str,
    bytes: Bytes,
) -> Result<BlobId, FetchError> {
    let id = selector.check_content(&bytes)?;
    let blob = BlobDescriptor { id, len: bytes.len() as u64 };
    let json: Value = serde_json::from_slice(&bytes)
        .map_err(|error| FetchError::InvalidManifest { problem: error.to_string() })?;
    let artifact_type = json.get("artifactType").and_then(Value::as_str);
    files.put(&blob_path(id), bytes, Expected::Anything).await?;
    if files.get(VERSION_PATH, INDEX_LEN_MAX).await?.is_none() {
        let text = Bytes::from_static(VERSION_TEXT);
        // Whoever is faster writes the same.
        files.put(VERSION_PATH, text, Expected::Nothing).await?;
    }
    for _ in 0..TRIES_MAX {
        let (mut index, expected) = read_index(files).await?;
        if !index.insert(selector, &blob, media_type, artifact_type) {
            return Ok(id);
        }
        if files.put(INDEX_PATH, index.to_json().into(), expected).await? {
            return Ok(id);
        }
    }
    Err(FetchError::Contended { place: files.place(), tries: TRIES_MAX })
}

async fn read_index(files: &dyn LayoutFiles) -> Result<(LayoutIndex, Expected), FetchError> {
    match files.get(INDEX_PATH, INDEX_LEN_MAX).await? {
        None => Ok((LayoutIndex::empty(), Expected::Nothing)),
        Some(SmallFile { bytes, version }) => {
            let index = LayoutIndex::parse(&bytes, &PathBuf::from(files.place()))?;
            Ok((index, version.map_or(Expected::Anything, Expected::Version)))
        }
    }
}
