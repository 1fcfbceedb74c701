//! Runs a command in a container whose root file system is a lazily mounted image.
//!
//! `run_container IMAGE [--] COMMAND...`, as root, with `runc` installed. The image is mounted
//! read-only, a writable layer lies over it, and the bundle's configuration comes from the image's.
//! Everything is cleaned up when the command ends; the exit code is the command's.

use std::ffi::CString;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::Context as _;
use chunkfs_fuse::{Mount, MountOptions};
use chunkfs_image::{Cache, CacheOptions, Image, OpenOptions};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{
    LinuxNamespaceBuilder, LinuxNamespaceType, ProcessBuilder, RootBuilder, Spec, UserBuilder,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let reference = arguments.next().context("usage: run_container IMAGE [--] COMMAND...")?;
    let command: Vec<String> = arguments.skip_while(|argument| argument == "--").collect();

    let folder = tempfile::tempdir()?;
    let cache = CacheOptions::new(tokio::runtime::Handle::current())
        .with_folder(std::env::temp_dir().join("chunkfs-run-container"));
    let cache = Cache::open(cache);
    let image = Image::open(&reference.parse()?, &cache, OpenOptions::default()).await?;
    let config = ImageConfiguration::from_reader(&image.config().await?[..])?;
    let spec = runtime_spec(&config, command)?;

    // The bundle: the image below, a writable layer above, their union as root file system.
    let bundle = folder.path();
    for name in ["lower", "upper", "work", "rootfs"] {
        std::fs::create_dir(bundle.join(name))?;
    }
    let lower = Mount::new(image, &bundle.join("lower"), MountOptions::default())?;
    let overlay = Overlay::new(bundle)?;
    spec.save(bundle.join("config.json"))?;

    let name = format!("chunkfs-{}", std::process::id());
    let mut runc = Command::new("runc");
    runc.arg("run").arg("--no-pivot").arg("--bundle").arg(bundle).arg(name);
    let status = wait(runc).await;
    drop(overlay);
    lower.unmount()?;
    let code = status?.code().unwrap_or(1);
    let fetched = cache.counters();
    eprintln!("{} requests, {} bytes", fetched.demand_requests, fetched.demand_bytes);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Waits for the command; signals end it, but not this process, which has to clean up.
async fn wait(mut command: Command) -> anyhow::Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = command.spawn().context("runc cannot be run; is it installed?")?;
    let pid = Pid::from_child(&child);
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    loop {
        tokio::select! {
            status = &mut ended => return Ok(status??),
            // The terminal has told the command, too.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => kill_process(pid, Signal::TERM)?,
        }
    }
}

/// An overlay mount that is gone when this is dropped.
struct Overlay(std::path::PathBuf);

impl Overlay {
    fn new(bundle: &Path) -> anyhow::Result<Self> {
        let path = |name| bundle.join(name).display().to_string();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            path("lower"),
            path("upper"),
            path("work")
        );
        let rootfs = bundle.join("rootfs");
        mount("overlay", &rootfs, "overlay", MountFlags::empty(), Some(&*CString::new(options)?))
            .context("the overlay cannot be mounted")?;
        Ok(Self(rootfs))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{} cannot be unmounted: {error}", self.0.display());
        }
    }
}

/// The default configuration of a container, with the image's environment, folder and command.
fn runtime_spec(config: &ImageConfiguration, command: Vec<String>) -> anyhow::Result<Spec> {
    let config = config.config().clone().unwrap_or_default();
    let entrypoint = config.entrypoint().clone().unwrap_or_default();
    let arguments = match command.is_empty() {
        true => [entrypoint, config.cmd().clone().unwrap_or_default()].concat(),
        false => [entrypoint, command].concat(),
    };
    anyhow::ensure!(!arguments.is_empty(), "the image names no command; give one");
    let user = config.user().clone().unwrap_or_default();
    let mut ids = user.splitn(2, ':').map(|id| id.parse::<u32>());
    let (uid, gid) = (ids.next(), ids.next());
    let id = |id: Option<Result<u32, _>>| match id {
        None => Ok(0),
        Some(Ok(id)) => Ok(id),
        Some(Err(_)) if user.is_empty() || user == "root" => Ok(0),
        Some(Err(_)) => anyhow::bail!("this example knows users by number only, not {user:?}"),
    };
    let user = UserBuilder::default().uid(id(uid)?).gid(id(gid)?).build()?;
    let working_folder = config.working_dir().clone().filter(|folder| !folder.is_empty());
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(arguments)
        .env(config.env().clone().unwrap_or_default())
        .cwd(working_folder.unwrap_or_else(|| "/".to_owned()))
        // Limits stay those of the caller, who may not be allowed to raise them.
        .rlimits(Vec::new())
        .no_new_privileges(true)
        .build()?;
    let mut spec = Spec::default();
    spec.set_process(Some(process));
    spec.set_root(Some(RootBuilder::default().path("rootfs").readonly(false).build()?));
    if let Some(linux) = spec.linux_mut() {
        let kinds = [
            LinuxNamespaceType::Mount,
            LinuxNamespaceType::Pid,
            LinuxNamespaceType::Ipc,
            LinuxNamespaceType::Uts,
        ];
        let namespaces = kinds.map(|kind| LinuxNamespaceBuilder::default().typ(kind).build());
        linux.set_namespaces(Some(namespaces.into_iter().collect::<Result<_, _>>()?));
    }
    Ok(spec)
}
