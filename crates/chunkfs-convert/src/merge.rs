//! Layers to one tree, by the rules of the OCI image specification.
//!
//! What the specification leaves open is decided as `umoci` decides it.

use std::collections::{HashMap, HashSet, VecDeque};

use chunkfs_index::{Attributes, ChunkIndex, Content, Node, NodeId, Segment, SegmentChunk, Tree};

use crate::entry::{EntryKind, LayerEntry, Part, split_path};
use crate::error::{LayerError, display_path};

/// How many symbolic links the path of one entry may lead through, as in Linux.
const LINKS_MAX: u32 = 40;
/// How many directories may be made up because the layers name only what is in them.
const MADE_UP_MAX: u32 = 1 << 22;

/// Applies layers to a tree, the lowest first.
#[derive(Debug)]
pub(crate) struct Merger {
    tree: Tree,
    /// The names that the current layer wrote, with all their parents: whiteouts spare them.
    written: HashMap<NodeId, HashSet<Vec<u8>>>,
    made_up_count: u32,
}

impl Merger {
    pub(crate) fn new() -> Self {
        let tree = Tree::new(made_up_attributes());
        Self { tree, written: HashMap::new(), made_up_count: 0 }
    }

    /// Applies the entries of the next layer; `chunks` maps its chunk table to the index's.
    pub(crate) fn add_layer(
        &mut self,
        entries: Vec<LayerEntry>,
        chunks: &[ChunkIndex],
    ) -> Result<(), LayerError> {
        self.written.clear();
        for entry in entries {
            let LayerEntry { path, attributes, kind } = entry;
            self.apply(&path, attributes, kind, chunks)
                .map_err(|problem| LayerError::Entry { entry: display_path(&path), problem })?;
        }
        Ok(())
    }

    pub(crate) fn into_tree(self) -> Tree {
        self.tree
    }

    fn apply(
        &mut self,
        path: &[u8],
        attributes: Attributes,
        kind: EntryKind,
        chunks: &[ChunkIndex],
    ) -> Result<(), &'static str> {
        let (parent, name) = split_path(path);
        let content = match kind {
            EntryKind::Whiteout => return self.remove_lower(parent, name),
            EntryKind::OpaqueWhiteout => return self.remove_lower(path, None),
            EntryKind::HardLink(target) => {
                let node =
                    self.find(&target)?.ok_or("the target of its hard link does not exist")?;
                if self.tree.children(node).is_some() {
                    return Err("it is a hard link to a directory");
                }
                let directory = self.make_directory(parent)?;
                return self.place(directory, name, node);
            }
            EntryKind::Directory => {
                let directory = self.make_directory(parent)?;
                let existing = match name {
                    Some(name) => self.tree.child(directory, name),
                    None => Some(self.tree.root()),
                };
                let existing = existing.filter(|node| self.tree.children(*node).is_some());
                if let Some(node) = existing {
                    self.tree.node_mut(node).attributes = attributes;
                    self.mark_written(directory, name);
                    return Ok(());
                }
                Content::Directory(Default::default())
            }
            EntryKind::Regular(parts) => Content::Regular(segments(&parts, chunks)?),
            EntryKind::Symlink(target) => Content::Symlink(target),
            EntryKind::CharDevice(device) => Content::CharDevice(device),
            EntryKind::BlockDevice(device) => Content::BlockDevice(device),
            EntryKind::Fifo => Content::Fifo,
            EntryKind::Socket => Content::Socket,
        };
        let directory = self.make_directory(parent)?;
        let node = self.tree.add(Node { attributes, content });
        self.place(directory, name, node)
    }

    /// Makes `name` lead to `node`, whatever it led to before.
    fn place(
        &mut self,
        directory: NodeId,
        name: Option<&[u8]>,
        node: NodeId,
    ) -> Result<(), &'static str> {
        let name = name.ok_or("the root is not a directory")?;
        if let Some(children) = self.tree.children_mut(directory) {
            children.insert(name.to_vec(), node);
        }
        self.mark_written(directory, Some(name));
        Ok(())
    }

    fn mark_written(&mut self, directory: NodeId, name: Option<&[u8]>) {
        if let Some(name) = name.filter(|name| !self.is_written(directory, name)) {
            self.written.entry(directory).or_default().insert(name.to_vec());
        }
    }

    fn is_written(&self, directory: NodeId, name: &[u8]) -> bool {
        self.written.get(&directory).is_some_and(|names| names.contains(name))
    }

    /// Removes `name`, or everything in the directory if there is no name, except what the current
    /// layer wrote.
    fn remove_lower(&mut self, parent: &[u8], name: Option<&[u8]>) -> Result<(), &'static str> {
        let Some(directory) = self.walk(parent, false)? else { return Ok(()) };
        let names = match name {
            Some(name) => vec![name.to_vec()],
            None => self.names(directory),
        };
        let mut pending: Vec<_> = names.into_iter().map(|name| (directory, name)).collect();
        while let Some((directory, name)) = pending.pop() {
            if !self.is_written(directory, &name) {
                if let Some(children) = self.tree.children_mut(directory) {
                    children.remove(&name);
                }
            } else if let Some(child) = self.tree.child(directory, &name) {
                pending.extend(self.names(child).into_iter().map(|name| (child, name)));
            }
        }
        Ok(())
    }

    fn names(&self, directory: NodeId) -> Vec<Vec<u8>> {
        let children = self.tree.children(directory);
        children.map(|children| children.keys().cloned().collect()).unwrap_or_default()
    }

    /// Finds a node without following a symbolic link in its last name.
    fn find(&mut self, path: &[u8]) -> Result<Option<NodeId>, &'static str> {
        let (parent, name) = split_path(path);
        let Some(directory) = self.walk(parent, false)? else { return Ok(None) };
        Ok(name.map_or(Some(directory), |name| self.tree.child(directory, name)))
    }

    /// Returns the directory at a path, making up what is missing.
    fn make_directory(&mut self, path: &[u8]) -> Result<NodeId, &'static str> {
        self.walk(path, true)?.ok_or("its parent is not a directory")
    }

    /// Follows a path to a directory, through symbolic links but never out of the tree.
    ///
    /// A name that leads nowhere may still be followed by `..` in the target of a link; like
    /// umoci, this makes up only what remains of the path in the end.
    fn walk(&mut self, path: &[u8], is_made: bool) -> Result<Option<NodeId>, &'static str> {
        let mut pending: VecDeque<Vec<u8>> = components(path).collect();
        let mut way: Vec<(Vec<u8>, Step)> = Vec::new();
        let mut link_count = 0;
        while let Some(name) = pending.pop_front() {
            if name == b".." {
                // The parent of the root is the root.
                way.pop();
                continue;
            }
            let step = match way.last() {
                None => Step::Directory(self.tree.root()),
                Some((_, step)) => *step,
            };
            let child = match step {
                Step::Directory(directory) => self.tree.child(directory, &name),
                Step::Missing | Step::Other => None,
            };
            let Some(child) = child else {
                way.push((name, Step::Missing));
                continue;
            };
            match &self.tree.node(child).content {
                Content::Directory(_) => way.push((name, Step::Directory(child))),
                Content::Symlink(target) => {
                    link_count += 1;
                    if link_count > LINKS_MAX {
                        return Err("its path leads through more than 40 symbolic links");
                    }
                    if target.starts_with(b"/") {
                        way.clear();
                    }
                    for component in components(target).collect::<Vec<_>>().into_iter().rev() {
                        pending.push_front(component);
                    }
                }
                _ => way.push((name, Step::Other)),
            }
        }
        let mut directory = self.tree.root();
        for (name, step) in way {
            let child = match step {
                Step::Directory(child) => child,
                Step::Missing if is_made => self.make_up(directory, &name)?,
                Step::Missing | Step::Other => return Ok(None),
            };
            if is_made {
                self.mark_written(directory, Some(&name));
            }
            directory = child;
        }
        Ok(Some(directory))
    }

    fn make_up(&mut self, directory: NodeId, name: &[u8]) -> Result<NodeId, &'static str> {
        if name.len() > 255 {
            return Err("it is below a symbolic link to a name of more than 255 bytes");
        }
        self.made_up_count += 1;
        if self.made_up_count > MADE_UP_MAX {
            return Err("it is below one of more than 4,194,304 directories without an entry");
        }
        let content = Content::Directory(Default::default());
        let node = self.tree.add(Node { attributes: made_up_attributes(), content });
        self.place(directory, Some(name), node)?;
        Ok(node)
    }
}

/// What a name on the way to a directory leads to.
#[derive(Debug, Clone, Copy)]
enum Step {
    Directory(NodeId),
    /// Nothing.
    Missing,
    /// A file of another kind.
    Other,
}

/// The attributes of a directory that no layer describes.
fn made_up_attributes() -> Attributes {
    Attributes { permissions: 0o755, ..Attributes::default() }
}

fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
        .map(<[u8]>::to_vec)
}

fn segments(parts: &[Part], chunks: &[ChunkIndex]) -> Result<Vec<Segment>, &'static str> {
    let segment = |part: &Part| {
        let chunk = match part.chunk {
            None => None,
            Some((chunk, offset)) => {
                let index = chunks.get(chunk as usize).ok_or("its content has no such chunk")?;
                Some(SegmentChunk { index: *index, offset })
            }
        };
        Ok(Segment { len: part.len, chunk })
    };
    parts.iter().map(segment).collect()
}
