//! `chunkfs export`, judged by the system's tar and by converting its output again.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use crate::archive;
use crate::support::{Scratch, has_program, is_root};

fn extract(archive: &Path, folder: &Path) {
    fs::create_dir(folder).unwrap();
    let mut command = Command::new("tar");
    command.args(["--xattrs", "--xattrs-include=*", "--numeric-owner"]);
    command.args(["--warning=no-timestamp", "-xpSf"]);
    let output = command.arg(archive).arg("-C").arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn tar_lists_and_extracts_the_same_tree() {
    if !has_program("tar") {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.everything();
    assert_eq!(scratch.run(["export", &image, "out.tar"]), "");
    assert!(!scratch.path("out.tar.partial").exists());
    let mut list = Command::new("tar");
    list.args(["--utc", "--full-time", "--numeric-owner", "-tvf"]).arg(scratch.path("out.tar"));
    let list = list.env("LC_ALL", "C").output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = list.lines().map(words).collect();
    let expected = [
        "drwxr-xr-x 0/0 0 1970-01-01 00:00:01 ./",
        "lrwxrwxrwx 0/0 0 1970-01-01 00:00:01 ./absolute -> /dir/up",
        "lrwxrwxrwx 0/0 0 1970-01-01 00:00:01 ./also -> dir",
        "drwxr-xr-x 0/0 0 1970-01-01 00:00:01 ./dir/",
        "-rw-r--r-- 0/0 300000 1970-01-01 00:00:01 ./dir/big",
        "lrwxrwxrwx 0/0 0 1970-01-01 00:00:01 ./dir/up -> ../file",
        "-rwsr-xr-x 1000/100 6 1970-01-01 00:00:01 ./file",
        "hrwsr-xr-x 1000/100 0 1970-01-01 00:00:01 ./hard link to ./file",
        "lrwxrwxrwx 0/0 0 1970-01-01 00:00:01 ./nowhere -> gone",
        "-rw-r--r-- 0/0 400000 1970-01-01 00:00:01 ./sparse",
    ];
    for line in expected {
        assert!(lines.iter().any(|listed| listed == line), "{line} is not in\n{list}");
    }
    // Three more with names that tar escapes, and one whose time GNU tar shows with the fraction
    // counted the wrong way; it extracts it well.
    assert_eq!(lines.len(), expected.len() + 4, "{list}");
    if !is_root() {
        return;
    }
    let root = scratch.path("root");
    extract(&scratch.path("out.tar"), &root);
    assert!(fs::read(root.join("sparse")).unwrap() == archive::sparse());
    assert!(fs::metadata(root.join("sparse")).unwrap().blocks() * 512 < 100_000);
    assert!(fs::read(root.join("dir/big")).unwrap() == archive::noise(1, 300_000));
    let old = fs::metadata(root.join("old")).unwrap();
    assert_eq!((old.mtime(), old.mtime_nsec()), (-2, 750_000_000));
    let inode = |name| fs::metadata(root.join(name)).unwrap().ino();
    assert_eq!(inode("file"), inode("hard"));
    let mut note = [0; 8];
    match rustix::fs::getxattr(root.join("file"), "user.note", &mut note[..]) {
        Ok(len) => assert_eq!(&note[..len], b"a\0b"),
        Err(error) => println!("skipped: no xattrs in the temporary folder ({error})"),
    }
}

#[test]
fn an_exported_tree_converts_to_the_same_tree() {
    let scratch = Scratch::new();
    for (name, tar) in [("everything", archive::everything()), ("devices", archive::devices())] {
        let image = scratch.convert(name, &tar);
        scratch.run(["export", &image, "out.tar"]);
        let exported = fs::read(scratch.path("out.tar")).unwrap();
        let again = scratch.convert("again", &exported);
        assert_eq!(scratch.run(["ls", "-lR", &image]), scratch.run(["ls", "-lR", &again]));
        scratch.run(["export", &again, "again.tar"]);
        assert!(fs::read(scratch.path("again.tar")).unwrap() == exported, "{name}");
    }
}

#[test]
fn devices_are_exported() {
    if !has_program("tar") || !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.convert("devices", &archive::devices());
    scratch.run(["export", &image, "out.tar"]);
    let root = scratch.path("root");
    extract(&scratch.path("out.tar"), &root);
    let metadata = |name| fs::symlink_metadata(root.join(name)).unwrap();
    let device = rustix::fs::makedev(5, 300);
    assert!(metadata("block").file_type().is_block_device());
    assert_eq!(metadata("block").rdev(), device);
    assert!(metadata("char").file_type().is_char_device());
    assert_eq!(metadata("char").rdev(), device);
    assert!(metadata("fifo").file_type().is_fifo());
}

#[test]
fn a_failed_export_leaves_an_older_archive_alone() {
    let scratch = Scratch::new();
    let tar = archive::Archive::new().file("a", &archive::noise(1, 5000)).finish();
    let image = scratch.convert("bad", &tar);
    let blob = scratch.blobs(&image, "application/vnd.chunkfs.blob.v1").remove(0);
    crate::support::flip(&blob, 0);
    fs::write(scratch.path("out.tar"), b"older").unwrap();
    let error = scratch.fail(["export", &image, "out.tar"]);
    assert!(error.starts_with("chunkfs: ./a cannot be exported: "), "{error}");
    assert_eq!(fs::read(scratch.path("out.tar")).unwrap(), b"older");
    assert!(!scratch.path("out.tar.partial").exists());
}
