//! Files of a real folder.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::{CacheFile, Durability, Files, OpenMode};

/// The files of a folder that is created with mode 0700 if it is not there.
#[derive(Debug)]
pub struct DiskFiles {
    folder: PathBuf,
    boot: u64,
}

impl DiskFiles {
    /// Names a folder; nothing is done to it yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), boot: boot_number() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A number that differs from boot to boot, or zero if the system does not tell.
fn boot_number() -> u64 {
    let Ok(id) = fs::read("/proc/sys/kernel/random/boot_id") else { return 0 };
    let hash = blake3::hash(&id);
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_le_bytes([a, b, c, d]).max(1).into()
}

fn create_private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Files for DiskFiles {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn CacheFile>> {
        let open = || {
            let mut options = File::options();
            options.read(true).mode(0o600);
            // Without O_NOFOLLOW a link in the folder would lead writes elsewhere.
            options.custom_flags(libc::O_NOFOLLOW);
            options.write(mode != OpenMode::Read).create(mode == OpenMode::Create);
            options.open(self.path(name))
        };
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && mode == OpenMode::Create => {
                create_private_folder(&self.folder)?;
                open()
            }
            other => other,
        }?;
        Ok(Arc::new(DiskFile { file, waits: AtomicBool::new(false) }))
    }

    fn replace(&self, name: &str, bytes: &[u8], durability: Durability) -> io::Result<()> {
        create_private_folder(&self.folder)?;
        let mut file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o600))
            .prefix(".new-")
            .tempfile_in(&self.folder)?;
        io::Write::write_all(&mut file, bytes)?;
        if durability == Durability::Synced {
            file.as_file().sync_all()?;
        }
        file.persist(self.path(name)).map_err(|error| error.error)?;
        match durability {
            Durability::Lazy => Ok(()),
            Durability::Synced => File::open(&self.folder)?.sync_all(),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.folder)?;
        let names = entries.filter_map(|entry| match entry {
            // Names that are not UTF-8 are none of ours.
            Ok(entry) => entry.file_name().into_string().ok().map(Ok),
            Err(error) => Some(Err(error)),
        });
        names.collect()
    }

    fn boot(&self) -> u64 {
        self.boot
    }

    fn free_len(&self) -> io::Result<u64> {
        let volume = rustix::fs::statvfs(&self.folder)?;
        Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
    }
}

#[derive(Debug)]
struct DiskFile {
    file: File,
    /// Whether the file system knows no reads that do not wait.
    waits: AtomicBool,
}

impl DiskFile {
    fn lock(&self, offset: u64, kind: libc::c_int) -> io::Result<()> {
        let range = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&range))?;
        Ok(())
    }
}

/// Calls `read` until the buffer is full or nothing more comes.
fn fill(
    buffer: &mut [u8],
    offset: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match read(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl CacheFile for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        fill(buffer, offset, |rest, offset| self.file.read_at(rest, offset))
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.waits.load(Ordering::Relaxed) {
            return self.read_at(buffer, offset);
        }
        let read = |rest: &mut [u8], offset| {
            let mut parts = [io::IoSliceMut::new(rest)];
            match preadv2(&self.file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
                Err(Errno::AGAIN) => Ok(0),
                result => Ok(result?),
            }
        };
        match fill(buffer, offset, read) {
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                self.waits.store(true, Ordering::Relaxed);
                self.read_at(buffer, offset)
            }
            result => result,
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocated_len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, flags, offset, len)?)
    }

    fn drop_pages(&self, offset: u64, len: u64) {
        if let Some(len) = std::num::NonZeroU64::new(len) {
            // A hint that is not followed costs memory, nothing else.
            let _ = fadvise(&self.file, offset, Some(len), Advice::DontNeed);
        }
    }

    fn is_linked(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() > 0)
    }

    fn try_lock(&self, offset: u64) -> io::Result<bool> {
        match self.lock(offset, libc::F_WRLCK) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn unlock(&self, offset: u64) -> io::Result<()> {
        self.lock(offset, libc::F_UNLCK)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}
