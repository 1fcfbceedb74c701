//! What is asked of the kernel beside the FUSE protocol: mounting, unmounting, read-ahead.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use rustix::process::{getgid, getuid};

/// The longest string that `fsconfig(2)` takes.
const CONFIG_LEN_MAX: usize = 255;

/// The number of a mounted file system, as in `st_dev`: no other has it while this one lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceNumber {
    major: u32,
    minor: u32,
}

/// What the kernel is told of a file system when it is mounted.
#[derive(Debug, Clone)]
pub(crate) struct MountSettings {
    pub(crate) source_name: String,
    pub(crate) allow_other: bool,
    pub(crate) root_mode: u16,
}

impl MountSettings {
    /// Returns the source name, cut to what the kernel takes.
    fn source(&self) -> &str {
        let name = &self.source_name;
        let ends = name.char_indices().map(|(start, char)| start + char.len_utf8());
        let end = ends.take_while(|end| *end <= CONFIG_LEN_MAX).last().unwrap_or(0);
        name.get(..end).unwrap_or_default()
    }

    /// Returns the source name without what `fusermount3` would take as further options.
    pub(crate) fn escaped_source(&self) -> String {
        self.source().replace([',', '\\', '\n'], "_")
    }
}

/// A file system that the kernel knows but that is attached nowhere yet.
#[derive(Debug)]
pub(crate) struct DetachedMount(OwnedFd);

/// Makes the kernel's side of a file system that is served through `device`.
///
/// # Errors
/// `EPERM` or `ENOSYS` if this process, or this kernel, has to mount in another way.
pub(crate) fn create(device: &File, settings: &MountSettings) -> io::Result<DetachedMount> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &str| fsconfig_set_string(&context, key, value);
    set("source", settings.source())?;
    set("subtype", "chunkfs")?;
    set("fd", &device.as_raw_fd().to_string())?;
    set("rootmode", &format!("{:o}", settings.root_mode))?;
    set("user_id", &getuid().as_raw().to_string())?;
    set("group_id", &getgid().as_raw().to_string())?;
    fsconfig_set_flag(&context, "default_permissions")?;
    if settings.allow_other {
        fsconfig_set_flag(&context, "allow_other")?;
    }
    // Read-only twice, the file system and this mount of it: were only the mount, every read would
    // outdate the cached attributes because of the access time.
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    Ok(DetachedMount(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?))
}

impl DetachedMount {
    /// Makes the file system appear at a directory.
    ///
    /// Somebody must answer the kernel already. Nothing keeps the mount busy afterwards.
    pub(crate) fn attach(self, mountpoint: &Path) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(&self.0, "", CWD, mountpoint, flags)?)
    }
}

/// Returns the number of the file system that is mounted at a path.
pub(crate) fn device_number(path: &Path) -> io::Result<DeviceNumber> {
    let stat = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    Ok(DeviceNumber { major: stat.stx_dev_major, minor: stat.stx_dev_minor })
}

/// Returns whether the kernel still wants answers through a FUSE device.
pub(crate) fn is_connected(device: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&device, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&at_once)) {
        Ok(_) => !fds[0].revents().contains(PollFlags::ERR),
        Err(_) => true,
    }
}

/// Detaches a file system and ends the requests of those who still use it.
///
/// # Errors
/// What the kernel or `fusermount3` says. The mount point may be attached still.
pub(crate) fn detach(mountpoint: &Path, number: DeviceNumber) -> io::Result<()> {
    // Something else may be mounted over it, or it may have been moved: that is left alone.
    if device_number(mountpoint).ok() != Some(number) {
        let problem = "it is still in use, but covered, moved, or unmounted lazily by someone else";
        return abort(number).map_err(|_| io::Error::other(problem));
    }
    match unmount(mountpoint, UnmountFlags::FORCE | UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => {
            fusermount_unmount(mountpoint)?;
            // Without users the connection has ended already, and its folder is gone.
            let _ = abort(number);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Ends a connection through the control file system, which its owner may do, where it is mounted.
fn abort(number: DeviceNumber) -> io::Result<()> {
    // The kernel's own encoding of a device number (MKDEV).
    let connection = (number.major << 20) | number.minor;
    fs::write(format!("/sys/fs/fuse/connections/{connection}/abort"), "1")
}

fn fusermount_unmount(mountpoint: &Path) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.args(["-u", "-z", "--"]).arg(mountpoint).stdin(Stdio::null());
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Sets how far the kernel reads ahead, if it may, and returns how far it does.
pub(crate) fn set_read_ahead(number: DeviceNumber, len: u64) -> Option<u64> {
    let DeviceNumber { major, minor } = number;
    let path = PathBuf::from(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"));
    // An unprivileged process may not; the caller learns from the value that is read back.
    let _ = fs::write(&path, (len >> 10).to_string());
    let kib: u64 = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
    kib.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(source_name: &str) -> MountSettings {
        let (source_name, allow_other) = (source_name.to_owned(), false);
        MountSettings { source_name, allow_other, root_mode: 0o40755 }
    }

    #[test]
    fn a_source_name_cannot_smuggle_in_options() {
        assert_eq!(settings("a,allow_other\\,b\n").escaped_source(), "a_allow_other__b_");
    }

    #[test]
    fn a_long_source_name_is_cut_between_characters() {
        let euro = "\u{20ac}";
        assert_eq!(settings(&"x".repeat(255)).source().len(), 255);
        assert_eq!(settings(&"x".repeat(256)).source().len(), 255);
        assert_eq!(settings(&format!("{}{euro}", "x".repeat(253))).source().len(), 253);
    }
}
