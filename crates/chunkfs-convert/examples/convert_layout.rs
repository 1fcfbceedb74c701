//! Converts an image, an archive or a directory into a local OCI layout and prints what was done.
//!
//! `convert_layout oci:DIR:TAG|tar:FILE|rootfs:DIR DESTINATION_DIR TAG [JOBS [REUSED_TAG]]`

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use chunkfs_convert::{
    ConvertOptions, Destination, ReuseImage, convert_image, convert_rootfs, convert_tar,
};
use chunkfs_fetch::{ManifestSelector, OciLayout};

const USAGE: &str =
    "usage: convert_layout oci:DIR:TAG|tar:FILE|rootfs:DIR DIR TAG [JOBS [REUSED_TAG]]";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, destination, destination_tag, rest @ ..] = &arguments[..] else {
        return Err(USAGE.into());
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let handle = runtime.handle();
    let mut options = ConvertOptions::new(handle.clone());
    if let Some(jobs) = rest.first() {
        options = options.with_jobs(jobs.parse()?);
    }
    let layout = Arc::new(OciLayout::create(destination, handle.clone())?);
    let tag = |tag: &str| ManifestSelector::Tag(tag.to_owned());
    let reused = rest.iter().skip(1).map(|reused| ReuseImage {
        source: Arc::clone(&layout) as _,
        selector: tag(reused),
        repository: None,
    });
    let reuse: Vec<_> = reused.collect();
    let destination =
        Destination { sink: Arc::clone(&layout) as _, selector: tag(destination_tag) };
    let start = Instant::now();
    let report = match source.split_once(':') {
        Some(("oci", image)) => {
            let (path, image_tag) = image.rsplit_once(':').ok_or(USAGE)?;
            let source = Arc::new(OciLayout::open(path, handle.clone())?);
            convert_image(source, &tag(image_tag), &destination, &reuse, &options)?
        }
        Some(("tar", path)) => {
            convert_tar(File::open(path)?, path, &destination, &reuse, &options)?
        }
        Some(("rootfs", path)) => convert_rootfs(Path::new(path), &destination, &reuse, &options)?,
        _ => return Err(USAGE.into()),
    };
    println!("{report:#?}\n{:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}
