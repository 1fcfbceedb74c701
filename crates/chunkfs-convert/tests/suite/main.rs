//! Public behaviour of conversions, mirroring the modules of the crate.

mod archive;
mod content;
mod hostile;
mod pipeline;
mod reuse;
mod rootfs;
mod semantics;
mod support;
mod umoci;
mod umoci_random;
