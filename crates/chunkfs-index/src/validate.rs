//! The checks on records that opening makes.
//!
//! All passes are linear. What makes that possible is that dirents and extents belong to exactly
//! one inode each and lie in the order of the inodes, and that directories come after their parent.

use chunkfs_format::Codec;

use crate::access::Table;
use crate::error::OpenError;
use crate::open::Index;
use crate::record::{
    BLOB_COUNT_MAX, HOLE, RawBlob, RawChunk, RawDirent, RawExtent, RawInode, RawLocation, RawXattr,
    SectionKind,
};
use crate::types::{FileKind, InodeIndex};

/// The longest target of a symbolic link: `PATH_MAX` less its NUL.
pub(crate) const SYMLINK_LEN_MAX: u64 = 4095;

pub(crate) fn validate(index: &Index) -> Result<(), OpenError> {
    validate_chunks(index)?;
    validate_xattrs(index)?;
    let xattr_run_ends = xattr_run_ends(index);
    let chunk_run_ends = chunk_run_ends(index);
    let mut inodes = InodeValidator {
        index,
        inodes: index.table(SectionKind::Inodes),
        dirents: index.table(SectionKind::Dirents),
        extents: index.table(SectionKind::Extents),
        xattr_run_ends,
        chunk_run_ends,
        next_dirent: 0,
        next_extent: 0,
        references: Vec::new(),
    };
    inodes.validate()
}

fn record_error(kind: SectionKind, record: u32, problem: &'static str) -> OpenError {
    OpenError::Record { table: kind.name(), record: u64::from(record), problem }
}

/// Chunks, locations and blobs.
fn validate_chunks(index: &Index) -> Result<(), OpenError> {
    let chunks = index.table::<RawChunk>(SectionKind::Chunks);
    let locations = index.table::<RawLocation>(SectionKind::Locations);
    let blobs = index.table::<RawBlob>(SectionKind::Blobs);
    if chunks.count() != locations.count() {
        let problem = "the chunk and location tables differ in length";
        return Err(record_error(SectionKind::Locations, locations.count(), problem));
    }
    if blobs.count() > BLOB_COUNT_MAX {
        let problem = "there are more blobs than the format allows";
        return Err(record_error(SectionKind::Blobs, BLOB_COUNT_MAX, problem));
    }
    for (record, (chunk, location)) in (0..).zip(chunks.iter().zip(locations.iter())) {
        let uncompressed_len = chunk.uncompressed_len.get();
        if uncompressed_len == 0 || uncompressed_len > index.chunk_size().bytes() {
            let problem = "its length is zero or above the chunk size";
            return Err(record_error(SectionKind::Chunks, record, problem));
        }
        let error = |problem| record_error(SectionKind::Locations, record, problem);
        let stored_len = location.stored_len.get();
        match Codec::from_code(location.codec) {
            Some(Codec::Raw) if stored_len != uncompressed_len => {
                return Err(error("a raw chunk has two lengths"));
            }
            Some(_) if stored_len == 0 || stored_len > uncompressed_len => {
                return Err(error("the stored length is zero or above the uncompressed length"));
            }
            Some(_) => {}
            None => return Err(error("the codec is unknown")),
        }
        if location.reserved != 0 {
            return Err(error("a reserved field is not zero"));
        }
        let blob = blobs.get(location.blob.get().into()).ok_or(error("it has no such blob"))?;
        let end = location.offset.get().checked_add(stored_len.into());
        if end.is_none_or(|end| end > blob.len.get()) {
            return Err(error("it lies outside its blob"));
        }
    }
    Ok(())
}

fn validate_xattrs(index: &Index) -> Result<(), OpenError> {
    for (record, xattr) in (0..).zip(index.table::<RawXattr>(SectionKind::Xattrs).iter()) {
        let error = |problem| record_error(SectionKind::Xattrs, record, problem);
        if xattr.reserved.get() != 0 {
            return Err(error("a reserved field is not zero"));
        }
        let name = index.string(xattr.name_offset.get(), xattr.name_len.get().into());
        let name = name.ok_or(error("its name lies outside the strings"))?;
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err(error("its name is empty, too long, or holds a NUL"));
        }
        let value_len = xattr.value_len.get();
        if value_len > 65_536 || index.string(xattr.value_offset.get(), value_len.into()).is_none()
        {
            return Err(error("its value is too long or lies outside the strings"));
        }
    }
    Ok(())
}

/// For each xattr, the end of the run of ascending names that starts with it: the sets that start
/// with this xattr may span all xattrs before that end. Sets may overlap, so that checking each by
/// itself would take quadratic time.
fn xattr_run_ends(index: &Index) -> Vec<u32> {
    let xattrs = index.table::<RawXattr>(SectionKind::Xattrs);
    let name = |record| {
        let xattr = xattrs.get(record)?;
        index.string(xattr.name_offset.get(), xattr.name_len.get().into())
    };
    let mut ends = vec![0; xattrs.count() as usize];
    let mut end = xattrs.count();
    let mut next_name = None;
    for (record, slot) in (0..xattrs.count()).zip(&mut ends).rev() {
        let name = name(record);
        if next_name.is_some() && name >= next_name {
            end = record + 1;
        }
        next_name = name;
        *slot = end;
    }
    ends
}

/// For each chunk, the end of the run of chunks of one length that starts with it: the extents that
/// start with this chunk may span all chunks before that end, and one more.
fn chunk_run_ends(index: &Index) -> Vec<u32> {
    let chunks = index.table::<RawChunk>(SectionKind::Chunks);
    let mut ends = vec![0; chunks.count() as usize];
    let mut end = chunks.count();
    let mut next_len = None;
    for (record, slot) in (0..chunks.count()).zip(&mut ends).rev() {
        let len = chunks.get(record).map(|chunk| chunk.uncompressed_len.get());
        if next_len.is_some() && len != next_len {
            end = record + 1;
        }
        next_len = len;
        *slot = end;
    }
    ends
}

struct InodeValidator<'a> {
    index: &'a Index,
    inodes: Table<'a, RawInode>,
    dirents: Table<'a, RawDirent>,
    extents: Table<'a, RawExtent>,
    xattr_run_ends: Vec<u32>,
    chunk_run_ends: Vec<u32>,
    next_dirent: u32,
    next_extent: u32,
    /// The number of names of each inode.
    references: Vec<u32>,
}

impl InodeValidator<'_> {
    fn validate(&mut self) -> Result<(), OpenError> {
        self.references = vec![0; self.inodes.count() as usize];
        let root = self.inodes.get(0).ok_or(self.error(0, "there is no root"))?;
        if FileKind::from_mode(root.mode.get()) != Some(FileKind::Directory) {
            return Err(self.error(0, "the root is not a directory"));
        }
        for record in 0..self.inodes.count() {
            let inode = self.inodes.get(record).ok_or(self.error(record, "it is cut off"))?;
            self.validate_inode(record, &inode)?;
        }
        if self.next_dirent != self.dirents.count() {
            let problem = "it belongs to no directory";
            return Err(record_error(SectionKind::Dirents, self.next_dirent, problem));
        }
        if self.next_extent != self.extents.count() {
            let problem = "it belongs to no file";
            return Err(record_error(SectionKind::Extents, self.next_extent, problem));
        }
        self.validate_references()
    }

    fn error(&self, record: u32, problem: &'static str) -> OpenError {
        record_error(SectionKind::Inodes, record, problem)
    }

    fn validate_inode(&mut self, record: u32, inode: &RawInode) -> Result<(), OpenError> {
        let kind = FileKind::from_mode(inode.mode.get())
            .ok_or(self.error(record, "its type is unknown"))?;
        if inode.mtime_nanos.get() >= 1_000_000_000 {
            return Err(self.error(record, "its nanoseconds are a second or more"));
        }
        let xattr_first = inode.xattr_first.get();
        let xattr_run_end = match inode.xattr_count.get() {
            0 => 0,
            _ => self.xattr_run_ends.get(xattr_first as usize).copied().unwrap_or(0),
        };
        let xattr_end = xattr_first.checked_add(inode.xattr_count.get().into());
        if xattr_end.is_none_or(|end| end > xattr_run_end) {
            let problem = "its xattrs lie outside the table or not in ascending order";
            return Err(self.error(record, problem));
        }
        if kind != FileKind::Directory && inode.parent.get() != 0 {
            return Err(self.error(record, "only directories have a parent"));
        }
        let (first, count, len) = (inode.first.get(), inode.count.get(), inode.len.get());
        match kind {
            FileKind::Directory => {
                if len != 0 || first != self.next_dirent {
                    return Err(self.error(record, "its dirents do not follow the ones before"));
                }
                self.validate_directory(record, inode)
            }
            FileKind::Regular => {
                if len > i64::MAX as u64 || first != self.next_extent {
                    return Err(self.error(record, "its extents do not follow the ones before"));
                }
                self.validate_extents(record, inode)
            }
            FileKind::Symlink => {
                let target = self.index.string(first, len);
                let target =
                    target.ok_or(self.error(record, "its target lies outside the strings"))?;
                if len == 0 || len > SYMLINK_LEN_MAX || count != 0 || target.contains(&0) {
                    return Err(self.error(record, "its target is empty, too long or holds a NUL"));
                }
                Ok(())
            }
            // The device numbers are free.
            FileKind::CharDevice | FileKind::BlockDevice if len == 0 => Ok(()),
            FileKind::Fifo | FileKind::Socket if (len, first, count) == (0, 0, 0) => Ok(()),
            _ => Err(self.error(record, "a field that its type does not use is not zero")),
        }
    }

    fn validate_directory(&mut self, record: u32, inode: &RawInode) -> Result<(), OpenError> {
        let end = self.next_dirent.checked_add(inode.count.get());
        let end = end
            .filter(|end| *end <= self.dirents.count())
            .ok_or(self.error(record, "its dirents lie outside the table"))?;
        let mut previous_name: &[u8] = &[];
        let mut subdirectory_count = 0u32;
        for position in self.next_dirent..end {
            let error = |problem| record_error(SectionKind::Dirents, position, problem);
            let dirent = self.dirents.get(position).ok_or(error("it is cut off"))?;
            let name = self.index.string(dirent.name_offset.get(), dirent.name_len.into());
            let name = name.ok_or(error("its name lies outside the strings"))?;
            if !is_valid_name(name) {
                return Err(error("its name is empty, `.`, `..`, or holds `/` or NUL"));
            }
            if name <= previous_name {
                return Err(error("the names are not in ascending order"));
            }
            previous_name = name;
            let child = dirent.inode.get();
            let target = self.inodes.get(child).ok_or(error("it has no such inode"))?;
            if dirent.reserved.get() != 0 || u16::from(dirent.mode_high) != target.mode.get() >> 12
            {
                return Err(error("its type differs from its inode's, or a reserved field is set"));
            }
            if FileKind::from_mode(target.mode.get()) == Some(FileKind::Directory) {
                if child <= record || target.parent.get() != record {
                    return Err(error("a directory comes before its parent or names another one"));
                }
                subdirectory_count += 1;
            }
            if let Some(references) = self.references.get_mut(child as usize) {
                *references += 1;
            }
        }
        if inode.link_count.get() != subdirectory_count.saturating_add(2) {
            return Err(self.error(record, "its link count is not that of its subdirectories"));
        }
        self.next_dirent = end;
        Ok(())
    }

    fn validate_extents(&mut self, record: u32, inode: &RawInode) -> Result<(), OpenError> {
        let end = self.next_extent.checked_add(inode.count.get());
        let end = end
            .filter(|end| *end <= self.extents.count())
            .ok_or(self.error(record, "its extents lie outside the table"))?;
        let mut file_offset = 0u64;
        for position in self.next_extent..end {
            let error = |problem| record_error(SectionKind::Extents, position, problem);
            let extent = self.extents.get(position).ok_or(error("it is cut off"))?;
            if extent.file_offset.get() != file_offset {
                return Err(error("it does not start where the one before ends"));
            }
            file_offset = file_offset
                .checked_add(extent.len.get())
                .filter(|end| extent.len.get() != 0 && *end <= inode.len.get())
                .ok_or(error("it is empty or ends after its file"))?;
            self.validate_run(&extent).map_err(error)?;
        }
        if file_offset != inode.len.get() {
            return Err(self.error(record, "its extents do not cover it"));
        }
        self.next_extent = end;
        Ok(())
    }

    /// Checks that the chunks of a run exist and are long enough.
    fn validate_run(&self, extent: &RawExtent) -> Result<(), &'static str> {
        let (first, offset) = (extent.first_chunk.get(), extent.chunk_offset.get());
        if first == HOLE {
            return if offset == 0 { Ok(()) } else { Err("a hole has an offset") };
        }
        if !offset.is_multiple_of(chunkfs_format::GRID) {
            return Err("it does not start on the 4 KiB grid");
        }
        let chunks = self.index.table::<RawChunk>(SectionKind::Chunks);
        let chunk = chunks.get(first).ok_or("it has no such chunk")?;
        let end = u64::from(offset).checked_add(extent.len.get()).ok_or("it is too long")?;
        if end <= chunk.uncompressed_len.get().into() {
            return Ok(());
        }
        if offset != 0 {
            return Err("it leaves a chunk that it does not start with");
        }
        let chunk_len = chunk.uncompressed_len.get();
        if !chunk_len.is_multiple_of(chunkfs_format::GRID) {
            return Err("it leaves a chunk that ends off the 4 KiB grid");
        }
        // The run is made of `full` whole chunks and `tail` bytes of one more.
        let (full, tail) = (end / u64::from(chunk_len), end % u64::from(chunk_len));
        let run_end = self.chunk_run_ends.get(first as usize).copied().unwrap_or(first);
        let full_end = u64::from(first).checked_add(full).ok_or("it is too long")?;
        if full_end > run_end.into() {
            return Err("a chunk inside it has another length than its first");
        }
        if tail != 0 {
            let last = u32::try_from(full_end).map_err(|_| "it is too long")?;
            let last = chunks.get(last).ok_or("it has no such chunk")?;
            if u64::from(last.uncompressed_len.get()) < tail {
                return Err("its last chunk is too short");
            }
        }
        Ok(())
    }

    fn validate_references(&self) -> Result<(), OpenError> {
        for (record, references) in (0..).zip(&self.references) {
            let inode = self.inodes.get(record).ok_or(self.error(record, "it is cut off"))?;
            let is_directory = FileKind::from_mode(inode.mode.get()) == Some(FileKind::Directory);
            let expected = match (InodeIndex::new(record) == InodeIndex::ROOT, is_directory) {
                (true, _) => 0,
                (false, true) => 1,
                (false, false) => inode.link_count.get(),
            };
            if *references != expected || (record != 0 && expected == 0) {
                return Err(self.error(record, "its link count is not the number of its names"));
            }
        }
        if self.inodes.get(0).is_some_and(|root| root.parent.get() != 0) {
            return Err(self.error(0, "the root has a parent"));
        }
        Ok(())
    }
}

pub(crate) fn is_valid_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && name.len() <= 255
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}
