//! `chunkfs convert` between folders, archives and layouts.

use std::collections::BTreeSet;
use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::archive::{self, Archive, noise};
use crate::support::{Scratch, tree};

/// Two equal small files in one pack, one file of four chunks and a bit, one twice that.
fn small_tree() -> Vec<u8> {
    let big = noise(1, 4 * 65_536 + 10);
    Archive::new()
        .folder("dir/")
        .file("a", b"hello\n")
        .file("b", b"hello\n")
        .file("dir/big", &big)
        .file("dir/same", &big)
        .symlink("link", "a")
        .finish()
}

#[test]
fn statistics_are_exact() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("a.tar"), small_tree()).unwrap();
    let convert = ["convert", "tar:a.tar", "oci:layout:v1", "--chunk-size", "64K", "--json"];
    let statistics = scratch.json(convert);
    let image = scratch.json(["inspect", "oci:layout:v1", "--json"]);
    let keys: BTreeSet<&str> = statistics.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "blobs",
        "chunks",
        "copied_bytes",
        "duplicate_chunks",
        "files",
        "image_id",
        "index_bytes",
        "layers",
        "manifest",
        "mounted_bytes",
        "packed_files",
        "peak_rss_bytes",
        "present_bytes",
        "pushed_bytes",
        "read_bytes",
        "reused_chunks",
        "reused_layers",
        "seconds",
        "source_bytes",
        "stored_bytes",
        "unique_bytes",
    ];
    assert_eq!(keys, BTreeSet::from(expected));
    let count = |key: &str| statistics[key].as_u64().unwrap();
    let big = 4 * 65_536 + 10;
    assert_eq!(count("files"), 4);
    assert_eq!(count("source_bytes"), 2 * big + 12);
    assert_eq!(count("layers"), 1);
    assert_eq!((count("reused_layers"), count("reused_chunks")), (0, 0));
    assert_eq!((count("mounted_bytes"), count("copied_bytes"), count("present_bytes")), (0, 0, 0));
    for key in ["chunks", "unique_bytes", "stored_bytes", "blobs", "index_bytes"] {
        assert_eq!(statistics[key], image[key], "{key}");
    }
    assert_eq!(statistics["manifest"], image["manifest"]);
    assert_eq!(statistics["image_id"], image["image_id"]);
    assert!(statistics["seconds"].as_f64().unwrap() > 0.0);
    assert!(count("peak_rss_bytes") > 1 << 20);
    let lens: u64 =
        tree(&scratch.path("layout/blobs")).iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let manifest_len = scratch.path("layout/blobs/sha256");
    let manifest = statistics["manifest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let manifest_len = std::fs::metadata(manifest_len.join(manifest)).unwrap().len();
    assert_eq!(count("pushed_bytes"), lens - manifest_len);
}

#[test]
fn the_manifest_is_printed() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("a.tar"), small_tree()).unwrap();
    let printed = scratch.run(["convert", "tar:a.tar", "oci:layout:v1"]);
    let image = scratch.json(["inspect", "oci:layout:v1", "--json"]);
    assert_eq!(Value::from(printed.trim_end()), image["manifest"]);
}

#[test]
fn the_number_of_jobs_does_not_change_a_byte() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("a.tar"), archive::everything()).unwrap();
    let convert = |jobs: &str| {
        let destination = format!("oci:layout-{jobs}:v1");
        let sizes = ["--chunk-size", "64K", "--blob-size", "100K"];
        let mut command = scratch.command(["convert", "tar:a.tar", &destination]);
        assert!(command.args(sizes).args(["--jobs", jobs]).status().unwrap().success());
        tree(&scratch.path(&format!("layout-{jobs}")))
    };
    let expected = convert("1");
    // The layout file, its index, the manifest, the configuration, the chunkfs index; data blobs.
    assert!(expected.len() > 5 + 2, "there are several data blobs");
    assert!(convert("2") == expected);
    assert!(convert("7") == expected);
}

#[test]
fn a_small_chunk_size_needs_no_pack_size() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("a.tar"), small_tree()).unwrap();
    scratch.run(["convert", "tar:a.tar", "oci:layout:v1", "--chunk-size", "64K"]);
    scratch.run([
        "convert",
        "tar:a.tar",
        "oci:layout:v2",
        "--chunk-size",
        "64K",
        "--pack-size",
        "64K",
    ]);
    let manifest = |tag| scratch.json(["inspect", tag, "--json"])["manifest"].clone();
    assert_eq!(manifest("oci:layout:v1"), manifest("oci:layout:v2"));
}

#[test]
fn an_archive_from_standard_input_is_the_same() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("a.tar"), small_tree()).unwrap();
    let from_file = scratch.run(["convert", "tar:a.tar", "oci:layout:v1"]);
    let mut command = scratch.command(["convert", "tar:-", "oci:layout:v2"]);
    command.stdin(Stdio::from(File::open(scratch.path("a.tar")).unwrap()));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), from_file);
}

#[test]
fn a_folder_is_converted() {
    let scratch = Scratch::new();
    let root = scratch.path("root");
    std::fs::create_dir_all(root.join("dir")).unwrap();
    std::fs::write(root.join("dir/file"), b"hello\n").unwrap();
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_millis(1250);
    for path in [root.join("dir/file"), root.join("dir")] {
        File::open(path).unwrap().set_modified(before_1970).unwrap();
    }
    let source = format!("rootfs:{}", root.to_str().unwrap());
    scratch.run(["convert", &source, "oci:layout:v1"]);
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let listing = scratch.run(["ls", "-lR", "oci:layout:v1", "dir"]);
    let lines: Vec<_> = listing.lines().collect();
    let owner = format!("{} {}", uid.as_raw(), gid.as_raw());
    assert_eq!(lines.len(), 2, "{listing}");
    assert!(lines[0].ends_with(&format!(" 2 {owner} 0 -2.750000000 /dir")), "{listing}");
    assert!(lines[1].ends_with(&format!(" 1 {owner} 6 -2.750000000 /dir/file")), "{listing}");
    assert_eq!(scratch.run(["cat", "oci:layout:v1", "dir/file"]), "hello\n");
}

#[test]
fn nothing_is_published_when_an_archive_is_cut_off() {
    let scratch = Scratch::new();
    let tar = small_tree();
    std::fs::write(scratch.path("a.tar"), &tar[..tar.len() / 2]).unwrap();
    let error = scratch.fail(["convert", "tar:a.tar", "oci:layout:v1"]);
    assert!(error.contains("tar:a.tar cannot be converted: layer a.tar"), "{error}");
    assert!(error.contains("is cut off"), "{error}");
    let error = scratch.fail(["inspect", "oci:layout:v1"]);
    assert!(error.contains("tag v1 in layout does not exist"), "{error}");
}
