//! Paths with symbolic links.

use std::ffi::OsStr;
use std::fs::{create_dir_all, write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;

use chunkfs_image::{Image, OpenOptions};

use crate::support::{convert, open, runtime};

fn image() -> Image {
    let store = convert(|root| {
        create_dir_all(root.join("usr/bin")).unwrap();
        create_dir_all(root.join("a/b/c")).unwrap();
        write(root.join("usr/bin/tool"), "tool").unwrap();
        write(root.join("a/b/c/file"), "file").unwrap();
        write(root.join(OsStr::from_bytes(b"a/\xfe\xff")), "bytes").unwrap();
        for (link, target) in [
            ("bin", &b"usr/bin"[..]),
            ("absolute", b"/usr/bin/tool"),
            ("a/relative", b"b/c/file"),
            ("a/b/up", b"../../usr/./bin//tool"),
            ("a/out", b"../../../../usr/bin/tool"),
            ("a/b/directory", b"/a/b/c/"),
            ("a/bytes", b"\xfe\xff"),
            ("root", b"/"),
            ("dangling", b"nowhere"),
            ("self", b"self"),
            ("ping", b"pong"),
            ("pong", b"ping"),
            ("through-file", b"usr/bin/tool/x"),
        ] {
            symlink(OsStr::from_bytes(target), root.join(link)).unwrap();
        }
        write(root.join("link-0"), "end").unwrap();
        for number in 1..=41 {
            symlink(format!("link-{}", number - 1), root.join(format!("link-{number}"))).unwrap();
        }
    });
    runtime().block_on(open(&store, OpenOptions::default()))
}

#[test]
fn paths_lead_where_they_lead_in_a_chroot() {
    let image = image();
    let table: &[(&[u8], Option<&[u8]>)] = &[
        (b"", Some(b"")),
        (b"/", Some(b"")),
        (b"..", Some(b"")),
        (b"/../..//.", Some(b"")),
        (b"root", Some(b"")),
        (b"root/root/usr", Some(b"usr")),
        (b"/usr/bin/tool", Some(b"usr/bin/tool")),
        (b"usr/bin/tool", Some(b"usr/bin/tool")),
        (b"bin", Some(b"usr/bin")),
        (b"bin/", Some(b"usr/bin")),
        (b"bin/tool", Some(b"usr/bin/tool")),
        (b"bin/..", Some(b"usr")),
        (b"bin/../../a", Some(b"a")),
        (b"absolute", Some(b"usr/bin/tool")),
        (b"a/relative", Some(b"a/b/c/file")),
        (b"a/b/up", Some(b"usr/bin/tool")),
        (b"a/out", Some(b"usr/bin/tool")),
        (b"a/b/directory", Some(b"a/b/c")),
        (b"a/b/directory/file", Some(b"a/b/c/file")),
        (b"a/b/directory/../../relative", Some(b"a/b/c/file")),
        (b"a/\xfe\xff", Some(b"a/\xfe\xff")),
        (b"a/bytes", Some(b"a/\xfe\xff")),
        (b"link-40", Some(b"link-0")),
        (b"link-41", None),
        (b"dangling", None),
        (b"self", None),
        (b"ping", None),
        (b"through-file", None),
        (b"usr/bin/tool/", None),
        (b"usr/bin/tool/.", None),
        (b"usr/bin/tool/..", None),
        (b"absolute/", None),
        (b"nowhere", None),
        (b"nowhere/../usr", None),
        (b"a/\xfe", None),
    ];
    for (path, expected) in table {
        let found = image.resolve(path).map(|inode| inode.index);
        let expected = expected.map(|path| image.index().lookup_path(path).unwrap().index);
        assert_eq!(found, expected, "{}", path.escape_ascii());
    }
}
