//! `chunkfs mount`.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use chunkfs_fuse::{Mount, MountOptions};
use chunkfs_image::{Image, OpenOptions, Prefetch, PrefetchOptions, VerifyLevel};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::arguments::{Frontend, MountArguments, PrefetchMode, Verify};
use crate::context;
use crate::progress::plain_line;

/// What the background process prints when its mount answers.
const READY: &str = "ready";

pub(crate) fn run(arguments: &MountArguments) -> anyhow::Result<()> {
    if arguments.daemon {
        return start_daemon();
    }
    let Frontend::Fuse = arguments.frontend;
    let started = Instant::now();
    let runtime = context::runtime()?;
    let image = runtime.block_on(open(arguments))?;
    // The statistics can be written from the start, or not at all.
    let stats = arguments.stats.as_deref().map(open_stats).transpose()?;
    // From here on a signal ends the mount, not the process.
    let signals = Signals::new(&runtime)?;
    let mount =
        Arc::new(Mount::new(image.clone(), &arguments.mountpoint, mount_options(arguments))?);
    let prefetch = (arguments.prefetch == PrefetchMode::All).then(|| {
        let options =
            PrefetchOptions::default().with_worker_count(arguments.prefetch_workers.get());
        image.prefetch(options)
    });
    let server = Server { arguments, image, mount, stats, started };
    let served = runtime.block_on(server.serve(signals, prefetch));
    let unmounted = server.mount.unmount();
    runtime.block_on(server.image.cache().flush());
    server.write_stats()?;
    served?;
    Ok(unmounted?)
}

async fn open(arguments: &MountArguments) -> anyhow::Result<Image> {
    let verify = match arguments.verify {
        Verify::Fetch => VerifyLevel::Fetch,
        Verify::Load => VerifyLevel::Load,
        Verify::Always => VerifyLevel::Always,
    };
    // The kernel keeps what it reads in its own page cache.
    let options = OpenOptions::default().with_verify(verify).with_drop_pages(true);
    let cache = context::folder_cache(&arguments.cache)?;
    context::open_image(&arguments.image, &arguments.registry, &cache, options).await
}

fn mount_options(arguments: &MountArguments) -> MountOptions {
    // The observer runs where a read ended; a line on standard error is short work.
    let mut options = MountOptions::default()
        .with_source_name(arguments.image.to_string())
        .with_read_error_observer(|error| {
            plain_line(&format!("chunkfs: {}", context::one_line(&error.clone().into())));
        });
    if let Some(len) = arguments.read_ahead {
        options = options.with_read_ahead_len(len);
    }
    options
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    snapshot: Signal,
}

impl Signals {
    fn new(runtime: &Runtime) -> anyhow::Result<Self> {
        let _entered = runtime.enter();
        let listen = |kind| signal(kind).context("signals cannot be received");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            snapshot: listen(SignalKind::user_defined1())?,
        })
    }
}

struct Server<'a> {
    arguments: &'a MountArguments,
    image: Image,
    mount: Arc<Mount>,
    stats: Option<PathBuf>,
    started: Instant,
}

impl Server<'_> {
    /// Serves until a signal or an unmount from outside.
    async fn serve(&self, mut signals: Signals, prefetch: Option<Prefetch>) -> anyhow::Result<()> {
        let mount = Arc::clone(&self.mount);
        let unmounted = tokio::task::spawn_blocking(move || mount.wait());
        tokio::pin!(unmounted);
        let prefetched = report_prefetch(prefetch);
        tokio::pin!(prefetched);
        let mut is_prefetched = false;
        if self.arguments.report_ready {
            detach()?;
        }
        loop {
            tokio::select! {
                _ = signals.interrupt.recv() => return Ok(()),
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.hangup.recv() => return Ok(()),
                _ = signals.snapshot.recv() => self.write_stats()?,
                result = &mut unmounted => return Ok(result??),
                () = &mut prefetched, if !is_prefetched => is_prefetched = true,
            }
        }
    }

    /// Replaces the file of statistics as a whole.
    fn write_stats(&self) -> anyhow::Result<()> {
        let Some(path) = &self.stats else { return Ok(()) };
        let error = || format!("statistics cannot be written to {}", path.display());
        let mut temporary = path.clone().into_os_string();
        temporary.push(".new");
        let mut text = serde_json::to_string_pretty(&self.stats_object())?;
        text.push('\n');
        std::fs::write(&temporary, text).with_context(error)?;
        std::fs::rename(&temporary, path).with_context(error)
    }

    fn stats_object(&self) -> serde_json::Value {
        let (cache, image) = (self.image.cache().counters(), self.image.counters());
        let (mount, source) = (self.mount.counters(), self.image.source_counters());
        json!({
            "image": self.arguments.image.to_string(),
            "image_id": self.image.id().to_string(),
            "seconds": self.started.elapsed().as_secs_f64(),
            "reads": image.reads,
            "read_bytes": image.read_bytes,
            "read_errors": image.read_errors,
            "demand_requests": cache.demand_requests,
            "demand_bytes": cache.demand_bytes,
            "demand_chunks": cache.demand_chunks,
            "prefetch_requests": cache.prefetch_requests,
            "prefetch_bytes": cache.prefetch_bytes,
            "prefetch_chunks": cache.prefetch_chunks,
            "index_bytes": self.image.manifest().index.blob().map_or(0, |blob| blob.len),
            "memory_hits": cache.memory_hits,
            "disk_hits": cache.disk_hits,
            "joined_loads": cache.joined_loads,
            "disk_verify_failures": cache.disk_verify_failures,
            "source_verify_failures": cache.source_verify_failures,
            "disk_errors": cache.disk_errors,
            "disk_refusals": cache.disk_refusals,
            "lease_waits": cache.lease_waits,
            "lease_timeouts": cache.lease_timeouts,
            "source_requests": source.demand.requests + source.prefetch.requests,
            "source_bytes": source.demand.bytes_received + source.prefetch.bytes_received,
            "source_retries": source.retries,
            "source_redirects": source.redirects,
            "source_token_requests": source.token_requests,
            "source_whole_blobs": source.whole_blob_transfers,
            "source_hedged_reads": source.hedged_reads,
            "source_rereads": source.rereads,
            "source_mirror_failures": source.mirror_failures,
            "fuse_lookups": mount.lookups,
            "fuse_getattrs": mount.getattrs,
            "fuse_readdirs": mount.readdirs,
            "fuse_reads": mount.reads,
            "fuse_xattrs": mount.xattrs,
        })
    }
}

/// An absolute path, so that it means the same later on; fails early if it cannot be written.
fn open_stats(path: &Path) -> anyhow::Result<PathBuf> {
    let error = || format!("statistics cannot be written to {}", path.display());
    let absolute = std::path::absolute(path).with_context(error)?;
    File::options().create(true).append(true).open(&absolute).with_context(error)?;
    Ok(absolute)
}

async fn report_prefetch(prefetch: Option<Prefetch>) {
    if let Some(prefetch) = prefetch
        && let Err(error) = prefetch.wait().await
    {
        plain_line(&format!("chunkfs: prefetch: {}", context::one_line(&error.into())));
    }
}

/// Tells the waiting foreground process, then lets go of its terminal.
fn detach() -> anyhow::Result<()> {
    println!("{READY}");
    std::io::stdout().flush()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // Fails only for the leader of a process group, which a freshly started process is not.
    let _ = rustix::process::setsid();
    Ok(())
}

/// Starts this program again in the background and waits until its mount answers.
fn start_daemon() -> anyhow::Result<()> {
    let program = std::env::current_exe().context("the program's own path is unknown")?;
    let own = std::env::args_os().skip(1).filter(|argument| argument != "--daemon");
    let mut child = Command::new(program)
        .args(own)
        .arg("--report-ready")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("the background process cannot be started")?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    if line.trim_end() == READY {
        return Ok(());
    }
    let mut problem = String::new();
    if let Some(mut errors) = child.stderr.take() {
        errors.read_to_string(&mut problem)?;
    }
    let status = child.wait()?;
    match problem.trim_end().strip_prefix("chunkfs: ").unwrap_or(problem.trim_end()) {
        "" => anyhow::bail!("the background process ended with {status}"),
        problem => anyhow::bail!("{problem}"),
    }
}
