//! Running the program, and what its answers must look like.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::archive;

/// A folder for one test, with a home and a cache of its own.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        let scratch = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(scratch.path("home")).unwrap();
        scratch
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The path as text, as a part of an argument.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The program, in an environment that holds nothing of the caller's.
    pub(crate) fn command<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chunkfs"));
        command.args(arguments).current_dir(self.0.path()).env("RUST_BACKTRACE", "1");
        command.env("HOME", self.path("home")).env_remove("DOCKER_CONFIG");
        command.env("XDG_CACHE_HOME", self.path("cache")).stdin(Stdio::null());
        command
    }

    /// Runs the program and returns what it wrote to standard output; it must succeed.
    pub(crate) fn run<const N: usize>(&self, arguments: [&str; N]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", errors(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the program, which must fail with exactly one line, and returns that.
    pub(crate) fn fail<const N: usize>(&self, arguments: [&str; N]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", errors(&output));
        one_error_line(&errors(&output))
    }

    /// Converts an archive to `oci:layout:NAME` with chunks of 64 KiB and returns that reference.
    pub(crate) fn convert(&self, name: &str, tar: &[u8]) -> String {
        let file = self.path(&format!("{name}.tar"));
        std::fs::write(&file, tar).unwrap();
        let source = format!("tar:{}", file.to_str().unwrap());
        let image = format!("oci:{}:{name}", self.text("layout"));
        self.run(["convert", &source, &image, "--chunk-size", "64K"]);
        image
    }

    /// The tree of every kind of file, converted.
    pub(crate) fn everything(&self) -> String {
        self.convert("everything", &archive::everything())
    }

    pub(crate) fn json<const N: usize>(&self, arguments: [&str; N]) -> Value {
        serde_json::from_str(&self.run(arguments)).unwrap()
    }

    /// The blobs of a kind that the manifest of an image in `layout` lists.
    pub(crate) fn blobs(&self, image: &str, media_type: &str) -> Vec<PathBuf> {
        let inspection = self.json(["inspect", image, "--json"]);
        let manifest = self.blob(inspection["manifest"].as_str().unwrap());
        let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        let layers = layers.filter(|layer| layer["mediaType"] == media_type);
        layers.map(|layer| self.blob(layer["digest"].as_str().unwrap())).collect()
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.path("layout/blobs").join(digest.replace(':', "/"))
    }
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Progress may come before it, nothing after it, and a backtrace nowhere.
pub(crate) fn one_error_line(text: &str) -> String {
    let line = text.lines().last().unwrap_or_default();
    assert!(line.starts_with("chunkfs: "), "{text}");
    let others = text.lines().filter(|line| line.starts_with("chunkfs: ")).count();
    assert_eq!(others, 1, "{text}");
    assert!(!text.contains("backtrace"), "{text}");
    line.to_owned()
}

/// Returns the files below a folder with their content, in order.
pub(crate) fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(folder).unwrap().to_owned();
                files.push((name, std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// Changes one byte of a file.
pub(crate) fn flip(path: &Path, offset: usize) {
    let mut bytes = Vec::new();
    File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes[offset] ^= 0xff;
    File::create(path).unwrap().write_all(&bytes).unwrap();
}

/// Returns whether a program can be started, and prints why a test is skipped otherwise.
pub(crate) fn has_program(name: &str) -> bool {
    let has = Command::new(name).arg("--version").output().is_ok();
    if !has {
        println!("skipped: there is no {name}");
    }
    has
}

/// Returns whether this process is root, and prints why a test is skipped otherwise.
pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: only root can do this");
    }
    is_root
}
