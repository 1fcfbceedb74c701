//! Serves chunkfs images as read-only FUSE file systems.
//!
//! * [`Mount`]: [mounts](Mount::new) an image; dropping it unmounts.
//! * [`MountOptions`]: threads, read-ahead, who may look.
//! * [`MountCounters`]: what the kernel asked for.
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//!
//! use chunkfs_fuse::{Mount, MountOptions};
//! # fn example(image: chunkfs_image::Image) -> Result<(), chunkfs_fuse::MountError> {
//! let mount = Mount::new(image, Path::new("/mnt"), MountOptions::default())?;
//! // The whole tree is there; file content is fetched when it is read.
//! mount.wait()?; // until somebody runs `umount /mnt`
//! # Ok(())
//! # }
//! ```
//!
//! # How it serves
//! * Nothing that waits holds a thread or a lock: a read is answered from wherever its last chunk
//!   arrives, so that a slow chunk delays nobody else.
//! * An image never changes, so the kernel may keep names, missing names, attributes, links,
//!   listings and pages for ever, and opening a file sends no request.
//! * The mount is read-only for the kernel too: reading then does not outdate cached attributes.
//! * Inode numbers are those of the index: equal for hard links, the same in every mount.
//! * `system.posix_acl_*` attributes are enforced if the image has any.
//!
//! # Limits
//! * Linux only, FUSE ABI 7.23 (Linux 3.15) and later; system calls for root need Linux 5.2, else
//!   the older ones are used.
//! * A reader that is killed while it waits for a chunk that is already being fetched may stay
//!   until the chunk arrives or the fetch times out.
//! * What the kernel has cached was verified when it was read, not again when it is used.
//! * Unprivileged mounts are `nosuid` and `nodev`, and read ahead 128 KiB: `fusermount3` and the
//!   kernel see to that. What remains of them after an unmount: see [`Mount::unmount`].
//! * A process that is killed leaves a dead mount point behind, which `umount` or
//!   `fusermount3 -u` clears.
//! * Mapping files of a mount into the process that serves it can deadlock under memory pressure.
#![forbid(unsafe_code)]

mod attributes;
mod counters;
mod errno;
mod error;
mod filesystem;
mod kernel;
mod listing;
mod mount;
mod options;
mod seek;

pub use counters::MountCounters;
pub use error::MountError;
pub use mount::Mount;
pub use options::MountOptions;
