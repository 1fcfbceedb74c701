//! `chunkfs cache`.

use std::io::Write as _;

use chunkfs_cache::CacheUsage;
use chunkfs_image::{Cache, OpenOptions};
use indicatif::HumanBytes;
use serde_json::json;

use crate::arguments::{CacheCommand, CachedImageArguments, PinArguments, UsageArguments};
use crate::context;
use crate::output::{Output, counted};

/// How much of an id is shown.
const SHORT_ID_LEN: usize = 12;

pub(crate) fn run(command: &CacheCommand) -> anyhow::Result<()> {
    let runtime = context::runtime()?;
    let _entered = runtime.enter();
    let open = context::folder_cache;
    match command {
        CacheCommand::Usage(arguments) => usage(&open(&arguments.cache)?, arguments),
        CacheCommand::Gc(arguments) => gc(&open(&arguments.cache)?),
        CacheCommand::Verify(arguments) => verify(&open(&arguments.cache)?),
        CacheCommand::Pin(arguments) => runtime.block_on(pin(&open(&arguments.cache)?, arguments)),
        CacheCommand::Unpin(arguments) => unpin(&open(&arguments.cache)?, arguments),
        CacheCommand::Rm(arguments) => remove(&open(&arguments.cache)?, arguments),
    }
}

fn usage(cache: &Cache, arguments: &UsageArguments) -> anyhow::Result<()> {
    let usage = cache.usage()?;
    if arguments.json {
        let images: Vec<_> = usage
            .images
            .iter()
            .map(|image| {
                json!({
                    "id": image.id,
                    "name": image.name,
                    "pinned": image.is_pinned,
                    "chunks": image.chunk_count,
                    "cached_chunks": image.cached_chunk_count,
                    "own_bytes": image.own_len,
                    "shared_bytes": image.shared_len,
                })
            })
            .collect();
        let object = json!({
            "allocated_bytes": usage.allocated_len,
            "chunks": usage.chunk_count,
            "chunk_bytes": usage.chunks_len,
            "unused_bytes": usage.unused_len,
            "images": images,
        });
        writeln!(Output::new(), "{object}")?;
        return Ok(());
    }
    for image in &usage.images {
        let id = image.id.get(..SHORT_ID_LEN).unwrap_or(&image.id);
        let pinned = if image.is_pinned { ", pinned" } else { "" };
        writeln!(
            Output::new(),
            "{id}  {}: {} of {} chunks, {} own, {} shared{pinned}",
            image.name,
            image.cached_chunk_count,
            image.chunk_count,
            HumanBytes(image.own_len),
            HumanBytes(image.shared_len),
        )?;
    }
    writeln!(
        Output::new(),
        "{} in {}, {} of no image; {} on disk",
        HumanBytes(usage.chunks_len),
        counted(usage.chunk_count, "chunk"),
        HumanBytes(usage.unused_len),
        HumanBytes(usage.allocated_len),
    )?;
    Ok(())
}

fn gc(cache: &Cache) -> anyhow::Result<()> {
    let collected = cache.gc()?;
    writeln!(
        Output::new(),
        "{} evicted, {} given back, {} forgotten",
        counted(collected.evicted_chunks, "chunk"),
        HumanBytes(collected.freed_bytes),
        counted(collected.forgotten_images, "image"),
    )?;
    Ok(())
}

fn verify(cache: &Cache) -> anyhow::Result<()> {
    let verified = cache.verify(&[])?;
    for id in &verified.damaged_chunks {
        writeln!(Output::new(), "{id} was damaged")?;
    }
    writeln!(
        Output::new(),
        "{} good, {}; {} damaged and removed; {} of domains not looked at",
        counted(verified.good_chunks, "chunk"),
        HumanBytes(verified.good_bytes),
        verified.damaged_chunks.len(),
        verified.unknown_chunks,
    )?;
    let count = verified.damaged_chunks.len() as u64;
    anyhow::ensure!(
        count == 0,
        "{} damaged; they are fetched again when read",
        counted(count, "chunk")
    );
    Ok(())
}

async fn pin(cache: &Cache, arguments: &PinArguments) -> anyhow::Result<()> {
    let options = OpenOptions::default();
    let image = context::open_image(&arguments.image, &arguments.registry, cache, options).await?;
    tokio::task::block_in_place(|| {
        image.pin()?;
        let what = if image.is_complete()? { "it is complete" } else { "`pull` fetches the rest" };
        writeln!(Output::new(), "{} is pinned; {what}", arguments.image)?;
        Ok(())
    })
}

fn unpin(cache: &Cache, arguments: &CachedImageArguments) -> anyhow::Result<()> {
    let id = find(&cache.usage()?, &arguments.image)?;
    anyhow::ensure!(cache.unpin(&id)?, "{} is not pinned", arguments.image);
    Ok(())
}

fn remove(cache: &Cache, arguments: &CachedImageArguments) -> anyhow::Result<()> {
    let id = find(&cache.usage()?, &arguments.image)?;
    let freed_len = cache.remove_image(&id)?.unwrap_or_default();
    writeln!(Output::new(), "{} given back", HumanBytes(freed_len))?;
    Ok(())
}

/// The id of the one image that is meant.
fn find(usage: &CacheUsage, text: &str) -> anyhow::Result<String> {
    let is_meant = |image: &&chunkfs_cache::ImageUsage| {
        image.name == text || (!text.is_empty() && image.id.starts_with(text))
    };
    let mut found = usage.images.iter().filter(is_meant);
    let Some(first) = found.next() else {
        anyhow::bail!("the cache knows no image {text}; `chunkfs cache usage` lists them")
    };
    anyhow::ensure!(found.next().is_none(), "{text} means several images; use the id of one");
    Ok(first.id.clone())
}
