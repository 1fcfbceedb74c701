//! Threads: equal results for any number of them, and a prompt end after any failure.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_convert::{ConvertError, ConvertOptions};
use chunkfs_fetch::{
    BlobContent, BlobDescriptor, BlobSource, FetchError, ImageSink, ImageSource, ManifestSelector,
    MemorySource, Priority, StoredManifest,
};
use chunkfs_format::BlobId;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use crate::archive::{Archive, Entry, gzip, noise, zstd};
use crate::support::{Layer, chain, convert, convert_in, options, put_image};

/// Layers with large and small, equal and different files.
fn layers() -> Vec<Layer> {
    let layer = |seed: u64| {
        let mut entries = Vec::new();
        for n in 0..60 {
            let len = [100, 5_000, 20_000, 70_000, 300_000][n as usize % 5];
            let content = if n % 4 == 0 { noise(n, len) } else { noise(seed * 100 + n, len) };
            entries.push(Entry::file(&format!("d{}/f{n}", n % 7), content));
            entries.push(Entry::file(&format!("text{n}"), format!("{n} ").repeat(9_000)));
        }
        Archive::new(entries).finish()
    };
    let [a, b, c] = [layer(1), layer(2), layer(3)];
    vec![
        Layer::tar(a.clone()).stored_as(gzip(&a), "x/tar+gzip"),
        Layer::tar(b.clone()).stored_as(zstd(&b), "x/tar+zstd"),
        Layer::tar(c.clone()),
        Layer::tar(a),
    ]
}

fn with_jobs(jobs: usize) -> ConvertOptions {
    options().with_jobs(jobs.try_into().unwrap()).with_blob_len_max(500_000)
}

#[test]
fn any_number_of_jobs_gives_the_same_bytes() {
    let layers = layers();
    let mut first = None;
    for jobs in [1, 2, 7, 2] {
        let source = Arc::new(MemorySource::new());
        put_image(&source, &layers);
        let sink = Arc::new(MemorySource::new());
        let report = convert(source, Arc::clone(&sink) as _, &[], &with_jobs(jobs)).unwrap();
        let report = (report, sink.blob_count());
        assert_eq!(*first.get_or_insert_with(|| report.clone()), report, "{jobs} jobs");
    }
    assert!(first.unwrap().0.statistics.blobs > 10);
}

#[test]
fn blobs_end_before_their_limit() {
    let store = Arc::new(MemorySource::new());
    put_image(&store, &layers());
    let report = convert_in(&store, &with_jobs(2)).unwrap();
    let (manifest, _) = crate::support::open_image(&*store, &report);
    assert!(manifest.blobs.iter().all(|blob| blob.blob().unwrap().len <= 500_000));
}

/// A store in which the n-th operation, or the n-th piece of a stream, fails or never ends.
#[derive(Debug)]
struct Faulty {
    inner: Arc<MemorySource>,
    /// Operations until the fault.
    rest: Arc<AtomicI64>,
    hangs: bool,
}

impl Faulty {
    async fn step(rest: &AtomicI64, hangs: bool) -> Result<(), FetchError> {
        if rest.fetch_sub(1, Ordering::SeqCst) != 1 {
            return Ok(());
        }
        if hangs {
            // A fault elsewhere must end this wait.
            std::future::pending::<()>().await;
        }
        Err(FetchError::NotFound { what: "the fault".to_owned() })
    }
}

#[async_trait]
impl BlobSource for Faulty {
    async fn read_range(
        &self,
        blob: &BlobDescriptor,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, FetchError> {
        Self::step(&self.rest, self.hangs).await?;
        self.inner.read_range(blob, range, priority).await
    }
}

#[async_trait]
impl ImageSource for Faulty {
    async fn fetch_manifest(
        &self,
        manifest: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        Self::step(&self.rest, self.hangs).await?;
        self.inner.fetch_manifest(manifest).await
    }

    fn stream_blob(&self, blob: &BlobDescriptor) -> BoxStream<'static, Result<Bytes, FetchError>> {
        let (rest, hangs) = (Arc::clone(&self.rest), self.hangs);
        let pieces = self.inner.stream_blob(blob).flat_map(|piece| {
            let pieces = match piece {
                Ok(bytes) => bytes.chunks(50_000).map(|b| Ok(Bytes::copy_from_slice(b))).collect(),
                Err(error) => vec![Err(error)],
            };
            futures::stream::iter(pieces)
        });
        let pieces = pieces.then(move |piece| {
            let rest = Arc::clone(&rest);
            async move {
                Self::step(&rest, hangs).await?;
                piece
            }
        });
        pieces.boxed()
    }
}

#[async_trait]
impl ImageSink for Faulty {
    async fn has_blob(&self, blob: &BlobDescriptor) -> Result<bool, FetchError> {
        Self::step(&self.rest, self.hangs).await?;
        self.inner.has_blob(blob).await
    }

    async fn mount_blob(&self, blob: &BlobDescriptor, from: &str) -> Result<bool, FetchError> {
        Self::step(&self.rest, self.hangs).await?;
        self.inner.mount_blob(blob, from).await
    }

    async fn put_blob(
        &self,
        blob: &BlobDescriptor,
        content: BlobContent,
    ) -> Result<(), FetchError> {
        Self::step(&self.rest, self.hangs).await?;
        self.inner.put_blob(blob, content).await
    }

    async fn put_manifest(
        &self,
        manifest: &ManifestSelector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<BlobId, FetchError> {
        Self::step(&self.rest, self.hangs).await?;
        self.inner.put_manifest(manifest, media_type, bytes).await
    }
}

/// Runs `work` in a thread and fails if it takes unreasonably long.
fn within_a_minute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(Duration::from_secs(60)).expect("the conversion does not end")
}

fn faulty(inner: &Arc<MemorySource>, rest: i64, hangs: bool) -> Arc<Faulty> {
    Arc::new(Faulty { inner: Arc::clone(inner), rest: Arc::new(rest.into()), hangs })
}

#[test]
fn every_single_failure_of_source_and_sink_ends_the_conversion_without_a_manifest() {
    let source = Arc::new(MemorySource::new());
    put_image(&source, &layers()[..2]);
    for jobs in [1, 2, 7] {
        for fails_sink in [false, true] {
            let mut failures = 0;
            // Fail the first operation, then a later one, until nothing fails.
            for step in (1..).map(|n: i64| n * n * n) {
                let sink = Arc::new(MemorySource::new());
                let unlimited = i64::MAX;
                let (source_rest, sink_rest) =
                    if fails_sink { (unlimited, step) } else { (step, unlimited) };
                let faulty_source = faulty(&source, source_rest, false);
                let faulty_sink = faulty(&sink, sink_rest, false);
                let result = within_a_minute(move || {
                    convert(faulty_source, faulty_sink, &[], &with_jobs(jobs))
                });
                let Err(error) = result else { break };
                failures += 1;
                assert!(chain(&error).contains("the fault does not exist"), "{}", chain(&error));
                let found = crate::support::runtime()
                    .block_on(sink.fetch_manifest(&crate::support::tag("converted")));
                assert!(found.is_err_and(|error| error.is_not_found()));
            }
            assert!(failures >= 3, "{failures} failures");
        }
    }
}

#[test]
fn a_failure_ends_waits_for_a_source_or_sink_that_hangs() {
    let source = Arc::new(MemorySource::new());
    put_image(&source, &layers()[..2]);
    for jobs in [1, 2, 7] {
        // The source stops sending in the middle; the sink fails. And the other way round, where the
        // second upload never ends.
        for (source_step, source_hangs, sink_step, sink_hangs) in
            [(40, true, 2, false), (100, false, 2, true)]
        {
            let sink = Arc::new(MemorySource::new());
            let faulty_source = faulty(&source, source_step, source_hangs);
            let faulty_sink = faulty(&sink, sink_step, sink_hangs);
            let result =
                within_a_minute(move || convert(faulty_source, faulty_sink, &[], &with_jobs(jobs)));
            let error = result.unwrap_err();
            assert!(chain(&error).contains("the fault does not exist"), "{}", chain(&error));
        }
    }
}

#[test]
fn a_spool_directory_that_does_not_exist_is_named() {
    let store = Arc::new(MemorySource::new());
    put_image(&store, &layers()[..1]);
    let error = convert_in(&store, &with_jobs(2).with_spool_directory("/none")).unwrap_err();
    assert!(matches!(&error, ConvertError::Spool { .. }), "{error:?}");
    assert!(error.to_string().starts_with("a temporary file in \"/none\" could not be written"));
}
