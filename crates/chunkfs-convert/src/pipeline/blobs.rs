//! The blobs that the chunks of a layer are appended to.
//!
//! Chunks that are likely to be wanted together should lie together, so that one request brings
//! them. Each lane (the pieces of large files, and each lane of packs) therefore fills blobs of its
//! own; what is left of them when the layer ends is joined lane after lane, so that a small
//! layer still has one blob.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};

use chunkfs_fetch::BlobDescriptor;
use chunkfs_format::{BlobHasher, BlobId, Codec, PACK_LANE_COUNT};
use chunkfs_index::{Blob, BlobIndex, Location};

use super::context::Context;
use super::output::{OutputTables, push_blob};
use super::upload::Upload;
use crate::error::ConvertError;

/// The pieces of large files, then each lane of packs.
const LANE_COUNT: usize = 1 + PACK_LANE_COUNT;

/// The blobs that the lanes of a layer are filling.
#[derive(Debug)]
pub(crate) struct BlobLanes {
    current: [Option<SpooledBlob>; LANE_COUNT],
}

impl Default for BlobLanes {
    fn default() -> Self {
        Self { current: [const { None }; LANE_COUNT] }
    }
}

/// A blob that is being written to a temporary file.
#[derive(Debug)]
struct SpooledBlob {
    file: File,
    hasher: BlobHasher,
    len: u64,
    /// The position in the blob table.
    index: u32,
}

impl BlobLanes {
    /// Appends stored bytes to the blob of a lane, or to a new one if they do not fit.
    pub(super) fn store(
        &mut self,
        lane: usize,
        codec: Codec,
        stored: &[u8],
        blobs: &mut Vec<Blob>,
        context: &Context<'_>,
    ) -> Result<Location, ConvertError> {
        let len = stored.len() as u64;
        let current = &mut self.current[lane];
        let fits = |blob: &mut SpooledBlob| blob.len + len <= context.options.blob_len_max;
        if let Some(full) = current.take_if(|blob| !fits(blob)) {
            full.complete(blobs, context)?;
        }
        let blob = match current {
            Some(blob) => blob,
            none => none.insert(SpooledBlob::new(blobs, context)?),
        };
        blob.file.write_all(stored).map_err(spool_error(context))?;
        blob.hasher.update(stored);
        let offset = blob.len;
        blob.len += len;
        let stored_len = u32::try_from(stored.len()).expect("stored chunks are at most 16 MiB");
        Ok(Location { blob: BlobIndex::new(blob.index), offset, stored_len, codec })
    }

    /// Joins what is left, completes it, and puts the chunks into the order of their places.
    pub(super) fn finish(
        &mut self,
        tables: &mut OutputTables,
        context: &Context<'_>,
    ) -> Result<(), ConvertError> {
        let mut joined: Option<SpooledBlob> = None;
        // By position in the blob table: the blob that holds its bytes now, and from where on.
        let mut moved: Vec<(u32, u64)> =
            (0..).zip(tables.blobs.iter()).map(|(at, _)| (at, 0)).collect();
        for blob in self.current.iter_mut().filter_map(Option::take) {
            let room = context.options.blob_len_max.saturating_sub(blob.len);
            if let Some(full) = joined.take_if(|joined| joined.len > room) {
                full.complete(&mut tables.blobs, context)?;
            }
            joined = Some(match joined {
                None => blob,
                Some(mut joined) => {
                    moved[blob.index as usize] = (joined.index, joined.len);
                    joined.append(blob, context)?;
                    joined
                }
            });
        }
        if let Some(last) = joined {
            last.complete(&mut tables.blobs, context)?;
        }
        tables.relocate(&moved);
        Ok(())
    }
}

impl SpooledBlob {
    fn new(blobs: &mut Vec<Blob>, context: &Context<'_>) -> Result<Self, ConvertError> {
        // The id is filled in when the blob is complete.
        let unknown = Blob { id: BlobId::from_bytes([0; 32]), len: 0 };
        let index = push_blob(blobs, unknown)?;
        Ok(Self { file: spool_file(context)?, hasher: BlobHasher::new(), len: 0, index })
    }

    fn append(&mut self, mut other: Self, context: &Context<'_>) -> Result<(), ConvertError> {
        let error = || spool_error(context);
        other.file.rewind().map_err(error())?;
        let mut target = HashingWriter { file: &mut self.file, hasher: &mut self.hasher };
        let len = io::copy(&mut other.file, &mut target).map_err(error())?;
        assert_eq!(len, other.len, "a spooled blob is read as it was written");
        self.len += len;
        Ok(())
    }

    fn complete(self, blobs: &mut [Blob], context: &Context<'_>) -> Result<(), ConvertError> {
        let Self { file, hasher, len, index } = self;
        let id = hasher.finish();
        if let Some(slot) = blobs.get_mut(index as usize) {
            *slot = Blob { id, len };
        }
        context.uploader.push(Upload::Put { blob: BlobDescriptor { id, len }, file })
    }
}

struct HashingWriter<'a> {
    file: &'a mut File,
    hasher: &'a mut BlobHasher,
}

impl io::Write for HashingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write(bytes)?;
        self.hasher.update(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

pub(super) fn spool_file(context: &Context<'_>) -> Result<File, ConvertError> {
    tempfile::tempfile_in(&context.options.spool_directory).map_err(spool_error(context))
}

pub(super) fn spool_error(context: &Context<'_>) -> impl FnOnce(std::io::Error) -> ConvertError {
    let directory = context.options.spool_directory.clone();
    move |source| ConvertError::Spool { directory, source }
}
