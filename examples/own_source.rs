//! Reads an image through a transport of one's own: here, a folder of blobs named by digest.
//!
//! `cargo run --example own_source -- LAYOUT TAG PATH`, with a layout that `chunkfs convert` wrote.
//! Only [`BlobSource`] is needed to load chunks; [`ImageSource`] adds finding the manifest.

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use chunkfs_fetch::{
    BlobDescriptor, BlobSource, FetchError, ImageSource, ManifestSelector, OciLayout, Priority,
    StoredManifest,
};
use chunkfs_image::{Cache, CacheOptions, Image, OpenOptions};
use futures::stream::BoxStream;

#[derive(Debug)]
struct Folder {
    blobs: PathBuf,
    manifests: OciLayout,
}

#[async_trait::async_trait]
impl BlobSource for Folder {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        _priority: Priority,
    ) -> Result<Bytes, FetchError> {
        let path = self.blobs.join(blob.id.to_hex());
        let work = move || {
            let error = |source| FetchError::io(&path, source);
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let file = File::open(&path).map_err(error)?;
            file.read_exact_at(&mut bytes, range.start).map_err(error)?;
            Ok(bytes.into())
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(FetchError::Shutdown))
    }
}

#[async_trait::async_trait]
impl ImageSource for Folder {
    async fn fetch_manifest(
        &self,
        manifest: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        self.manifests.fetch_manifest(manifest).await
    }

    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>> {
        self.manifests.stream_blob(blob)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("usage: own_source LAYOUT TAG PATH");
    let (layout, tag, path) = (PathBuf::from(next()?), next()?, next()?);

    let runtime = tokio::runtime::Handle::current();
    let manifests = OciLayout::open(&layout, runtime.clone())?;
    let source = Arc::new(Folder { blobs: layout.join("blobs/sha256"), manifests });
    let cache = Cache::open(CacheOptions::new(runtime));
    let selector = ManifestSelector::Tag(tag);
    let options = OpenOptions::default();
    let image = Image::open_source("my folder", source, &selector, &cache, options).await?;

    let file = image.resolve(path.as_bytes()).context("there is no such file")?;
    let content = image.read(&file, 0, file.len).await?;
    std::io::stdout().write_all(&content)?;
    Ok(())
}
