//! Real registries and stores, named by environment variables.
//!
//! `CHUNKFS_TEST_REGISTRY` holds one or several of `HOST[:PORT]` or `USER:PASSWORD@HOST[:PORT]`,
//! separated by spaces. If `CHUNKFS_TEST_REGISTRY_CA` names a PEM file, they are talked to by HTTPS,
//! also on loopback, and its certificates are trusted. `CHUNKFS_TEST_STORES` holds empty places such
//! as `s3://BUCKET/PREFIX` in stores that compare versions in one step with the write, as all clouds
//! do; their settings come from the usual variables.

use std::sync::Arc;

use bytes::Bytes;
use chunkfs_fetch::{
    AnonymousCredentials, BlobContent, BlobDescriptor, BlobSource as _, Credential, Credentials,
    Descriptor, ImageSink as _, ImageSource as _, ManifestSelector, ObjectLayout, Priority,
    RegistryReference, RegistrySource, StaticCredentials, StoreOptions, conformance,
};
use chunkfs_format::BlobId;
use futures::TryStreamExt as _;
use tokio::runtime::Handle;

use crate::support::{content, descriptor, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_registry_takes_and_serves_an_image() {
    let Ok(registries) = std::env::var("CHUNKFS_TEST_REGISTRY") else {
        eprintln!("skipped: CHUNKFS_TEST_REGISTRY names no registry");
        return;
    };
    for registry in registries.split_whitespace() {
        let (credentials, host): (Arc<dyn Credentials>, _) = match registry.rsplit_once('@') {
            Some((secret, host)) => {
                let (username, password) = secret.split_once(':').expect("USER:PASSWORD@HOST");
                let credential = Credential::password(username, password);
                (Arc::new(StaticCredentials::new(credential)), host)
            }
            None => (Arc::new(AnonymousCredentials), registry),
        };
        round_trip(host, credentials).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_store_takes_and_serves_a_layout() {
    let Ok(stores) = std::env::var("CHUNKFS_TEST_STORES") else {
        eprintln!("skipped: CHUNKFS_TEST_STORES names no store");
        return;
    };
    for store in stores.split_whitespace() {
        let variables = std::env::vars_os();
        let settings = variables.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let options = StoreOptions::new(Handle::current()).with_settings(settings);
        let layout = ObjectLayout::connect(&store.parse().unwrap(), options).unwrap();
        crate::stores::fill(&layout).await;
        conformance::run(&layout, &crate::stores::blobs()).await;
        let content = content((20 << 20) + 1);
        let blob = descriptor(&content);
        layout.put_blob(&blob, BlobContent::Bytes(content.clone())).await.unwrap();
        assert!(chunkfs_fetch::fetch_verified(&layout, &blob, blob.len).await.unwrap() == content);
        crate::stores::tags_are_kept(&layout, 8).await;
    }
}

async fn round_trip(host: &str, credentials: Arc<dyn Credentials>) {
    let options = options().with_credentials(credentials);
    let mut options = options.with_progress_timeout(std::time::Duration::from_secs(10));
    if let Some(path) = std::env::var_os("CHUNKFS_TEST_REGISTRY_CA") {
        let pem = std::fs::read(path).unwrap();
        options = options.with_root_certificates_pem(pem).with_loopback_https(true);
    }
    let source = |repository: &str| {
        let tag = ManifestSelector::Tag("v1".to_owned());
        let reference = RegistryReference::new(host, repository, tag).unwrap();
        RegistrySource::new(reference, options.clone()).unwrap()
    };
    let first = source("chunkfs-test/first");
    let mut blobs: Vec<(BlobDescriptor, Bytes)> = Vec::new();
    for len in [0, 1, 65_536, 5_000_003] {
        let content = content(len);
        let blob = descriptor(&content);
        first.put_blob(&blob, BlobContent::Bytes(content.clone())).await.unwrap();
        assert!(first.has_blob(&blob).await.unwrap());
        blobs.push((blob, content));
    }
    conformance::run(&first, &blobs).await;

    let second = source("chunkfs-test/second");
    let (blob, whole) = blobs.last().unwrap();
    assert!(second.mount_blob(blob, "chunkfs-test/first").await.unwrap(), "{host} cannot mount");
    assert!(second.has_blob(blob).await.unwrap());
    let pieces: Vec<Bytes> = second.stream_blob(blob).try_collect().await.unwrap();
    assert_eq!(pieces.concat(), *whole);
    let absent = BlobDescriptor { id: BlobId::of(b"absent"), len: 6 };
    assert!(!second.has_blob(&absent).await.unwrap());

    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let layer = Descriptor::new("application/octet-stream", blob);
    let json = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type, "config": layer, "layers": [layer],
    });
    let bytes = Bytes::from(json.to_string());
    let tag = ManifestSelector::Tag("v1".to_owned());
    let id = second.put_manifest(&tag, media_type, bytes.clone()).await.unwrap();
    for selector in [tag, ManifestSelector::Digest(id)] {
        let stored = second.fetch_manifest(&selector).await.unwrap();
        assert_eq!((stored.id, stored.bytes), (id, bytes.clone()));
    }
    let larger = BlobDescriptor { len: blob.len * 2, ..*blob };
    let read = second.read_range(&larger, blob.len + 1..blob.len + 2, Priority::Demand).await;
    assert!(matches!(read, Err(chunkfs_fetch::FetchError::OutOfRange { .. })), "{read:?}");
}
