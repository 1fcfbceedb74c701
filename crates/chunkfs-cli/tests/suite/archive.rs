//! A small tree of every kind of file, as a tar archive.

use tar_core::EntryType;
use tar_core::builder::EntryBuilder;

/// The longest name that a directory can hold.
pub(crate) const LONG_NAME: [u8; 255] = [b'n'; 255];
/// The length of the sparse file, of which the first 4 KiB are data.
pub(crate) const SPARSE_LEN: usize = 400_000;

pub(crate) struct Archive(Vec<u8>);

impl Archive {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds an entry; `change` sets what differs from an empty file of root, 1 s after 1970.
    pub(crate) fn entry(
        mut self,
        path: impl AsRef<[u8]>,
        content: &[u8],
        change: impl FnOnce(&mut EntryBuilder),
    ) -> Self {
        let mut entry = EntryBuilder::new_ustar();
        entry.path(path.as_ref()).mode(0o644).unwrap().uid(0).unwrap().gid(0).unwrap();
        entry.mtime(1).unwrap().size(content.len() as u64).unwrap();
        entry.entry_type(EntryType::Regular);
        change(&mut entry);
        self.0.extend_from_slice(&entry.finish_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: impl AsRef<[u8]>, content: &[u8]) -> Self {
        self.entry(path, content, |_| {})
    }

    pub(crate) fn folder(self, path: &str) -> Self {
        self.entry(path, b"", |entry| {
            entry.entry_type(EntryType::Directory).mode(0o755).unwrap();
        })
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, b"", |entry| {
            entry.entry_type(EntryType::Symlink).link_name(target).mode(0o777).unwrap();
        })
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Every kind of file that tar can hold, with odd names, times and attributes.
pub(crate) fn everything() -> Vec<u8> {
    Archive::new()
        .folder("./")
        .folder("dir/")
        .file("dir/big", &noise(1, 300_000))
        .symlink("dir/up", "../file")
        .symlink("absolute", "/dir/up")
        .symlink("also", "dir")
        .symlink("nowhere", "gone")
        .entry("file", b"hello\n", |entry| {
            entry.mode(0o4755).unwrap().uid(1000).unwrap().gid(100).unwrap();
            entry.add_pax("SCHILY.xattr.user.note", b"a\0b");
        })
        .entry("hard", b"", |entry| {
            entry.entry_type(EntryType::Link).link_name("file");
        })
        .entry("old", b"", |entry| {
            entry.mtime(0).unwrap().add_pax("mtime", b"-1.250000000");
        })
        .entry("sparse", &sparse()[..4096], |entry| {
            let data = [(0, 4096), (SPARSE_LEN as u64, 0)];
            let map = data.map(|(offset, length)| tar_core::SparseEntry { offset, length });
            entry.sparse(&map, SPARSE_LEN as u64);
        })
        .file(b"\xff\xfe", b"not UTF-8\n")
        .file("new\nline", b"two lines\n")
        .file(LONG_NAME, b"long\n")
        .finish()
}

/// Files that only root can make.
pub(crate) fn devices() -> Vec<u8> {
    let device = |kind| {
        move |entry: &mut EntryBuilder| {
            entry.entry_type(kind).device(5, 300).unwrap();
        }
    };
    Archive::new()
        .folder("./")
        .entry("block", b"", device(EntryType::Block))
        .entry("char", b"", device(EntryType::Char))
        .entry("fifo", b"", |entry| {
            entry.entry_type(EntryType::Fifo);
        })
        .finish()
}

/// The content of `sparse`.
pub(crate) fn sparse() -> Vec<u8> {
    let mut content = noise(2, 4096);
    content.resize(SPARSE_LEN, 0);
    content
}

/// Bytes that do not compress and differ by seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}
