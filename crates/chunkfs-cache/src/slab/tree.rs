//! Hash trees of BLAKE3 chunks: a part can be verified without the rest.
//!
//! A tree is the list of the chaining values of a chunk's groups of 16 KiB, from which BLAKE3 itself
//! computes the digest. It is kept beside the chunk and believed only after it gives the chunk's id.

use std::sync::Arc;

use blake3::hazmat::{
    HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use chunkfs_format::ChunkId;

/// The bytes that are verified at once: a power of two of at least 1 KiB, as BLAKE3 wants.
pub(crate) const GROUP_LEN: u64 = 16 << 10;
/// The bytes of a group's value.
pub(crate) const VALUE_LEN: usize = 32;

/// A tree that gave the id of its chunk.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    values: Arc<[[u8; VALUE_LEN]]>,
}

impl Tree {
    /// Computes the tree of a chunk; `None` if the bytes are not those of the id.
    pub(crate) fn of(bytes: &[u8], id: ChunkId) -> Option<Self> {
        if bytes.len() as u64 <= GROUP_LEN {
            // The only group is the root, whose value is the id.
            let values = [*id.as_bytes()];
            return (blake3::hash(bytes) == *id.as_bytes()).then(|| Self { values: values.into() });
        }
        let groups = (0..).step_by(GROUP_LEN as usize).zip(bytes.chunks(GROUP_LEN as usize));
        let values: Vec<_> = groups.map(|(offset, group)| value(offset, group)).collect();
        Self::checked(&values, bytes.len() as u64, id)
    }

    /// Returns the tree with these values if it gives the id of a chunk of a length.
    pub(crate) fn checked(values: &[[u8; VALUE_LEN]], len: u64, id: ChunkId) -> Option<Self> {
        if values.len() as u64 != len.div_ceil(GROUP_LEN) || len == 0 {
            return None;
        }
        let root = match values {
            [only] => *only,
            values => {
                let (left, right) = halves(values, len);
                let left = subtree(left.0, left.1);
                let right = subtree(right.0, right.1);
                *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
            }
        };
        (root == *id.as_bytes()).then(|| Self { values: values.into() })
    }

    /// The values, for keeping them.
    pub(crate) fn values(&self) -> &[[u8; VALUE_LEN]] {
        &self.values
    }

    /// Returns whether `group`, whole and the group with this number, is right.
    pub(crate) fn verify(&self, number: usize, group: &[u8]) -> bool {
        let Some(expected) = self.values.get(number) else { return false };
        if self.values.len() == 1 {
            return blake3::hash(group) == *expected;
        }
        value(number as u64 * GROUP_LEN, group) == *expected
    }

    /// Bytes of memory that the tree takes.
    pub(crate) fn memory_len(&self) -> u64 {
        (self.values.len() * VALUE_LEN) as u64 + 64
    }
}

fn value(offset: u64, group: &[u8]) -> [u8; VALUE_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(group);
    hasher.finalize_non_root()
}

type Part<'a> = (&'a [[u8; VALUE_LEN]], u64);

/// Splits a subtree of more than one group as BLAKE3 does.
fn halves(values: &[[u8; VALUE_LEN]], len: u64) -> (Part<'_>, Part<'_>) {
    let left_len = left_subtree_len(len);
    // A multiple of the group's length, since both are powers of two times 1 KiB.
    let (left, right) = values.split_at((left_len / GROUP_LEN) as usize);
    ((left, left_len), (right, len - left_len))
}

/// The value of a subtree that is not the root. Recurses once for each doubling of the length.
fn subtree(values: &[[u8; VALUE_LEN]], len: u64) -> [u8; VALUE_LEN] {
    if let [only] = values {
        return *only;
    }
    let (left, right) = halves(values, len);
    let (left, right) = (subtree(left.0, left.1), subtree(right.0, right.1));
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkfs_format::DigestAlgorithm;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 % 251) as u8).collect()
    }

    #[test]
    fn trees_give_the_digest_and_verify_each_group() {
        let group = GROUP_LEN as usize;
        let lens =
            [1, group - 1, group, group + 1, 2 * group, 3 * group + 7, 1 << 20, (1 << 20) + 1];
        for len in lens {
            let bytes = content(len);
            let id = DigestAlgorithm::Blake3.chunk_id(&bytes);
            let tree = Tree::of(&bytes, id).unwrap();
            assert_eq!(tree.values().len(), len.div_ceil(group), "{len}");
            assert!(Tree::checked(tree.values(), len as u64, id).is_some(), "{len}");
            for (number, part) in bytes.chunks(group).enumerate() {
                assert!(tree.verify(number, part), "{len}, group {number}");
                let mut damaged = part.to_vec();
                damaged[0] ^= 1;
                assert!(!tree.verify(number, &damaged), "{len}, group {number}");
                assert!(!tree.verify(number + 1, part), "{len}, group {number}");
            }
        }
    }

    #[test]
    fn damaged_content_and_damaged_trees_give_no_tree() {
        let bytes = content(100_000);
        let id = DigestAlgorithm::Blake3.chunk_id(&bytes);
        let tree = Tree::of(&bytes, id).unwrap();
        for at in [0, 50_000, 99_999] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(Tree::of(&damaged, id).is_none(), "byte {at}");
        }
        for number in 0..tree.values().len() {
            let mut values = tree.values().to_vec();
            values[number][5] ^= 1;
            assert!(Tree::checked(&values, 100_000, id).is_none(), "value {number}");
        }
        assert!(Tree::checked(&tree.values()[1..], 100_000, id).is_none());
        assert!(Tree::checked(tree.values(), 100_000 + GROUP_LEN, id).is_none());
        assert!(Tree::checked(&[], 0, id).is_none());
    }
}
