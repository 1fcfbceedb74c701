//! Extended attributes.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::fs::{
    getxattr, getxattr_query, lgetxattr, listxattr, listxattr_query, llistxattr_query,
};
use rustix::io::Errno;

use chunkfs_index::Content;

use crate::support::{Part, TestImage};

/// `cap_net_raw+ep`, revision 2.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// `user::rw-,user:1000:r--,group::r--,mask::r--,other::---`, version 2.
const ACL: &[u8] = b"\x02\0\0\0\
    \x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\
    \x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

#[test]
fn values_are_read_listed_and_probed() {
    let mut image = TestImage::new();
    let file = image.file(b"file", vec![Part::Data(b"content".to_vec())]);
    let long = vec![7; 60_000];
    let xattrs = [
        ("security.capability", CAPABILITY),
        ("user.empty", b""),
        ("user.long", &long),
        ("user.short", b"value\0\xff"),
    ];
    for (name, value) in xattrs {
        let attributes = &mut image.tree.node_mut(file).attributes;
        attributes.xattrs.insert(name.as_bytes().to_vec(), value.to_vec());
    }
    let root = image.root();
    image.add(root, b"bare", Content::Symlink(b"file".to_vec()));
    let Some(served) = image.serve() else { return };
    let path = served.path("file");
    let mut buffer = vec![0; 65_536];
    for (name, value) in xattrs {
        assert_eq!(getxattr_query(&path, name).unwrap(), value.len(), "{name}");
        let len = getxattr(&path, name, &mut buffer[..]).unwrap();
        assert_eq!(&buffer[..len], value, "{name}");
        if !value.is_empty() {
            let exact = getxattr(&path, name, &mut buffer[..value.len()]);
            assert_eq!(exact, Ok(value.len()), "{name}");
        }
        if value.len() > 1 && name != "security.capability" {
            let short = getxattr(&path, name, &mut buffer[..value.len() - 1]);
            assert_eq!(short, Err(Errno::RANGE), "{name}");
        }
    }
    let mut names = Vec::new();
    xattrs.iter().for_each(|(name, _)| names.extend([name.as_bytes(), b"\0"].concat()));
    assert_eq!(listxattr_query(&path).unwrap(), names.len());
    let len = listxattr(&path, &mut buffer[..]).unwrap();
    assert_eq!(buffer[..len], names);
    assert_eq!(listxattr(&path, &mut buffer[..names.len() - 1]), Err(Errno::RANGE));
    assert_eq!(getxattr_query(&path, "user.missing"), Err(Errno::NODATA));
    assert_eq!(llistxattr_query(served.path("bare")), Ok(0));
    let missing = lgetxattr(served.path("bare"), "security.selinux", &mut buffer[..]);
    assert_eq!(missing, Err(Errno::NODATA));
}

#[test]
fn acls_are_shown() {
    let mut image = TestImage::new();
    let file = image.file(b"file", vec![Part::Data(b"content".to_vec())]);
    let attributes = &mut image.tree.node_mut(file).attributes;
    attributes.permissions = 0o640;
    attributes.xattrs.insert(b"system.posix_acl_access".to_vec(), ACL.to_vec());
    let Some(served) = image.serve() else { return };
    let mut buffer = [0; 100];
    let len = getxattr(served.path("file"), "system.posix_acl_access", &mut buffer[..]).unwrap();
    assert_eq!(&buffer[..len], ACL);
    let default = getxattr_query(served.folder.path(), "system.posix_acl_default");
    assert_eq!(default, Err(Errno::NODATA));
}

#[test]
fn acls_are_enforced() {
    let mut image = TestImage::new();
    let file = image.file(b"file", vec![Part::Data(b"content".to_vec())]);
    let attributes = &mut image.tree.node_mut(file).attributes;
    attributes.permissions = 0o640;
    attributes.xattrs.insert(b"system.posix_acl_access".to_vec(), ACL.to_vec());
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can act as other users");
    }
    let Some(served) = image.serve() else { return };
    for (uid, may_read) in [(1000, true), (1001, false)] {
        let mut command = Command::new("cat");
        command.uid(uid).gid(uid).arg(served.path("file"));
        let output = command.output().unwrap();
        assert_eq!(output.status.success(), may_read, "user {uid}");
        assert_eq!(output.stdout == b"content", may_read, "user {uid}");
    }
}
