//! Reading a directory tree as one layer.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use chunkfs_index::{Attributes, Device, Timestamp};
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::entry::{EntryKind, LayerEntry};
use crate::error::LayerError;
use crate::pipeline::LayerWriter;
use crate::tar::Region;

/// The longest list of xattr names, and the longest value, that Linux has.
const XATTR_LEN_MAX: usize = 64 << 10;

/// Adds everything below `root`, and `root` itself, in byte order of the names.
///
/// Symbolic links are not followed; mount points are. `progress` is told of the bytes read.
pub(crate) fn read_directory(
    root: &Path,
    writer: &mut LayerWriter<'_>,
    progress: &dyn Fn(u64),
) -> Result<(), LayerError> {
    let mut walk = Walk { links: HashMap::new(), xattr_buffer: vec![0; XATTR_LEN_MAX], progress };
    let metadata = std::fs::metadata(root).map_err(file_error(root))?;
    if !metadata.is_dir() {
        let source = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(LayerError::File { path: root.to_owned(), source });
    }
    let attributes = walk.attributes(root, &metadata)?;
    let kind = EntryKind::Directory;
    writer.add(LayerEntry { path: Vec::new(), attributes, kind })?;
    let mut pending = vec![Children::read(root.to_owned(), Vec::new())?];
    while let Some(children) = pending.last_mut() {
        let Some(name) = children.names.pop() else {
            pending.pop();
            continue;
        };
        let file = children.file.join(std::ffi::OsStr::from_bytes(&name));
        let mut path = children.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        if walk.add(&file, path.clone(), writer)? {
            pending.push(Children::read(file, path)?);
        }
    }
    Ok(())
}

/// The names of a directory that were not visited yet, the next one last.
struct Children {
    file: PathBuf,
    path: Vec<u8>,
    names: Vec<Vec<u8>>,
}

impl Children {
    fn read(file: PathBuf, path: Vec<u8>) -> Result<Self, LayerError> {
        let entries = std::fs::read_dir(&file).map_err(file_error(&file))?;
        let names = entries.map(|entry| Ok(entry?.file_name().into_vec()));
        let names: io::Result<Vec<_>> = names.collect();
        let mut names = names.map_err(file_error(&file))?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Self { file, path, names })
    }
}

struct Walk<'a> {
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    xattr_buffer: Vec<u8>,
    progress: &'a dyn Fn(u64),
}

impl Walk<'_> {
    /// Adds what is at `file`, and returns whether it is a directory.
    fn add(
        &mut self,
        file: &Path,
        path: Vec<u8>,
        writer: &mut LayerWriter<'_>,
    ) -> Result<bool, LayerError> {
        let metadata = std::fs::symlink_metadata(file).map_err(file_error(file))?;
        let mut attributes = self.attributes(file, &metadata)?;
        let file_type = metadata.file_type();
        if metadata.nlink() > 1 && !file_type.is_dir() {
            let first = self.links.entry((metadata.dev(), metadata.ino()));
            if let std::collections::hash_map::Entry::Occupied(first) = first {
                let kind = EntryKind::HardLink(first.get().clone());
                writer.add(LayerEntry { path, attributes, kind })?;
                return Ok(false);
            }
            first.or_insert_with(|| path.clone());
        }
        let device = Device {
            major: rustix::fs::major(metadata.rdev()),
            minor: rustix::fs::minor(metadata.rdev()),
        };
        let kind = if file_type.is_dir() {
            EntryKind::Directory
        } else if file_type.is_file() {
            self.add_regular(file, path, attributes, &metadata, writer)?;
            return Ok(false);
        } else if file_type.is_symlink() {
            attributes.permissions = 0o777;
            let target = std::fs::read_link(file).map_err(file_error(file))?;
            EntryKind::Symlink(target.into_os_string().into_vec())
        } else if file_type.is_char_device() {
            EntryKind::CharDevice(device)
        } else if file_type.is_block_device() {
            EntryKind::BlockDevice(device)
        } else if file_type.is_fifo() {
            EntryKind::Fifo
        } else {
            EntryKind::Socket
        };
        writer.add(LayerEntry { path, attributes, kind })?;
        Ok(file_type.is_dir())
    }

    fn add_regular(
        &mut self,
        file: &Path,
        path: Vec<u8>,
        attributes: Attributes,
        metadata: &Metadata,
        writer: &mut LayerWriter<'_>,
    ) -> Result<(), LayerError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::open(file, flags, Mode::empty());
        let opened = File::from(opened.map_err(|errno| file_error(file)(errno.into()))?);
        let len = metadata.len();
        let is_sparse = metadata.blocks().saturating_mul(512) < len;
        let regions =
            if is_sparse { Some(regions(&opened, len).map_err(file_error(file))?) } else { None };
        let whole = [Region { offset: 0, len }];
        let mut content =
            RegionFile { file: &opened, regions: regions.as_deref().unwrap_or(&whole), at: 0 };
        let added = writer.add_regular(path, attributes, len, regions.clone(), &mut content);
        added.map_err(|error| match error {
            LayerError::EntryTruncated { .. } => LayerError::FileChanged { path: file.to_owned() },
            LayerError::Read { source } => LayerError::File { path: file.to_owned(), source },
            error => error,
        })?;
        if opened.metadata().map_err(file_error(file))?.len() != len {
            return Err(LayerError::FileChanged { path: file.to_owned() });
        }
        (self.progress)(len);
        Ok(())
    }

    fn attributes(&mut self, file: &Path, metadata: &Metadata) -> Result<Attributes, LayerError> {
        Ok(Attributes {
            // The mask leaves 12 bits.
            permissions: (metadata.mode() & 0o7777) as u16,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: Timestamp {
                seconds: metadata.mtime(),
                nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
            },
            xattrs: self.xattrs(file).map_err(|errno| file_error(file)(errno.into()))?,
        })
    }

    fn xattrs(&mut self, file: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
        let len = match rustix::fs::llistxattr(file, self.xattr_buffer.as_mut_slice()) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
            result => result?,
        };
        let names = self.xattr_buffer.get(..len).unwrap_or(&[]).to_vec();
        let mut xattrs = BTreeMap::new();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let len = rustix::fs::lgetxattr(file, name, self.xattr_buffer.as_mut_slice())?;
            xattrs.insert(name.to_vec(), self.xattr_buffer.get(..len).unwrap_or(&[]).to_vec());
        }
        Ok(xattrs)
    }
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> LayerError {
    move |source| LayerError::File { path: path.to_owned(), source }
}

/// Asks the file system which ranges of a file hold data.
fn regions(file: &File, len: u64) -> io::Result<Vec<Region>> {
    let mut regions = Vec::new();
    let mut at = 0;
    while at < len {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data follows.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(len);
        if start >= end {
            break;
        }
        regions.push(Region { offset: start, len: end - start });
        at = end;
    }
    Ok(regions)
}

/// Reads the regions of a file one after another.
struct RegionFile<'a> {
    file: &'a File,
    regions: &'a [Region],
    /// The position in the first region.
    at: u64,
}

impl Read for RegionFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(region) = self.regions.first() {
            let rest = region.len.saturating_sub(self.at);
            if rest == 0 {
                self.regions = self.regions.get(1..).unwrap_or(&[]);
                self.at = 0;
                continue;
            }
            let len = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
            let buffer = buffer.get_mut(..len).unwrap_or(&mut []);
            let read = self.file.read_at(buffer, region.offset + self.at)?;
            self.at += read as u64;
            return Ok(read);
        }
        Ok(0)
    }
}
