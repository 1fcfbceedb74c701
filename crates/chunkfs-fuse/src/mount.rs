//! The handle of a mounted image.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use chunkfs_image::Image;
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::process::geteuid;

use crate::counters::{AtomicCounters, MountCounters};
use crate::error::MountError;
use crate::filesystem::ImageFilesystem;
use crate::kernel::{self, DetachedMount, DeviceNumber, MountSettings};
use crate::options::MountOptions;

/// A mounted image.
///
/// The threads that answer the kernel belong to this handle. Dropping it unmounts.
pub struct Mount {
    mountpoint: PathBuf,
    number: DeviceNumber,
    read_ahead_len: Option<u64>,
    counters: Arc<AtomicCounters>,
    /// The connection to the kernel, to ask whether it lives.
    device: OwnedFd,
    end: Arc<End>,
    server: Mutex<Option<JoinHandle<()>>>,
}

/// How serving ended, once it has.
#[derive(Default)]
struct End {
    outcome: Mutex<Option<Result<(), String>>>,
    changed: Condvar,
}

impl Mount {
    /// Mounts an image and returns once the mount point shows and answers.
    ///
    /// Mounts by system calls as root, else by `fusermount3`. Blocks for some milliseconds and
    /// fetches nothing. Reads run on the runtime of the image's cache, which must outlive the mount
    /// or reads fail.
    ///
    /// # Errors
    /// A [`MountError`] that names the mount point; nothing stays mounted then.
    pub fn new(image: Image, mountpoint: &Path, options: MountOptions) -> Result<Self, MountError> {
        let path = resolve(mountpoint)?;
        let settings = MountSettings {
            allow_other: options.allow_other.unwrap_or_else(|| geteuid().is_root()),
            root_mode: image.index().root().mode(),
            source_name: options.source_name,
        };
        let counters = Arc::<AtomicCounters>::default();
        let filesystem = ImageFilesystem::new(
            image,
            Arc::clone(&counters),
            options.kernel_cache_timeout,
            options.read_error_observer,
        );
        let threads = options.threads.get();
        let (session, detached) = connect(filesystem, &path, &settings, threads)?;
        let threads_error = |source| MountError::Threads { path: path.clone(), source };
        let device = session.as_fd().try_clone_to_owned().map_err(threads_error)?;
        let end = Arc::<End>::default();
        let server = serve(session, Arc::clone(&end)).map_err(threads_error)?;
        // If attaching fails nothing refers to the file system any more, and the kernel ends it.
        let attached = detached.map_or(Ok(()), |mount| mount.attach(&path));
        let number = attached.and_then(|()| kernel::device_number(&path));
        let number = number.map_err(|source| MountError::Mount { path: path.clone(), source })?;
        Ok(Self {
            read_ahead_len: kernel::set_read_ahead(number, options.read_ahead_len),
            mountpoint: path,
            number,
            counters,
            device,
            end,
            server: Mutex::new(Some(server)),
        })
    }

    /// Returns the absolute path of the mount point.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Returns the requests that the kernel sent so far.
    pub fn counters(&self) -> MountCounters {
        self.counters.snapshot()
    }

    /// Returns how many bytes the kernel reads ahead, or `None` if it does not say.
    ///
    /// Less than was asked for, usually 128 KiB, where the process may not change it.
    pub fn read_ahead_len(&self) -> Option<u64> {
        self.read_ahead_len
    }

    /// Returns whether the kernel still sends requests: nobody unmounted the file system.
    ///
    /// After a lazy unmount from outside this is true until its last user has gone.
    pub fn is_connected(&self) -> bool {
        self.end.outcome().is_none() && kernel::is_connected(&self.device)
    }

    /// Unmounts, ends the requests of those who still use the file system, and joins the threads.
    ///
    /// Users see errors on files that they have open. Does nothing if it is unmounted already.
    /// Reads under way at the source are not waited for.
    ///
    /// An unprivileged process can end the requests of others only where the control file system is
    /// mounted at `/sys/fs/fuse/connections`, as systemd does. Elsewhere nobody new can come in, but
    /// those who are in are served on, and the threads end with the last of them or with the
    /// process; [`wait`](Self::wait) waits for that.
    ///
    /// # Errors
    /// [`MountError::Unmount`] if it stays mounted, [`MountError::Serve`] if serving had ended with
    /// an error.
    pub fn unmount(&self) -> Result<(), MountError> {
        if self.is_connected() {
            let detached = kernel::detach(&self.mountpoint, self.number);
            // Looked at again, as somebody else may have unmounted it in the meantime.
            if self.is_connected() {
                let error = |source| MountError::Unmount { path: self.mountpoint.clone(), source };
                return detached.map_err(error);
            }
        }
        self.wait()
    }

    /// Blocks until the file system is unmounted, by [`unmount`](Self::unmount) on another thread or
    /// from outside, by `umount` or `fusermount3 -u`.
    ///
    /// # Errors
    /// [`MountError::Serve`] if serving ended with an error.
    pub fn wait(&self) -> Result<(), MountError> {
        let outcome = self.end.wait();
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(server) = server {
            // It has told its outcome as the last thing, so this is short; it does not panic.
            let _ = server.join();
        }
        let path = || self.mountpoint.clone();
        outcome.map_err(|problem| MountError::Serve { path: path(), problem })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whoever wants to know the outcome calls `unmount`.
        let _ = self.unmount();
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount")
            .field("mountpoint", &self.mountpoint)
            .field("read_ahead_len", &self.read_ahead_len)
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

impl End {
    fn outcome(&self) -> MutexGuard<'_, Option<Result<(), String>>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, outcome: Result<(), String>) {
        *self.outcome() = Some(outcome);
        self.changed.notify_all();
    }

    fn wait(&self) -> Result<(), String> {
        let mut outcome = self.outcome();
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            outcome = self.changed.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn resolve(mountpoint: &Path) -> Result<PathBuf, MountError> {
    let error = |source| MountError::Mountpoint { path: mountpoint.to_owned(), source };
    let path = mountpoint.canonicalize().map_err(error)?;
    if !path.metadata().map_err(error)?.is_dir() {
        return Err(error(io::ErrorKind::NotADirectory.into()));
    }
    Ok(path)
}

/// Connects to the kernel: with a mount that is to be attached yet, or by `fusermount3` at once.
fn connect(
    filesystem: ImageFilesystem,
    path: &Path,
    settings: &MountSettings,
    threads: usize,
) -> Result<(Session<ImageFilesystem>, Option<DetachedMount>), MountError> {
    let mount_error = |source| MountError::Mount { path: path.to_owned(), source };
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.acl = if settings.allow_other { SessionACL::All } else { SessionACL::Owner };
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let device = device.map_err(|source| MountError::Device { source })?;
    match kernel::create(&device, settings) {
        Ok(detached) => {
            let session = Session::from_fd(filesystem, device.into(), config.acl, config);
            Ok((session.map_err(mount_error)?, Some(detached)))
        }
        Err(error) if must_mount_otherwise(&error) => {
            config.mount_options = fallback_options(settings);
            let session = Session::new(filesystem, path, &config).map_err(mount_error)?;
            Ok((session, None))
        }
        Err(error) => Err(mount_error(error)),
    }
}

/// Returns whether an unprivileged process, or an old kernel, has to mount in another way.
fn must_mount_otherwise(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
}

fn fallback_options(settings: &MountSettings) -> Vec<MountOption> {
    let mut options = vec![
        MountOption::RO,
        MountOption::DefaultPermissions,
        MountOption::FSName(settings.escaped_source()),
        MountOption::Subtype("chunkfs".to_owned()),
    ];
    if geteuid().is_root() {
        // `fusermount3` grants these to nobody else.
        options.extend([MountOption::Dev, MountOption::Suid]);
    }
    options
}

/// Starts to answer the kernel.
fn serve(session: Session<ImageFilesystem>, end: Arc<End>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("chunkfs-fuse".to_owned()).spawn(move || {
        let outcome = session.run().map_err(|error| error.to_string());
        end.set(outcome);
    })
}
