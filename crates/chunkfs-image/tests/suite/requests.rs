//! How often the source is asked, and for how much.

use std::collections::HashSet;

use chunkfs_fetch::Priority;
use chunkfs_image::{CacheOptions, Image, OpenOptions};
use tokio::runtime::Handle;

use crate::support::{
    CHUNK, GatedSource, SHAPES, convert_files, file, memory_cache, noise, plain_options,
    stored_len, until,
};

const STEP: u64 = 128 << 10;

/// Opens an image with one file of noise in so many chunks.
async fn open_long(
    chunk_count: usize,
    options: OpenOptions,
) -> (Image, std::sync::Arc<GatedSource>, Vec<u8>) {
    let content = noise(1, chunk_count * CHUNK);
    let store = convert_files(&[("long", content.clone())]);
    let source = GatedSource::new(&store);
    let image = source.open(&memory_cache(Handle::current()), options).await;
    (image, source, content)
}

#[tokio::test]
async fn many_readers_of_one_chunk_cause_one_request() {
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&memory_cache(Handle::current()), plain_options()).await;
    source.close(Priority::Demand);
    let file = file(&image, b"chunk");
    let reads: Vec<_> = (0..100).map(|number| image.read(&file, number, 1_000)).collect();
    until(|| source.request_count() == 1).await;
    source.demand.add_permits(1);
    let content = &SHAPES.0[&b"chunk"[..]];
    for (number, read) in reads.into_iter().enumerate() {
        assert_eq!(read.await.unwrap(), content[number..number + 1_000]);
    }
    assert_eq!(source.request_count(), 1);
    assert_eq!(source.request_bytes(), stored_len(&image, &file, 0..1));
}

#[tokio::test]
async fn files_of_one_pack_cause_one_request() {
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&memory_cache(Handle::current()), plain_options()).await;
    for name in [&b"packed-a"[..], b"packed-b"] {
        let bytes = image.read(&file(&image, name), 0, u64::MAX).await.unwrap();
        assert_eq!(bytes, SHAPES.0[name]);
    }
    assert_eq!(source.request_count(), 1);
}

#[tokio::test]
async fn neighbouring_chunks_cause_one_request() {
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&memory_cache(Handle::current()), plain_options()).await;
    let file = file(&image, b"five-chunks-and-a-bit");
    let bytes = image.read(&file, 0, u64::MAX).await.unwrap();
    assert_eq!(bytes, SHAPES.0[&b"five-chunks-and-a-bit"[..]]);
    assert_eq!(source.request_count(), 1);
    assert_eq!(source.request_bytes(), stored_len(&image, &file, 0..file.len));
}

#[tokio::test]
async fn holes_cause_no_request() {
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&memory_cache(Handle::current()), plain_options()).await;
    image.read(&file(&image, b"hole"), 0, u64::MAX).await.unwrap();
    image.read(&file(&image, b"sparse"), 3 * CHUNK as u64, CHUNK as u64).await.unwrap();
    image.read(&file(&image, b"chunk"), u64::MAX, u64::MAX).await.unwrap();
    image.read(&file(&image, b"chunk"), 0, 0).await.unwrap();
    assert_eq!(source.requests(), []);
}

/// Reads a file in steps from its start to its end.
async fn read_in_steps(image: &Image, content: &[u8]) {
    let file = file(image, b"long");
    for (number, expected) in content.chunks(STEP as usize).enumerate() {
        let bytes = image.read(&file, number as u64 * STEP, STEP).await.unwrap();
        assert!(bytes == expected, "step {number}");
    }
}

#[tokio::test]
async fn a_sequential_reader_causes_few_requests_and_nothing_twice() {
    let (image, source, content) = open_long(64, plain_options()).await;
    read_in_steps(&image, &content).await;
    // Nine steps of two chunks on demand; from then on the window doubles with each step, and
    // what is asked for is what the window has more than before.
    let chunk_counts: Vec<u64> = source
        .requests()
        .iter()
        .map(|request| (request.range.end - request.range.start) / CHUNK as u64)
        .collect();
    assert_eq!(chunk_counts, [2, 2, 2, 2, 2, 2, 2, 2, 2, 8, 10, 18, 10]);
    assert_eq!(source.request_bytes(), stored_len(&image, &file(&image, b"long"), 0..1 << 40));
}

#[tokio::test]
async fn without_readahead_every_step_is_a_request() {
    // The largest length is still less than a chunk.
    let options = plain_options().with_readahead_len_max(CHUNK as u64 - 1);
    let (image, source, content) = open_long(64, options).await;
    read_in_steps(&image, &content).await;
    assert_eq!(source.request_count(), 32);
    assert_eq!(source.request_bytes(), 64 * CHUNK as u64);
}

#[tokio::test]
async fn a_random_reader_causes_no_byte_too_many() {
    let (image, source, content) = open_long(64, plain_options()).await;
    let file = file(&image, b"long");
    // A permutation without neighbours in a row.
    let order: Vec<usize> = (0..64).map(|number| number * 23 % 64).collect();
    let mut bytes_asked = 0;
    for chunk in &order[..32] {
        let start = chunk * CHUNK + 1_000;
        let bytes = image.read(&file, start as u64, 4_096).await.unwrap();
        assert_eq!(bytes, content[start..start + 4_096]);
        bytes_asked += stored_len(&image, &file, start as u64..start as u64 + 4_096);
    }
    assert_eq!(source.request_count(), 32);
    assert_eq!(source.request_bytes(), bytes_asked);
}

#[tokio::test]
async fn readers_wait_for_what_is_read_ahead_instead_of_asking_again() {
    let (image, source, content) = open_long(24, plain_options()).await;
    let file = file(&image, b"long");
    for chunk in 0..9 {
        image.read(&file, (chunk * CHUNK) as u64, 100).await.unwrap();
    }
    until(|| source.request_count() == 10).await;
    source.close(Priority::Demand);
    let before = source.requests();
    let last = before.last().unwrap();
    assert_eq!(last.range.end - last.range.start, 8 * CHUNK as u64, "chunks 9 to 16 ahead");
    let read = image.read(&file, 9 * CHUNK as u64, 100);
    source.demand.add_permits(100);
    assert_eq!(read.await.unwrap(), content[9 * CHUNK..9 * CHUNK + 100]);
    let places: HashSet<_> = source.requests().iter().map(|request| request.range.start).collect();
    assert_eq!(places.len(), source.request_count(), "no place was asked for twice");
}

#[tokio::test]
async fn images_share_chunks_through_one_cache() {
    let shared = noise(5, 10 * CHUNK + 5);
    let first = convert_files(&[("a", shared.clone())]);
    let second = convert_files(&[("b", shared.clone()), ("other", b"x".to_vec())]);
    let folder = tempfile::tempdir().unwrap();
    for options in [
        CacheOptions::new(Handle::current()),
        CacheOptions::new(Handle::current()).with_folder(folder.path()).with_memory_len_max(0),
    ] {
        let cache = chunkfs_image::Cache::open(options);
        let (first, second) = (GatedSource::new(&first), GatedSource::new(&second));
        let one = first.open(&cache, plain_options()).await;
        let two = second.open(&cache, plain_options()).await;
        assert_ne!(one.id(), two.id());
        one.read(&file(&one, b"a"), 0, u64::MAX).await.unwrap();
        cache.flush().await;
        let bytes = two.read(&file(&two, b"b"), 0, u64::MAX).await.unwrap();
        assert!(bytes == shared);
        assert_eq!((first.request_count(), second.requests()), (1, vec![]));
    }
}
