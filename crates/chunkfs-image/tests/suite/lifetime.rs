//! What ends when values are dropped.

use std::sync::Arc;

use chunkfs_fetch::Priority;
use chunkfs_image::PrefetchOptions;
use tokio::runtime::Handle;

use crate::support::{
    CHUNK, GatedSource, SHAPES, convert_files, file, memory_cache, noise, plain_options, until,
};

#[tokio::test]
async fn dropping_a_read_ends_its_request() {
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&memory_cache(Handle::current()), plain_options()).await;
    // This test, the image and its loader.
    assert_eq!(Arc::strong_count(&source), 3);
    source.close(Priority::Demand);
    let file = file(&image, b"chunk");
    let read = image.read(&file, 0, 10);
    until(|| source.request_count() == 1).await;
    assert!(Arc::strong_count(&source) > 3);
    drop(read);
    until(|| Arc::strong_count(&source) == 3).await;
    // The next one starts afresh.
    let read = image.read(&file, 0, 10);
    until(|| source.request_count() == 2).await;
    source.demand.add_permits(1);
    assert_eq!(read.await.unwrap(), SHAPES.0[&b"chunk"[..]][..10]);
}

#[tokio::test]
async fn dropping_the_image_ends_readahead() {
    let store = convert_files(&[("long", noise(3, 24 * CHUNK))]);
    let source = GatedSource::new(&store);
    let image = source.open(&memory_cache(Handle::current()), plain_options()).await;
    let long = file(&image, b"long");
    source.close(Priority::Demand);
    source.demand.add_permits(9);
    for chunk in 0..9 {
        image.read(&long, chunk * CHUNK as u64, 1).await.unwrap();
    }
    until(|| source.request_count() == 10).await;
    let clone = image.clone();
    drop(image);
    assert_eq!(clone.read(&long, 0, 1).await.unwrap().len(), 1);
    assert!(Arc::strong_count(&source) > 3, "the readahead goes on while there is a clone");
    drop(clone);
    until(|| Arc::strong_count(&source) == 1).await;
}

#[tokio::test]
async fn a_read_goes_on_without_its_image() {
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&memory_cache(Handle::current()), plain_options()).await;
    source.close(Priority::Demand);
    let read = image.read(&file(&image, b"three-chunks"), 0, u64::MAX);
    drop(image);
    source.demand.add_permits(100);
    assert_eq!(read.await.unwrap(), SHAPES.0[&b"three-chunks"[..]]);
    until(|| Arc::strong_count(&source) == 1).await;
}

#[tokio::test]
async fn dropping_a_prefetch_ends_it() {
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&memory_cache(Handle::current()), plain_options()).await;
    source.close(Priority::Prefetch);
    let prefetch = image.prefetch(PrefetchOptions::default());
    until(|| source.request_count() > 0).await;
    let watcher = prefetch.watcher();
    drop(image);
    assert!(Arc::strong_count(&source) > 1, "it goes on without the image");
    drop(prefetch);
    until(|| Arc::strong_count(&source) == 1).await;
    assert_eq!(watcher.finished_count(), 0);
}

#[test]
fn an_image_can_be_dropped_after_its_runtime() {
    let own = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let store = convert_files(&[("long", noise(3, 16 * CHUNK))]);
    let source = GatedSource::new(&store);
    let cache = memory_cache(own.handle().clone());
    let image = own.block_on(source.open(&cache, plain_options()));
    let long = file(&image, b"long");
    for chunk in 0..5 {
        own.block_on(image.read(&long, chunk * CHUNK as u64, 1)).unwrap();
    }
    drop(own);
    let error = image.read_at_blocking(&long, 15 * CHUNK as u64, &mut [0]).unwrap_err();
    assert!(!error.is_retryable() && !error.is_corrupt() && !error.is_not_found(), "{error}");
    drop((image, cache));
    assert_eq!(Arc::strong_count(&source), 1);
}
