//! How many requests the kernel sent.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of the requests that the kernel sent to a mount.
        ///
        /// Requests that the kernel answers from its caches are not seen here.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct MountCounters {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct AtomicCounters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl AtomicCounters {
            pub(crate) fn snapshot(&self) -> MountCounters {
                MountCounters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Names that were looked up, missing ones included.
    lookups,
    /// Names that were looked up and do not exist.
    negative_lookups,
    /// Attributes that were asked for, apart from those that a lookup or a listing brings along.
    getattrs,
    /// Targets of symbolic links.
    readlinks,
    /// Files and directories that were opened; at most one of each where the kernel can be told
    /// that opening needs no request.
    opens,
    /// Pieces of directory listings.
    readdirs,
    /// Extended attributes and lists of them.
    xattrs,
    /// Searches for data or holes.
    lseeks,
    /// Sizes of the file system.
    statfs,
    /// Reads, answered or not.
    reads,
    /// Reads that were answered, with data or an error.
    finished_reads,
    /// Bytes that reads returned.
    read_bytes,
    /// Reads that failed.
    read_errors,
}

pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
