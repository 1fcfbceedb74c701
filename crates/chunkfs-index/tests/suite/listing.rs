//! The tree of an index as text, and the same from an independent reader in another language.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use chunkfs_index::{FileKind, Index, Inode};

use crate::fixture::everything;

/// Lists a tree: one line per path, directories before what is in them, names in byte order.
///
/// `MODE LINKS UID GID LENGTH-OR-MAJOR,MINOR SECONDS.NANOSECONDS PATH[ -> TARGET]`
pub(crate) fn listing(index: &Index) -> String {
    let mut lines = String::new();
    let mut pending = vec![(index.root(), Vec::new())];
    while let Some((inode, path)) = pending.pop() {
        let shown = if path.is_empty() { &b"/"[..] } else { &path };
        write_line(&mut lines, index, &inode, shown);
        let children: Vec<_> = index.dirents(&inode, 0).collect();
        for dirent in children.into_iter().rev() {
            let child = index.inode(dirent.inode).unwrap();
            pending.push((child, [&path[..], b"/", dirent.name].concat()));
        }
    }
    lines
}

fn write_line(lines: &mut String, index: &Index, inode: &Inode, path: &[u8]) {
    let length = match inode.kind {
        FileKind::CharDevice | FileKind::BlockDevice => {
            format!("{},{}", inode.device.major, inode.device.minor)
        }
        _ => inode.len.to_string(),
    };
    let Inode { link_count, uid, gid, mtime, .. } = inode;
    let (mode, path) = (mode_string(inode), escape(path));
    let seconds = mtime.seconds;
    write!(lines, "{mode} {link_count} {uid} {gid} {length} ").unwrap();
    write!(lines, "{seconds}.{:09} {path}", mtime.nanos).unwrap();
    if let Some(target) = index.symlink_target(inode) {
        write!(lines, " -> {}", escape(target)).unwrap();
    }
    lines.push('\n');
}

fn mode_string(inode: &Inode) -> String {
    let mut text = String::from(match inode.kind {
        FileKind::Regular => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = inode.permissions >> shift;
        let is_special = inode.permissions & special != 0;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (is_special, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b' '..=b'~' if byte != b'\\' => text.push(char::from(byte)),
            _ => write!(text, "\\x{byte:02x}").unwrap(),
        }
    }
    text
}

#[test]
fn lines_are_in_pre_order_and_escaped() {
    let listing = listing(&everything().build());
    let lines: Vec<_> = listing.lines().collect();
    assert_eq!(lines[0], "drwxr-xr-x 3 0 0 0 0.000000000 /");
    assert_eq!(lines[1], "-rw-r--r-- 2 0 0 196613 0.000000000 /also-big");
    let sparse = "-rwsrwsrwt 1 3000000000 70000 8590000138 -2.999999999 /sparse";
    assert!(lines.contains(&sparse), "{listing}");
    let link = "lrwxrwxrwx 1 0 0 11 0.000000000 /usr/packed/link -> ../b\\x5ci\\x7fn/..";
    assert!(lines.contains(&link), "{listing}");
    assert!(lines.contains(&"crw-r--r-- 1 0 0 5,70000 0.000000000 /tty"), "{listing}");
}

/// [F-1] The reader was written from the specification alone.
#[test]
fn an_independent_reader_lists_the_same() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/read_index.py");
    let index = everything().build();
    let file = std::env::temp_dir().join(format!("chunkfs-listing-{}.index", std::process::id()));
    std::fs::write(&file, index.as_bytes()).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(&script).args(arguments).arg(&file).output()
    };
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: there is no python3");
        return;
    }
    let (listed, summary) = (run(&[]).unwrap(), run(&["--summary"]).unwrap());
    let mut damaged = index.as_bytes().to_vec();
    damaged[80 + 8 * 24 + 1] ^= 0xff;
    std::fs::write(&file, damaged).unwrap();
    let rejected = run(&[]).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), listing(&index));
    let summary = String::from_utf8(summary.stdout).unwrap();
    assert!(summary.contains("7 chunks") && summary.contains("1 blobs"), "{summary}");
    assert!(!rejected.status.success(), "a broken inode is noticed");
}
