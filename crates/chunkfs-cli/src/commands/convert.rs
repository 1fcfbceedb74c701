//! `chunkfs convert`.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chunkfs_convert::{AttachForm, ConvertOptions, ConvertReport, Destination, ReuseImage};
use chunkfs_fetch::ImageReference;
use indicatif::HumanBytes;
use serde_json::json;
use tokio::runtime::Handle;

use crate::arguments::{Attach, ConvertArguments, RegistryArguments, Source};
use crate::context;
use crate::output::Output;
use crate::progress::{ConvertProgress, plain_line};

pub(crate) fn run(arguments: &ConvertArguments) -> anyhow::Result<()> {
    let started = Instant::now();
    let runtime = context::runtime()?;
    let _entered = runtime.enter();
    check_attach(arguments)?;
    let progress = Arc::new(ConvertProgress::new());
    let options = options(arguments)?.with_observer(progress.clone());
    let (sink, selector) = context::connect_sink(&arguments.destination, &arguments.registry)?;
    let destination = Destination { sink, selector };
    let reuse = reuse_images(&runtime, arguments)?;
    let result = match &arguments.source {
        Source::Image(reference) => {
            let (source, selector) =
                runtime.block_on(context::connect_source(reference, &arguments.registry))?;
            chunkfs_convert::convert_image(source, &selector, &destination, &reuse, &options)
        }
        Source::Rootfs(path) => {
            chunkfs_convert::convert_rootfs(path, &destination, &reuse, &options)
        }
        Source::Tar(path) => {
            let name = path.display().to_string();
            chunkfs_convert::convert_tar(open_tar(path)?, &name, &destination, &reuse, &options)
        }
    };
    progress.finish();
    let report = result.with_context(|| format!("{} cannot be converted", arguments.source))?;
    print(arguments, &report, started.elapsed())
}

fn options(arguments: &ConvertArguments) -> anyhow::Result<ConvertOptions> {
    let mut options = ConvertOptions::new(Handle::current())
        .with_sizes(arguments.chunk_size, arguments.pack_size()?)
        .with_blob_len_max(arguments.blob_size)
        .with_algorithm(arguments.digest.into())
        .with_level(arguments.level)
        .with_attach(arguments.attach.map(|form| match form {
            Attach::Index => AttachForm::Index,
            Attach::Referrer => AttachForm::Referrer,
        }))
        .with_spool_directory(std::env::temp_dir());
    if let Some(jobs) = arguments.jobs {
        options = options.with_jobs(jobs);
    }
    if let Some(platform) = &arguments.platform {
        options = options.with_platform(platform.clone());
    }
    Ok(options)
}

/// What lies beside something must lie in the same place.
fn check_attach(arguments: &ConvertArguments) -> anyhow::Result<()> {
    if arguments.attach.is_none() {
        return Ok(());
    }
    let place = |image: &ImageReference| match image {
        ImageReference::Registry(image) => {
            format!("docker://{}/{}", image.host(), image.repository())
        }
        ImageReference::Layout(image) => image.path().display().to_string(),
        ImageReference::Store(image) => image.place(),
    };
    let destination = place(&arguments.destination);
    let is_same =
        matches!(&arguments.source, Source::Image(source) if place(source) == destination);
    anyhow::ensure!(is_same, "--attach needs an original in {destination}; copy it there first");
    Ok(())
}

fn reuse_images(
    runtime: &tokio::runtime::Runtime,
    arguments: &ConvertArguments,
) -> anyhow::Result<Vec<ReuseImage>> {
    let connect = |reference: &ImageReference| {
        let registry: &RegistryArguments = &arguments.registry;
        let (source, selector) =
            runtime.block_on(context::connect_converted(reference, registry))?;
        let repository = mountable_repository(reference, &arguments.destination);
        Ok(ReuseImage { source, selector, repository })
    };
    arguments.reuse.iter().map(connect).collect()
}

/// The repository to mount blobs from: they can be mounted only within one registry.
fn mountable_repository(from: &ImageReference, to: &ImageReference) -> Option<String> {
    match (from, to) {
        (ImageReference::Registry(from), ImageReference::Registry(to))
            if from.host() == to.host() =>
        {
            Some(from.repository().to_owned())
        }
        _ => None,
    }
}

fn open_tar(path: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin()));
    }
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Box::new(file))
}

fn print(
    arguments: &ConvertArguments,
    report: &ConvertReport,
    elapsed: Duration,
) -> anyhow::Result<()> {
    let statistics = &report.statistics;
    if arguments.json {
        let object = json!({
            "manifest": report.manifest.to_string(),
            "image_id": report.image_id.to_string(),
            "files": statistics.files,
            "source_bytes": statistics.source_bytes,
            "unique_bytes": statistics.unique_bytes,
            "stored_bytes": statistics.stored_bytes,
            "chunks": statistics.chunks,
            "duplicate_chunks": statistics.duplicate_chunks,
            "packed_files": statistics.packed_files,
            "blobs": statistics.blobs,
            "index_bytes": statistics.index_bytes,
            "layers": statistics.layers,
            "reused_layers": statistics.reused_layers,
            "reused_chunks": statistics.reused_chunks,
            "read_bytes": statistics.read_bytes,
            "pushed_bytes": statistics.pushed_bytes,
            "mounted_bytes": statistics.mounted_bytes,
            "copied_bytes": statistics.copied_bytes,
            "present_bytes": statistics.present_bytes,
            "seconds": elapsed.as_secs_f64(),
            "peak_rss_bytes": peak_resident_bytes(),
        });
        writeln!(Output::new(), "{object}")?;
        return Ok(());
    }
    plain_line(&format!(
        "{}: {} files, {} read, {} stored in {} chunks, {} pushed, index {}, {:.1} s",
        arguments.destination,
        statistics.files,
        HumanBytes(statistics.source_bytes),
        HumanBytes(statistics.stored_bytes),
        statistics.chunks,
        HumanBytes(statistics.pushed_bytes),
        HumanBytes(statistics.index_bytes),
        elapsed.as_secs_f64()
    ));
    writeln!(Output::new(), "{}", report.manifest)?;
    Ok(())
}

/// The most memory that this process has had resident, or `None` where the system does not tell.
fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
