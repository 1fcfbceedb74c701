//! What can go wrong with mounting and unmounting.

use std::io;
use std::path::PathBuf;

/// An image cannot be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point is missing, is no directory, or cannot be reached.
    #[error("{path} cannot be mounted on; create the directory first, or unmount what is left of an earlier mount", path = path.display())]
    Mountpoint {
        /// The mount point as it was given.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel's FUSE device cannot be opened.
    #[error(
        "/dev/fuse cannot be opened; load the module (modprobe fuse), or give the container the device"
    )]
    Device {
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel, or `fusermount3` for an unprivileged process, refuses to mount.
    #[error("{path} cannot be mounted; without root, fusermount3 must be installed", path = path.display())]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the kernel or `fusermount3` says.
        source: io::Error,
    },
    /// The threads that answer the kernel cannot be started.
    #[error("the threads that serve {path} cannot be started", path = path.display())]
    Threads {
        /// The mount point.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The file system cannot be unmounted; it is still served.
    #[error("{path} cannot be unmounted", path = path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// What the kernel or `fusermount3` says.
        source: io::Error,
    },
    /// Serving ended with an error of the connection to the kernel.
    #[error("serving {path} ended with an error", path = path.display())]
    Serve {
        /// The mount point.
        path: PathBuf,
        /// What the kernel says, as text: it is told to every caller that waits.
        problem: String,
    },
}

impl MountError {
    /// Returns whether the mount point does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Mountpoint { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
