//! `chunkfs unmount`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount as unmount_path};

use crate::arguments::UnmountArguments;

pub(crate) fn run(arguments: &UnmountArguments) -> anyhow::Result<()> {
    let path = &arguments.mountpoint;
    let error = || format!("{} cannot be unmounted", path.display());
    let absolute = mounted_path(path)?.with_context(|| {
        format!("no image is mounted on {}; `findmnt -t fuse.chunkfs` lists mounts", path.display())
    })?;
    match unmount_path(&absolute, UnmountFlags::DETACH) {
        Err(Errno::PERM) => {
            let status = Command::new("fusermount3").arg("-uz").arg("--").arg(&absolute).status();
            let status = status.context("fusermount3 cannot be run").with_context(error)?;
            anyhow::ensure!(status.success(), "{}: fusermount3 ended with {status}", error());
            Ok(())
        }
        result => result.with_context(error),
    }
}

/// Returns the mount point's path as the kernel knows it, or `None` if no image is mounted there.
fn mounted_path(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    // Found without touching the mount, if its path has no link: its server may be gone.
    let absolute = std::path::absolute(path)?;
    let plain: PathBuf = absolute.components().collect();
    if is_mounted(&plain)? {
        return Ok(Some(plain));
    }
    let above = plain.parent().zip(plain.file_name());
    let candidates = [
        above.and_then(|(parent, name)| Some(parent.canonicalize().ok()?.join(name))),
        plain.canonicalize().ok(),
    ];
    for candidate in candidates.into_iter().flatten() {
        if is_mounted(&candidate)? {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// Returns whether the topmost mount on a path is an image.
fn is_mounted(path: &Path) -> anyhow::Result<bool> {
    let table = std::fs::read("/proc/self/mountinfo").context("the mount table cannot be read")?;
    let mut is_image = false;
    for line in table.split(|byte| *byte == b'\n') {
        // ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS ... - TYPE SOURCE OPTIONS
        let mut fields = line.split(|byte| *byte == b' ');
        if fields.nth(4).is_some_and(|field| unescape(field) == path.as_os_str().as_bytes()) {
            let kind = fields.skip_while(|field| *field != b"-").nth(1);
            is_image = kind == Some(b"fuse.chunkfs");
        }
    }
    Ok(is_image)
}

/// Undoes the kernel's escapes: a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match tail.split_at_checked(3) {
            Some((digits, after)) if *first == b'\\' && octal(digits).is_some() => {
                path.extend(octal(digits));
                rest = after;
            }
            _ => path.push(*first),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_odd_names_are_recognized() {
        assert_eq!(unescape(b"/mnt/a\\040b\\134c"), b"/mnt/a b\\c");
        assert_eq!(unescape(b"/mnt/a\\04"), b"/mnt/a\\04");
    }

    #[test]
    fn the_root_is_no_mounted_image() {
        assert!(!is_mounted(Path::new("/")).unwrap());
    }
}
