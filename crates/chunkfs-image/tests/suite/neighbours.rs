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

/// Reads a byte of each of these chunks of a file, and returns which chunks each request brought.
async fn requests_of(name: &str, chunks: &[u64]) -> Vec<(u64, u64)> {
    let files = files();
    let (image, source) = open(&borrowed(&files)).await;
    let file = file(&image, name.as_bytes());
    let content = &files.iter().find(|(other, _)| other == name).unwrap().1;
    let piece = image.index().pieces(&file, 0, 1).next().unwrap();
    let chunkfs_index::PieceSource::Chunk { index, .. } = piece.source else { panic!("a hole") };
    let first = image.index().chunk(index).unwrap().location.offset;
    for chunk in chunks {
        let start = *chunk * CHUNK as u64;
        let bytes = image.read(&file, start, 10).await.unwrap();
        assert_eq!(bytes, content[start as usize..start as usize + 10]);
    }
    let chunk = |offset: u64| (offset - first) / CHUNK as u64;
    let requests = source.requests();
    requests.iter().map(|request| (chunk(request.range.start), chunk(request.range.end))).collect()
}

#[tokio::test]
async fn packs_near_a_missing_one_come_along_in_the_same_request() {
    let files = files();
    let (image, source) = open(&borrowed(&files)).await;
    for (name, content) in files.iter().filter(|(name, _)| name.starts_with('b')) {
        let file = file(&image, name.as_bytes());
        assert_eq!(image.read(&file, 0, u64::MAX).await.unwrap(), content);
    }
    // All packs, and the only chunk of `c`, which lies next to them.
    let chunk_count = u64::from(image.index().chunk_count()) - 12;
    assert_eq!(image.cache().counters().demand_chunks, chunk_count);
    let expected_len = 40 * 4_096 + CHUNK as u64;
    assert_eq!((source.request_count(), source.request_bytes()), (2, expected_len));
}

/// Incompressible chunks of 64 KiB: two fit into 400,000 bytes times the cube root of 1/4, three
/// do not into that of 1/9.
#[tokio::test]
async fn a_miss_brings_what_is_near_and_cheap_along() {
    assert_eq!(requests_of("a", &[6]).await, [(4, 9)]);
    assert_eq!(requests_of("a", &[0]).await, [(0, 3)]);
    // Nothing of another file comes along.
    assert_eq!(requests_of("a", &[11]).await, [(9, 12)]);
    assert_eq!(requests_of("c", &[0]).await, [(0, 1)]);
}

#[tokio::test]
async fn a_run_brings_more_the_longer_it_is_upwards_and_downwards() {
    let upwards: Vec<u64> = (0..12).collect();
    let downwards: Vec<u64> = (0..12).rev().collect();
    assert_eq!(requests_of("a", &upwards).await, [(0, 3), (3, 7), (7, 12)]);
    assert_eq!(requests_of("a", &downwards).await, [(9, 12), (5, 9), (0, 5)]);
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
    // The one chunk once more, and then what lies further away.
    assert_eq!(source.request_count(), 3);
}
