//! `chunkfs inspect`, `ls` and `cat`.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use chunkfs_index::{INDEX_LEN_MAX, Index};

use crate::archive::{self, Archive, LONG_NAME, noise};
use crate::support::{Scratch, has_program};

#[test]
fn inspect_counts_what_is_there() {
    let scratch = Scratch::new();
    let image = scratch.everything();
    let inspection = scratch.json(["inspect", &image, "--json"]);
    let expected = [
        ("chunk_size", 65_536),
        ("files", 7),
        ("directories", 2),
        ("symlinks", 4),
        ("others", 0),
        ("file_bytes", 300_000 + 6 + archive::SPARSE_LEN as u64 + 10 + 10 + 5),
        ("blobs", 1),
    ];
    for (key, value) in expected {
        assert_eq!(inspection[key], value, "{key}");
    }
    assert_eq!(inspection["digest_algorithm"], "blake3");
    let text = scratch.run(["inspect", &image]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], format!("manifest   {}", inspection["manifest"].as_str().unwrap()));
    assert_eq!(lines[1], format!("image id   {}", inspection["image_id"].as_str().unwrap()));
    assert_eq!(lines[2], "tree       7 files, 2 directories, 4 symlinks, 0 others, 683.62 KiB");
    let stored = inspection["blob_bytes"].as_u64().unwrap();
    assert_eq!(stored, inspection["stored_bytes"].as_u64().unwrap());
}

#[test]
fn names_are_listed_on_one_line_each() {
    let scratch = Scratch::new();
    let image = scratch.everything();
    let long = String::from_utf8(LONG_NAME.to_vec()).unwrap();
    let names = [
        "absolute",
        "also",
        "dir",
        "file",
        "hard",
        "new\\x0aline",
        &long,
        "nowhere",
        "old",
        "sparse",
        "\\xff\\xfe",
    ];
    let expected: String = names.iter().map(|name| format!("{name}\n")).collect();
    assert_eq!(scratch.run(["ls", &image]), expected);
    let recursive = scratch.run(["ls", "-R", &image]);
    let mut paths = vec!["/".to_owned()];
    for name in names {
        paths.push(format!("/{name}"));
        if name == "dir" {
            paths.extend(["/dir/big".to_owned(), "/dir/up".to_owned()]);
        }
    }
    assert_eq!(recursive.lines().collect::<Vec<_>>(), paths);
}

#[test]
fn long_lines_have_every_field() {
    let scratch = Scratch::new();
    let image = scratch.everything();
    let cases = [
        ("file", "-rwsr-xr-x 2 1000 100 6 1.000000000 /file\n"),
        ("/hard", "-rwsr-xr-x 2 1000 100 6 1.000000000 /hard\n"),
        ("old", "-rw-r--r-- 1 0 0 0 -2.750000000 /old\n"),
        ("absolute", "lrwxrwxrwx 1 0 0 7 1.000000000 /absolute -> /dir/up\n"),
        ("also/big", "-rw-r--r-- 1 0 0 300000 1.000000000 /also/big\n"),
        ("./dir//big", "-rw-r--r-- 1 0 0 300000 1.000000000 /dir/big\n"),
    ];
    for (path, line) in cases {
        assert_eq!(scratch.run(["ls", "-l", &image, path]), line, "{path}");
    }
    let image = scratch.convert("devices", &archive::devices());
    let expected = "brw-r--r-- 1 0 0 5,300 1.000000000 block\n\
                    crw-r--r-- 1 0 0 5,300 1.000000000 char\n\
                    prw-r--r-- 1 0 0 0 1.000000000 fifo\n";
    assert_eq!(scratch.run(["ls", "-l", &image]), expected);
}

#[test]
fn links_are_followed_as_ls_does() {
    let scratch = Scratch::new();
    let image = scratch.everything();
    for path in ["also", "also/", "dir", "/dir/", "also/../dir", "dir/."] {
        assert_eq!(scratch.run(["ls", &image, path]), "big\nup\n", "{path}");
    }
    assert_eq!(scratch.run(["ls", &image, "nowhere"]), "/nowhere\n");
    assert_eq!(scratch.run(["ls", &image, "absolute"]), "/absolute\n");
}

#[test]
fn an_independent_reader_lists_the_same() {
    if !has_program("python3") {
        return;
    }
    let scratch = Scratch::new();
    for (name, tar) in [("everything", archive::everything()), ("devices", archive::devices())] {
        let image = scratch.convert(name, &tar);
        let transferred = scratch.blobs(&image, "application/vnd.chunkfs.index.v1+zstd").remove(0);
        let transferred = std::fs::read(transferred).unwrap();
        let index = Index::decompress(&transferred, INDEX_LEN_MAX).unwrap();
        std::fs::write(scratch.path("index"), index.as_bytes()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/read_index.py");
        let output =
            Command::new("python3").arg(script).arg(scratch.path("index")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(scratch.run(["ls", "-lR", &image]), String::from_utf8(output.stdout).unwrap());
    }
}

#[test]
fn cat_follows_links_with_and_without_a_leading_slash() {
    let scratch = Scratch::new();
    let image = scratch.everything();
    for path in ["file", "/file", "hard", "dir/up", "/dir/up", "absolute", "also/up", "../file"] {
        assert_eq!(scratch.run(["cat", &image, path]), "hello\n", "{path}");
    }
    let bytes = |path: &OsStr| {
        let arguments = [OsStr::new("cat"), OsStr::new(&image), path];
        scratch.command(arguments).output().unwrap().stdout
    };
    assert_eq!(bytes(OsStr::from_bytes(b"\xff\xfe")), b"not UTF-8\n");
    assert_eq!(bytes(OsStr::new("new\nline")), b"two lines\n");
    assert_eq!(bytes(OsStr::from_bytes(&LONG_NAME)), b"long\n");
    assert_eq!(bytes(OsStr::new("old")), b"");
    assert!(bytes(OsStr::new("sparse")) == archive::sparse());
    assert!(bytes(OsStr::new("also/big")) == noise(1, 300_000));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let scratch = Scratch::new();
    let tar = Archive::new().file("big", &noise(3, 2 << 20)).finish();
    let image = scratch.convert("big", &tar);
    for arguments in [vec!["cat", &image, "big"], vec!["export", &image, "-"]] {
        let mut command = scratch.command(&arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut head = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut head).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(output.stderr, b"", "{arguments:?}");
    }
}
