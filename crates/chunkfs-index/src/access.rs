//! Reading an opened index: lookups, directories, file ranges.

use std::marker::PhantomData;

use chunkfs_format::{BlobId, ChunkId, Codec};
use zerocopy::FromBytes;

use crate::open::Index;
use crate::record::{
    HOLE, RawBlob, RawChunk, RawDirent, RawExtent, RawInode, RawLocation, RawXattr, SectionKind,
};
use crate::types::{
    Blob, BlobIndex, Chunk, ChunkIndex, Device, Dirent, FileKind, Inode, InodeIndex, Location,
    Piece, PieceSource, Timestamp, Xattr,
};

/// A section read as records.
pub(crate) struct Table<'a, R> {
    bytes: &'a [u8],
    record: PhantomData<R>,
}

impl<'a, R: FromBytes> Table<'a, R> {
    pub(crate) fn count(&self) -> u32 {
        // Opening checked that every table has fewer than 2^32 records.
        (self.bytes.len() / size_of::<R>()) as u32
    }

    pub(crate) fn get(&self, record: u32) -> Option<R> {
        let start = (record as usize).checked_mul(size_of::<R>())?;
        let bytes = self.bytes.get(start..start.checked_add(size_of::<R>())?)?;
        R::read_from_bytes(bytes).ok()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = R> + use<'a, R> {
        self.bytes.chunks_exact(size_of::<R>()).filter_map(|bytes| R::read_from_bytes(bytes).ok())
    }
}

impl Index {
    pub(crate) fn table<R: FromBytes>(&self, kind: SectionKind) -> Table<'_, R> {
        Table { bytes: self.section(kind), record: PhantomData }
    }

    pub(crate) fn string(&self, offset: u32, len: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        self.section(SectionKind::Strings).get(start..end)
    }

    /// Returns the number of inodes; every index below it exists.
    pub fn inode_count(&self) -> u32 {
        self.table::<RawInode>(SectionKind::Inodes).count()
    }

    /// Returns the number of chunks.
    pub fn chunk_count(&self) -> u32 {
        self.table::<RawChunk>(SectionKind::Chunks).count()
    }

    /// Returns the number of data blobs.
    pub fn blob_count(&self) -> u32 {
        self.table::<RawBlob>(SectionKind::Blobs).count()
    }

    /// Returns the attributes of an inode, or `None` if there is no such inode.
    pub fn inode(&self, index: InodeIndex) -> Option<Inode> {
        let raw = self.table::<RawInode>(SectionKind::Inodes).get(index.get())?;
        let kind = FileKind::from_mode(raw.mode.get())?;
        let (first, count) = (raw.first.get(), raw.count.get());
        let device = match kind {
            FileKind::CharDevice | FileKind::BlockDevice => Device { major: first, minor: count },
            _ => Device::default(),
        };
        Some(Inode {
            index,
            kind,
            permissions: raw.mode.get() & 0o7777,
            uid: raw.uid.get(),
            gid: raw.gid.get(),
            link_count: raw.link_count.get(),
            mtime: Timestamp { seconds: raw.mtime_seconds.get(), nanos: raw.mtime_nanos.get() },
            len: raw.len.get(),
            device,
            first,
            count,
            xattr_first: raw.xattr_first.get(),
            xattr_count: raw.xattr_count.get(),
            parent: InodeIndex::new(raw.parent.get()),
        })
    }

    /// Returns the root directory.
    pub fn root(&self) -> Inode {
        self.inode(InodeIndex::ROOT).expect("opening checked that there is a root")
    }

    /// Finds `name` in a directory by binary search.
    ///
    /// Returns `None` if there is no such name, or if `directory` is not a directory.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Option<Inode> {
        let (mut low, mut high) = (0, self.dirent_count(directory));
        while low < high {
            let middle = low + (high - low) / 2;
            let dirent = self.dirent(directory, middle)?;
            match dirent.name.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return self.inode(dirent.inode),
            }
        }
        None
    }

    /// Finds an inode by its path, with or without a leading slash, following no symbolic link.
    ///
    /// Empty components and `.` are skipped; `..` leads to the parent directory.
    pub fn lookup_path(&self, path: &[u8]) -> Option<Inode> {
        let mut inode = self.root();
        for component in path.split(|byte| *byte == b'/') {
            inode = match component {
                b"" | b"." if inode.kind == FileKind::Directory => inode,
                b".." if inode.kind == FileKind::Directory => self.inode(inode.parent)?,
                name => self.lookup(&inode, name)?,
            };
        }
        Some(inode)
    }

    /// Returns the number of names in a directory, without `.` and `..`; zero for anything else.
    pub fn dirent_count(&self, directory: &Inode) -> u32 {
        if directory.kind == FileKind::Directory { directory.count } else { 0 }
    }

    /// Returns the name at a position of a directory, counted from zero in byte order.
    pub fn dirent(&self, directory: &Inode, position: u32) -> Option<Dirent<'_>> {
        if position >= self.dirent_count(directory) {
            return None;
        }
        let raw = self
            .table::<RawDirent>(SectionKind::Dirents)
            .get(directory.first.checked_add(position)?)?;
        Some(Dirent {
            name: self.string(raw.name_offset.get(), raw.name_len.into())?,
            inode: InodeIndex::new(raw.inode.get()),
            kind: FileKind::from_mode(u16::from(raw.mode_high) << 12)?,
            position,
        })
    }

    /// Iterates over the names of a directory from a position on.
    pub fn dirents(&self, directory: &Inode, start: u32) -> impl Iterator<Item = Dirent<'_>> {
        let directory = *directory;
        (start..self.dirent_count(&directory)).filter_map(move |at| self.dirent(&directory, at))
    }

    /// Returns the target of a symbolic link, or `None` for anything else.
    pub fn symlink_target(&self, inode: &Inode) -> Option<&[u8]> {
        if inode.kind != FileKind::Symlink {
            return None;
        }
        self.string(inode.first, inode.len)
    }

    /// Iterates over the extended attributes of an inode, in byte order of their names.
    pub fn xattrs(&self, inode: &Inode) -> impl Iterator<Item = Xattr<'_>> {
        let table = self.table::<RawXattr>(SectionKind::Xattrs);
        let end = inode.xattr_first.saturating_add(inode.xattr_count.into());
        (inode.xattr_first..end).filter_map(move |record| {
            let raw = table.get(record)?;
            Some(Xattr {
                name: self.string(raw.name_offset.get(), raw.name_len.get().into())?,
                value: self.string(raw.value_offset.get(), raw.value_len.get().into())?,
            })
        })
    }

    /// Returns a chunk, or `None` if there is no such chunk.
    pub fn chunk(&self, index: ChunkIndex) -> Option<Chunk> {
        let raw = self.table::<RawChunk>(SectionKind::Chunks).get(index.get())?;
        let location = self.table::<RawLocation>(SectionKind::Locations).get(index.get())?;
        Some(Chunk {
            id: ChunkId::from_bytes(raw.id),
            uncompressed_len: raw.uncompressed_len.get(),
            location: Location {
                blob: BlobIndex::new(location.blob.get().into()),
                offset: location.offset.get(),
                stored_len: location.stored_len.get(),
                codec: Codec::from_code(location.codec)?,
            },
        })
    }

    /// Iterates over all chunks in the order of their table.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> {
        (0..self.chunk_count()).filter_map(|index| self.chunk(ChunkIndex::new(index)))
    }

    /// Returns a data blob, or `None` if there is no such blob.
    pub fn blob(&self, index: BlobIndex) -> Option<Blob> {
        let raw = self.table::<RawBlob>(SectionKind::Blobs).get(index.get())?;
        Some(Blob { id: BlobId::from_bytes(raw.id), len: raw.len.get() })
    }

    /// Iterates over all data blobs in the order of their table.
    pub fn blobs(&self) -> impl Iterator<Item = Blob> {
        (0..self.blob_count()).filter_map(|index| self.blob(BlobIndex::new(index)))
    }

    /// Iterates over the pieces of a file that overlap a range, in order and cut to the range.
    ///
    /// The pieces cover the range as far as the file reaches. Finding the first takes a binary
    /// search over the file's extents, each further one constant time.
    pub fn pieces(&self, file: &Inode, offset: u64, len: u64) -> Pieces<'_> {
        let is_regular = file.kind == FileKind::Regular;
        let end = if is_regular { offset.saturating_add(len).min(file.len) } else { 0 };
        let extents = self.table::<RawExtent>(SectionKind::Extents);
        let (mut low, mut high) = (file.first, file.first.saturating_add(file.count));
        let extents_end = high;
        while low < high {
            let middle = low + (high - low) / 2;
            let is_before = extents.get(middle).is_some_and(|extent| {
                extent.file_offset.get().saturating_add(extent.len.get()) <= offset
            });
            if is_before {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Pieces { index: self, extent: low, extents_end, at: offset, end }
    }
}

/// The pieces of a range of a file; see [`Index::pieces`].
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    index: &'a Index,
    extent: u32,
    extents_end: u32,
    at: u64,
    end: u64,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.at >= self.end || self.extent >= self.extents_end {
            return None;
        }
        let extent = self.index.table::<RawExtent>(SectionKind::Extents).get(self.extent)?;
        let file_offset = self.at;
        let in_extent = file_offset.checked_sub(extent.file_offset.get())?;
        let extent_rest = extent.len.get().checked_sub(in_extent)?;
        let (source, source_rest) = self.locate(&extent, in_extent)?;
        let len = extent_rest.min(source_rest).min(self.end - self.at);
        self.at += len;
        if len == extent_rest {
            self.extent += 1;
        }
        Some(Piece { file_offset, len, source })
    }
}

impl Pieces<'_> {
    /// Returns where byte `in_extent` of an extent is, and how many bytes follow it there.
    fn locate(&self, extent: &RawExtent, in_extent: u64) -> Option<(PieceSource, u64)> {
        let first = extent.first_chunk.get();
        if first == HOLE {
            return Some((PieceSource::Hole, u64::MAX));
        }
        // All chunks of an extent but its last have the length of the first.
        let chunks = self.index.table::<RawChunk>(SectionKind::Chunks);
        let chunk_len = u64::from(chunks.get(first)?.uncompressed_len.get());
        let at = u64::from(extent.chunk_offset.get()).checked_add(in_extent)?;
        let chunk = u32::try_from(u64::from(first).checked_add(at / chunk_len)?).ok()?;
        let offset = u32::try_from(at % chunk_len).ok()?;
        let source = PieceSource::Chunk { index: ChunkIndex::new(chunk), offset };
        Some((source, chunk_len - u64::from(offset)))
    }
}
