//! Whether anybody else has a file open.
#![expect(unsafe_code, reason = "fcntl(F_SETLEASE) has no safe form in the crates used here")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use nix::libc;

/// Returns whether the file is open by anybody but this handle: a process, or the kernel.
pub(crate) fn is_open_elsewhere(file: &File) -> io::Result<bool> {
    match set_lease(file, libc::F_WRLCK) {
        Ok(()) => set_lease(file, libc::F_UNLCK).map(|()| false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

fn set_lease(file: &File, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: fcntl(2) with F_SETLEASE takes an open descriptor, which the borrowed file has for the
    // whole call, and an int. It reads and writes no memory of this process.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_handle_is_noticed_until_it_is_closed() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let file = open();
        assert!(!is_open_elsewhere(&file).unwrap());
        let other = open();
        assert!(is_open_elsewhere(&file).unwrap());
        drop(other);
        assert!(!is_open_elsewhere(&file).unwrap());
    }
}
