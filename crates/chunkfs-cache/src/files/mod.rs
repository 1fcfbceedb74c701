//! The file operations that the disk tier is built from.
//!
//! Everything that the disk tier does to a disk goes through these two traits, so that tests can
//! fail any operation, and lose or reorder writes as a power loss does.

mod disk;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use disk::DiskFiles;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpenMode {
    /// For reading; the file must be there.
    Read,
    /// For reading and writing; the file must be there.
    Write,
    /// For reading and writing; the file is created with mode 0600 if it is not there.
    Create,
}

/// What a power loss may take of a file that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Any part, until the system writes it back.
    Lazy,
    /// Nothing, once the call returned.
    Synced,
}

/// A folder without subfolders.
pub trait Files: Send + Sync + fmt::Debug {
    /// Opens a file.
    ///
    /// # Errors
    /// Whatever the system says.
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn CacheFile>>;

    /// Writes a whole file under a temporary name, then renames it.
    ///
    /// # Errors
    /// Whatever the system says; an older file of this name is then still there.
    fn replace(&self, name: &str, bytes: &[u8], durability: Durability) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Whatever the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Returns the names of the files, in no order.
    ///
    /// # Errors
    /// Whatever the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Returns a number that is another one after anything that can lose what was written but not
    /// synced; zero if that is not known.
    fn boot(&self) -> u64;

    /// Returns how many bytes the file system has free for this user.
    ///
    /// # Errors
    /// Whatever the system says.
    fn free_len(&self) -> io::Result<u64>;
}

/// An open file, used by many threads at once.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait CacheFile: Send + Sync + fmt::Debug {
    /// Reads from `offset` on until the buffer is full or the file ends; returns the bytes read.
    ///
    /// # Errors
    /// Whatever the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads like [`read_at`](Self::read_at) what is in the page cache; fewer bytes, down to none,
    /// if it would have to wait for the disk.
    ///
    /// # Errors
    /// Whatever the system says.
    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buffer, offset)
    }

    /// Writes all bytes at `offset`, extending the file if need be.
    ///
    /// # Errors
    /// Whatever the system says; any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns the length.
    ///
    /// # Errors
    /// Whatever the system says.
    fn len(&self) -> io::Result<u64>;

    /// Sets the length; what is added reads as zeros and takes no space.
    ///
    /// # Errors
    /// Whatever the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns how many bytes of disk the file takes.
    ///
    /// # Errors
    /// Whatever the system says.
    fn allocated_len(&self) -> io::Result<u64>;

    /// Gives the space of a range back; it reads as zeros afterwards.
    ///
    /// # Errors
    /// Whatever the system says.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Lets go of the pages of a range that are in the page cache and on disk. A hint.
    fn drop_pages(&self, offset: u64, len: u64);

    /// Returns whether the file still has a name in its folder.
    ///
    /// # Errors
    /// Whatever the system says.
    fn is_linked(&self) -> io::Result<bool>;

    /// Locks the byte at `offset`, which need not exist, against all other open files, unless it
    /// is locked. The lock ends with [`unlock`](Self::unlock), with the file, and with the process.
    ///
    /// # Errors
    /// Whatever the system says.
    fn try_lock(&self, offset: u64) -> io::Result<bool>;

    /// Unlocks a byte.
    ///
    /// # Errors
    /// Whatever the system says.
    fn unlock(&self, offset: u64) -> io::Result<()>;

    /// Returns the file's descriptor, for others who map it, if it has one.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;
}
