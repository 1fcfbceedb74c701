//! Directory listings that can be resumed anywhere.

use chunkfs_index::{FileKind, Index, Inode, InodeIndex};

/// The first two cookies: those of `.` and `..`.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// A name in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) inode: InodeIndex,
    pub(crate) kind: FileKind,
    /// Where the listing goes on after this name: a position that never changes.
    pub(crate) cookie: u64,
}

/// Returns the names of a directory that follow a cookie, beginning with `.` and `..` for zero.
pub(crate) fn entries<'a>(
    index: &'a Index,
    directory: &Inode,
    cookie: u64,
) -> impl Iterator<Item = Entry<'a>> {
    let dot = |name, inode, cookie| Entry { name, inode, kind: FileKind::Directory, cookie };
    let dots = [dot(&b"."[..], directory.index, DOT), dot(b"..", directory.parent(), DOT_DOT)];
    let start = u32::try_from(cookie.saturating_sub(DOT_DOT)).unwrap_or(u32::MAX);
    let names = index.dirents(directory, start).map(|dirent| Entry {
        name: dirent.name,
        inode: dirent.inode,
        kind: dirent.kind,
        cookie: u64::from(dirent.position) + DOT_DOT + 1,
    });
    dots.into_iter().filter(move |entry| entry.cookie > cookie).chain(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkfs_format::{ChunkSize, DigestAlgorithm};
    use chunkfs_index::{Attributes, Content, IndexBuilder, Node, Tree};

    #[test]
    fn every_cookie_resumes_after_its_name() {
        let mut tree = Tree::new(Attributes::default());
        for name in [&b"a"[..], b"b", b"c"] {
            let node = Node { attributes: Attributes::default(), content: Content::Fifo };
            let node = tree.add(node);
            let root = tree.root();
            tree.children_mut(root).unwrap().insert(name.to_vec(), node);
        }
        let builder = IndexBuilder::new(DigestAlgorithm::Blake3, ChunkSize::default());
        let index = builder.build(&tree).unwrap();
        let all: Vec<Entry<'_>> = entries(&index, &index.root(), 0).collect();
        let names: Vec<&[u8]> = all.iter().map(|entry| entry.name).collect();
        assert_eq!(names, [&b"."[..], b"..", b"a", b"b", b"c"]);
        let cookies: Vec<u64> = all.iter().map(|entry| entry.cookie).collect();
        assert_eq!(cookies, [1, 2, 3, 4, 5]);
        for (position, entry) in all.iter().enumerate() {
            let rest: Vec<Entry<'_>> = entries(&index, &index.root(), entry.cookie).collect();
            assert_eq!(rest, all[position + 1..]);
        }
        for past in [6, u64::from(u32::MAX) + 2, u64::MAX] {
            assert_eq!(entries(&index, &index.root(), past).count(), 0);
        }
    }
}
