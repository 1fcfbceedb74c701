//! Checks that every source and sink makes on what its callers give.

use std::fmt;
use std::ops::Range;

use chunkfs_format::BlobId;

use crate::error::FetchError;
use crate::manifest::MANIFEST_LEN_MAX;
use crate::source::{BlobDescriptor, ManifestSelector};

impl BlobDescriptor {
    /// Returns an error unless `range` lies within the blob.
    pub(crate) fn check_range(&self, range: &Range<u64>) -> Result<(), FetchError> {
        if range.start > range.end || range.end > self.len {
            let range = range.clone();
            return Err(FetchError::OutOfRange { blob: self.id, range, len: self.len });
        }
        Ok(())
    }

    /// Returns an error unless `bytes` are the content of the blob.
    pub(crate) fn check_content(&self, bytes: &[u8]) -> Result<(), FetchError> {
        let actual = bytes.len() as u64;
        if actual != self.len {
            return Err(FetchError::LenMismatch { blob: self.id, expected: self.len, actual });
        }
        let actual = BlobId::of(bytes);
        if actual != self.id {
            return Err(FetchError::DigestMismatch { expected: self.id, actual });
        }
        Ok(())
    }
}

impl ManifestSelector {
    /// Returns the digest of a manifest to be stored, if it may be stored under this selector.
    pub(crate) fn check_content(&self, bytes: &[u8]) -> Result<BlobId, FetchError> {
        if bytes.len() as u64 > MANIFEST_LEN_MAX {
            return Err(FetchError::TooLarge {
                what: format!("manifest {self}"),
                len: bytes.len() as u64,
                len_max: MANIFEST_LEN_MAX,
            });
        }
        let actual = BlobId::of(bytes);
        match self {
            Self::Digest(expected) if *expected != actual => {
                Err(FetchError::DigestMismatch { expected: *expected, actual })
            }
            _ => Ok(actual),
        }
    }
}

impl fmt::Display for ManifestSelector {
    /// Writes the tag or the digest, without the `:` or `@` before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(id) => id.fmt(f),
        }
    }
}
