//! Everything once, on defaults: no server, no root, no network.
//!
//! `cargo run --release --example quickstart` makes a small image of several layers, converts it
//! into an in-process registry, opens it lazily, reads files, and says what that cost.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use chunkfs_convert::{ConvertOptions, Destination, convert_image};
use chunkfs_fetch::{
    BlobContent, BlobDescriptor, CONFIG_MEDIA_TYPE, ImageReference, ImageSink as _,
    MANIFEST_MEDIA_TYPE, ManifestSelector, OciLayout, RegistryOptions, RegistrySource,
};
use chunkfs_format::BlobId;
use chunkfs_fuse::{Mount, MountOptions};
use chunkfs_image::{Cache, CacheOptions, Image, OpenOptions};
use chunkfs_testkit::RangeServer;
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use tar_core::EntryType;
use tar_core::builder::EntryBuilder;
use tokio::runtime::Handle;

/// Read in the end, as a starting container would.
const WANTED: [&str; 3] = ["etc/os-release", "usr/lib/module-17.py", "app/main.py"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let runtime = Handle::current();

    // An ordinary image: three tar+gzip layers in an OCI image layout.
    let layout = Arc::new(OciLayout::create(folder.path().join("original"), runtime.clone())?);
    let pull_len = make_image(&layout).await?;

    // Convert it straight into a registry, which here runs inside this process.
    let server = RangeServer::start().await;
    let reference = format!("docker://{}/quickstart:v1", server.address());
    let ImageReference::Registry(registry) = reference.parse()? else {
        anyhow::bail!("{reference} is no registry reference");
    };
    let sink = RegistrySource::new(registry, RegistryOptions::new(runtime.clone()))?;
    let destination =
        Destination { sink: Arc::new(sink), selector: ManifestSelector::Tag("v1".to_owned()) };
    let options = ConvertOptions::new(runtime.clone()).with_spool_directory(folder.path());
    let original = ManifestSelector::Tag("original".to_owned());
    let convert = move || convert_image(layout, &original, &destination, &[], &options);
    let report = tokio::task::spawn_blocking(convert).await??;
    server.clear_requests();

    // Open it from an empty cache: one request for the manifest, one for the index.
    let started = Instant::now();
    let cache = CacheOptions::new(runtime).with_folder(folder.path().join("cache"));
    let cache = Cache::open(cache);
    let image = Image::open(&reference.parse()?, &cache, OpenOptions::default()).await?;
    let (open_requests, open_bytes) = (server.requests().len(), server.bytes_sent());

    let mountpoint = folder.path().join("mount");
    std::fs::create_dir(&mountpoint)?;
    let how = match Mount::new(image.clone(), &mountpoint, MountOptions::default()) {
        Ok(mount) => {
            tokio::task::spawn_blocking(move || read_through_mount(&mountpoint)).await??;
            mount.unmount()?;
            "through a FUSE mount".to_owned()
        }
        Err(error) => {
            read_through_library(&image).await?;
            format!("through the library, as FUSE cannot be used ({error})")
        }
    };
    let elapsed = started.elapsed();

    let rows = [
        ("files in the image", u64::from(image.index().inode_count()), ""),
        ("the image as tar+gzip, which a full pull moves", pull_len, "bytes"),
        ("the index as transferred", report.statistics.index_bytes, "bytes"),
        ("moved before the first read", open_bytes, "bytes"),
        ("requests before the first read", open_requests as u64, ""),
        ("moved in total", server.bytes_sent(), "bytes"),
        ("requests in total", server.requests().len() as u64, ""),
    ];
    println!("read {} files {how} in {elapsed:.1?}\n", WANTED.len());
    for (what, value, unit) in rows {
        println!("{what:48} {value:>12} {unit}");
    }
    let percent = server.bytes_sent() as f64 * 100.0 / pull_len as f64;
    println!("\nThat is {percent:.1} % of the bytes of a full pull.");
    Ok(())
}

fn read_through_mount(mountpoint: &Path) -> anyhow::Result<()> {
    for path in WANTED {
        let mut content = Vec::new();
        let mut file = std::fs::File::open(mountpoint.join(path)).context(path)?;
        file.read_to_end(&mut content).context(path)?;
        anyhow::ensure!(content == content_of(path), "{path} has changed");
    }
    Ok(())
}

async fn read_through_library(image: &Image) -> anyhow::Result<()> {
    for path in WANTED {
        let file = image.resolve(path.as_bytes()).context(path)?;
        let content = image.read(&file, 0, file.len).await?;
        anyhow::ensure!(content == content_of(path), "{path} has changed");
    }
    Ok(())
}

/// Writes the image and returns the bytes that a pull of it moves.
async fn make_image(layout: &OciLayout) -> anyhow::Result<u64> {
    let base = ["etc/os-release", "etc/passwd", "bin/sh"].map(str::to_owned);
    let library = (0..200).map(|number| format!("usr/lib/module-{number}.py"));
    let weights = (0..4).map(|number| format!("opt/weights-{number}.bin"));
    let layers: [Vec<String>; 3] =
        [base.to_vec(), library.chain(weights).collect(), vec!["app/main.py".to_owned()]];

    let mut total_len = 0;
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for paths in layers {
        let tar = tar_of(&paths)?;
        diff_ids.push(BlobId::of(&tar).to_string());
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&tar)?;
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        descriptors.push(put(layout, media_type, gzip.finish()?, &mut total_len).await?);
    }
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Cmd": ["/bin/sh"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = put(layout, CONFIG_MEDIA_TYPE, config.to_string().into(), &mut total_len).await?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_MEDIA_TYPE,
        "config": config, "layers": descriptors,
    });
    let tag = ManifestSelector::Tag("original".to_owned());
    let manifest = Bytes::from(manifest.to_string());
    total_len += manifest.len() as u64;
    layout.put_manifest(&tag, MANIFEST_MEDIA_TYPE, manifest).await?;
    Ok(total_len)
}

async fn put(
    layout: &OciLayout,
    media_type: &str,
    bytes: Vec<u8>,
    total_len: &mut u64,
) -> anyhow::Result<serde_json::Value> {
    let blob = BlobDescriptor { id: BlobId::of(&bytes), len: bytes.len() as u64 };
    layout.put_blob(&blob, BlobContent::Bytes(bytes.into())).await?;
    *total_len += blob.len;
    Ok(json!({ "mediaType": media_type, "digest": blob.id.to_string(), "size": blob.len }))
}

fn tar_of(paths: &[String]) -> anyhow::Result<Vec<u8>> {
    let mut tar = Vec::new();
    for path in paths {
        let content = content_of(path);
        let mut entry = EntryBuilder::new_ustar();
        entry.path(path).mode(0o644)?.size(content.len() as u64)?.mtime(1_700_000_000)?;
        entry.entry_type(EntryType::Regular);
        tar.extend_from_slice(&entry.finish_bytes());
        tar.extend_from_slice(&content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    Ok(tar)
}

/// Text for most files, four MiB of noise for weights.
fn content_of(path: &str) -> Vec<u8> {
    if path.starts_with("opt/") {
        let mut state =
            path.bytes().fold(1, |state: u64, byte| state.wrapping_mul(31) + u64::from(byte));
        let noise = std::iter::from_fn(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Some((state >> 56) as u8)
        });
        return noise.take(4 << 20).collect();
    }
    format!("# this is {path}\n").repeat(path.len() * 40).into_bytes()
}
