//! A layout whose files lie in a store that is not local: manifests and tags.
//!
//! The order of writes is blobs, manifest, `index.json`, so that a reader who finds a tag finds all
//! that it names, whenever the writer stops.

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_format::BlobId;

use super::index::{INDEX_LEN_MAX, LayoutIndex, NewManifest, VERSION_TEXT};
use crate::error::FetchError;
use crate::manifest::MANIFEST_LEN_MAX;
use crate::source::{ManifestSelector, StoredManifest};

const VERSION_PATH: &str = "oci-layout";
const INDEX_PATH: &str = "index.json";
/// How often a manifest is read that arrives damaged.
const DAMAGED_MAX: u32 = 4;
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
        tag => read_index(files).await?.0.find(tag, files.place())?,
    };
    let path = blob_path(id);
    let mut damaged_count = 0;
    loop {
        let file = files.get(&path, MANIFEST_LEN_MAX).await?;
        let missing = || FetchError::NotFound { what: format!("blob {id} in {}", files.place()) };
        let bytes = file.ok_or_else(missing)?.bytes;
        let actual = BlobId::of(&bytes);
        if actual == id {
            return Ok(StoredManifest { id, media_type, bytes });
        }
        damaged_count += 1;
        if damaged_count == DAMAGED_MAX {
            return Err(FetchError::DigestMismatch { expected: id, actual });
        }
    }
}

/// Writes a manifest and then, last of all, its entry in `index.json`.
pub(crate) async fn put_manifest(
    files: &dyn LayoutFiles,
    selector: &ManifestSelector,
    media_type: &str,
    bytes: Bytes,
) -> Result<BlobId, FetchError> {
    let manifest = NewManifest::parse(selector, media_type, &bytes)?;
    let id = manifest.blob.id;
    files.put(&blob_path(id), bytes, Expected::Anything).await?;
    if files.get(VERSION_PATH, INDEX_LEN_MAX).await?.is_none() {
        let text = Bytes::from_static(VERSION_TEXT);
        // Whoever is faster writes the same.
        files.put(VERSION_PATH, text, Expected::Nothing).await?;
    }
    for _ in 0..TRIES_MAX {
        let (mut index, expected) = read_index(files).await?;
        if !index.insert(&manifest) {
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
