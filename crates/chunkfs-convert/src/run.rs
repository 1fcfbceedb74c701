//! Running the threads of a conversion.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use chunkfs_fetch::{BlobDescriptor, ImageSource};
use chunkfs_format::BlobId;

use crate::error::{ConvertError, LayerError};
use crate::layer::read_archive;
use crate::pipeline::{
    Context, FailOnPanic, LayerContent, LayerWriter, StoredLayer, Upload, run_uploader, run_worker,
};
use crate::progress::ConvertEvent;
use crate::rootfs::read_directory;
use crate::stream::{Expectation, VerifyingReader, decompress, read_ahead};

/// How many layers are read at a time.
const READERS_MAX: usize = 4;
/// How many blobs are sent at a time.
const UPLOADERS: usize = 2;

/// A layer to be read.
pub(crate) struct LayerPlan<'a> {
    /// The position in the image, the lowest first.
    pub(crate) layer: usize,
    /// What errors call it.
    pub(crate) name: String,
    pub(crate) input: LayerInput<'a>,
}

/// Where a layer comes from.
pub(crate) enum LayerInput<'a> {
    Blob { source: Arc<dyn ImageSource>, blob: BlobDescriptor, diff_id: BlobId },
    Archive(Box<dyn Read + Send + 'a>),
    Directory(PathBuf),
}

impl LayerInput<'_> {
    fn len(&self) -> Option<u64> {
        match self {
            Self::Blob { blob, .. } => Some(blob.len),
            _ => None,
        }
    }
}

/// What the threads produced.
#[derive(Default)]
pub(crate) struct Converted {
    /// The layers that were read, by their position in the image.
    pub(crate) layers: BTreeMap<usize, StoredLayer>,
    /// The bytes read, as stored.
    pub(crate) read_bytes: u64,
}

/// Reads the layers, and brings their blobs and `uploads` to the destination.
///
/// Returns when all threads have ended, whether or not it worked.
pub(crate) fn convert_layers<'a>(
    context: &'a Context<'a>,
    mut plans: Vec<LayerPlan<'a>>,
    uploads: Vec<Upload>,
) -> Result<Converted, ConvertError> {
    let reader_count = plans.len().min(context.options.jobs.get()).min(READERS_MAX);
    // The largest is taken first, from the end; equal ones in their order.
    plans.sort_by_key(|plan| (plan.input.len(), std::cmp::Reverse(plan.layer)));
    let plans = Mutex::new(plans);
    let contents = Mutex::new(BTreeMap::new());
    let read_bytes = Arc::new(AtomicU64::new(0));
    let panics = std::thread::scope(|scope| {
        let guarded = |run: fn(&Context<'_>) -> Result<(), ConvertError>| {
            scope.spawn(move || {
                let _guard = FailOnPanic(context);
                if let Err(error) = run(context) {
                    context.fail(error);
                }
            })
        };
        let workers: Vec<_> =
            (0..context.options.jobs.get()).map(|_| guarded(run_worker)).collect();
        let uploaders: Vec<_> = (0..UPLOADERS).map(|_| guarded(run_uploader)).collect();
        let (plans, contents, read_bytes) = (&plans, &contents, &read_bytes);
        let readers: Vec<_> = (0..reader_count)
            .map(|_| {
                scope.spawn(move || {
                    let _guard = FailOnPanic(context);
                    run_reader(context, scope, plans, contents, read_bytes);
                })
            })
            .collect();
        for upload in uploads {
            if let Err(error) = context.uploader.push(upload) {
                context.fail(error);
                break;
            }
        }
        let mut panics = join(readers);
        context.pool.close();
        panics.extend(join(workers));
        context.uploader.close();
        panics.extend(join(uploaders));
        panics
    });
    if let Some(panic) = panics.into_iter().next() {
        std::panic::resume_unwind(panic);
    }
    if let Some(error) = context.take_error() {
        return Err(error);
    }
    let contents = contents.into_inner().unwrap_or_else(PoisonError::into_inner);
    let stored = |(layer, content): (usize, LayerContent)| (layer, content.into_stored());
    Ok(Converted {
        layers: contents.into_iter().map(stored).collect(),
        read_bytes: read_bytes.load(Ordering::Relaxed),
    })
}

type Panic = Box<dyn std::any::Any + Send>;

fn join(threads: Vec<ScopedJoinHandle<'_, ()>>) -> Vec<Panic> {
    threads.into_iter().filter_map(|thread| thread.join().err()).collect()
}

/// Reads layers until there are no more.
fn run_reader<'scope, 'a: 'scope>(
    context: &'scope Context<'scope>,
    scope: &'scope Scope<'scope, '_>,
    plans: &Mutex<Vec<LayerPlan<'a>>>,
    contents: &Mutex<BTreeMap<usize, LayerContent>>,
    read_bytes: &Arc<AtomicU64>,
) {
    loop {
        let plan = plans.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(LayerPlan { layer, name, input }) = plan else { return };
        match read_layer(context, scope, layer, input, read_bytes) {
            Ok(content) => {
                contents.lock().unwrap_or_else(PoisonError::into_inner).insert(layer, content);
                context.observe(&ConvertEvent::LayerFinished { layer });
            }
            Err(LayerError::Stopped) => return context.fail(ConvertError::Stopped),
            Err(source) => return context.fail(ConvertError::Layer { layer: name, source }),
        }
    }
}

fn read_layer<'scope, 'a: 'scope>(
    context: &'scope Context<'scope>,
    scope: &'scope Scope<'scope, '_>,
    layer: usize,
    input: LayerInput<'a>,
    read_bytes: &Arc<AtomicU64>,
) -> Result<LayerContent, LayerError> {
    let mut writer = LayerWriter::new(context);
    let len_max = context.options.layer_len_max;
    let progress = progress(context, layer, read_bytes);
    match input {
        LayerInput::Blob { source, blob, diff_id } => {
            let stream = context.network.stream(source, blob);
            let BlobDescriptor { id, len } = blob;
            let stored =
                VerifyingReader::new(stream, Expectation::Blob { id, len }).with_progress(progress);
            let is_verified = stored.verified_flag();
            let archive = open_archive(context, scope, stored)?;
            let archive = VerifyingReader::new(archive, Expectation::Archive { diff_id, len_max });
            read_archive(archive, &mut writer)?;
            if !is_verified.load(Ordering::Acquire) {
                return Err(LayerError::TrailingBytes);
            }
        }
        LayerInput::Archive(reader) => {
            let stored = VerifyingReader::new(reader, Expectation::Unnamed { len_max })
                .with_progress(progress);
            let archive = open_archive(context, scope, stored)?;
            let archive = VerifyingReader::new(archive, Expectation::Unnamed { len_max });
            read_archive(archive, &mut writer)?;
        }
        LayerInput::Directory(path) => read_directory(&path, &mut writer, &progress)?,
    }
    writer.finish()
}

/// Decompresses a layer; with several jobs, reading and decompressing get threads of their own.
fn open_archive<'scope>(
    context: &Context<'_>,
    scope: &'scope Scope<'scope, '_>,
    stored: impl Read + Send + 'scope,
) -> Result<Box<dyn Read + Send + 'scope>, LayerError> {
    if context.options.jobs.get() == 1 {
        return decompress(stored).map_err(LayerError::from_io);
    }
    let archive = decompress(read_ahead(scope, stored)).map_err(LayerError::from_io)?;
    Ok(Box::new(read_ahead(scope, archive)))
}

/// Counts the bytes read and tells the observer of them.
fn progress(
    context: &Context<'_>,
    layer: usize,
    read_bytes: &Arc<AtomicU64>,
) -> impl Fn(u64) + Send + 'static {
    let observer = context.options.observer.clone();
    let read_bytes = Arc::clone(read_bytes);
    move |len| {
        read_bytes.fetch_add(len, Ordering::Relaxed);
        if let Some(observer) = &observer {
            observer.observe(&ConvertEvent::LayerRead { layer, len });
        }
    }
}
