//! `chunkfs ls`.

use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;

use anyhow::Context as _;
use chunkfs_image::{Image, OpenOptions};
use chunkfs_index::{FileKind, Index, Inode};

use crate::arguments::LsArguments;
use crate::output::Output;
use crate::{context, listing};

pub(crate) fn run(arguments: &LsArguments) -> anyhow::Result<()> {
    context::runtime()?.block_on(async {
        let options = OpenOptions::default();
        let cache = context::memory_cache();
        let image =
            context::open_image(&arguments.image, &arguments.registry, &cache, options).await?;
        let index = image.index();
        let path = arguments.path.as_os_str().as_bytes();
        let inode = find(&image, path, arguments).with_context(|| {
            format!("there is no file {} in {}", arguments.path.display(), arguments.image)
        })?;
        let mut lister = Lister { index, arguments, output: BufWriter::new(Output::new()) };
        lister.list(&inode, &normalized(path))?;
        lister.output.flush()?;
        Ok(())
    })
}

/// Finds a file as `ls` does: only `-l` shows a link that is the last component of a path.
fn find(image: &Image, path: &[u8], arguments: &LsArguments) -> Option<Inode> {
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => path.split_at(slash + 1),
        None => (&b""[..], path),
    };
    if matches!(name, b"" | b"." | b"..") {
        return image.resolve(path);
    }
    let named = image.index().lookup(&image.resolve(parent)?, name)?;
    let followed = if arguments.long { None } else { image.resolve(path) };
    // A link that leads nowhere is shown itself.
    Some(followed.unwrap_or(named))
}

/// The path with one leading slash, and none at the end but for the root.
fn normalized(path: &[u8]) -> Vec<u8> {
    let components = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let mut normalized = Vec::new();
    for component in components {
        normalized.push(b'/');
        normalized.extend_from_slice(component);
    }
    if normalized.is_empty() { b"/".to_vec() } else { normalized }
}

struct Lister<'a, W> {
    index: &'a Index,
    arguments: &'a LsArguments,
    output: W,
}

impl<W: Write> Lister<'_, W> {
    /// Lists a folder's names, or the file itself. Recursively, folders come before their content.
    fn list(&mut self, inode: &Inode, path: &[u8]) -> anyhow::Result<()> {
        if inode.kind != FileKind::Directory {
            return self.line(inode, path);
        }
        if self.arguments.recursive {
            self.line(inode, path)?;
        }
        // An explicit stack: trees can be deeper than this thread's.
        let mut stack = vec![(*inode, path.to_vec(), 0)];
        while let Some((directory, directory_path, position)) = stack.pop() {
            let Some(dirent) = self.index.dirent(&directory, position) else { continue };
            let mut child_path = directory_path.clone();
            if child_path != b"/" {
                child_path.push(b'/');
            }
            child_path.extend_from_slice(dirent.name);
            stack.push((directory, directory_path, position + 1));
            let Some(child) = self.index.inode(dirent.inode) else { continue };
            if self.arguments.recursive {
                self.line(&child, &child_path)?;
                if child.kind == FileKind::Directory {
                    stack.push((child, child_path, 0));
                }
            } else {
                self.line(&child, dirent.name)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, inode: &Inode, path: &[u8]) -> anyhow::Result<()> {
        let line = if self.arguments.long {
            listing::long_line(self.index, inode, path)
        } else {
            let mut line = String::new();
            listing::push_escaped(&mut line, path);
            line
        };
        writeln!(self.output, "{line}")?;
        Ok(())
    }
}
