//! Directory trees.

use std::os::unix::fs::{FileExt as _, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use chunkfs_convert::{ConvertError, Destination, convert_rootfs};
use chunkfs_fetch::MemorySource;
use chunkfs_index::FileKind;

use crate::archive::noise;
use crate::support::{Tree, chain, names, options, read_image, tag};

fn convert(path: &Path) -> Result<Tree, ConvertError> {
    let store = Arc::new(MemorySource::new());
    let destination = Destination { sink: Arc::clone(&store) as _, selector: tag("t") };
    let report = convert_rootfs(path, &destination, &[], &options())?;
    Ok(read_image(&*store, &report))
}

#[test]
fn a_tree_arrives_whole() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let write = |name: &str, content: &[u8]| std::fs::write(root.join(name), content).unwrap();
    std::fs::create_dir_all(root.join("d/e")).unwrap();
    write("d/large", &noise(1, 200_000));
    write("d/.wh.literal", b"a file like any other here");
    write("empty", b"");
    write("small", b"small");
    std::fs::set_permissions(root.join("small"), PermissionsExt::from_mode(0o4751)).unwrap();
    std::fs::hard_link(root.join("d/large"), root.join("link")).unwrap();
    std::os::unix::fs::symlink("../nowhere", root.join("d/e/symlink")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(10_000_000).unwrap();
    sparse.write_all_at(b"data", 5_000_000).unwrap();

    let tree = convert(root).unwrap();
    let expected = [
        "d",
        "d/.wh.literal",
        "d/e",
        "d/e/symlink",
        "d/large",
        "empty",
        "link",
        "small",
        "socket",
        "sparse",
    ];
    assert_eq!(names(&tree), expected);
    assert!(tree[&b"d/large"[..]].content == noise(1, 200_000));
    assert_eq!(tree[&b"link"[..]].inode, tree[&b"d/large"[..]].inode);
    assert_eq!(tree[&b"small"[..]].permissions, 0o4751);
    assert_eq!(tree[&b"d/e/symlink"[..]].content, b"../nowhere");
    assert_eq!(tree[&b"socket"[..]].kind, FileKind::Socket);
    let sparse = &tree[&b"sparse"[..]];
    assert_eq!(sparse.content.len(), 10_000_000);
    assert_eq!(&sparse.content[5_000_000..5_000_004], b"data");
    assert!(sparse.content[..5_000_000].iter().all(|byte| *byte == 0));
    let mtime = std::fs::metadata(root.join("small")).unwrap().modified().unwrap();
    let mtime = mtime.duration_since(std::time::UNIX_EPOCH).unwrap();
    let expected = (mtime.as_secs() as i64, mtime.subsec_nanos());
    assert_eq!(tree[&b"small"[..]].mtime, expected);
}

#[test]
fn a_missing_directory_and_a_file_are_errors_with_their_path() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for path in [file, directory.path().join("none")] {
        let text = chain(&convert(&path).unwrap_err());
        assert!(text.contains(&format!("{path:?} could not be read")), "{text}");
    }
}
