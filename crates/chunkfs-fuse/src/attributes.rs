//! What `stat` shows of an inode.

use std::time::{Duration, SystemTime};

use chunkfs_index::{Device, FileKind, Index, Inode, PieceSource, Timestamp};
use fuser::{FileAttr, FileType, INodeNo};

/// `st_blksize`: the unit of the page cache. Python's `open` takes it as its buffer size, so larger
/// values cost memory, and the kernel's read-ahead makes large requests of small reads anyway.
pub(crate) const BLOCK_LEN: u32 = 4096;

/// The most pieces of a file that one request looks at, against hostile indexes: 64 GiB of data in
/// chunks of 1 MiB. Whatever follows is taken as data.
pub(crate) const PIECES_MAX: usize = 1 << 16;

/// The largest major and minor numbers that the kernel's 32-bit encoding can hold.
const MAJOR_MAX: u32 = 0xfff;
const MINOR_MAX: u32 = 0xf_ffff;

pub(crate) fn attributes(index: &Index, inode: &Inode) -> FileAttr {
    // An image records one time; a converted file was never read nor changed since.
    let time = system_time(inode.mtime);
    FileAttr {
        ino: INodeNo(inode.index.ino()),
        size: inode.len,
        blocks: data_len(index, inode).div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(inode.kind),
        perm: inode.permissions,
        nlink: inode.link_count,
        uid: inode.uid,
        gid: inode.gid,
        rdev: encode_device(inode.device),
        blksize: BLOCK_LEN,
        flags: 0,
    }
}

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
    }
}

/// Returns how many bytes of a file are not in holes.
fn data_len(index: &Index, inode: &Inode) -> u64 {
    let mut data_len = 0;
    for (count, piece) in index.pieces(inode, 0, inode.len).enumerate() {
        if count == PIECES_MAX {
            return data_len + (inode.len - piece.file_offset);
        }
        if matches!(piece.source, PieceSource::Chunk { .. }) {
            data_len += piece.len;
        }
    }
    data_len
}

/// Returns the time, exactly; times that the type cannot hold become the nearest that it can.
fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(time.nanos.into());
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let start = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    // Linux counts 64 bits of seconds, so that only other systems take the second branch.
    start.and_then(|start| start.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Encodes device numbers as `new_encode_dev` of the kernel's `include/linux/kdev_t.h` does.
///
/// Numbers that do not fit become the largest that do: cutting bits off would make another device
/// of it, and zeros are what overlayfs takes as a whiteout.
fn encode_device(device: Device) -> u32 {
    let Device { major, minor } = device;
    if major > MAJOR_MAX || minor > MINOR_MAX {
        return u32::MAX;
    }
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_before_1970_and_after_2038() {
        let epoch = SystemTime::UNIX_EPOCH;
        let nanos = |seconds, nanos| system_time(Timestamp { seconds, nanos });
        assert_eq!(nanos(0, 0), epoch);
        assert_eq!(epoch.duration_since(nanos(-1, 999_999_999)).unwrap().as_nanos(), 1);
        assert_eq!(epoch.duration_since(nanos(-2, 1)).unwrap().as_nanos(), 1_999_999_999);
        assert_eq!(
            nanos(1 << 40, 7).duration_since(epoch).unwrap().as_nanos(),
            (1 << 40) * 1_000_000_000 + 7
        );
        assert_eq!(epoch.duration_since(nanos(i64::MIN, 0)).unwrap().as_secs(), 1 << 63);
        assert_eq!(
            nanos(i64::MAX, 999_999_999).duration_since(epoch).unwrap().as_secs(),
            i64::MAX as u64
        );
    }

    #[test]
    fn device_numbers_are_encoded_as_the_kernel_decodes_them() {
        for (major, minor, encoded) in [
            (0, 0, 0),
            (1, 3, 0x103),
            (8, 0x12345, 0x1230_0845),
            (0xfff, 0xf_ffff, u32::MAX),
            (0x1000, 0, u32::MAX),
            (0, 0x10_0000, u32::MAX),
        ] {
            assert_eq!(encode_device(Device { major, minor }), encoded, "{major}:{minor}");
        }
    }
}
