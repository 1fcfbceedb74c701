//! Writing a fragment.

use chunkfs_format::wire::WriteExt as _;
use chunkfs_index::Device;

use super::{Fragment, HOLE, LEVEL, MAGIC, VERSION, kind};
use crate::entry::{EntryKind, LayerEntry};

impl Fragment {
    /// Returns the fragment as one zstd frame: equal fragments give equal bytes.
    pub(crate) fn compress(&self) -> std::io::Result<Vec<u8>> {
        zstd::bulk::compress(&self.encode(), LEVEL)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.put_u16(VERSION);
        let counters = &self.counters;
        bytes.put_u64(counters.files);
        bytes.put_u64(counters.source_bytes);
        bytes.put_u64(counters.packed_files);
        bytes.put_u64(counters.cut_chunks);
        put_count(&mut bytes, self.blobs.len());
        for blob in &self.blobs {
            bytes.extend_from_slice(blob.id.as_bytes());
            bytes.put_u64(blob.len);
        }
        put_count(&mut bytes, self.chunks.len());
        for chunk in &self.chunks {
            bytes.extend_from_slice(chunk.id.as_bytes());
            bytes.put_u32(chunk.uncompressed_len);
            bytes.put_u32(chunk.location.blob.get());
            bytes.put_u64(chunk.location.offset);
            bytes.put_u32(chunk.location.stored_len);
            bytes.push(chunk.location.codec.code());
        }
        put_count(&mut bytes, self.entries.len());
        for entry in &self.entries {
            put_entry(&mut bytes, entry);
        }
        bytes
    }
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.put_u32(u32::try_from(count).expect("tables have fewer than 2^32 records"));
}

fn put_entry(bytes: &mut Vec<u8>, entry: &LayerEntry) {
    let attributes = &entry.attributes;
    bytes.put_string(&entry.path);
    bytes.put_u16(attributes.permissions);
    bytes.put_u32(attributes.uid);
    bytes.put_u32(attributes.gid);
    bytes.put_i64(attributes.mtime.seconds);
    bytes.put_u32(attributes.mtime.nanos);
    put_count(bytes, attributes.xattrs.len());
    for (name, value) in &attributes.xattrs {
        bytes.put_string(name);
        bytes.put_string(value);
    }
    match &entry.kind {
        EntryKind::Whiteout => bytes.push(kind::WHITEOUT),
        EntryKind::OpaqueWhiteout => bytes.push(kind::OPAQUE_WHITEOUT),
        EntryKind::Directory => bytes.push(kind::DIRECTORY),
        EntryKind::Regular(parts) => {
            bytes.push(kind::REGULAR);
            put_count(bytes, parts.len());
            for part in parts {
                let (chunk, offset) = part.chunk.unwrap_or((HOLE, 0));
                bytes.put_u64(part.len);
                bytes.put_u32(chunk);
                bytes.put_u32(offset);
            }
        }
        EntryKind::Symlink(target) => {
            bytes.push(kind::SYMLINK);
            bytes.put_string(target);
        }
        EntryKind::HardLink(target) => {
            bytes.push(kind::HARD_LINK);
            bytes.put_string(target);
        }
        EntryKind::CharDevice(device) => put_device(bytes, kind::CHAR_DEVICE, device),
        EntryKind::BlockDevice(device) => put_device(bytes, kind::BLOCK_DEVICE, device),
        EntryKind::Fifo => bytes.push(kind::FIFO),
        EntryKind::Socket => bytes.push(kind::SOCKET),
    }
}

fn put_device(bytes: &mut Vec<u8>, kind: u8, device: &Device) {
    bytes.push(kind);
    bytes.put_u32(device.major);
    bytes.put_u32(device.minor);
}
