//! What `stat` shows.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use chunkfs_index::{Attributes, Content, Device, Timestamp};

use crate::support::{CHUNK, Part, TestImage, noise};

#[test]
fn every_stat_field_is_that_of_the_index() {
    let mut image = TestImage::new();
    let cases = [
        (0o644, 0, 0, 0, 0),
        (0o4755, 1, 70_000, 1_700_000_000, 123_456_789),
        (0o2750, u32::MAX - 1, u32::MAX - 1, -1, 999_999_999),
        (0o1777, 33, 33, -2_000_000_000, 1),
        (0o000, 0, 0, 1 << 33, 999_999_999),
    ];
    for (at, (permissions, uid, gid, seconds, nanos)) in cases.into_iter().enumerate() {
        let parts = vec![Part::Data(noise(at as u64, 5000))];
        let file = image.file(format!("file{at}").as_bytes(), parts);
        let mtime = Timestamp { seconds, nanos };
        let attributes = Attributes { permissions, uid, gid, mtime, ..Attributes::default() };
        image.tree.node_mut(file).attributes = attributes;
    }
    let Some(served) = image.serve() else { return };
    for (at, (permissions, uid, gid, seconds, nanos)) in cases.into_iter().enumerate() {
        let stat = served.path(format!("file{at}")).symlink_metadata().unwrap();
        assert_eq!(stat.mode(), 0o100000 | u32::from(permissions), "case {at}");
        assert_eq!((stat.uid(), stat.gid()), (uid, gid), "case {at}");
        for time in [
            (stat.mtime(), stat.mtime_nsec()),
            (stat.atime(), stat.atime_nsec()),
            (stat.ctime(), stat.ctime_nsec()),
        ] {
            assert_eq!(time, (seconds, i64::from(nanos)), "case {at}");
        }
        assert_eq!((stat.size(), stat.blocks(), stat.blksize()), (5000, 10, 4096));
        assert_eq!((stat.nlink(), stat.rdev()), (1, 0));
    }
    let root = served.folder.path().symlink_metadata().unwrap();
    assert_eq!((root.ino(), root.mode(), root.nlink()), (1, 0o40755, 2));
}

#[test]
fn every_kind_of_node_is_shown() {
    let mut image = TestImage::new();
    let root = image.root();
    let device = Device { major: 259, minor: 0x1_0203 };
    image.add(root, b"char", Content::CharDevice(Device { major: 1, minor: 3 }));
    image.add(root, b"block", Content::BlockDevice(device));
    image.add(root, b"fifo", Content::Fifo);
    image.add(root, b"socket", Content::Socket);
    image.add(root, b"link", Content::Symlink(b"some/\xff/where".to_vec()));
    image.directory(root, b"folder");
    let Some(served) = image.serve() else { return };
    let stat = |name: &str| served.path(name).symlink_metadata().unwrap();
    assert!(stat("char").file_type().is_char_device());
    assert_eq!(stat("char").rdev(), rustix::fs::makedev(1, 3));
    assert!(stat("block").file_type().is_block_device());
    assert_eq!(stat("block").rdev(), rustix::fs::makedev(259, 0x1_0203));
    assert!(stat("fifo").file_type().is_fifo());
    assert!(stat("socket").file_type().is_socket());
    assert!(stat("link").is_symlink());
    assert_eq!(stat("link").size(), 12);
    assert!(stat("folder").is_dir());
    for _ in 0..3 {
        let target = served.path("link").read_link().unwrap();
        assert_eq!(target.as_os_str(), OsStr::from_bytes(b"some/\xff/where"));
    }
    assert_eq!(served.mount.counters().readlinks, 1, "the kernel keeps link targets");
}

#[test]
fn names_of_one_file_have_one_inode_number() {
    let mut image = TestImage::new();
    let root = image.root();
    let folder = image.directory(root, b"folder");
    let file = image.file(b"one", vec![Part::Data(b"content".to_vec())]);
    image.link(folder, b"two", file);
    image.link(folder, b"three", file);
    let Some(served) = image.serve() else { return };
    let inos = ["one", "folder/two", "folder/three"].map(|name| {
        let stat = served.path(name).symlink_metadata().unwrap();
        assert_eq!(stat.nlink(), 3);
        stat.ino()
    });
    assert_eq!(inos, [inos[0]; 3]);
    let root = served.folder.path().symlink_metadata().unwrap();
    assert_eq!(root.nlink(), 3);
}

#[test]
fn holes_take_no_blocks() {
    let mut image = TestImage::new();
    let data = noise(1, CHUNK);
    image.file(b"sparse", vec![Part::Hole(5 << 30), Part::Data(data), Part::Hole(1)]);
    image.file(b"hole", vec![Part::Hole(1 << 40)]);
    let Some(served) = image.serve() else { return };
    let stat = served.path("sparse").metadata().unwrap();
    assert_eq!((stat.size(), stat.blocks()), ((5 << 30) + CHUNK as u64 + 1, CHUNK as u64 / 512));
    let stat = served.path("hole").metadata().unwrap();
    assert_eq!((stat.size(), stat.blocks()), (1 << 40, 0));
}

#[test]
fn the_file_system_states_its_content_and_inodes() {
    let mut image = TestImage::new();
    image.file(b"file", vec![Part::Data(noise(1, 3 * CHUNK + 1))]);
    let Some(served) = image.serve() else { return };
    let stat = rustix::fs::statvfs(served.folder.path()).unwrap();
    assert_eq!((stat.f_bsize, stat.f_frsize, stat.f_namemax), (4096, 4096, 255));
    assert_eq!((stat.f_blocks, stat.f_bfree, stat.f_bavail), (49, 0, 0));
    assert_eq!((stat.f_files, stat.f_ffree), (2, 0));
    assert!(stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
}

#[test]
fn attributes_are_asked_for_once() {
    let mut image = TestImage::new();
    image.file(b"file", vec![Part::Data(b"content".to_vec())]);
    let Some(served) = image.serve() else { return };
    served.path("file").metadata().unwrap();
    std::fs::read(served.path("file")).unwrap();
    let before = served.mount.counters();
    for _ in 0..10 {
        served.path("file").metadata().unwrap();
        assert_eq!(std::fs::read(served.path("file")).unwrap(), b"content");
    }
    let after = served.mount.counters();
    assert_eq!((after.getattrs, after.lookups), (before.getattrs, before.lookups));
    assert_eq!((after.opens, after.reads), (before.opens, before.reads));
}
