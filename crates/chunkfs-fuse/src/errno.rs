//! Which error number the kernel is given: the one table.

use chunkfs_image::ReadError;
use fuser::Errno;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no inode with this number: a file handle of another image, or a made-up one.
    UnknownInode,
    /// There is no such name.
    UnknownName,
    /// The name is longer than any name can be.
    NameTooLong,
    /// The inode is no directory.
    NotADirectory,
    /// The inode is no symbolic link.
    NotASymlink,
    /// There is no such extended attribute.
    UnknownXattr,
    /// The caller's buffer is too short.
    BufferTooShort,
    /// The offset is past the end of the file, or no data follows it.
    OutOfFile,
    /// The request makes no sense.
    Invalid,
    /// The request would change something.
    ReadOnly,
    /// The kernel shall never send this kind of request again.
    NotNeeded,
}

impl From<Refusal> for Errno {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownInode => Self::ESTALE,
            Refusal::UnknownName => Self::ENOENT,
            Refusal::NameTooLong => Self::ENAMETOOLONG,
            Refusal::NotADirectory => Self::ENOTDIR,
            Refusal::NotASymlink | Refusal::Invalid => Self::EINVAL,
            Refusal::UnknownXattr => Self::ENODATA,
            Refusal::BufferTooShort => Self::ERANGE,
            Refusal::OutOfFile => Self::ENXIO,
            Refusal::ReadOnly => Self::EROFS,
            Refusal::NotNeeded => Self::ENOSYS,
        }
    }
}

/// Returns the number for a read that failed.
///
/// Whatever is wrong with a chunk is `EIO`: a missing blob is no missing file, and no reader of a
/// local file expects to be told to try again.
pub(crate) fn of_read(error: &ReadError) -> Errno {
    match error {
        ReadError::NotAFile { .. } => Errno::EINVAL,
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_numbers_that_linux_documents() {
        for (refusal, number) in [
            (Refusal::UnknownInode, 116),
            (Refusal::UnknownName, 2),
            (Refusal::NameTooLong, 36),
            (Refusal::NotADirectory, 20),
            (Refusal::NotASymlink, 22),
            (Refusal::UnknownXattr, 61),
            (Refusal::BufferTooShort, 34),
            (Refusal::OutOfFile, 6),
            (Refusal::Invalid, 22),
            (Refusal::ReadOnly, 30),
            (Refusal::NotNeeded, 38),
        ] {
            assert_eq!(Errno::from(refusal).code(), number, "{refusal:?}");
        }
    }

    #[test]
    fn reading_something_else_than_a_file_is_invalid() {
        assert_eq!(of_read(&ReadError::NotAFile { ino: 1 }).code(), 22);
    }
}
