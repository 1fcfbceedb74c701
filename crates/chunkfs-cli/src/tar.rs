//! Writing a tree as a PAX tar archive.

use std::collections::HashMap;
use std::io::Write;

use anyhow::Context as _;
use chunkfs_image::Image;
use chunkfs_index::{FileKind, Index, Inode, InodeIndex, PieceSource, Timestamp};
use tar_core::builder::EntryBuilder;
use tar_core::{EntryType, SparseEntry};

/// Bytes that are read at a time.
const STEP_LEN: u64 = 4 << 20;
const BLOCK_LEN: u64 = 512;

/// Writes the whole tree: folders before their content, names in byte order, holes as holes.
///
/// Sockets are left out, which tar cannot hold.
pub(crate) async fn export(image: &Image, output: &mut impl Write) -> anyhow::Result<()> {
    let index = image.index();
    let mut first_names: HashMap<InodeIndex, Vec<u8>> = HashMap::new();
    let mut stack = vec![(index.root(), b"./".to_vec(), 0)];
    write_entry(image, &index.root(), b"./", None, output).await?;
    while let Some((directory, directory_path, position)) = stack.pop() {
        let Some(dirent) = index.dirent(&directory, position) else { continue };
        let mut path = directory_path.clone();
        path.extend_from_slice(dirent.name);
        stack.push((directory, directory_path, position + 1));
        let inode = index.inode(dirent.inode).context("the index names a missing inode")?;
        let is_directory = inode.kind == FileKind::Directory;
        if is_directory {
            path.push(b'/');
        }
        let first_name = first_names.get(&inode.index).cloned();
        write_entry(image, &inode, &path, first_name.as_deref(), output)
            .await
            .with_context(|| format!("{} cannot be exported", String::from_utf8_lossy(&path)))?;
        if is_directory {
            stack.push((inode, path, 0));
        } else if inode.link_count > 1 {
            first_names.entry(inode.index).or_insert(path);
        }
    }
    output.write_all(&[0; 2 * BLOCK_LEN as usize])?;
    Ok(())
}

async fn write_entry(
    image: &Image,
    inode: &Inode,
    path: &[u8],
    hard_link_to: Option<&[u8]>,
    output: &mut impl Write,
) -> anyhow::Result<()> {
    let index = image.index();
    let mut entry = EntryBuilder::new_ustar();
    entry.path(path).mode(inode.permissions.into())?;
    entry.uid(inode.uid.into())?.gid(inode.gid.into())?;
    set_time(&mut entry, inode.mtime)?;
    if let Some(target) = hard_link_to {
        entry.entry_type(EntryType::Link).link_name(target).size(0)?;
        output.write_all(&entry.finish_bytes())?;
        return Ok(());
    }
    for xattr in index.xattrs(inode) {
        let name =
            std::str::from_utf8(xattr.name).context("an xattr has a name that is not UTF-8")?;
        entry.add_pax(&format!("SCHILY.xattr.{name}"), xattr.value);
    }
    entry.size(0)?;
    match inode.kind {
        FileKind::Directory => entry.entry_type(EntryType::Directory),
        FileKind::Symlink => {
            let target = index.symlink_target(inode).unwrap_or_default();
            entry.entry_type(EntryType::Symlink).link_name(target)
        }
        FileKind::CharDevice => {
            entry.entry_type(EntryType::Char).device(inode.device.major, inode.device.minor)?
        }
        FileKind::BlockDevice => {
            entry.entry_type(EntryType::Block).device(inode.device.major, inode.device.minor)?
        }
        FileKind::Fifo => entry.entry_type(EntryType::Fifo),
        FileKind::Socket => return Ok(()),
        FileKind::Regular => return write_file(image, inode, &mut entry, output).await,
    };
    output.write_all(&entry.finish_bytes())?;
    Ok(())
}

async fn write_file(
    image: &Image,
    inode: &Inode,
    entry: &mut EntryBuilder,
    output: &mut impl Write,
) -> anyhow::Result<()> {
    let mut ranges = content_ranges(image.index(), inode);
    let content_len: u64 = ranges.iter().map(|range| range.length).sum();
    if ranges.last().is_none_or(|last| last.offset + last.length < inode.len) {
        // GNU tar makes a hole at the end only where an empty range lies behind it.
        ranges.push(SparseEntry { offset: inode.len, length: 0 });
    }
    entry.entry_type(EntryType::Regular).size(content_len)?;
    if content_len != inode.len {
        entry.sparse(&ranges, inode.len);
    }
    output.write_all(&entry.finish_bytes())?;
    for range in &ranges {
        let (mut offset, end) = (range.offset, range.offset + range.length);
        while offset < end {
            let bytes = image.read(inode, offset, STEP_LEN.min(end - offset)).await?;
            output.write_all(&bytes)?;
            offset += bytes.len() as u64;
        }
    }
    let padding = content_len.next_multiple_of(BLOCK_LEN) - content_len;
    output.write_all(&[0; BLOCK_LEN as usize][..padding as usize])?;
    Ok(())
}

/// The ranges of a file that are no holes.
fn content_ranges(index: &Index, inode: &Inode) -> Vec<SparseEntry> {
    let mut ranges: Vec<SparseEntry> = Vec::new();
    for piece in index.pieces(inode, 0, inode.len) {
        if piece.source == PieceSource::Hole {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.offset + last.length == piece.file_offset => {
                last.length += piece.len;
            }
            _ => ranges.push(SparseEntry { offset: piece.file_offset, length: piece.len }),
        }
    }
    ranges
}

/// Whole seconds from 1970 on go into the header, all other times into a PAX record.
fn set_time(entry: &mut EntryBuilder, mtime: Timestamp) -> anyhow::Result<()> {
    match u64::try_from(mtime.seconds) {
        Ok(seconds) if mtime.nanos == 0 => {
            entry.mtime(seconds)?;
        }
        _ => {
            entry.mtime(mtime.seconds.max(0).unsigned_abs())?;
            entry.add_pax("mtime", time_text(mtime));
        }
    }
    Ok(())
}

/// The time as a decimal number: half a second before 1970 is -0.5.
fn time_text(mtime: Timestamp) -> String {
    if mtime.seconds >= 0 || mtime.nanos == 0 {
        return format!("{}.{:09}", mtime.seconds, mtime.nanos);
    }
    format!("-{}.{:09}", (mtime.seconds + 1).unsigned_abs(), 1_000_000_000 - mtime.nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_decimal_numbers() {
        let cases = [
            ((1, 500_000_000), "1.500000000"),
            ((0, 0), "0.000000000"),
            ((-1, 500_000_000), "-0.500000000"),
            ((-2, 999_999_999), "-1.000000001"),
            ((-3, 0), "-3.000000000"),
            ((i64::MIN, 1), "-9223372036854775807.999999999"),
        ];
        for ((seconds, nanos), text) in cases {
            assert_eq!(time_text(Timestamp { seconds, nanos }), text);
        }
    }
}
