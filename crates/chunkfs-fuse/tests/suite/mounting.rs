//! The life of a mount.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;
use std::thread;

use chunkfs_fuse::{MountError, MountOptions};

use crate::support::{CHUNK, Part, Served, TestImage, noise};

fn is_mounted(served: &Served) -> bool {
    let parent = served.folder.path().parent().unwrap();
    served.folder.path().metadata().unwrap().dev() != parent.metadata().unwrap().dev()
}

/// Returns whether unmounting can end the requests of those who still use the file system.
fn can_end_requests() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    // Where the control file system is mounted there is a folder for every connection.
    is_root || fs::read_dir("/sys/fs/fuse/connections").is_ok_and(|mut all| all.next().is_some())
}

#[test]
fn unmounting_leaves_an_empty_directory() {
    let mut image = TestImage::new();
    image.file(b"file", vec![Part::Data(b"content".to_vec())]);
    let Some(served) = image.serve() else { return };
    assert!(is_mounted(&served) && served.mount.is_connected());
    served.mount.unmount().unwrap();
    assert!(!is_mounted(&served) && !served.mount.is_connected());
    assert_eq!(fs::read_dir(served.folder.path()).unwrap().count(), 0);
    served.mount.unmount().unwrap();
}

#[test]
fn dropping_unmounts_also_while_files_are_open() {
    let mut image = TestImage::new();
    image.file(b"file", vec![Part::Data(noise(1, CHUNK))]);
    let Some(served) = image.serve() else { return };
    let file = File::open(served.path("file")).unwrap();
    let Served { mount, folder, .. } = served;
    drop(mount);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    if can_end_requests() {
        let mut buffer = [0; 10];
        assert!(file.read_at(&mut buffer, 0).is_err(), "the reader is told");
    }
}

#[test]
fn waiting_ends_when_somebody_else_unmounts() {
    let Some(served) = TestImage::new().serve() else { return };
    thread::scope(|scope| {
        let waiter = scope.spawn(|| served.mount.wait());
        let path = served.folder.path();
        if rustix::process::geteuid().is_root() {
            rustix::mount::unmount(path, rustix::mount::UnmountFlags::empty()).unwrap();
        } else {
            let mut command = std::process::Command::new("fusermount3");
            assert!(command.arg("-u").arg(path).status().unwrap().success());
        }
        waiter.join().unwrap().unwrap();
    });
    assert!(!is_mounted(&served) && !served.mount.is_connected());
    served.mount.unmount().unwrap();
}

#[test]
fn unmounting_ends_reads_that_wait_for_a_chunk() {
    let mut image = TestImage::new();
    let content = noise(1, CHUNK);
    image.file(b"file", vec![Part::Data(content.clone())]);
    let Some(served) = image.serve() else { return };
    let gate = served.source.hold(&content);
    let path = served.path("file");
    let reader = thread::spawn(move || fs::read(path));
    gate.wait_for_reader();
    served.mount.unmount().unwrap();
    if can_end_requests() {
        assert!(reader.join().unwrap().is_err());
    } else {
        gate.open();
        assert!(reader.join().unwrap().unwrap() == content);
        served.mount.wait().unwrap();
    }
    assert!(!is_mounted(&served));
}

#[test]
fn a_mount_on_top_is_left_alone() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can mount on top");
    }
    let Some(served) = TestImage::new().serve() else { return };
    let path = served.folder.path();
    rustix::mount::mount("on-top", path, "tmpfs", rustix::mount::MountFlags::empty(), None)
        .unwrap();
    let outcome = served.mount.unmount();
    fs::write(path.join("file"), "content").unwrap();
    let unmount = || rustix::mount::unmount(path, rustix::mount::UnmountFlags::empty());
    unmount().unwrap();
    match outcome {
        // Serving was ended by the control file system; the dead mount is left.
        Ok(()) => unmount().unwrap(),
        // Where that is not mounted, nothing could be done before.
        Err(error) => {
            assert!(matches!(error, MountError::Unmount { .. }), "{error:?}");
            served.mount.unmount().unwrap();
        }
    }
    assert!(!is_mounted(&served));
}

#[test]
fn impossible_mount_points_are_clear_errors() {
    let Some(served) = TestImage::new().serve() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "content").unwrap();
    for (path, is_missing) in [(folder.path().join("missing"), true), (file, false)] {
        let error = served.mount_again(&path).unwrap_err();
        assert!(matches!(error, MountError::Mountpoint { .. }), "{error:?}");
        assert_eq!(error.is_not_found(), is_missing);
        let message = error.to_string();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        assert!(message.contains("create the directory first"), "{message}");
    }
}

#[test]
fn one_image_can_be_mounted_twice() {
    let mut image = TestImage::new();
    image.file(b"file", vec![Part::Data(b"content".to_vec())]);
    let Some(served) = image.serve() else { return };
    let folder = tempfile::tempdir().unwrap();
    let second = served.mount_again(folder.path()).unwrap();
    served.mount.unmount().unwrap();
    assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"content");
    second.unmount().unwrap();
}

#[test]
fn the_mount_table_shows_name_and_kind() {
    let options = MountOptions::default().with_source_name("oci:/some where,x:v1");
    let Some(served) = TestImage::new().serve_with(options) else { return };
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let path = served.folder.path().to_str().unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(1) == Some(path)).unwrap();
    let mut columns = line.split(' ');
    let source = columns.next().unwrap();
    assert!(source == "oci:/some\\040where,x:v1" || source == "oci:/some\\040where_x:v1", "{line}");
    assert_eq!(columns.nth(1), Some("fuse.chunkfs"));
    assert!(columns.next().unwrap().starts_with("ro,"), "{line}");
}

#[test]
fn read_ahead_is_raised_where_that_is_allowed() {
    let options = MountOptions::default().with_read_ahead_len(2 << 20);
    let Some(served) = TestImage::new().serve_with(options) else { return };
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can raise the read-ahead");
    }
    assert_eq!(served.mount.read_ahead_len(), Some(2 << 20));
}

#[test]
fn a_handle_can_be_shared() {
    let Some(served) = TestImage::new().serve() else { return };
    let Served { mount, folder: _folder, source: _source, .. } = served;
    let mount = Arc::new(mount);
    let waiters = [(); 3].map(|()| {
        let mount = Arc::clone(&mount);
        thread::spawn(move || mount.wait())
    });
    mount.unmount().unwrap();
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap().unwrap());
}
