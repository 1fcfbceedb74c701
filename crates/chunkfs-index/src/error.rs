//! What can be wrong with an index.

use chunkfs_format::ImageId;

/// Bytes are not an index that this version can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The bytes do not start with the magic of an index.
    #[error("the bytes are not a chunkfs index")]
    NotAnIndex,
    /// The index was written in a newer, incompatible format.
    #[error("the index has format version {version}, this program reads version 1; update it")]
    UnknownVersion {
        /// The major version of the index.
        version: u16,
    },
    /// The index uses features that this version does not know.
    #[error("the index needs unknown features {features:#x}; update this program")]
    UnknownFeatures {
        /// The unknown feature bits.
        features: u64,
    },
    /// The index ends before its superblock says so, or goes on after it.
    #[error("the index is {actual} bytes long instead of {expected}")]
    Length {
        /// The length that the superblock states, or the least possible one.
        expected: u64,
        /// The number of bytes given.
        actual: u64,
    },
    /// The superblock or the section table is damaged.
    #[error("the superblock is damaged: {problem}")]
    Superblock {
        /// What is wrong.
        problem: &'static str,
    },
    /// A section is missing, out of order, or not a whole number of records.
    #[error("the section table is invalid at entry {entry}: {problem}")]
    Section {
        /// The position in the section table.
        entry: u32,
        /// What is wrong.
        problem: &'static str,
    },
    /// A record contradicts another one or a limit of the format.
    #[error("{table} {record} is invalid: {problem}")]
    Record {
        /// The table that holds the record.
        table: &'static str,
        /// The position in the table.
        record: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// The tree or the chunk ids are not those that the index claims to describe.
    #[error("the index describes image {actual} instead of {expected}")]
    ImageId {
        /// The id in the superblock.
        expected: ImageId,
        /// The id of the sections.
        actual: ImageId,
    },
    /// The transferred form is not one zstd frame of at most the allowed length.
    #[error("the compressed index cannot be decoded: {problem}")]
    Transfer {
        /// What is wrong.
        problem: String,
    },
}

/// A tree cannot be expressed as an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A table has more records than the format can number.
    #[error("the image has more {table} records than the format can hold")]
    TooMany {
        /// The table.
        table: &'static str,
    },
    /// A record breaks a rule of the format.
    #[error("the tree breaks the format: {0}")]
    Invalid(#[from] OpenError),
    /// The index could not be compressed for want of memory.
    #[error("the index could not be compressed: {problem}")]
    Compress {
        /// What zstd said.
        problem: String,
    },
}
