//! `chunkfs export`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context as _;
use chunkfs_image::OpenOptions;

use crate::arguments::ExportArguments;
use crate::{context, tar};

pub(crate) fn run(arguments: &ExportArguments) -> anyhow::Result<()> {
    context::runtime()?.block_on(async {
        let options = OpenOptions::default();
        let image =
            context::open_image(&arguments.image, &arguments.registry, None, options).await?;
        let name = || format!("{} cannot be written", arguments.file.display());
        let output: Box<dyn Write> = if arguments.file == Path::new("-") {
            Box::new(std::io::stdout())
        } else {
            Box::new(File::create(&arguments.file).with_context(name)?)
        };
        let mut output = BufWriter::with_capacity(1 << 20, output);
        tar::export(&image, &mut output).await?;
        output.flush().with_context(name)?;
        Ok(())
    })
}
