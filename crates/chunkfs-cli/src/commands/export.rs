//! `chunkfs export`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chunkfs_image::{Image, OpenOptions};

use crate::arguments::ExportArguments;
use crate::output::Output;
use crate::{context, tar};

pub(crate) fn run(arguments: &ExportArguments) -> anyhow::Result<()> {
    context::runtime()?.block_on(async {
        let options = OpenOptions::default();
        let cache = context::memory_cache();
        let image =
            context::open_image(&arguments.image, &arguments.registry, &cache, options).await?;
        if arguments.file == Path::new("-") {
            return write(&image, Output::new()).await;
        }
        let error = || format!("{} cannot be written", arguments.file.display());
        if arguments.file.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            // A pipe or a device: it stays what it is.
            let file = File::options().write(true).open(&arguments.file).with_context(error)?;
            return write(&image, file).await;
        }
        // Half an archive never bears the name of a whole one.
        let partial = partial_path(&arguments.file);
        let file = File::create(&partial).with_context(error)?;
        let result = match write(&image, file).await {
            Ok(()) => std::fs::rename(&partial, &arguments.file).with_context(error),
            failed => failed,
        };
        if result.is_err() {
            // It may be gone already; the first error says what matters.
            let _ = std::fs::remove_file(&partial);
        }
        result
    })
}

async fn write(image: &Image, output: impl Write) -> anyhow::Result<()> {
    let mut output = BufWriter::with_capacity(1 << 20, output);
    tar::export(image, &mut output).await?;
    output.flush()?;
    Ok(())
}

fn partial_path(path: &Path) -> PathBuf {
    let mut partial = path.to_owned().into_os_string();
    partial.push(".partial");
    partial.into()
}
