//! Wrong command lines, and failures that say what to do.

use crate::support::{Scratch, errors};

#[test]
fn wrong_command_lines_end_with_code_two_and_say_what_is_right() {
    let scratch = Scratch::new();
    let layout = scratch.text("layout");
    std::fs::create_dir(&layout).unwrap();
    let with_tag = format!("{layout}:v1");
    let suggestion = format!("write oci:{with_tag};");
    let digest = format!("docker://localhost/a@sha256:{}", "0".repeat(64));
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage: chunkfs <COMMAND>"),
        (&["lss"], "a similar subcommand exists: 'ls'"),
        (&["inspect"], "<IMAGE>"),
        (&["inspect", "web:v1"], "write docker://web:v1;"),
        (&["inspect", &with_tag], &suggestion),
        (&["inspect", "docker://Web"], "a repository is lower-case letters and digits"),
        (&["inspect", "oci:"], "the folder is missing"),
        (&["inspect", "oci:a:b c"], "a tag is at most 128 letters"),
        (&["inspect", "oci:a@sha256:12"], "the digest is not a SHA-256"),
        (&["inspect", "oci:a:b", "--jsn"], "a similar argument exists: '--json'"),
        (&["convert", "folder", "oci:a:b"], "rootfs:FOLDER or tar:FILE"),
        (&["convert", "rootfs:a", "oci:a"], "it names no tag; end it with :TAG"),
        (&["convert", "rootfs:a", &digest], "a digest cannot be chosen; end it with :TAG"),
        (&["convert", "rootfs:a", "oci:a:b", "--chunk-size", "65K"], "66560 is not a power of two"),
        (&["convert", "rootfs:a", "oci:a:b", "--pack-size", "2M"], "pack size 2097152 is not 0"),
        (&["convert", "rootfs:a", "oci:a:b", "--level", "20"], "write a level from 1 to 19"),
        (&["convert", "rootfs:a", "oci:a:b", "--jobs", "0"], "write a number from 1 on"),
        (&["convert", "rootfs:a", "oci:a:b", "--platform", "x"], "such as linux/amd64"),
        (&["convert", "rootfs:a", "oci:a:b", "--digest", "md5"], "blake3, sha256"),
        (&["mount", "oci:a:b", "/mnt", "--prefetch", "some"], "none, all"),
        (&["mount", "oci:a:b"], "<MOUNTPOINT>"),
    ];
    for (arguments, message) in cases {
        let output = scratch.command(*arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(errors(&output).contains(message), "{arguments:?}: {}", errors(&output));
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    assert!(!scratch.path("a").exists());
}

#[test]
fn every_command_has_help() {
    let scratch = Scratch::new();
    assert_eq!(scratch.run(["--version"]), format!("chunkfs {}\n", env!("CARGO_PKG_VERSION")));
    let commands =
        ["convert", "mount", "unmount", "inspect", "ls", "cat", "export", "verify", "pull"];
    let overview = scratch.run(["--help"]);
    for command in commands {
        assert!(overview.contains(&format!("\n  {command}")), "{overview}");
        let help = scratch.run([command, "--help"]);
        assert!(help.contains(&format!("Usage: chunkfs {command} ")), "{help}");
    }
}

#[test]
fn failures_are_one_line_with_their_cause() {
    let scratch = Scratch::new();
    let image = scratch.everything();
    let other_tag = image.replace(":everything", ":other");
    std::fs::create_dir(scratch.path("empty")).unwrap();
    let empty = format!("oci:{}", scratch.text("empty"));
    let cases: &[(&[&str], &str)] = &[
        (&["inspect", "oci:gone:v1"], "gone does not exist"),
        (&["inspect", &empty], "is not an OCI image layout"),
        (&["inspect", &other_tag], "tag other in"),
        (&["ls", &image, "dir/gone"], "there is no file dir/gone in oci:"),
        (&["cat", &image, "gone\nwith a line"], "there is no file gone with a line in oci:"),
        (&["cat", &image, "nowhere"], "there is no file nowhere in oci:"),
        (&["cat", &image, "dir"], "is not a regular file"),
        (&["export", &image, "gone/a.tar"], "gone/a.tar cannot be written: No such file"),
        (&["export", &image, "/dev/full"], "No space left on device"),
        (&["convert", &image, "oci:new:v1"], "the image is already converted"),
        (&["convert", "rootfs:gone", "oci:new:v1"], "rootfs:gone cannot be converted"),
        (&["convert", "tar:gone", "oci:new:v1"], "gone cannot be read: No such file"),
        (&["convert", "oci:gone:v1", "oci:new:v1"], "gone does not exist"),
        (&["unmount", "gone"], "no image is mounted on gone"),
        (&["unmount", "/"], "no image is mounted on /"),
        (&["inspect", "docker://localhost/a", "--auth-file", "gone"], "there is no auth file gone"),
    ];
    for (arguments, message) in cases {
        let output = scratch.command(*arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", errors(&output));
        let line = crate::support::one_error_line(&errors(&output));
        assert!(line.contains(message), "{arguments:?}: {line}");
    }
}
