//! What of a tree and of the chunks is written, and in which order.

use std::collections::VecDeque;

use crate::error::BuildError;
use crate::record::{HOLE, RECORD_COUNT_END};
use crate::tree::{Content, NodeId, Tree};
use crate::types::ChunkIndex;

/// The order of the inodes: breadth first, so that a directory's parent comes before it.
pub(super) struct Order {
    pub(super) nodes: Vec<NodeId>,
    /// By position in the tree: the inode, or `u32::MAX` for nodes without a name.
    pub(super) inode_of: Vec<u32>,
    /// By position in the tree: the number of names.
    pub(super) name_counts: Vec<u32>,
    /// By position in the tree: the inode of the parent directory, for directories.
    pub(super) parents: Vec<u32>,
}

impl Order {
    pub(super) fn new(tree: &Tree) -> Result<Self, BuildError> {
        let count = tree.node_count();
        let mut order = Self {
            nodes: vec![tree.root()],
            inode_of: vec![u32::MAX; count],
            name_counts: vec![0; count],
            parents: vec![0; count],
        };
        order.inode_of[Tree::position(tree.root())] = 0;
        let mut queue = VecDeque::from([tree.root()]);
        while let Some(directory) = queue.pop_front() {
            let parent = order.inode_of[Tree::position(directory)];
            for &child in tree.children(directory).into_iter().flat_map(|names| names.values()) {
                let position = Tree::position(child);
                order.name_counts[position] += 1;
                if order.inode_of[position] != u32::MAX {
                    continue;
                }
                let inode =
                    u32::try_from(order.nodes.len()).ok().filter(|inode| *inode < RECORD_COUNT_END);
                order.inode_of[position] = inode.ok_or(BuildError::TooMany { table: "inode" })?;
                order.nodes.push(child);
                if tree.children(child).is_some() {
                    order.parents[position] = parent;
                    queue.push_back(child);
                }
            }
        }
        Ok(order)
    }
}

/// Which chunks the files use, and their new numbers.
pub(super) struct UsedChunks {
    pub(super) old_indexes: Vec<ChunkIndex>,
    new_of: Vec<u32>,
}

impl UsedChunks {
    pub(super) fn new(chunk_count: usize, tree: &Tree, order: &Order) -> Self {
        let mut new_of = vec![HOLE; chunk_count];
        for id in &order.nodes {
            if let Content::Regular(segments) = &tree.node(*id).content {
                for chunk in segments.iter().filter_map(|segment| segment.chunk) {
                    if let Some(slot) = new_of.get_mut(chunk.index.get() as usize) {
                        *slot = 0;
                    }
                }
            }
        }
        let mut old_indexes = Vec::new();
        for (old, new) in (0..).zip(&mut new_of) {
            if *new == 0 {
                *new = old_indexes.len() as u32;
                old_indexes.push(ChunkIndex::new(old));
            }
        }
        Self { old_indexes, new_of }
    }

    pub(super) fn new_index(&self, old: ChunkIndex) -> u32 {
        self.new_of.get(old.get() as usize).copied().unwrap_or(HOLE)
    }
}
