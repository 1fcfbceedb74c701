//! Paths with symbolic links.

use chunkfs_index::{FileKind, Inode, InodeIndex};

use crate::image::Image;

/// As many links as the kernel follows before it gives up.
const LINKS_MAX: u32 = 40;

impl Image {
    /// Finds a file by its path, following symbolic links as in a chroot to the image.
    ///
    /// The path may begin with a slash or not; `..` at the root stays there. Returns `None` if
    /// there is no such file or there are more than 40 links on the way.
    pub fn resolve(&self, path: &[u8]) -> Option<Inode> {
        let index = self.index();
        // Components still to be walked, the next one last.
        let mut rest: Vec<Vec<u8>> = components(path).collect();
        let mut directories: Vec<InodeIndex> = vec![InodeIndex::ROOT];
        let mut links_left = LINKS_MAX;
        let mut at = index.root();
        while let Some(component) = rest.pop() {
            match component.as_slice() {
                b"" | b"." if at.kind == FileKind::Directory => {}
                b".." if at.kind == FileKind::Directory => {
                    if directories.len() > 1 {
                        directories.pop();
                    }
                    at = index.inode(*directories.last()?)?;
                }
                name => {
                    let child = index.lookup(&at, name)?;
                    match index.symlink_target(&child) {
                        Some(target) => {
                            links_left = links_left.checked_sub(1)?;
                            if target.starts_with(b"/") {
                                directories.truncate(1);
                                at = index.root();
                            }
                            rest.extend(components(target));
                        }
                        None => {
                            if child.kind == FileKind::Directory {
                                directories.push(child.index);
                            }
                            at = child;
                        }
                    }
                }
            }
        }
        Some(at)
    }
}

/// The components of a path, last first.
fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec)
}
