//! Damage and failures: an error that says where, never wrong bytes, and never for ever.

use std::fs;
use std::path::Path;

use chunkfs_cache::LoadError;
use chunkfs_image::{Cache, CacheOptions, ReadError, VerifyLevel};
use tokio::runtime::Handle;

use crate::support::{CHUNK, Fault, GatedSource, SHAPES, chain, file, memory_cache, plain_options};

#[tokio::test]
async fn a_chunk_that_stays_corrupt_is_named_with_its_blob_and_offset() {
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&memory_cache(Handle::current()), plain_options()).await;
    let file = file(&image, b"three-chunks");
    let offset = 2 * CHUNK as u64 + 5;
    let piece = image.index().pieces(&file, offset, 1).next().unwrap();
    let chunkfs_index::PieceSource::Chunk { index, .. } = piece.source else { panic!() };
    let expected = image.index().chunk(index).unwrap();
    let expected_blob = image.index().blob(expected.location.blob).unwrap();

    source.push_faults(&[Fault::Flip, Fault::Flip]);
    let mut buffer = [0xaa; 10];
    let error = image.read_at(&file, offset, &mut buffer).await.unwrap_err();
    assert_eq!(buffer, [0xaa; 10], "not one byte was written");
    assert!(error.is_corrupt() && !error.is_retryable() && !error.is_not_found(), "{error}");
    let ReadError::Chunk { ino, file_offset, source: load } = &error else { panic!("{error}") };
    assert_eq!((*ino, *file_offset), (file.index.ino(), offset));
    let LoadError::Corrupt { chunk, blob, offset: blob_offset, .. } = load else { panic!() };
    assert_eq!((*chunk, *blob), (expected.id, expected_blob.id));
    assert_eq!(*blob_offset, expected.location.offset);
    let text = chain(&error);
    for part in [chunk.to_string(), blob.to_string(), blob_offset.to_string()] {
        assert!(text.contains(&part), "{text}");
    }

    // The error is not kept, the good bytes are.
    for _ in 0..2 {
        let bytes = image.read(&file, offset, 10).await.unwrap();
        let start = offset as usize;
        assert_eq!(bytes, SHAPES.0[&b"three-chunks"[..]][start..start + 10]);
    }
    assert_eq!(source.request_count(), 3);
    assert_eq!(image.counters().read_errors, 1);
}

#[tokio::test]
async fn a_long_read_with_one_corrupt_chunk_fails_as_a_whole() {
    let source = GatedSource::new(&SHAPES.1);
    // One request per chunk.
    let cache = CacheOptions::new(Handle::current()).with_request_len_max(1);
    let image = source.open(&Cache::open(cache), plain_options()).await;
    let file = file(&image, b"five-chunks-and-a-bit");
    let chunk_count = 6;
    let content = &SHAPES.0[&b"five-chunks-and-a-bit"[..]];
    source.push_faults(&[Fault::Flip; 12]);
    assert!(image.read(&file, 0, u64::MAX).await.unwrap_err().is_corrupt());
    // Whatever of these is left over meets the next reads, which fail or are right.
    let mut failed_count = 0;
    while let Err(error) = image.read(&file, 0, u64::MAX).await {
        assert!(error.is_corrupt(), "{error}");
        failed_count += 1;
        assert!(failed_count <= chunk_count, "faults come to an end");
    }
    assert_eq!(image.read(&file, 0, u64::MAX).await.unwrap(), content);
}

#[tokio::test]
async fn a_failed_request_is_tried_again_by_the_next_read() {
    let source = GatedSource::new(&SHAPES.1);
    let image = source.open(&memory_cache(Handle::current()), plain_options()).await;
    let file = file(&image, b"three-chunks");
    for failures in 1..=3 {
        source.push_faults(&[Fault::Fail]);
        let error = image.read(&file, 0, u64::MAX).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert_eq!(source.request_count(), failures);
    }
    let bytes = image.read(&file, 0, u64::MAX).await.unwrap();
    assert_eq!(bytes, SHAPES.0[&b"three-chunks"[..]]);
    assert_eq!(source.request_count(), 4);
}

/// Changes the first byte of every page of the slabs.
fn damage_chunks(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_name().to_str().unwrap().contains("slab") {
            let mut bytes = fs::read(entry.path()).unwrap();
            bytes.iter_mut().step_by(4_096).for_each(|byte| *byte ^= 1);
            fs::write(entry.path(), bytes).unwrap();
        }
    }
}

#[tokio::test]
async fn a_chunk_that_is_damaged_on_disk_is_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    let content = &SHAPES.0[&b"three-chunks"[..]];
    let options = CacheOptions::new(Handle::current()).with_folder(folder.path());
    for (verify, request_count) in [
        (VerifyLevel::Load, 1),
        // Everything on disk is damaged now.
        (VerifyLevel::Load, 1),
        // It was mended meanwhile.
        (VerifyLevel::Fetch, 0),
    ] {
        let cache = Cache::open(options.clone());
        let source = GatedSource::new(&SHAPES.1);
        let image = source.open(&cache, plain_options().with_verify(verify)).await;
        let bytes = image.read(&file(&image, b"three-chunks"), 0, u64::MAX).await.unwrap();
        assert!(bytes == content);
        assert_eq!(source.request_count(), request_count);
        cache.flush().await;
        if cache.counters().disk_verify_failures == 0 {
            damage_chunks(folder.path());
        } else {
            assert_eq!(cache.counters().disk_verify_failures, 3);
        }
    }
}
