//! Mounts images and looks at them as any program would.
//!
//! Where `/dev/fuse` cannot be used every test prints why and passes.

mod attributes;
mod concurrency;
mod directories;
mod faults;
mod files;
mod mounting;
mod support;
mod xattrs;
