//! Comparison with `umoci unpack`, an independent implementation of the same rules.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chunkfs_convert::{Destination, convert_image};
use chunkfs_fetch::{
    BlobDescriptor, ImageSource, ManifestSelector, MemorySource, OciLayout, Priority,
};
use chunkfs_format::ChunkDecoder;
use chunkfs_index::{Chunk, FileKind, Index, Inode, PieceSource};

use crate::archive::{Archive, Entry, gzip, noise};
use crate::support::{Layer, convert_in, open_image, options, put_image, read_image, runtime, tag};

/// Why the comparison cannot be made here, or `None` if it can.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root");
    }
    let version = Command::new("umoci").arg("--version").output();
    if version.is_err() { Some("umoci is not installed") } else { None }
}

/// Unpacks an image of a layout and returns the folder that holds its `rootfs`.
fn unpack(layout: &Path, image_tag: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let image = format!("{}:{image_tag}", layout.display());
    let output = Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(folder.path().join("bundle"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// Puts layers as an image into a new layout.
pub(crate) fn layout_of(layers: &[Layer]) -> (tempfile::TempDir, OciLayout) {
    let folder = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(folder.path(), runtime()).unwrap();
    let memory = MemorySource::new();
    put_image(&memory, layers);
    runtime().block_on(async {
        let manifest = memory.fetch_manifest(&tag("image")).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
        let blobs = json["layers"].as_array().unwrap().iter().chain([&json["config"]]);
        for blob in blobs {
            let id = blob["digest"].as_str().unwrap().parse().unwrap();
            let blob = BlobDescriptor { id, len: blob["size"].as_u64().unwrap() };
            copy_blob(&memory, &layout, &blob).await;
        }
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        use chunkfs_fetch::ImageSink as _;
        layout.put_manifest(&tag("image"), media_type, manifest.bytes).await.unwrap();
    });
    (folder, layout)
}

async fn copy_blob(from: &dyn ImageSource, to: &OciLayout, blob: &BlobDescriptor) {
    use chunkfs_fetch::ImageSink as _;
    let bytes = from.read_range(blob, 0..blob.len, Priority::Demand).await.unwrap();
    to.put_blob(blob, chunkfs_fetch::BlobContent::Bytes(bytes)).await.unwrap();
}

/// Everything that differs between a converted image and a directory.
struct Comparison<'a> {
    source: &'a dyn ImageSource,
    index: &'a Index,
    decoder: ChunkDecoder,
    /// The last chunk that was read.
    chunk: Option<(Chunk, Vec<u8>)>,
    /// The inode in the image that each file in the directory must be.
    inodes: HashMap<(u64, u64), Inode>,
    /// When unpacking began.
    start: Duration,
    differences: Vec<String>,
}

impl Comparison<'_> {
    fn compare(&mut self, inode: &Inode, path: &Path) {
        let metadata = std::fs::symlink_metadata(path).unwrap();
        let first = *self.inodes.entry((metadata.dev(), metadata.ino())).or_insert(*inode);
        let (uid, gid) = (metadata.uid(), metadata.gid());
        let checks = [
            ("inode", first.index == inode.index),
            ("mode", u32::from(inode.mode()) == metadata.mode()),
            ("owner", (inode.uid, inode.gid) == (uid, gid)),
            ("mtime", self.is_equal_mtime(inode, &metadata)),
            (
                "links",
                inode.kind == FileKind::Directory
                    || u64::from(inode.link_count) == metadata.nlink(),
            ),
            ("xattrs", self.xattrs(inode) == xattrs(path)),
        ];
        for (what, is_equal) in checks {
            if !is_equal {
                let mtime = (metadata.mtime(), metadata.mtime_nsec());
                self.differences
                    .push(format!("{path:?}: {what}: {inode:?}, {mtime:?} {uid} {gid}"));
            }
        }
        let file_type = metadata.file_type();
        let is_equal = match inode.kind {
            FileKind::Directory => file_type.is_dir() && self.compare_children(inode, path),
            FileKind::Regular => file_type.is_file() && self.is_equal_content(inode, path),
            FileKind::Symlink => {
                let target = std::fs::read_link(path).unwrap_or_default();
                self.index.symlink_target(inode) == Some(target.as_os_str().as_bytes())
            }
            FileKind::CharDevice | FileKind::BlockDevice => {
                let (major, minor) = (inode.device.major, inode.device.minor);
                rustix::fs::makedev(major, minor) == metadata.rdev()
            }
            FileKind::Fifo => file_type.is_fifo(),
            FileKind::Socket => file_type.is_socket(),
        };
        if !is_equal {
            self.differences.push(format!("{path:?}: content of {:?}", inode.kind));
        }
    }

    /// A directory that has no entry, or in which a whiteout removes something, gets the time of
    /// unpacking there.
    fn is_equal_mtime(&self, inode: &Inode, metadata: &std::fs::Metadata) -> bool {
        let mtime = (inode.mtime.seconds, i64::from(inode.mtime.nanos));
        let is_new = metadata.mtime() >= self.start.as_secs() as i64;
        mtime == (metadata.mtime(), metadata.mtime_nsec())
            || (inode.kind == FileKind::Directory && is_new)
    }

    fn compare_children(&mut self, inode: &Inode, path: &Path) -> bool {
        let names = std::fs::read_dir(path).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let dirents: Vec<_> = self.index.dirents(inode, 0).collect();
        let is_equal = names.iter().map(|name| name.as_bytes()).eq(dirents.iter().map(|d| d.name));
        for dirent in dirents {
            let path = path.join(std::ffi::OsStr::from_bytes(dirent.name));
            if path.symlink_metadata().is_ok() {
                self.compare(&self.index.inode(dirent.inode).unwrap(), &path);
            }
        }
        is_equal
    }

    fn is_equal_content(&mut self, inode: &Inode, path: &Path) -> bool {
        let mut file = std::fs::File::open(path).unwrap();
        if file.metadata().unwrap().len() != inode.len {
            return false;
        }
        let index = self.index;
        index.pieces(inode, 0, u64::MAX).all(|piece| {
            let mut actual = vec![0; piece.len as usize];
            file.read_exact(&mut actual).unwrap();
            match piece.source {
                PieceSource::Hole => actual.iter().all(|byte| *byte == 0),
                PieceSource::Chunk { index: chunk, offset } => {
                    let (start, len) = (offset as usize, piece.len as usize);
                    self.load(index.chunk(chunk).unwrap())[start..start + len] == actual[..]
                }
            }
        })
    }

    fn load(&mut self, chunk: Chunk) -> &[u8] {
        if self.chunk.as_ref().is_none_or(|(loaded, _)| loaded.id != chunk.id) {
            let blob = self.index.blob(chunk.location.blob).unwrap();
            let blob = BlobDescriptor { id: blob.id, len: blob.len };
            let start = chunk.location.offset;
            let range = start..start + u64::from(chunk.location.stored_len);
            let stored = self.source.read_range(&blob, range, Priority::Demand);
            let stored = runtime().block_on(stored).unwrap();
            let mut bytes = Vec::new();
            let (algorithm, codec) = (self.index.algorithm(), chunk.location.codec);
            let len = chunk.uncompressed_len;
            self.decoder.decode(algorithm, chunk.id, len, codec, &stored, &mut bytes).unwrap();
            self.chunk = Some((chunk, bytes));
        }
        &self.chunk.as_ref().unwrap().1
    }

    fn xattrs(&self, inode: &Inode) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let xattrs = self.index.xattrs(inode);
        xattrs.map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec())).collect()
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let len = rustix::fs::llistxattr(path, buffer.as_mut_slice()).unwrap();
    let names = buffer[..len].to_vec();
    let mut xattrs = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let len = rustix::fs::lgetxattr(path, name, buffer.as_mut_slice()).unwrap();
        xattrs.insert(name.to_vec(), buffer[..len].to_vec());
    }
    xattrs
}

/// Converts an image of a layout and lists what is different from what umoci makes of it.
pub(crate) fn differences(layout: &OciLayout, path: &Path, image_tag: &str) -> Vec<String> {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let converted = Arc::new(OciLayout::create(folder.path(), runtime()).unwrap());
    let destination = Destination { sink: Arc::clone(&converted) as _, selector: tag("converted") };
    let source = Arc::new(OciLayout::open(layout.path(), runtime()).unwrap());
    let selector = ManifestSelector::Tag(image_tag.to_owned());
    let report = convert_image(source, &selector, &destination, &[], &options()).unwrap();
    let (_, index) = open_image(&*converted, &report);
    let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let unpacked = unpack(path, image_tag);
    let mut comparison = Comparison {
        source: &*converted,
        index: &index,
        decoder: ChunkDecoder::new().unwrap(),
        chunk: None,
        inodes: HashMap::new(),
        start,
        differences: Vec::new(),
    };
    comparison.compare(&index.root(), &unpacked.path().join("bundle/rootfs"));
    let (counted, found) = (index.inode_count() as usize, comparison.inodes.len());
    if counted != found {
        comparison.differences.push(format!("{counted} inodes instead of {found}"));
    }
    comparison.differences
}

#[test]
fn rules_are_those_of_umoci() {
    if let Some(obstacle) = obstacle() {
        println!("skipped: {obstacle}");
        return;
    }
    for (case, layers) in crate::semantics::cases() {
        let layers: Vec<_> = layers
            .into_iter()
            .map(|entries| Archive::new(entries).finish())
            .map(|archive| Layer::tar(archive.clone()).stored_as(gzip(&archive), TAR_GZIP))
            .collect();
        let (folder, layout) = layout_of(&layers);
        let differences = differences(&layout, folder.path(), "image");
        assert!(differences.is_empty(), "{case}: {differences:#?}");
    }
}

const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

#[test]
fn a_tree_of_everything_is_as_umoci_unpacks_it() {
    if let Some(obstacle) = obstacle() {
        println!("skipped: {obstacle}");
        return;
    }
    let lower = vec![
        Entry::directory("./").mode(0o755).mtime(1),
        Entry::directory("d").mode(0o2750).owner(1, 2).mtime(1_000),
        Entry::file("d/large", noise(1, 300_000)).mode(0o4755).pax("mtime", b"12.000000345"),
        Entry::file("d/before", "1969").pax("mtime", b"-1.5"),
        Entry::file("d/capable", "c").pax("SCHILY.xattr.user.b", b"\0\xff\n="),
        Entry::new(b'3', b"d/null").device(1, 3).mode(0o666),
        Entry::new(b'4', b"d/disk").device(8, 1).mode(0o660),
        Entry::new(b'6', b"d/fifo").mode(0o600),
        Entry::symlink("d/link", "large").owner(3, 4).pax("mtime", b"77.5"),
        Entry::hard_link("d/again", "d/large"),
        Entry::file("d/\u{e9}", "utf8"),
        Entry::new(b'0', b"d/caf\xe9"),
        Entry::file(&format!("d/{}", "n".repeat(255)), "long"),
        Entry::file("d/id", "x").pax("uid", b"4000000000").pax("gid", b"70000"),
        Entry::file("sparse", noise(2, 1_000))
            .pax("GNU.sparse.numblocks", b"1")
            .pax("GNU.sparse.map", b"100000,1000")
            .pax("GNU.sparse.size", b"1000000"),
    ];
    let upper = vec![
        Entry::directory("d").mode(0o700).owner(5, 6).mtime(2_000),
        Entry::hard_link("d/third", "d/again"),
        Entry::file("d/large", "replaced"),
        Entry::file("d/.wh.fifo", ""),
    ];
    let layers: Vec<_> = [lower, upper]
        .into_iter()
        .map(|entries| Layer::tar(Archive::new(entries).finish()))
        .collect();
    let (folder, layout) = layout_of(&layers);
    let differences = differences(&layout, folder.path(), "image");
    assert!(differences.is_empty(), "{differences:#?}");
    // The same through memory, so that both stores are covered.
    let store = Arc::new(MemorySource::new());
    put_image(&store, &layers);
    let report = convert_in(&store, &options()).unwrap();
    assert_eq!(read_image(&*store, &report).len(), 15);
}

/// Compares images of `CHUNKFS_TEST_LAYOUT=DIR:TAG`, if that is set.
#[test]
fn a_real_image_is_as_umoci_unpacks_it() {
    let Ok(image) = std::env::var("CHUNKFS_TEST_LAYOUT") else {
        println!("skipped: CHUNKFS_TEST_LAYOUT is not set to DIR:TAG");
        return;
    };
    if let Some(obstacle) = obstacle() {
        println!("skipped: {obstacle}");
        return;
    }
    let (path, image_tag) = image.rsplit_once(':').expect("DIR:TAG");
    let layout = OciLayout::open(path, runtime()).unwrap();
    let differences = differences(&layout, Path::new(path), image_tag);
    let shown = &differences[..differences.len().min(50)];
    assert!(differences.is_empty(), "{} differences: {shown:#?}", differences.len());
}
