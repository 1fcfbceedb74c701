//! Names and listings.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};

use chunkfs_index::Content;
use rustix::fs::{RawDir, SeekFrom, seek};

use crate::support::{Part, TestImage};

#[test]
fn unusual_names_are_found_and_listed() {
    let names: [&[u8]; 6] =
        [&[b'x'; 255], b"line\nbreak", b"\xff\xfe\x80", b" ", b"...", b"\x01\x7f"];
    let mut image = TestImage::new();
    for name in names {
        image.file(name, vec![Part::Data(name.to_vec())]);
    }
    let Some(served) = image.serve() else { return };
    for name in names {
        assert_eq!(fs::read(served.path(OsStr::from_bytes(name))).unwrap(), name);
    }
    let listed: BTreeSet<Vec<u8>> = fs::read_dir(served.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    assert_eq!(listed, names.iter().map(|name| name.to_vec()).collect());
    let error = served.path("x".repeat(256)).metadata().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidFilename);
}

#[test]
fn missing_names_are_asked_for_once() {
    let Some(served) = TestImage::new().serve() else { return };
    for _ in 0..10 {
        let error = served.path("missing").metadata().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    assert_eq!(served.mount.counters().negative_lookups, 1);
}

#[test]
fn a_directory_of_100_000_names_is_listed_completely() {
    let mut image = TestImage::new();
    let root = image.root();
    let folder = image.directory(root, b"folder");
    for at in 0..100_000 {
        image.add(folder, format!("name-{at:06}").as_bytes(), Content::Fifo);
    }
    let Some(served) = image.serve() else { return };
    for _ in 0..2 {
        let mut seen = vec![false; 100_000];
        for entry in fs::read_dir(served.path("folder")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let at: usize = name.strip_prefix("name-").unwrap().parse().unwrap();
            assert!(!std::mem::replace(&mut seen[at], true), "{name} is listed twice");
            // The root and the folder come before.
            assert_eq!(entry.ino(), at as u64 + 3);
        }
        assert!(seen.into_iter().all(|is_listed| is_listed));
    }
    let stat = served.path("folder/name-099999").symlink_metadata().unwrap();
    assert_eq!(stat.ino(), 100_002);
}

#[test]
fn listing_goes_on_wherever_it_is_told_to() {
    let mut image = TestImage::new();
    let root = image.root();
    for at in 0..1000 {
        image.add(root, format!("name-{at:04}").as_bytes(), Content::Fifo);
    }
    let Some(served) = image.serve() else { return };
    // The first pass fills the kernel's cache of the listing, the second uses it.
    for _ in 0..2 {
        let folder = File::open(served.folder.path()).unwrap();
        let all = list_from(&folder, 0);
        assert_eq!(all.len(), 1002);
        assert_eq!((&all[0].0[..], &all[1].0[..]), (&b"."[..], &b".."[..]));
        for at in [0, 1, 2, 500, 1000, 1001] {
            assert_eq!(list_from(&folder, all[at].1), all[at + 1..], "after name {at}");
        }
    }
}

/// Returns names and cookies from a cookie on.
fn list_from(folder: &File, cookie: u64) -> Vec<(Vec<u8>, u64)> {
    seek(folder, SeekFrom::Start(cookie)).unwrap();
    let mut buffer = Vec::with_capacity(8192);
    let mut entries = RawDir::new(folder, buffer.spare_capacity_mut());
    let mut listed = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.unwrap();
        listed.push((entry.file_name().to_bytes().to_vec(), entry.next_entry_cookie()));
    }
    listed
}

#[test]
fn deep_directories_are_reached_and_lead_back() {
    let mut image = TestImage::new();
    let mut folder = image.root();
    for _ in 0..200 {
        folder = image.directory(folder, b"deeper");
    }
    image.add(folder, b"bottom", Content::Fifo);
    let Some(served) = image.serve() else { return };
    let deepest = ["deeper"; 200].join("/");
    assert_eq!(served.path(&deepest).join("bottom").symlink_metadata().unwrap().ino(), 202);
    let back = served.path(&deepest).join([".."; 200].join("/"));
    assert_eq!(back.metadata().unwrap().ino(), 1);
    assert_eq!(served.path(&deepest).join("..").metadata().unwrap().ino(), 200);
}

#[test]
fn a_listing_brings_the_attributes_along() {
    let mut image = TestImage::new();
    let root = image.root();
    for at in 0..100 {
        image.add(root, format!("{at}").as_bytes(), Content::Fifo);
    }
    let Some(served) = image.serve() else { return };
    for entry in fs::read_dir(served.folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.path().symlink_metadata().unwrap().ino(), entry.ino());
    }
    assert_eq!(served.mount.counters().lookups, 0);
}
