//! A file tree in memory, as converters assemble it layer by layer.

use std::collections::BTreeMap;

use crate::types::{ChunkIndex, Device, FileKind, InodeIndex, Timestamp};

/// A file tree that can be changed, and that [`IndexBuilder`](crate::IndexBuilder) writes out.
///
/// Nodes are named by [`NodeId`]; a node with several names is a hard link. Nodes that no name
/// leads to are left out of the index.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: Vec<Node>,
}

/// Names a node of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// A node of a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Owner, permissions, times and extended attributes.
    pub attributes: Attributes,
    /// What the node is and holds.
    pub content: Content,
}

/// The attributes that all kinds of nodes have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// The lower 12 bits of `st_mode`.
    pub permissions: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of the last change of the content.
    pub mtime: Timestamp,
    /// The extended attributes by their full names.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What a node is and holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory with the nodes that its names lead to.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// A regular file: segments that follow each other and cover it.
    Regular(Vec<Segment>),
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

/// A part of a file in a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The number of bytes, at least one.
    pub len: u64,
    /// Where they are; `None` is a hole.
    pub chunk: Option<SegmentChunk>,
}

/// The place of a [`Segment`] in one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentChunk {
    /// The chunk, as numbered by [`IndexBuilder::add_chunk`](crate::IndexBuilder::add_chunk).
    pub index: ChunkIndex,
    /// The offset of the first byte in the chunk, a multiple of 4 KiB.
    pub offset: u32,
}

impl Content {
    /// Returns what kind of file this is.
    pub fn kind(&self) -> FileKind {
        match self {
            Self::Directory(_) => FileKind::Directory,
            Self::Regular(_) => FileKind::Regular,
            Self::Symlink(_) => FileKind::Symlink,
            Self::CharDevice(_) => FileKind::CharDevice,
            Self::BlockDevice(_) => FileKind::BlockDevice,
            Self::Fifo => FileKind::Fifo,
            Self::Socket => FileKind::Socket,
        }
    }
}

impl Tree {
    /// Creates a tree that is one empty root directory with these attributes.
    pub fn new(root: Attributes) -> Self {
        let content = Content::Directory(BTreeMap::new());
        Self { nodes: vec![Node { attributes: root, content }] }
    }

    /// Returns the root directory.
    pub const fn root(&self) -> NodeId {
        NodeId(InodeIndex::ROOT.get())
    }

    /// Adds a node that no name leads to yet.
    ///
    /// # Panics
    /// If the tree already has 2^32 nodes.
    pub fn add(&mut self, node: Node) -> NodeId {
        let id = u32::try_from(self.nodes.len()).expect("a tree has fewer than 2^32 nodes");
        self.nodes.push(node);
        NodeId(id)
    }

    /// Returns a node.
    ///
    /// # Panics
    /// If the id comes from another tree.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Returns a node to be changed.
    ///
    /// # Panics
    /// If the id comes from another tree.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// Returns the node that `name` in a directory leads to.
    ///
    /// # Panics
    /// If the id comes from another tree.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.children(directory)?.get(name).copied()
    }

    /// Returns the names in a directory, or `None` if the node is no directory.
    ///
    /// # Panics
    /// If the id comes from another tree.
    pub fn children(&self, directory: NodeId) -> Option<&BTreeMap<Vec<u8>, NodeId>> {
        match &self.node(directory).content {
            Content::Directory(children) => Some(children),
            _ => None,
        }
    }

    /// Returns the names in a directory to be changed, or `None` if the node is no directory.
    ///
    /// # Panics
    /// If the id comes from another tree.
    pub fn children_mut(&mut self, directory: NodeId) -> Option<&mut BTreeMap<Vec<u8>, NodeId>> {
        match &mut self.node_mut(directory).content {
            Content::Directory(children) => Some(children),
            _ => None,
        }
    }

    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) const fn position(id: NodeId) -> usize {
        id.0 as usize
    }
}
