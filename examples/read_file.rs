//! Reads a range of a file from an image in a registry: no mount, no daemon, no root.
//!
//! `cargo run --example read_file -- docker://HOST/REPOSITORY:TAG /etc/os-release`

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use anyhow::Context as _;
use chunkfs_image::{Cache, CacheOptions, Image, OpenOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let usage = "usage: read_file IMAGE PATH";
    let reference = arguments.next().context(usage)?;
    let path = arguments.next().context(usage)?;

    let cache = Cache::open(CacheOptions::new(tokio::runtime::Handle::current()));
    let reference = reference.to_str().context(usage)?.parse()?;
    let image = Image::open(&reference, &cache, OpenOptions::default()).await?;

    for entry in image.index().dirents(&image.index().root(), 0) {
        eprintln!("/{}", String::from_utf8_lossy(entry.name));
    }
    let file = image.resolve(path.as_bytes()).context("there is no such file")?;
    let head = image.read(&file, 0, 4096).await?;
    std::io::stdout().write_all(&head)?;

    let fetched = cache.counters();
    eprintln!("{} requests, {} bytes", fetched.demand_requests, fetched.demand_bytes);
    Ok(())
}
