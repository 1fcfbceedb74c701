//! The disk tier: chunks in slabs, found by a directory, shared by processes.

mod directory;
mod generation;
mod images;
mod insert;
mod lease;
mod mounts;
mod record;
mod store;
mod sweep;
mod tree;

pub(crate) use images::ImageEntry;
pub use images::{CacheUsage, ImageUsage};
pub(crate) use insert::Inserted;
pub(crate) use lease::Lease;
pub(crate) use store::{Outcome, Place, SlabStore, StoreSettings};
pub(crate) use tree::{GROUP_LEN, Tree};
