//! Converts an image of a local OCI layout into another layout and prints what was done.
//!
//! `convert_layout SOURCE_DIR TAG DESTINATION_DIR TAG [JOBS [REUSED_TAG]]`

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use chunkfs_convert::{ConvertOptions, Destination, ReuseImage, convert_image};
use chunkfs_fetch::{ManifestSelector, OciLayout};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, source_tag, destination, destination_tag, rest @ ..] = &arguments[..] else {
        return Err(
            "usage: convert_layout SOURCE_DIR TAG DESTINATION_DIR TAG [JOBS [REUSED_TAG]]".into()
        );
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let mut options = ConvertOptions::new(runtime.handle().clone());
    if let Some(jobs) = rest.first() {
        options = options.with_jobs(jobs.parse()?);
    }
    let source = Arc::new(OciLayout::open(source, runtime.handle().clone())?);
    let layout = Arc::new(OciLayout::create(destination, runtime.handle().clone())?);
    let tag = |tag: &String| ManifestSelector::Tag(tag.clone());
    let reuse: Vec<_> = rest
        .iter()
        .skip(1)
        .map(|reused| ReuseImage {
            source: Arc::clone(&layout) as _,
            selector: tag(reused),
            repository: None,
        })
        .collect();
    let destination = Destination { sink: layout, selector: tag(destination_tag) };
    let start = Instant::now();
    let report = convert_image(source, &tag(source_tag), &destination, &reuse, &options)?;
    println!("{report:#?}\n{:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}
