//! How mounts begin in the background, and how they end or fail.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use crate::mount::{Server, Statistics, can_mount, is_mounted};
use crate::support::{Scratch, is_root};

#[test]
fn signals_unmount_and_are_no_failure() {
    if !can_mount() {
        return;
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let scratch = Scratch::new();
        let image = scratch.everything();
        let mut server = Server::start(&scratch, &image, &[]);
        // In use: ending unmounts all the same.
        let held = fs::File::open(server.mountpoint.join("file")).unwrap();
        server.send(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal:?}");
        assert!(!is_mounted(&server.mountpoint));
        drop(held);
    }
}

#[test]
fn an_unmount_from_outside_ends_the_process() {
    if !can_mount() {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.everything();
    let mut server = Server::start(&scratch, &image, &[]);
    let path = server.mountpoint.clone();
    let unmounted = match is_root() {
        true => Command::new("umount").arg(&path).status(),
        false => Command::new("fusermount3").arg("-u").arg(&path).status(),
    };
    assert!(unmounted.unwrap().success());
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn unmount_takes_any_spelling_of_the_folder() {
    if !can_mount() {
        return;
    }
    for spelling in ["mnt", "mnt/", "./mnt", "home/../mnt", "link", "link/", "to/mnt", "mnt/dir/.."]
    {
        let scratch = Scratch::new();
        let image = scratch.everything();
        std::os::unix::fs::symlink("mnt", scratch.path("link")).unwrap();
        std::os::unix::fs::symlink(".", scratch.path("to")).unwrap();
        let mut server = Server::start(&scratch, &image, &[]);
        assert_eq!(scratch.run(["unmount", spelling]), "", "{spelling}");
        assert_eq!(server.wait().code(), Some(0), "{spelling}");
        assert!(!is_mounted(&server.mountpoint));
        let error = scratch.fail(["umount", spelling]);
        assert!(error.contains(&format!("no image is mounted on {spelling};")), "{error}");
    }
}

#[test]
fn a_daemon_answers_when_the_command_returns() {
    if !can_mount() {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.everything();
    let statistics = Statistics::new(&scratch);
    fs::create_dir(scratch.path("mnt")).unwrap();
    let mount = ["mount", "--daemon", &image, "mnt", "--stats", "stats/a.json"];
    assert_eq!(scratch.run(mount), "");
    assert_eq!(fs::read(scratch.path("mnt/file")).unwrap(), b"hello\n");
    scratch.run(["unmount", "mnt"]);
    assert!(!is_mounted(&scratch.path("mnt")));
    // Written when the background process ends.
    assert_eq!(statistics.next()["read_bytes"], 6);
}

#[test]
fn what_cannot_be_mounted_is_said_in_one_line() {
    let scratch = Scratch::new();
    let image = scratch.everything();
    fs::write(scratch.path("file"), b"").unwrap();
    fs::create_dir(scratch.path("mnt")).unwrap();
    let cases = [
        (["gone", "--prefetch=none"], "gone cannot be mounted on; create the directory first"),
        (["gone", "--daemon"], "gone cannot be mounted on; create the directory first"),
        (["file", "--prefetch=none"], "file cannot be mounted on; "),
        (["mnt", "--stats=gone/a"], "statistics cannot be written to "),
        (["mnt", "--cache=file"], "file"),
    ];
    for ([mountpoint, option], message) in cases {
        let error = scratch.fail(["mount", &image, mountpoint, option]);
        assert!(error.contains(message), "{mountpoint} {option}: {error}");
    }
    assert!(!is_mounted(&scratch.path("mnt")));
    let error = scratch.fail(["unmount", "mnt"]);
    assert!(error.starts_with("chunkfs: no image is mounted on mnt; "), "{error}");
}
