//! `chunkfs mount`: what is served, and the statistics.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::archive;
use crate::registry::Registry;
use crate::support::Scratch;

/// Returns whether images can be mounted, and prints why a test is skipped otherwise.
pub(crate) fn can_mount() -> bool {
    let opened = File::options().read(true).write(true).open("/dev/fuse");
    let has_right = rustix::process::geteuid().is_root()
        || Command::new("fusermount3").arg("--version").output().is_ok();
    match &opened {
        Err(error) => println!("skipped: /dev/fuse cannot be opened: {error}"),
        Ok(_) if !has_right => println!("skipped: neither root nor fusermount3 is there"),
        Ok(_) => {}
    }
    opened.is_ok() && has_right
}

pub(crate) fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

/// A process that serves a mount in the foreground.
pub(crate) struct Server {
    child: Child,
    pub(crate) mountpoint: PathBuf,
}

impl Server {
    /// Mounts on `mnt` and waits until the kernel has the mount.
    pub(crate) fn start(scratch: &Scratch, image: &str, options: &[&str]) -> Self {
        let mountpoint = scratch.path("mnt");
        fs::create_dir(&mountpoint).unwrap();
        let table = File::open("/proc/self/mountinfo").unwrap();
        let mut command = scratch.command(["mount", image, "mnt"]);
        let mut child = command.args(options).stderr(Stdio::piped()).spawn().unwrap();
        while !is_mounted(&mountpoint) {
            assert_eq!(child.try_wait().unwrap(), None, "the mount ended early");
            // The table becomes urgent when it changes.
            let timeout = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            poll(&mut [PollFd::new(&table, PollFlags::PRI)], Some(&timeout)).unwrap();
        }
        Self { child, mountpoint }
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn errors(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    /// Ends it as a user does; nothing may be left.
    pub(crate) fn end(mut self) {
        self.send(Signal::INT);
        assert_eq!(self.wait().code(), Some(0));
        assert!(!is_mounted(&self.mountpoint));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // For a failed test: what has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if is_mounted(&self.mountpoint) {
            let _ = Command::new("umount").arg("-l").arg(&self.mountpoint).status();
        }
    }
}

/// Statistics in a folder of their own, which is watched.
pub(crate) struct Statistics {
    folder: PathBuf,
    watch: rustix::fd::OwnedFd,
}

impl Statistics {
    pub(crate) fn new(scratch: &Scratch) -> Self {
        let folder = scratch.path("stats");
        fs::create_dir(&folder).unwrap();
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, &folder, inotify::WatchFlags::MOVED_TO).unwrap();
        Self { folder, watch }
    }

    /// Waits until a new file is in place and reads it.
    pub(crate) fn next(&self) -> Value {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        inotify::Reader::new(&self.watch, &mut buffer).next().unwrap();
        self.read()
    }

    pub(crate) fn read(&self) -> Value {
        serde_json::from_slice(&fs::read(self.folder.join("a.json")).unwrap()).unwrap()
    }
}

#[test]
fn the_whole_tree_is_served() {
    if !can_mount() {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.everything();
    let server = Server::start(&scratch, &image, &[]);
    let path = |name: &str| server.mountpoint.join(name);
    assert_eq!(fs::read(path("file")).unwrap(), b"hello\n");
    assert_eq!(fs::read(path("dir/up")).unwrap(), b"hello\n");
    assert_eq!(fs::read(path("new\nline")).unwrap(), b"two lines\n");
    assert!(fs::read(path("dir/big")).unwrap() == archive::noise(1, 300_000));
    assert!(fs::read(path("sparse")).unwrap() == archive::sparse());
    let (file, hard) = (fs::metadata(path("file")).unwrap(), fs::metadata(path("hard")).unwrap());
    assert_eq!((file.ino(), file.nlink()), (hard.ino(), 2));
    let old = fs::metadata(path("old")).unwrap();
    assert_eq!((old.mtime(), old.mtime_nsec()), (-2, 750_000_000));
    assert_eq!(fs::read_dir(&server.mountpoint).unwrap().count(), 11);
    let error = fs::write(path("file"), b"x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    server.end();
}

#[test]
fn statistics_are_written_on_request_and_at_the_end() {
    if !can_mount() {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.everything();
    let statistics = Statistics::new(&scratch);
    let server = Server::start(&scratch, &image, &["--stats", "stats/a.json"]);
    server.send(Signal::USR1);
    let first = statistics.next();
    assert_eq!((&first["demand_requests"], &first["read_bytes"]), (&0.into(), &0.into()));
    assert_eq!(first["image"], image);
    fs::read(server.mountpoint.join("file")).unwrap();
    server.send(Signal::USR1);
    let second = statistics.next();
    assert_eq!((&second["demand_requests"], &second["read_bytes"]), (&1.into(), &6.into()));
    server.end();
    let last = statistics.next();
    let keys = [
        "demand_requests",
        "demand_bytes",
        "prefetch_requests",
        "prefetch_bytes",
        "memory_hits",
        "disk_hits",
        "disk_verify_failures",
        "source_verify_failures",
        "index_bytes",
        "fuse_reads",
    ];
    assert!(keys.iter().all(|key| last[*key].is_u64()), "{last}");
    assert!(last["seconds"].as_f64().unwrap() > second["seconds"].as_f64().unwrap());
    assert!(!scratch.path("stats/a.json.new").exists());
}

#[test]
fn everything_is_prefetched_and_then_comes_from_the_cache() {
    if !can_mount() {
        return;
    }
    let (scratch, registry) = (Scratch::new(), Registry::new());
    std::fs::write(scratch.path("a.tar"), archive::everything()).unwrap();
    let image = registry.reference("a:v1");
    scratch.run(["convert", "tar:a.tar", &image, "--chunk-size", "64K"]);
    let chunks = scratch.json(["inspect", &image, "--json"])["chunks"].clone();
    let statistics = Statistics::new(&scratch);
    let options = ["--prefetch", "all", "--stats", "stats/a.json", "--cache", "own"];
    let server = Server::start(&scratch, &image, &options);
    let mut seen = Value::Null;
    // Every turn waits for a file; a fetch takes far fewer turns.
    for _ in 0..100_000 {
        server.send(Signal::USR1);
        seen = statistics.next()["prefetch_chunks"].clone();
        if seen == chunks {
            break;
        }
    }
    assert_eq!(seen, chunks);
    registry.unplug();
    assert!(fs::read(server.mountpoint.join("dir/big")).unwrap() == archive::noise(1, 300_000));
    server.end();
    let last = statistics.read();
    assert_eq!(last["demand_requests"], 0);
    assert!(scratch.path("own").is_dir());
    assert!(!scratch.path("cache").exists());
}

#[test]
fn an_unplugged_server_fails_reads_but_not_the_mount() {
    if !can_mount() {
        return;
    }
    let (scratch, registry) = (Scratch::new(), Registry::new());
    std::fs::write(scratch.path("a.tar"), archive::everything()).unwrap();
    let image = registry.reference("a:v1");
    scratch.run(["convert", "tar:a.tar", &image, "--chunk-size", "64K"]);
    let mut server = Server::start(&scratch, &image, &["--read-timeout", "2"]);
    let address = registry.server.address();
    registry.unplug();
    let error = fs::read(server.mountpoint.join("dir/big")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    assert_eq!(fs::read_link(server.mountpoint.join("also")).unwrap(), Path::new("dir"));
    let mut line = String::new();
    BufReader::new(server.errors()).read_line(&mut line).unwrap();
    assert!(line.starts_with("chunkfs: ") && line.contains(&address.to_string()), "{line}");
    server.end();
}
