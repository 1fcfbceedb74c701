//! What a missing chunk brings along.

use std::sync::Arc;

use chunkfs_fetch::Priority;
use chunkfs_image::{Image, OpenOptions};
use tokio::runtime::Handle;

use crate::support::{CHUNK, GatedSource, convert_files, file, memory_cache, noise, until};

/// Opens an image of files of noise, without readahead, with neighbours as by default.
async fn open(files: &[(&str, Vec<u8>)]) -> (Image, Arc<GatedSource>) {
    let source = GatedSource::new(&convert_files(files));
    let options = OpenOptions::default().with_readahead_len_max(0);
    let image = source.open(&memory_cache(Handle::current()), options).await;
    (image, source)
}

/// Two large files, one of them of one chunk, and forty small ones, in packs of 16 KiB.
fn files() -> Vec<(String, Vec<u8>)> {
    let small = (0..40).map(|number| (format!("b-{number:02}"), noise(number + 10, 4_096)));
    let large = [("a".to_owned(), noise(1, 12 * CHUNK)), ("c".to_owned(), noise(2, CHUNK))];
    small.chain(large).collect()
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, Vec<u8>)> {
    files.iter().map(|(name, content)| (name.as_str(), content.clone())).collect()
}

#[tokio::test]
async fn a_missing_pack_brings_those_near_it_along_in_the_same_request() {
    let files = files();
    let (image, source) = open(&borrowed(&files)).await;
    for (name, content) in files.iter().filter(|(name, _)| name.starts_with('b')) {
        let file = file(&image, name.as_bytes());
        assert_eq!(image.read(&file, 0, u64::MAX).await.unwrap(), content);
    }
    assert_eq!(source.request_count(), 1);
    assert_eq!(source.request_bytes(), 40 * 4_096);
    let packs = image.index().chunks().filter(|chunk| chunk.uncompressed_len < CHUNK as u32);
    let counters = image.cache().counters();
    assert_eq!((counters.demand_chunks, counters.demand_requests), (packs.count() as u64, 1));
}

#[tokio::test]
async fn a_single_chunk_of_a_large_file_brings_nothing_along() {
    let files = files();
    let (image, source) = open(&borrowed(&files)).await;
    for chunk in [0, 6, 3, 9] {
        image.read(&file(&image, b"a"), chunk * CHUNK as u64, 1).await.unwrap();
    }
    assert_eq!(source.request_count(), 4);
    assert_eq!(source.request_bytes(), 4 * CHUNK as u64);
}

#[tokio::test]
async fn a_run_brings_half_its_length_along_upwards_and_downwards() {
    let upwards: Vec<u64> = (0..12).collect();
    let downwards: Vec<u64> = (0..12).rev().collect();
    // Nothing lies below the first chunk, but above the last there is that of the next file.
    for (order, last_count) in [(upwards, 2), (downwards, 1)] {
        let files = files();
        let (image, source) = open(&borrowed(&files)).await;
        let content = &files.iter().find(|(name, _)| name == "a").unwrap().1;
        for chunk in order {
            let start = chunk as usize * CHUNK;
            let bytes = image.read(&file(&image, b"a"), start as u64, 10).await.unwrap();
            assert_eq!(bytes, content[start..start + 10]);
        }
        let counts: Vec<_> = source
            .requests()
            .iter()
            .map(|request| (request.range.end - request.range.start) / CHUNK as u64)
            .collect();
        assert_eq!(counts, [1, 1, 2, 3, 4, last_count]);
    }
}

#[tokio::test]
async fn neighbours_go_on_without_the_read_and_end_with_the_image() {
    let files = files();
    let (image, source) = open(&borrowed(&files)).await;
    source.close(Priority::Demand);
    let read = image.read(&file(&image, b"b-20"), 0, 1);
    until(|| source.request_count() == 1).await;
    drop(read);
    // The next one waits for the request that is under way.
    let next = image.read(&file(&image, b"b-00"), 0, 1);
    source.demand.add_permits(1);
    assert_eq!(next.await.unwrap().len(), 1);
    assert_eq!(source.request_count(), 1);
    let read = image.read(&file(&image, b"a"), 0, 1);
    until(|| source.request_count() == 2).await;
    drop((read, image));
    until(|| Arc::strong_count(&source) == 1).await;
}

#[tokio::test]
async fn a_damaged_neighbour_does_not_harm_its_reader() {
    let files = files();
    let (image, source) = open(&borrowed(&files)).await;
    // The first byte of the request belongs to the first pack, which is not the one wanted.
    source.push_faults(&[crate::support::Fault::Flip]);
    let last = file(&image, b"b-39");
    let content = &files.iter().find(|(name, _)| name == "b-39").unwrap().1;
    assert_eq!(image.read(&last, 0, u64::MAX).await.unwrap(), content);
    let content = &files.iter().find(|(name, _)| name == "b-00").unwrap().1;
    assert_eq!(image.read(&file(&image, b"b-00"), 0, u64::MAX).await.unwrap(), content);
    assert_eq!(source.request_count(), 2);
}
