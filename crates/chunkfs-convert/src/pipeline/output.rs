//! Putting the chunks of a layer back into order and appending them to its blobs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use chunkfs_fetch::BlobDescriptor;
use chunkfs_format::{BlobId, ChunkEncoder, ChunkId, Codec};
use chunkfs_index::{Blob, BlobIndex, Chunk, Location};

use super::blobs::BlobLanes;
use super::context::Context;
use super::lock;
use super::pool::Job;
use super::upload::Upload;
use crate::error::ConvertError;
use crate::reuse::FoundChunk;

/// The blobs and the chunk table of one layer as they come into being.
#[derive(Debug, Default)]
pub(crate) struct LayerOutput {
    state: Mutex<State>,
    /// The lowest ordinal at which each chunk was seen so far.
    seen: Mutex<HashMap<ChunkId, u32>>,
}

#[derive(Debug, Default)]
struct State {
    /// Results that wait for an earlier one.
    waiting: BTreeMap<u32, Done>,
    /// The number of chunks in the layer, once it is known.
    total: Option<u32>,
    tables: OutputTables,
    chunk_by_id: HashMap<ChunkId, u32>,
    blob_by_id: HashMap<BlobId, u32>,
    lanes: BlobLanes,
}

/// The finished tables of a layer.
#[derive(Debug, Default)]
pub(crate) struct OutputTables {
    /// For each ordinal the position in `chunks`.
    pub(crate) chunk_of_ordinal: Vec<u32>,
    /// The different chunks, with positions in `blobs` as their locations.
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) blobs: Vec<Blob>,
    /// How many of the chunks were found in a reused image.
    pub(crate) reused_chunks: u64,
}

/// A chunk that a worker is done with.
#[derive(Debug)]
struct Done {
    lane: usize,
    id: ChunkId,
    uncompressed_len: u32,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// The bytes to store.
    Stored(Codec, Vec<u8>),
    /// A chunk of a reused image.
    Found(FoundChunk),
    /// Equal to a chunk with a lower ordinal.
    Repeated,
}

impl LayerOutput {
    /// Hashes and compresses a chunk, and appends whatever is next in order.
    pub(crate) fn process(
        &self,
        job: Job,
        encoder: &mut ChunkEncoder,
        context: &Context<'_>,
    ) -> Result<(), ConvertError> {
        let Job { ordinal, lane, uncompressed, .. } = job;
        let id = context.options.algorithm.chunk_id(&uncompressed);
        let uncompressed_len =
            u32::try_from(uncompressed.len()).expect("chunks are at most 16 MiB");
        let form = if !self.is_first(id, ordinal) {
            context.pool.recycle(uncompressed);
            Form::Repeated
        } else if let Some(found) = context.reuse.find_chunk(&id, uncompressed_len) {
            context.pool.recycle(uncompressed);
            Form::Found(found)
        } else {
            match encoder.encode(&uncompressed)? {
                (Codec::Raw, _) => Form::Stored(Codec::Raw, uncompressed),
                (codec, stored) => {
                    let stored = stored.to_vec();
                    context.pool.recycle(uncompressed);
                    Form::Stored(codec, stored)
                }
            }
        };
        let mut state = lock(&self.state);
        state.waiting.insert(ordinal, Done { lane, id, uncompressed_len, form });
        state.drain(context)
    }

    /// Says how many chunks the layer has; whoever appends the last one completes its last blob.
    pub(crate) fn finish(&self, total: u32, context: &Context<'_>) -> Result<(), ConvertError> {
        let mut state = lock(&self.state);
        state.total = Some(total);
        state.drain(context)
    }

    /// Takes the tables once all chunks are appended.
    pub(crate) fn take_tables(&self) -> OutputTables {
        std::mem::take(&mut lock(&self.state).tables)
    }

    /// Returns whether no chunk with this id and a lower ordinal was seen.
    ///
    /// The lowest of several equal chunks always gets true, whichever worker comes first; a higher
    /// one may get it as well, and its bytes are then dropped.
    fn is_first(&self, id: ChunkId, ordinal: u32) -> bool {
        let mut seen = lock(&self.seen);
        let lowest = seen.entry(id).or_insert(ordinal);
        let is_first = ordinal <= *lowest;
        *lowest = ordinal.min(*lowest);
        is_first
    }
}

impl OutputTables {
    /// Takes note of blobs whose bytes were moved behind those of another one: for each position
    /// in the blob table the new position and the offset there. Sorts the chunks by their places.
    pub(super) fn relocate(&mut self, moved: &[(u32, u64)]) {
        // Blobs whose bytes were moved leave the table.
        let mut new_positions = Vec::with_capacity(moved.len());
        let mut blobs = Vec::with_capacity(self.blobs.len());
        for (blob, (position, (target, _))) in self.blobs.iter().zip((0..).zip(moved)) {
            new_positions.push(blobs.len() as u32);
            if position == *target {
                blobs.push(*blob);
            }
        }
        self.blobs = blobs;
        for chunk in &mut self.chunks {
            let (target, offset) = moved[chunk.location.blob.get() as usize];
            chunk.location.blob = BlobIndex::new(new_positions[target as usize]);
            chunk.location.offset += offset;
        }
        let mut order: Vec<u32> = (0..).zip(&self.chunks).map(|(position, _)| position).collect();
        let place = |position: &u32| {
            let location = self.chunks[*position as usize].location;
            (location.blob, location.offset)
        };
        order.sort_by_key(place);
        let mut new_of = vec![0; order.len()];
        for (new, old) in (0..).zip(&order) {
            new_of[*old as usize] = new;
        }
        self.chunks = order.iter().map(|old| self.chunks[*old as usize]).collect();
        for chunk in &mut self.chunk_of_ordinal {
            *chunk = new_of[*chunk as usize];
        }
    }
}

impl State {
    fn drain(&mut self, context: &Context<'_>) -> Result<(), ConvertError> {
        let next = |state: &Self| u32::try_from(state.tables.chunk_of_ordinal.len()).unwrap_or(0);
        while let Some(done) = self.waiting.remove(&next(self)) {
            let uncompressed_len = u64::from(done.uncompressed_len);
            self.append(done, context)?;
            context.pool.release(uncompressed_len);
        }
        if self.total == Some(next(self)) {
            self.lanes.finish(&mut self.tables, context)?;
            self.total = None;
        }
        Ok(())
    }

    fn append(&mut self, done: Done, context: &Context<'_>) -> Result<(), ConvertError> {
        if let Some(chunk) = self.chunk_by_id.get(&done.id) {
            self.tables.chunk_of_ordinal.push(*chunk);
            return Ok(());
        }
        let location = match done.form {
            Form::Stored(codec, stored) => {
                self.lanes.store(done.lane, codec, &stored, &mut self.tables.blobs, context)?
            }
            Form::Found(found) => self.refer_to(found, context)?,
            Form::Repeated => {
                unreachable!("the first of equal chunks is appended before the others")
            }
        };
        let position = u32::try_from(self.tables.chunks.len()).expect("ordinals have 32 bits");
        let Done { id, uncompressed_len, .. } = done;
        self.tables.chunks.push(Chunk { id, uncompressed_len, location });
        self.tables.chunk_of_ordinal.push(position);
        self.chunk_by_id.insert(id, position);
        Ok(())
    }

    /// Refers to a chunk of a reused image, whose blob is then needed at the destination.
    fn refer_to(
        &mut self,
        found: FoundChunk,
        context: &Context<'_>,
    ) -> Result<Location, ConvertError> {
        self.tables.reused_chunks += 1;
        let index = match self.blob_by_id.get(&found.blob.id) {
            Some(index) => *index,
            None => {
                let index = push_blob(&mut self.tables.blobs, found.blob)?;
                self.blob_by_id.insert(found.blob.id, index);
                let blob = BlobDescriptor { id: found.blob.id, len: found.blob.len };
                context.uploader.push(Upload::Reuse { blob, image: found.image })?;
                index
            }
        };
        Ok(Location { blob: BlobIndex::new(index), ..found.location })
    }
}

pub(super) fn push_blob(blobs: &mut Vec<Blob>, blob: Blob) -> Result<u32, ConvertError> {
    let too_many = || chunkfs_index::BuildError::TooMany { table: "blob" };
    let index = u16::try_from(blobs.len()).map_err(|_| too_many())?;
    blobs.push(blob);
    Ok(index.into())
}
