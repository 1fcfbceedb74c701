//! What the server holds.

use std::collections::HashMap;

use bytes::Bytes;
use chunkfs_format::BlobId;

/// Blobs and manifests by repository.
#[derive(Debug, Default)]
pub(crate) struct Content {
    blobs: HashMap<(String, BlobId), Bytes>,
    /// By repository and tag or digest: media type and content.
    manifests: HashMap<(String, String), (String, Bytes)>,
    /// Plain files by path.
    files: HashMap<String, Bytes>,
    /// Signed URLs by signature.
    signed: HashMap<String, Signed>,
    signature_count: u64,
}

#[derive(Debug)]
struct Signed {
    content: Bytes,
    uses_left: Option<u64>,
}

impl Content {
    pub(crate) fn add_blob(&mut self, repository: &str, bytes: Bytes) -> BlobId {
        let id = BlobId::of(&bytes);
        self.blobs.insert((repository.to_owned(), id), bytes);
        id
    }

    pub(crate) fn blob(&self, repository: &str, id: BlobId) -> Option<Bytes> {
        self.blobs.get(&(repository.to_owned(), id)).cloned()
    }

    pub(crate) fn remove_blob(&mut self, repository: &str, id: BlobId) -> bool {
        self.blobs.remove(&(repository.to_owned(), id)).is_some()
    }

    pub(crate) fn add_manifest(
        &mut self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> BlobId {
        let id = BlobId::of(&bytes);
        for reference in [reference.to_owned(), id.to_string()] {
            let stored = (media_type.to_owned(), bytes.clone());
            self.manifests.insert((repository.to_owned(), reference), stored);
        }
        id
    }

    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> Option<(String, Bytes)> {
        self.manifests.get(&(repository.to_owned(), reference.to_owned())).cloned()
    }

    pub(crate) fn file(&self, path: &str) -> Option<Bytes> {
        self.files.get(path).cloned()
    }

    pub(crate) fn add_file(&mut self, path: &str, bytes: Bytes) {
        self.files.insert(path.to_owned(), bytes);
    }

    /// Makes content readable under a new signature, which it returns.
    pub(crate) fn sign(&mut self, content: Bytes, uses_left: Option<u64>) -> String {
        self.signature_count += 1;
        let signature = format!("secret-signature-{}", self.signature_count);
        self.signed.insert(signature.clone(), Signed { content, uses_left });
        signature
    }

    /// Returns signed content and counts the use, or `None` if the signature is not valid (any more).
    pub(crate) fn signed(&mut self, signature: &str) -> Option<Bytes> {
        let signed = self.signed.get_mut(signature)?;
        if let Some(uses_left) = &mut signed.uses_left {
            *uses_left = uses_left.checked_sub(1)?;
        }
        Some(signed.content.clone())
    }

    pub(crate) fn expire_signatures(&mut self) {
        self.signed.clear();
    }
}
