//! Runs the real program as people and scripts do.
//!
//! What needs root, `/dev/fuse` or other programs is skipped with a printed reason without them.

mod archive;
mod attach;
mod cache;
mod convert;
mod export;
mod mount;
mod mount_ends;
mod reading;
mod registry;
mod stores;
mod support;
mod usage;
mod verify;
