//! `chunkfs pull`.

use std::time::Duration;

use chunkfs_image::{OpenOptions, PrefetchOptions};

use crate::arguments::PullArguments;
use crate::output::counted;
use crate::{context, progress};

pub(crate) fn run(arguments: &PullArguments) -> anyhow::Result<()> {
    context::runtime()?.block_on(async {
        let cache = context::folder_cache(&arguments.cache)?;
        let options = OpenOptions::default();
        let image =
            context::open_image(&arguments.image, &arguments.registry, &cache, options).await?;
        let options = PrefetchOptions::default().with_worker_count(arguments.workers.get());
        let prefetch = image.prefetch(options);
        let bar = progress::chunk_bar(prefetch.chunk_count());
        let watcher = prefetch.watcher();
        let wait = prefetch.wait();
        tokio::pin!(wait);
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        let result = loop {
            tokio::select! {
                result = &mut wait => break result,
                _ = tick.tick() => bar.set_position(watcher.finished_count()),
            }
        };
        bar.finish_and_clear();
        image.cache().flush().await;
        let chunk_count = result?;
        let counters = image.cache().counters();
        anyhow::ensure!(
            counters.disk_errors == 0,
            "{} chunks could not be written to the cache folder; is the disk full?",
            counters.disk_errors
        );
        anyhow::ensure!(
            counters.disk_refusals == 0,
            "{} did not fit into the cache folder; raise --cache-quota, or unpin other images",
            counted(counters.disk_refusals, "chunk")
        );
        progress::plain_line(&format!(
            "{}: {} in the cache; fetched {} in {}, {}",
            arguments.image,
            counted(chunk_count, "chunk"),
            counters.prefetch_chunks,
            counted(counters.prefetch_requests, "request"),
            counted(counters.prefetch_bytes, "byte")
        ));
        Ok(())
    })
}
