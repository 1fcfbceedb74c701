//! Mirrors in front of a registry.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chunkfs_fetch::{
    BlobDescriptor, FetchError, ImageSource as _, ManifestSelector, Mirror, RegistryOptions,
    StaticCredentials, fetch_verified,
};
use chunkfs_testkit::{Authorization, Fault, RangeServer};

use crate::support::{REPOSITORY, add, options, read, source_with};

/// A registry, its mirror, and a blob that both have.
async fn servers() -> (RangeServer, RangeServer, BlobDescriptor, Bytes) {
    let (registry, mirror) = (RangeServer::start().await, RangeServer::start().await);
    let (blob, content) = add(&registry, 1000);
    add(&mirror, 1000);
    (registry, mirror, blob, content)
}

fn with_mirror(registry: &RangeServer, mirror: &RangeServer) -> RegistryOptions {
    options().with_mirror(registry.address().to_string(), Mirror::new(&mirror.url()).unwrap())
}

fn counts(registry: &RangeServer, mirror: &RangeServer) -> (usize, usize) {
    (registry.requests().len(), mirror.requests().len())
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_told_which_registry_is_meant() {
    let (registry, mirror, blob, content) = servers().await;
    mirror.add_manifest(REPOSITORY, "v1", "application/json", "{}".into());
    let source = source_with(&registry, with_mirror(&registry, &mirror));
    source.fetch_manifest(&ManifestSelector::Tag("v1".to_owned())).await.unwrap();
    assert_eq!(read(&source, &blob, 10..20).await.unwrap(), content.slice(10..20));
    assert_eq!(counts(&registry, &mirror), (0, 2));
    let ns = format!("ns={}", registry.address()).replace(':', "%3A");
    assert!(mirror.requests().iter().all(|request| request.query == ns), "{ns}");
}

#[tokio::test]
async fn a_dead_mirror_is_passed_over_by_the_sources_of_all_images() {
    let (registry, mirror, blob, content) = servers().await;
    let options = with_mirror(&registry, &mirror);
    drop(mirror);
    let source = source_with(&registry, options.clone());
    for _ in 0..3 {
        assert_eq!(read(&source, &blob, 10..20).await.unwrap(), content.slice(10..20));
    }
    assert_eq!(source.counters().mirror_failures, 1);
    let other = source_with(&registry, options);
    read(&other, &blob, 10..20).await.unwrap();
    assert_eq!(other.counters().mirror_failures, 0);
    assert_eq!(registry.requests().len(), 4);
}

#[tokio::test]
async fn a_failing_or_silent_mirror_costs_little() {
    for fault in [Fault::status(500), Fault::status(403), Fault::StallHead, Fault::Close] {
        let (registry, mirror, blob, content) = servers().await;
        mirror.set_script(move |_| vec![fault.clone()]);
        let options =
            with_mirror(&registry, &mirror).with_progress_timeout(Duration::from_millis(200));
        let source = source_with(&registry, options);
        assert_eq!(read(&source, &blob, 0..1000).await.unwrap(), content);
        let (registry_count, mirror_count) = counts(&registry, &mirror);
        assert_eq!(registry_count, 1);
        assert!(mirror_count <= 2, "{mirror_count}");
    }
}

#[tokio::test]
async fn a_mirror_that_lacks_a_blob_goes_on_being_asked() {
    let (registry, mirror, _, _) = servers().await;
    let (blob, content) = add(&registry, 500);
    let source = source_with(&registry, with_mirror(&registry, &mirror));
    for _ in 0..2 {
        assert_eq!(read(&source, &blob, 0..500).await.unwrap(), content);
    }
    assert_eq!(counts(&registry, &mirror), (2, 2));
}

#[tokio::test]
async fn damaged_bytes_of_a_mirror_are_read_around_its_cache_and_then_from_the_registry() {
    let (registry, mirror, blob, content) = servers().await;
    mirror.set_script(|_| vec![Fault::FlipBit { bit: 5 }]);
    let source = source_with(&registry, with_mirror(&registry, &mirror));
    assert_eq!(fetch_verified(&source, &blob, 1000).await.unwrap(), content);
    assert_eq!(counts(&registry, &mirror), (1, 2));
    let asked = |server: &RangeServer| {
        let requests = server.requests();
        requests.into_iter().map(|request| request.cache_control).collect::<Vec<_>>()
    };
    assert_eq!(asked(&mirror), [None, Some("no-cache".to_owned())]);
    assert_eq!(asked(&registry), [Some("no-cache".to_owned())]);
    // It is passed over for a while.
    read(&source, &blob, 0..10).await.unwrap();
    assert_eq!(counts(&registry, &mirror), (2, 2));
    registry.set_script(|_| vec![Fault::FlipBit { bit: 5 }]);
    let error = fetch_verified(&source, &blob, 1000).await.unwrap_err();
    assert!(matches!(error, FetchError::DigestMismatch { .. }), "{error}");
}

#[tokio::test]
async fn a_mirror_does_not_see_the_tokens_of_the_registry() {
    let (registry, mirror, blob, _) = servers().await;
    registry.set_authorization(Authorization::Basic { encoded: "dTpw".to_owned() });
    let credential = chunkfs_fetch::Credential::password("u", "p");
    let options = with_mirror(&registry, &mirror)
        .with_credentials(Arc::new(StaticCredentials::new(credential)));
    let source = source_with(&registry, options);
    mirror.remove_blob(REPOSITORY, blob.id);
    read(&source, &blob, 0..10).await.unwrap();
    read(&source, &blob, 0..10).await.unwrap();
    assert!(mirror.requests().iter().all(|request| !request.had_authorization));
    assert_eq!(counts(&registry, &mirror), (3, 2));
}

#[tokio::test]
async fn mirrors_are_read_from_the_hosts_files_of_containerd() {
    let (registry, mirror, blob, content) = servers().await;
    let folder = tempfile::tempdir().unwrap();
    let of_registry = folder.path().join(registry.address().to_string());
    std::fs::create_dir(&of_registry).unwrap();
    let text = format!("[host.\"{}\"]\ncapabilities = [\"pull\"]\n", mirror.url());
    std::fs::write(of_registry.join("hosts.toml"), text).unwrap();
    registry.add_manifest(REPOSITORY, "v1", "application/json", "{}".into());
    let source = source_with(&registry, options().with_hosts_folder(folder.path()));
    // This mirror may serve, but not say what a tag means.
    source.fetch_manifest(&ManifestSelector::Tag("v1".to_owned())).await.unwrap();
    assert_eq!(counts(&registry, &mirror), (1, 0));
    assert_eq!(read(&source, &blob, 0..1000).await.unwrap(), content);
    assert_eq!(counts(&registry, &mirror), (1, 1));
}
