//! `chunkfs inspect`.

use std::io::Write as _;

use chunkfs_fetch::{DIFF_ID_ANNOTATION, LAYER_DIGEST_ANNOTATION};
use chunkfs_image::{Image, OpenOptions};
use chunkfs_index::{FileKind, InodeIndex};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::arguments::InspectArguments;
use crate::context;
use crate::output::Output;

#[derive(Debug, Serialize)]
struct Inspection {
    manifest: String,
    image_id: String,
    digest_algorithm: &'static str,
    chunk_size: u32,
    files: u64,
    directories: u64,
    symlinks: u64,
    others: u64,
    file_bytes: u64,
    chunks: u64,
    unique_bytes: u64,
    stored_bytes: u64,
    blobs: u64,
    blob_bytes: u64,
    index_bytes: u64,
    index_bytes_uncompressed: u64,
    layers: Vec<Layer>,
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Layer {
    digest: Option<String>,
    diff_id: Option<String>,
}

pub(crate) fn run(arguments: &InspectArguments) -> anyhow::Result<()> {
    context::runtime()?.block_on(async {
        let options = OpenOptions::default();
        let cache = context::memory_cache();
        let image =
            context::open_image(&arguments.image, &arguments.registry, &cache, options).await?;
        let inspection = inspect(&image)?;
        let mut output = Output::new();
        if arguments.json {
            writeln!(output, "{}", serde_json::to_string_pretty(&inspection)?)?;
        } else {
            write_text(&inspection, &mut output)?;
        }
        Ok(())
    })
}

fn inspect(image: &Image) -> anyhow::Result<Inspection> {
    let (index, manifest) = (image.index(), image.manifest());
    let mut inspection = Inspection {
        manifest: image.manifest_id().to_string(),
        image_id: image.id().to_string(),
        digest_algorithm: index.algorithm().name(),
        chunk_size: index.chunk_size().bytes(),
        files: 0,
        directories: 0,
        symlinks: 0,
        others: 0,
        file_bytes: 0,
        chunks: index.chunk_count().into(),
        unique_bytes: index.chunks().map(|chunk| u64::from(chunk.uncompressed_len)).sum(),
        stored_bytes: index.chunks().map(|chunk| u64::from(chunk.location.stored_len)).sum(),
        blobs: manifest.blobs.len() as u64,
        blob_bytes: 0,
        index_bytes: manifest.index.blob()?.len,
        index_bytes_uncompressed: index.as_bytes().len() as u64,
        layers: Vec::new(),
        annotations: manifest.annotations.clone(),
    };
    for blob in &manifest.blobs {
        inspection.blob_bytes += blob.blob()?.len;
    }
    let inodes = (0..index.inode_count()).filter_map(|at| index.inode(InodeIndex::new(at)));
    for inode in inodes {
        match inode.kind {
            FileKind::Regular => {
                inspection.files += 1;
                inspection.file_bytes = inspection.file_bytes.saturating_add(inode.len);
            }
            FileKind::Directory => inspection.directories += 1,
            FileKind::Symlink => inspection.symlinks += 1,
            _ => inspection.others += 1,
        }
    }
    let layer = |fragment: &chunkfs_fetch::Descriptor| Layer {
        digest: fragment.annotations.get(LAYER_DIGEST_ANNOTATION).cloned(),
        diff_id: fragment.annotations.get(DIFF_ID_ANNOTATION).cloned(),
    };
    inspection.layers = manifest.fragments.iter().map(layer).collect();
    Ok(inspection)
}

fn write_text(image: &Inspection, output: &mut impl std::io::Write) -> std::io::Result<()> {
    writeln!(output, "manifest   {}", image.manifest)?;
    writeln!(output, "image id   {}", image.image_id)?;
    writeln!(
        output,
        "tree       {} files, {} directories, {} symlinks, {} others, {}",
        image.files,
        image.directories,
        image.symlinks,
        image.others,
        HumanBytes(image.file_bytes)
    )?;
    writeln!(
        output,
        "chunks     {} of at most {}, named by {}; {} unique, {} stored",
        image.chunks,
        HumanBytes(image.chunk_size.into()),
        image.digest_algorithm,
        HumanBytes(image.unique_bytes),
        HumanBytes(image.stored_bytes)
    )?;
    writeln!(output, "blobs      {}, {}", image.blobs, HumanBytes(image.blob_bytes))?;
    writeln!(
        output,
        "index      {} as transferred, {} opened",
        HumanBytes(image.index_bytes),
        HumanBytes(image.index_bytes_uncompressed)
    )?;
    for layer in &image.layers {
        let text = |digest: &Option<String>| digest.clone().unwrap_or_else(|| "-".to_owned());
        writeln!(output, "layer      {} (diff id {})", text(&layer.digest), text(&layer.diff_id))?;
    }
    Ok(())
}
