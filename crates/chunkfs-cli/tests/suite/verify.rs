//! `chunkfs verify` and `chunkfs pull`.

use std::io::Read as _;
use std::process::Stdio;

use crate::archive::Archive;
use crate::archive::noise;
use crate::support::{Scratch, errors, flip, one_error_line, tree};

const BLOB: &str = "application/vnd.chunkfs.blob.v1";
const INDEX: &str = "application/vnd.chunkfs.index.v1+zstd";

#[test]
fn a_good_image_is_good() {
    let scratch = Scratch::new();
    let image = scratch.convert("good", &Archive::new().file("a", b"hello\n").finish());
    let id = scratch.json(["inspect", &image, "--json"])["image_id"].as_str().unwrap().to_owned();
    let expected = format!("{id}: 2 inodes, 1 chunk, 1 blob, all good\n");
    assert_eq!(scratch.run(["verify", &image]), expected);
}

#[test]
fn a_flipped_byte_is_named_by_chunk_blob_and_offset() {
    let scratch = Scratch::new();
    let tar = Archive::new().file("a", &noise(1, 200_000)).finish();
    let image = scratch.convert("bad", &tar);
    let blob = scratch.blobs(&image, BLOB).remove(0);
    // Incompressible chunks are stored raw, so this is in the third.
    flip(&blob, 131_072 + 5);
    let output = scratch.command(["verify", &image]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let list = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(list.lines().count(), 1, "{list}");
    let name = blob.file_name().unwrap().to_str().unwrap();
    let layout = image.rsplit_once(':').unwrap().0;
    let place = format!(" is corrupt at {layout}, in blob sha256:{name} at byte 131072: ");
    let chunk = list.strip_prefix("chunk ").unwrap().split_once(&place).unwrap().0;
    assert_eq!(chunk.len(), 64, "{list}");
    assert!(list.contains(&format!("chunk {chunk} decodes to ")), "{list}");
    let error = one_error_line(&errors(&output));
    assert!(error.contains(" has 1 problem, listed above; "), "{error}");

    let error = scratch.fail(["cat", &image, "a"]);
    assert!(error.starts_with(&format!("chunkfs: a in {image} cannot be read: ")), "{error}");
    assert!(error.contains(&place), "{error}");
    let error = scratch.fail(["pull", &image]);
    assert!(error.contains("1 of 4 chunks could not be fetched"), "{error}");
    assert!(error.contains(&place), "{error}");
}

#[test]
fn problems_count_even_if_nobody_reads_the_list() {
    let scratch = Scratch::new();
    let image = scratch.convert("bad", &Archive::new().file("a", &noise(1, 5000)).finish());
    flip(&scratch.blobs(&image, BLOB)[0], 0);
    let mut command = scratch.command(["verify", &image]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(one_error_line(&errors).contains(" has 1 problem"), "{errors}");
}

#[test]
fn a_damaged_index_is_an_error() {
    let scratch = Scratch::new();
    let image = scratch.convert("bad", &Archive::new().file("a", b"hello\n").finish());
    let index = scratch.blobs(&image, INDEX).remove(0);
    flip(&index, 20);
    for command in ["verify", "inspect", "ls", "pull"] {
        let error = scratch.fail([command, &image]);
        let name = index.file_name().unwrap().to_str().unwrap();
        assert!(error.contains("the index of ") && error.contains(name), "{error}");
    }
}

#[test]
fn a_second_pull_moves_nothing() {
    let scratch = Scratch::new();
    let tar = Archive::new().file("a", &noise(1, 200_000)).finish();
    let image = scratch.convert("pulled", &tar);
    let pull = || errors(&scratch.command(["pull", &image]).output().unwrap());
    let bytes = "1 request, 200000 bytes";
    assert_eq!(pull(), format!("{image}: 4 chunks in the cache; fetched 4 in {bytes}\n"));
    assert!(!tree(&scratch.path("cache/chunkfs")).is_empty());
    let nothing = "fetched 0 in 0 requests, 0 bytes";
    assert_eq!(pull(), format!("{image}: 4 chunks in the cache; {nothing}\n"));
}
