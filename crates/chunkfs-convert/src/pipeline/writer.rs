//! Cutting the content of a layer's files into chunks.

use std::io::Read;
use std::sync::Arc;

use chunkfs_format::{GRID, PACK_LANE_COUNT, PIECE_HEAD_LEN, Packer, PieceCutter, pack_lane};
use chunkfs_index::{Attributes, Chunk};

use super::context::Context;
use super::output::LayerOutput;
use super::pool::Job;
use crate::entry::{EntryKind, LayerEntry, Part, validate_entry};
use crate::error::{LayerError, display_path};
use crate::tar::Region;

/// Collects the entries of one layer and sends the content of its files to the workers.
#[derive(Debug)]
pub(crate) struct LayerWriter<'a> {
    context: &'a Context<'a>,
    content: LayerContent,
    /// By lane; none if nothing is packed.
    pack_lanes: Vec<PackLane>,
    ordinal_count: u32,
    small_file: Vec<u8>,
}

/// The pack of one lane that is being filled.
#[derive(Debug)]
struct PackLane {
    packer: Packer,
    /// The slot of the pack, once it has a file.
    slot: Option<u32>,
}

/// What a layer holds, with chunks named by slots until all of them are stored.
///
/// A slot is taken when a chunk is begun, its ordinal when it is complete: large files overtake
/// the pack that is being filled.
#[derive(Debug, Default)]
pub(crate) struct LayerContent {
    pub(crate) entries: Vec<LayerEntry>,
    pub(crate) counters: LayerCounters,
    ordinal_of_slot: Vec<u32>,
    output: Arc<LayerOutput>,
}

/// What was counted while a layer was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LayerCounters {
    pub(crate) files: u64,
    pub(crate) source_bytes: u64,
    pub(crate) packed_files: u64,
    /// The chunks that files were cut into, repeated ones included.
    pub(crate) cut_chunks: u64,
}

/// The chunk table and blobs of a layer whose content is all stored.
#[derive(Debug)]
pub(crate) struct StoredLayer {
    pub(crate) entries: Vec<LayerEntry>,
    pub(crate) counters: LayerCounters,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) blobs: Vec<chunkfs_index::Blob>,
    pub(crate) reused_chunks: u64,
}

impl<'a> LayerWriter<'a> {
    pub(crate) fn new(context: &'a Context<'a>) -> Self {
        let options = context.options;
        Self {
            context,
            content: LayerContent::default(),
            pack_lanes: (0..PACK_LANE_COUNT)
                .filter_map(|_| Packer::new(options.chunk_size, options.pack_size))
                .map(|packer| PackLane { packer, slot: None })
                .collect(),
            ordinal_count: 0,
            small_file: Vec::new(),
        }
    }

    /// Adds an entry that has no content of its own.
    pub(crate) fn add(&mut self, entry: LayerEntry) -> Result<(), LayerError> {
        validate_entry(&entry)
            .map_err(|problem| LayerError::Entry { entry: display_path(&entry.path), problem })?;
        self.context.charge_entry(entry.cost())?;
        self.content.entries.push(entry);
        Ok(())
    }

    /// Adds a regular file of `len` bytes and reads its content: the bytes of `regions` in their
    /// order, or all bytes if there is no sparse map.
    pub(crate) fn add_regular(
        &mut self,
        path: Vec<u8>,
        attributes: Attributes,
        len: u64,
        regions: Option<Vec<Region>>,
        content: &mut dyn Read,
    ) -> Result<(), LayerError> {
        let regions = regions.unwrap_or_else(|| vec![Region { offset: 0, len }]);
        let has_data = regions.iter().any(|region| region.len != 0);
        self.content.counters.files += 1;
        self.content.counters.source_bytes += regions.iter().map(|region| region.len).sum::<u64>();
        let mut content = RegionReader { regions: &regions, current: 0, content, path: &path };
        let is_small = |lane: &PackLane| lane.packer.accepts(len);
        let parts = if has_data && self.pack_lanes.first().is_some_and(is_small) {
            vec![self.pack(&path, len, &mut content)?]
        } else {
            self.cut(len, &mut content)?
        };
        self.add(LayerEntry { path, attributes, kind: EntryKind::Regular(parts) })
    }

    /// Sends the last pack and tells the output that nothing follows.
    pub(crate) fn finish(mut self) -> Result<LayerContent, LayerError> {
        for (lane, PackLane { packer, slot }) in
            std::mem::take(&mut self.pack_lanes).into_iter().enumerate()
        {
            if let (Some(pack), Some(slot)) = (packer.finish(), slot) {
                self.submit(slot, Some(lane), pack)?;
            }
        }
        self.content.counters.cut_chunks = self.ordinal_count.into();
        let finished = self.content.output.finish(self.ordinal_count, self.context);
        finished.map_err(|error| self.stop(error))?;
        Ok(self.content)
    }

    /// Hands an error that does not belong to the layer to the conversion.
    fn stop(&self, error: crate::ConvertError) -> LayerError {
        self.context.fail(error);
        LayerError::Stopped
    }

    fn pack(
        &mut self,
        path: &[u8],
        len: u64,
        content: &mut RegionReader<'_>,
    ) -> Result<Part, LayerError> {
        let mut small_file = std::mem::take(&mut self.small_file);
        // The packer accepts nothing longer than a chunk.
        small_file.resize(usize::try_from(len).unwrap_or(0), 0);
        content.read_range(0, &mut small_file)?;
        let lane = pack_lane(path);
        let packed = self.pack_lanes[lane].packer.add(&small_file);
        self.small_file = small_file;
        if let Some(pack) = packed.completed_before {
            self.submit_pack(lane, pack)?;
        }
        let slot = match self.pack_lanes[lane].slot {
            Some(slot) => slot,
            None => self.new_slot()?,
        };
        self.pack_lanes[lane].slot = Some(slot);
        if let Some(pack) = packed.completed_after {
            self.submit_pack(lane, pack)?;
        }
        self.content.counters.packed_files += 1;
        Ok(Part { len, chunk: Some((slot, packed.offset)) })
    }

    fn submit_pack(&mut self, lane: usize, pack: Vec<u8>) -> Result<(), LayerError> {
        let slot = self.pack_lanes[lane].slot.take();
        self.submit(slot.expect("a pack has a file, which took the slot"), Some(lane), pack)
    }

    /// Cuts what a file stores into pieces.
    fn cut(&mut self, len: u64, content: &mut RegionReader<'_>) -> Result<Vec<Part>, LayerError> {
        let ranges = grid_ranges(content.regions, len);
        // A file that begins with a hole begins with zeros.
        let head_end = ranges.first().filter(|(start, _)| *start == 0).map_or(0, |(_, end)| *end);
        let mut head = [0; PIECE_HEAD_LEN];
        let head_len = usize::try_from(head_end).unwrap_or(usize::MAX).min(PIECE_HEAD_LEN);
        let head = &mut head[..head_len];
        content.read_range(0, head)?;
        let cutter = PieceCutter::new(self.context.options.chunk_size, head);
        let mut parts = Vec::new();
        let mut at = 0;
        for (start, end) in ranges {
            if at < start {
                parts.push(Part { len: start - at, chunk: None });
            }
            at = start;
            while at < end {
                let piece_end = end.min(cutter.piece_end(at));
                let mut buffer = self.context.pool.buffer();
                // At most a chunk, which fits into memory.
                buffer.resize((piece_end - at) as usize, 0);
                // The first piece is at least as long as the head.
                let read_len = if at == 0 { head.len() } else { 0 };
                let (read, rest) = buffer.split_at_mut(read_len);
                read.copy_from_slice(&head[..read_len]);
                content.read_range(at + read_len as u64, rest)?;
                let slot = self.new_slot()?;
                self.submit(slot, None, buffer)?;
                parts.push(Part { len: piece_end - at, chunk: Some((slot, 0)) });
                at = piece_end;
            }
        }
        if at < len {
            parts.push(Part { len: len - at, chunk: None });
        }
        Ok(parts)
    }

    fn new_slot(&mut self) -> Result<u32, LayerError> {
        let slot = u32::try_from(self.content.ordinal_of_slot.len());
        self.content.ordinal_of_slot.push(u32::MAX);
        slot.map_err(|_| LayerError::TooManyEntries)
    }

    /// Sends a complete chunk to the workers: a pack of a lane, or a piece of a large file.
    fn submit(
        &mut self,
        slot: u32,
        pack_lane: Option<usize>,
        uncompressed: Vec<u8>,
    ) -> Result<(), LayerError> {
        let ordinal = self.ordinal_count;
        self.ordinal_count = ordinal.checked_add(1).ok_or(LayerError::TooManyEntries)?;
        if let Some(place) = self.content.ordinal_of_slot.get_mut(slot as usize) {
            *place = ordinal;
        }
        let output = Arc::clone(&self.content.output);
        let lane = pack_lane.map_or(0, |lane| lane + 1);
        self.context.pool.submit(Job { output, ordinal, lane, uncompressed })
    }
}

impl LayerContent {
    /// Replaces slots by positions in the chunk table, once all workers are done.
    pub(crate) fn into_stored(mut self) -> StoredLayer {
        let tables = self.output.take_tables();
        for entry in &mut self.entries {
            let EntryKind::Regular(parts) = &mut entry.kind else { continue };
            for (slot, _) in parts.iter_mut().filter_map(|part| part.chunk.as_mut()) {
                let ordinal = self.ordinal_of_slot[*slot as usize];
                *slot = tables.chunk_of_ordinal[ordinal as usize];
            }
        }
        StoredLayer {
            entries: self.entries,
            counters: self.counters,
            chunks: tables.chunks,
            blobs: tables.blobs,
            reused_chunks: tables.reused_chunks,
        }
    }
}

/// Widens regions to the grid and joins those that then touch.
fn grid_ranges(regions: &[Region], file_len: u64) -> Vec<(u64, u64)> {
    let grid = u64::from(GRID);
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for region in regions.iter().filter(|region| region.len != 0) {
        let start = region.offset / grid * grid;
        // Regions end inside the file, whose length is below 2^63.
        let end = (region.offset + region.len).next_multiple_of(grid).min(file_len);
        match ranges.last_mut() {
            Some((_, last_end)) if start <= *last_end => *last_end = end.max(*last_end),
            _ => ranges.push((start, end)),
        }
    }
    ranges
}

/// Reads ranges of a file from its stored regions, which come one after another.
struct RegionReader<'a> {
    regions: &'a [Region],
    current: usize,
    content: &'a mut dyn Read,
    path: &'a [u8],
}

impl RegionReader<'_> {
    /// Fills `buffer` with the bytes from `start` on; ranges are asked for in ascending order.
    fn read_range(&mut self, start: u64, buffer: &mut [u8]) -> Result<(), LayerError> {
        let end = start + buffer.len() as u64;
        let mut at = start;
        let mut rest = buffer;
        while let Some(region) = self.regions.get(self.current) {
            let region_end = region.offset + region.len;
            if region.offset >= end {
                break;
            }
            let (data_start, data_end) = (region.offset.max(at), region_end.min(end));
            let (gap, after) = rest.split_at_mut((data_start - at) as usize);
            gap.fill(0);
            let (data, after) = after.split_at_mut((data_end - data_start) as usize);
            self.fill(data)?;
            (rest, at) = (after, data_end);
            if region_end > end {
                break;
            }
            self.current += 1;
        }
        rest.fill(0);
        Ok(())
    }

    fn fill(&mut self, data: &mut [u8]) -> Result<(), LayerError> {
        self.content.read_exact(data).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                return LayerError::EntryTruncated { entry: display_path(self.path) };
            }
            LayerError::from_io(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_widened_to_the_grid_and_joined() {
        let region = |offset, len| Region { offset, len };
        for (regions, file_len, expected) in [
            (vec![], 100, vec![]),
            (vec![region(0, 100)], 100, vec![(0, 100)]),
            (vec![region(5000, 1)], 100_000, vec![(4096, 8192)]),
            (vec![region(1, 1), region(4096, 1)], 9000, vec![(0, 8192)]),
            (vec![region(1, 1), region(8192, 1)], 8193, vec![(0, 4096), (8192, 8193)]),
            (vec![region(0, 10), region(20, 10)], 5000, vec![(0, 4096)]),
        ] {
            assert_eq!(grid_ranges(&regions, file_len), expected, "{regions:?}");
        }
    }

    #[test]
    fn ranges_are_filled_from_the_regions_and_with_zeros() {
        let regions = [
            Region { offset: 2, len: 3 },
            Region { offset: 5, len: 1 },
            Region { offset: 9, len: 4 },
        ];
        let stored: Vec<u8> = (1..=8).collect();
        let mut content = &stored[..];
        let mut reader =
            RegionReader { regions: &regions, current: 0, content: &mut content, path: b"" };
        let mut whole = Vec::new();
        for (start, len) in [(0u64, 4usize), (4, 6), (10, 5)] {
            let mut buffer = vec![0xff; len];
            reader.read_range(start, &mut buffer).unwrap();
            whole.extend(buffer);
        }
        assert_eq!(whole, [0, 0, 1, 2, 3, 4, 0, 0, 0, 5, 6, 7, 8, 0, 0]);
    }
}
