//! Bytes that are not what their digest says.

use std::num::NonZeroU32;

use chunkfs_fetch::{
    BlobSource as _, FetchError, ImageSource as _, ManifestSelector, Priority, fetch_verified,
};
use chunkfs_testkit::{Fault, RangeServer};

use crate::support::{REPOSITORY, add, source};

fn count(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap()
}

#[tokio::test]
async fn damaged_bytes_are_read_once_more_around_caches() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000);
    // A cache on the way that keeps a damaged copy until it is told to ask the origin.
    server.set_script(|request| match request.cache_control {
        Some(_) => Vec::new(),
        None => vec![Fault::FlipBit { bit: 4000 }],
    });
    let source = source(&server);
    assert_eq!(fetch_verified(&source, &blob, 1000).await.unwrap(), content);
    let requests = server.requests();
    let asked: Vec<_> = requests.iter().map(|request| request.cache_control.as_deref()).collect();
    assert_eq!(asked, [None, Some("no-cache")]);
    assert_eq!(source.counters().rereads, 1);
}

#[tokio::test]
async fn a_source_with_one_place_gives_damaged_bytes_up_after_four_requests() {
    let server = RangeServer::start().await;
    let (blob, _) = add(&server, 1000);
    server.set_script(|_| vec![Fault::FlipBit { bit: 4000 }]);
    let source = source(&server);
    let error = fetch_verified(&source, &blob, 1000).await.unwrap_err();
    assert!(matches!(error, FetchError::DigestMismatch { .. }), "{error}");
    assert!(error.is_corrupt());
    assert_eq!(server.requests().len(), 4);
    let again = source.reread_range(&blob, 0..10, Priority::Demand, count(4)).await;
    assert_eq!(again.unwrap(), None);
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn a_reread_waits_until_a_whole_blob_is_verified() {
    let server = RangeServer::start().await;
    let (blob, content) = add(&server, 1000);
    // A server without ranges: its first answer is damaged, the second is not.
    server.set_script(|request| match request.cache_control {
        Some(_) => vec![Fault::IgnoreRange],
        None => vec![Fault::IgnoreRange, Fault::FlipBit { bit: 0 }],
    });
    let source = source(&server);
    let bytes = source.reread_range(&blob, 0..1000, Priority::Demand, count(1)).await.unwrap();
    assert_eq!(bytes.unwrap(), content);
    let bytes = source.reread_range(&blob, 5..10, Priority::Demand, count(1)).await.unwrap();
    assert_eq!(bytes.unwrap(), content.slice(5..10));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_damaged_manifest_is_fetched_once_more_around_caches() {
    let server = RangeServer::start().await;
    let id = server.add_manifest(REPOSITORY, "v1", "application/json", "{}".into());
    server.set_script(|request| match request.cache_control {
        Some(_) => Vec::new(),
        None => vec![Fault::FlipBit { bit: 1 }],
    });
    let source = source(&server);
    for selector in [ManifestSelector::Tag("v1".to_owned()), ManifestSelector::Digest(id)] {
        server.clear_requests();
        assert_eq!(source.fetch_manifest(&selector).await.unwrap().bytes, "{}");
        assert_eq!(server.requests().len(), 2);
    }
}
