//! `chunkfs verify`.

use std::io::Write as _;

use anyhow::Context as _;
use chunkfs_cache::{Cache, CacheOptions, VerifyLevel};
use chunkfs_fetch::{ConvertedManifest, ImageSource, Priority, fetch_verified};
use chunkfs_image::{Image, OpenOptions};
use futures::StreamExt as _;
use tokio::runtime::Handle;

use crate::arguments::VerifyArguments;
use crate::output::{Output, counted};
use crate::{context, progress};

/// Requests under way.
const REQUESTS_MAX: usize = 8;
/// The longest fragment that is read.
const FRAGMENT_LEN_MAX: u64 = 1 << 30;

pub(crate) fn run(arguments: &VerifyArguments) -> anyhow::Result<()> {
    context::runtime()?.block_on(verify(arguments))
}

async fn verify(arguments: &VerifyArguments) -> anyhow::Result<()> {
    let (source, selector) =
        context::connect_converted(&arguments.image, &arguments.registry).await?;
    // Nothing is kept: every chunk must come from the source.
    let cache = Cache::open(CacheOptions::new(Handle::current()).with_memory_len_max(0));
    let name = arguments.image.to_string();
    let options = OpenOptions::default();
    let image = Image::open_source(&name, source.clone(), &selector, &cache, options).await?;
    let mut problems = verify_fragments(&*source, image.manifest()).await;
    problems.extend(image.config().await.err().map(|error| one_line(error.into())));
    problems.extend(unlisted_blobs(&image)?);

    let batches = image.chunk_batches();
    let bar = progress::chunk_bar(image.index().chunk_count().into());
    let blobs: std::sync::Arc<dyn chunkfs_fetch::BlobSource> = source;
    let loader = cache.loader(blobs, VerifyLevel::Load);
    let mut loads = futures::stream::iter(batches)
        .map(|batch| {
            let loader = loader.clone();
            async move {
                let futures = loader.load_many(&batch, Priority::Prefetch);
                futures::future::join_all(futures).await
            }
        })
        .buffer_unordered(REQUESTS_MAX);
    while let Some(results) = loads.next().await {
        bar.inc(results.len() as u64);
        problems.extend(
            results.into_iter().filter_map(|load| load.err().map(|error| one_line(error.into()))),
        );
    }
    bar.finish_and_clear();
    report(&image, &problems)
}

fn one_line(error: anyhow::Error) -> String {
    context::one_line(&error)
}

/// Fragments are for converters only, but a damaged one would spoil the next conversion.
async fn verify_fragments(source: &dyn ImageSource, manifest: &ConvertedManifest) -> Vec<String> {
    let mut problems = Vec::new();
    for fragment in &manifest.fragments {
        let result = async {
            let blob = fragment.blob()?;
            let bytes = fetch_verified(source, &blob, FRAGMENT_LEN_MAX).await?;
            chunkfs_convert::verify_fragment(&bytes).context(format!("fragment {}", blob.id))
        };
        problems.extend(result.await.err().map(one_line));
    }
    problems
}

/// A blob that the manifest does not list would be deleted by a registry's garbage collection.
fn unlisted_blobs(image: &Image) -> anyhow::Result<Vec<String>> {
    let listed: Result<Vec<_>, _> = image.manifest().blobs.iter().map(|blob| blob.blob()).collect();
    let listed = listed?;
    let is_listed = |blob: &chunkfs_index::Blob| {
        listed.iter().any(|listed| (listed.id, listed.len) == (blob.id, blob.len))
    };
    let unlisted = image.index().blobs().filter(|blob| !is_listed(blob));
    Ok(unlisted.map(|blob| format!("the manifest does not list blob {}", blob.id)).collect())
}

fn report(image: &Image, problems: &[String]) -> anyhow::Result<()> {
    let mut output = Output::new();
    // Whoever reads only the beginning of the list shall still learn that there is one.
    let written: std::io::Result<()> =
        problems.iter().try_for_each(|problem| writeln!(output, "{problem}"));
    let index = image.index();
    anyhow::ensure!(
        problems.is_empty(),
        "image {} has {}, listed above; convert it again, or copy it from where it is good",
        image.id(),
        counted(problems.len() as u64, "problem")
    );
    written?;
    writeln!(
        output,
        "{}: {}, {}, {}, all good",
        image.id(),
        counted(index.inode_count(), "inode"),
        counted(index.chunk_count(), "chunk"),
        counted(index.blob_count(), "blob")
    )?;
    Ok(())
}
