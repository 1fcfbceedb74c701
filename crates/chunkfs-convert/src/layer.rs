//! Reading one layer into a [`LayerWriter`].

use std::io::Read;

use crate::entry::{EntryKind, LayerEntry, WhiteoutName, normalize_path, split_path};
use crate::error::{LayerError, display_path};
use crate::pipeline::LayerWriter;
use crate::tar::{TarEntry, TarKind, TarReader};

/// Reads a whole archive, and whatever follows it to the end of the stream.
pub(crate) fn read_archive(
    archive: impl Read,
    writer: &mut LayerWriter<'_>,
) -> Result<(), LayerError> {
    let mut tar = TarReader::new(archive);
    while let Some(entry) = tar.next_entry()? {
        add_entry(entry, &mut tar, writer)?;
    }
    tar.drain()
}

fn add_entry<R: Read>(
    entry: TarEntry,
    tar: &mut TarReader<R>,
    writer: &mut LayerWriter<'_>,
) -> Result<(), LayerError> {
    let TarEntry { path: written_path, mut attributes, kind } = entry;
    let error = |problem| LayerError::Entry { entry: display_path(&written_path), problem };
    let path = normalize_path(&written_path).map_err(error)?;
    let (parent, name) = split_path(&path);
    let is_bookkeeping =
        |name: &[u8]| matches!(WhiteoutName::parse(name), Ok(WhiteoutName::Ignored));
    if parent.split(|byte| *byte == b'/').any(is_bookkeeping) {
        return Ok(());
    }
    let whiteout = WhiteoutName::parse(name.unwrap_or(b"")).map_err(error)?;
    let (path, kind) = match (whiteout, kind) {
        (WhiteoutName::Ignored, _) => return Ok(()),
        (WhiteoutName::Opaque, _) => (parent.to_vec(), EntryKind::OpaqueWhiteout),
        (WhiteoutName::Remove(name), _) => {
            let mut path = parent.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            (path, EntryKind::Whiteout)
        }
        (WhiteoutName::None, TarKind::Regular { len, regions }) => {
            return writer.add_regular(path, attributes, len, regions, tar);
        }
        (WhiteoutName::None, TarKind::Directory) => (path, EntryKind::Directory),
        (WhiteoutName::None, TarKind::Symlink(target)) => {
            // Linux knows no other permissions of symbolic links.
            attributes.permissions = 0o777;
            (path, EntryKind::Symlink(target))
        }
        (WhiteoutName::None, TarKind::HardLink(target)) => {
            let target = normalize_path(&target)
                .map_err(|_| error("the target of its hard link is no path inside the image"))?;
            (path, EntryKind::HardLink(target))
        }
        (WhiteoutName::None, TarKind::CharDevice(device)) => (path, EntryKind::CharDevice(device)),
        (WhiteoutName::None, TarKind::BlockDevice(device)) => {
            (path, EntryKind::BlockDevice(device))
        }
        (WhiteoutName::None, TarKind::Fifo) => (path, EntryKind::Fifo),
    };
    writer.add(LayerEntry { path, attributes, kind })
}
