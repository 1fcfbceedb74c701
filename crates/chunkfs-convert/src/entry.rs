//! What a layer consists of, after parsing and before merging.

use chunkfs_index::{Attributes, Device};

/// The longest path of an entry: `PATH_MAX` less its NUL.
pub(crate) const PATH_LEN_MAX: usize = 4095;
/// The longest name of an xattr.
const XATTR_NAME_LEN_MAX: usize = 255;
/// The longest value of an xattr.
const XATTR_VALUE_LEN_MAX: usize = 64 << 10;

/// An entry of a layer, in the order of the layer's archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerEntry {
    /// The path: components joined by `/`, none of them empty, `.` or `..`; the root is empty.
    pub(crate) path: Vec<u8>,
    pub(crate) attributes: Attributes,
    pub(crate) kind: EntryKind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// The path is removed from what lower layers hold.
    Whiteout,
    /// Everything below the path is removed from what lower layers hold.
    OpaqueWhiteout,
    Directory,
    /// A file: parts that follow each other and cover it.
    Regular(Vec<Part>),
    Symlink(Vec<u8>),
    /// Another name of the file at this path.
    HardLink(Vec<u8>),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
    Socket,
}

/// A part of a file: a range of one chunk, or a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// The number of bytes, at least one.
    pub(crate) len: u64,
    /// The position in the layer's chunk table and the offset in that chunk; `None` is a hole.
    pub(crate) chunk: Option<(u32, u32)>,
}

impl LayerEntry {
    /// An estimate of the memory that the entry takes.
    pub(crate) fn cost(&self) -> u64 {
        let kind = match &self.kind {
            EntryKind::Regular(parts) => size_of_val(&parts[..]),
            EntryKind::Symlink(target) | EntryKind::HardLink(target) => target.len(),
            _ => 0,
        };
        let xattrs = &self.attributes.xattrs;
        let xattrs: usize = xattrs.iter().map(|(name, value)| 100 + name.len() + value.len()).sum();
        (size_of::<Self>() + self.path.len() + kind + xattrs) as u64
    }
}

/// Brings a path as written into its one form, or says why there is none.
pub(crate) fn normalize_path(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut normal = Vec::with_capacity(path.len());
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err("its path leads outside the image by a `..` component"),
            _ if component.contains(&0) => return Err("its path holds a NUL"),
            _ if component.len() > 255 => return Err("its path has a name of more than 255 bytes"),
            _ => {}
        }
        if !normal.is_empty() {
            normal.push(b'/');
        }
        normal.extend_from_slice(component);
    }
    if normal.len() > PATH_LEN_MAX {
        return Err("its path is longer than 4,095 bytes");
    }
    Ok(normal)
}

/// Splits a path into its parent and its name; the root has no name.
pub(crate) fn split_path(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or(&[]), path.get(at + 1..)),
        None if path.is_empty() => (path, None),
        None => (&[], Some(path)),
    }
}

/// What a name means in an OCI layer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WhiteoutName<'a> {
    /// An ordinary name.
    None,
    /// Removes the sibling of this name.
    Remove(&'a [u8]),
    /// Removes all siblings.
    Opaque,
    /// Bookkeeping of union file systems, which means nothing here.
    Ignored,
}

impl<'a> WhiteoutName<'a> {
    pub(crate) fn parse(name: &'a [u8]) -> Result<Self, &'static str> {
        match name.strip_prefix(b".wh.") {
            None => Ok(Self::None),
            Some(b".wh..opq") => Ok(Self::Opaque),
            Some(rest) if rest.starts_with(b".wh.") => Ok(Self::Ignored),
            Some(b"" | b"." | b"..") => Err("it is a whiteout of no name"),
            Some(rest) => Ok(Self::Remove(rest)),
        }
    }
}

/// Checks what the index can hold of a node's attributes and of a symbolic link's target.
pub(crate) fn validate_entry(entry: &LayerEntry) -> Result<(), &'static str> {
    for (name, value) in &entry.attributes.xattrs {
        if name.is_empty() || name.len() > XATTR_NAME_LEN_MAX || name.contains(&0) {
            return Err("an xattr's name is empty, longer than 255 bytes, or holds a NUL");
        }
        if value.len() > XATTR_VALUE_LEN_MAX {
            return Err("an xattr's value is longer than 64 KiB");
        }
    }
    match &entry.kind {
        EntryKind::Symlink(target)
            if target.is_empty() || target.len() > PATH_LEN_MAX || target.contains(&0) =>
        {
            Err("its link target is empty, longer than 4,095 bytes, or holds a NUL")
        }
        EntryKind::HardLink(target) if target.is_empty() => Err("it is a hard link to the root"),
        EntryKind::Directory | EntryKind::OpaqueWhiteout => Ok(()),
        _ if entry.path.is_empty() => Err("the root is not a directory"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_form() {
        for (path, normal) in [
            (&b"a/b"[..], Some(&b"a/b"[..])),
            (b"/a//b/", Some(b"a/b")),
            (b"./././a/.", Some(b"a")),
            (b"./", Some(b"")),
            (b"", Some(b"")),
            (b"..a/b..", Some(b"..a/b..")),
            (b"a/../b", None),
            (b"..", None),
            (b"a\0b", None),
            (&[b'x'; 256], None),
            (&[b'x'; 255], Some(&[b'x'; 255])),
        ] {
            assert_eq!(normalize_path(path).ok().as_deref(), normal, "{path:?}");
        }
        assert_eq!(normalize_path(&b"a/".repeat(2048)).map(|path| path.len()), Ok(4095));
        assert!(normalize_path(&b"a/".repeat(2049)).is_err());
    }

    #[test]
    fn whiteout_names_are_told_apart() {
        for (name, expected) in [
            (&b"a"[..], Ok(WhiteoutName::None)),
            (b".wh", Ok(WhiteoutName::None)),
            (b".wh.a", Ok(WhiteoutName::Remove(b"a"))),
            (b".wh..a", Ok(WhiteoutName::Remove(b".a"))),
            (b".wh..wh..opq", Ok(WhiteoutName::Opaque)),
            (b".wh..wh.plnk", Ok(WhiteoutName::Ignored)),
            (b".wh..wh.", Ok(WhiteoutName::Ignored)),
            (b".wh.", Err(())),
            (b".wh..", Err(())),
            (b".wh...", Err(())),
        ] {
            assert_eq!(WhiteoutName::parse(name).map_err(|_| ()), expected, "{name:?}");
        }
    }
}
