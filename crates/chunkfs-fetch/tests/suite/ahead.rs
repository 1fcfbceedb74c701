//! Where blobs are is found out before anyone waits for them.

use chunkfs_fetch::{
    BLOB_MEDIA_TYPE, BlobDescriptor, CONFIG_MEDIA_TYPE, ConvertedManifest, Descriptor,
    INDEX_MEDIA_TYPE, ImageSource as _, MANIFEST_MEDIA_TYPE, ManifestSelector,
};
use chunkfs_testkit::{LoggedRequest, RangeServer, Redirect};

use crate::support::{REPOSITORY, add, read, source};

/// Puts an image with three data blobs on a server; returns its index and its data blobs.
fn image(server: &RangeServer) -> (BlobDescriptor, Vec<BlobDescriptor>) {
    let index = add(server, 500).0;
    let blobs: Vec<_> = [1000, 2000, 3000].map(|len| add(server, len).0).into();
    let manifest = ConvertedManifest {
        config: Descriptor::new(CONFIG_MEDIA_TYPE, &add(server, 10).0),
        index: Descriptor::new(INDEX_MEDIA_TYPE, &index),
        blobs: blobs.iter().map(|blob| Descriptor::new(BLOB_MEDIA_TYPE, blob)).collect(),
        fragments: Vec::new(),
        annotations: Default::default(),
    };
    let json = manifest.to_json();
    server.add_manifest(REPOSITORY, "v1", MANIFEST_MEDIA_TYPE, json.into());
    (index, blobs)
}

fn is_resolving(request: &&LoggedRequest) -> bool {
    request.range.as_deref() == Some("bytes=0-0") && request.status == 307
}

#[tokio::test]
async fn the_first_redirect_has_the_locations_of_all_blobs_asked_for() {
    for hop_count in [0, 2] {
        let (registry, storage) = (RangeServer::start().await, RangeServer::start().await);
        let (index, blobs) = image(&registry);
        let mut redirect = Redirect::default();
        redirect.hop_count = hop_count;
        registry.redirect_blobs_to(&storage, redirect);
        let source = source(&registry);
        source.fetch_manifest(&ManifestSelector::Tag("v1".to_owned())).await.unwrap();
        read(&source, &index, 0..index.len).await.unwrap();
        while registry.requests().iter().filter(is_resolving).count() < 3 {
            tokio::task::yield_now().await;
        }
        // Manifest, index, and where each of three blobs is.
        assert_eq!(registry.requests().len(), 5);
        while source.counters().redirects < 4 {
            tokio::task::yield_now().await;
        }
        registry.clear_requests();
        for _ in 0..2 {
            for blob in &blobs {
                read(&source, blob, 5..100).await.unwrap();
            }
        }
        // Only hops on the storage's side are left, and only for the first read of each blob.
        assert_eq!(registry.requests().len(), 0);
        let hops =
            storage.requests().iter().filter(|request| request.path.starts_with("/hop")).count();
        assert_eq!(hops, 4 * hop_count as usize);
    }
}

#[tokio::test]
async fn a_registry_that_serves_blobs_itself_is_asked_nothing_ahead() {
    let server = RangeServer::start().await;
    let (index, blobs) = image(&server);
    let source = source(&server);
    source.fetch_manifest(&ManifestSelector::Tag("v1".to_owned())).await.unwrap();
    read(&source, &index, 0..index.len).await.unwrap();
    read(&source, &blobs[1], 0..10).await.unwrap();
    // Manifest, index, one range: all that a mount and a small file take.
    assert_eq!(server.requests().len(), 3);
}
