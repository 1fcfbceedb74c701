//! `chunkfs cat`.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use anyhow::Context as _;
use chunkfs_image::OpenOptions;
use chunkfs_index::FileKind;

use crate::arguments::CatArguments;
use crate::context;
use crate::output::Output;

/// Bytes that are read at a time.
const STEP_LEN: u64 = 4 << 20;

pub(crate) fn run(arguments: &CatArguments) -> anyhow::Result<()> {
    context::runtime()?.block_on(async {
        let options = OpenOptions::default();
        let cache = context::memory_cache();
        let image =
            context::open_image(&arguments.image, &arguments.registry, &cache, options).await?;
        let path = arguments.path.as_os_str().as_bytes();
        let name = || format!("{} in {}", arguments.path.display(), arguments.image);
        let file = image.resolve(path).with_context(|| format!("there is no file {}", name()))?;
        anyhow::ensure!(file.kind == FileKind::Regular, "{} is not a regular file", name());
        let mut output = Output::new();
        let mut offset = 0;
        while offset < file.len {
            let bytes = image.read(&file, offset, STEP_LEN).await;
            let bytes = bytes.with_context(|| format!("{} cannot be read", name()))?;
            output.write_all(&bytes)?;
            offset += bytes.len() as u64;
        }
        output.flush()?;
        Ok(())
    })
}
