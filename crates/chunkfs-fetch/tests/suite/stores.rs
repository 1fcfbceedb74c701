//! Layouts in object stores and on web servers.

use std::sync::Arc;

use bytes::Bytes;
use chunkfs_fetch::{
    BlobContent, BlobDescriptor, FetchError, HttpLayout, ImageSink, ImageSource, ManifestSelector,
    ObjectLayout, Priority, StaticCredentials, StoreOptions, conformance,
};
use chunkfs_testkit::{Authorization, Fault, RangeServer};
use futures::stream::{self, StreamExt as _};
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use tokio::runtime::Handle;

use crate::support::{content, descriptor, options};

pub(crate) fn blobs() -> Vec<(BlobDescriptor, Bytes)> {
    let contents = [0, 1, 4096, 65_536, 300_001].map(content);
    contents.into_iter().map(|content| (descriptor(&content), content)).collect()
}

pub(crate) async fn fill(sink: &dyn ImageSink) {
    for (blob, content) in blobs() {
        assert!(!sink.has_blob(&blob).await.unwrap());
        sink.put_blob(&blob, BlobContent::Bytes(content)).await.unwrap();
        assert!(sink.has_blob(&blob).await.unwrap());
        assert!(sink.mount_blob(&blob, "anywhere").await.unwrap());
    }
}

pub(crate) fn tag(tag: &str) -> ManifestSelector {
    ManifestSelector::Tag(tag.to_owned())
}

fn in_memory() -> ObjectLayout {
    object_layout(Arc::new(InMemory::new()))
}

fn object_layout(store: Arc<dyn object_store::ObjectStore>) -> ObjectLayout {
    ObjectLayout::new(store, "a/b", "memory://a/b", StoreOptions::new(Handle::current()))
}

fn http_layout(server: &RangeServer) -> HttpLayout {
    let reference = format!("{}/files/images/x", server.url()).parse().unwrap();
    HttpLayout::new(&reference, options()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_stores_conform() {
    let layout = in_memory();
    fill(&layout).await;
    conformance::run(&layout, &blobs()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_servers_conform() {
    let server = RangeServer::start().await;
    let layout = http_layout(&server);
    fill(&layout).await;
    conformance::run(&layout, &blobs()).await;
}

/// Checks what tags do; with several writers at once on stores that compare versions.
pub(crate) async fn tags_are_kept<L: ImageSink + ImageSource>(layout: &L, writers_max: usize) {
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let json = |number: usize| Bytes::from(format!(r#"{{"schemaVersion":2,"number":{number}}}"#));
    assert!(layout.fetch_manifest(&tag("v0")).await.unwrap_err().is_not_found());
    let names: Vec<_> = (0..8).map(|number| tag(&format!("v{number}"))).collect();
    let puts = names.iter().enumerate();
    let puts = puts.map(|(number, name)| layout.put_manifest(name, media_type, json(number)));
    let ids: Vec<_> = stream::iter(puts).buffered(writers_max).map(Result::unwrap).collect().await;
    for (number, name) in names.iter().enumerate() {
        let stored = layout.fetch_manifest(name).await.unwrap();
        assert_eq!((stored.id, stored.bytes), (ids[number], json(number)));
        assert_eq!(stored.media_type.as_deref(), Some(media_type));
    }
    layout.put_manifest(&names[0], media_type, json(9)).await.unwrap();
    assert_eq!(layout.fetch_manifest(&names[0]).await.unwrap().bytes, json(9));
    let old = layout.fetch_manifest(&ManifestSelector::Digest(ids[0])).await.unwrap();
    assert_eq!(old.bytes, json(0));
    let error = layout.put_manifest(&names[0], media_type, "not json".into()).await.unwrap_err();
    assert!(matches!(error, FetchError::InvalidManifest { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_of_object_stores_are_kept() {
    tags_are_kept(&in_memory(), 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_of_web_servers_are_kept() {
    let server = RangeServer::start().await;
    tags_are_kept(&http_layout(&server), 8).await;
}

#[tokio::test]
async fn the_only_manifest_needs_no_name() {
    let layout = in_memory();
    assert!(layout.resolve(None).await.unwrap_err().is_not_found());
    let id = layout.put_manifest(&tag("a"), "application/json", "{}".into()).await.unwrap();
    assert_eq!(layout.resolve(None).await.unwrap(), ManifestSelector::Digest(id));
    assert_eq!(layout.resolve(Some(&tag("z"))).await.unwrap(), tag("z"));
    layout.put_manifest(&tag("b"), "application/json", "{ }".into()).await.unwrap();
    let error = layout.resolve(None).await.unwrap_err();
    assert!(matches!(error, FetchError::Ambiguous { count: 2, .. }), "{error}");
}

#[tokio::test]
async fn the_stored_form_is_an_oci_layout_that_is_written_in_order() {
    let server = RangeServer::start().await;
    let layout = http_layout(&server);
    let (blob, bytes) = blobs().remove(2);
    layout.put_blob(&blob, BlobContent::Bytes(bytes.clone())).await.unwrap();
    let id = layout.put_manifest(&tag("v1"), "application/x", "{}".into()).await.unwrap();
    let requests = server.requests();
    let writes = requests.iter().filter(|request| request.method == "PUT");
    let paths: Vec<_> = writes.map(|request| request.path.as_str()).collect();
    let blob_path =
        |id: chunkfs_format::BlobId| format!("/files/images/x/blobs/sha256/{}", id.to_hex());
    let expected = [
        blob_path(blob.id),
        blob_path(id),
        "/files/images/x/oci-layout".to_owned(),
        "/files/images/x/index.json".to_owned(),
    ];
    assert_eq!(paths, expected);
    // Any other layout would do, too: the same files in memory.
    let store = InMemory::new();
    for path in &expected {
        let bytes = server.file(path).unwrap();
        let key = path.replace("/files/images/x", "a/b");
        store.put(&key.as_str().into(), bytes.into()).await.unwrap();
    }
    let copy = object_layout(Arc::new(store));
    assert_eq!(copy.fetch_manifest(&tag("v1")).await.unwrap().id, id);
    conformance::run(&copy, &[(blob, bytes)]).await;
}

#[tokio::test]
async fn a_small_file_of_a_web_layout_is_four_requests_and_resumed_if_cut() {
    let server = RangeServer::start().await;
    let layout = http_layout(&server);
    fill(&layout).await;
    layout.put_manifest(&tag("v1"), "application/x", "{}".into()).await.unwrap();
    server.clear_requests();
    let layout = http_layout(&server);
    layout.fetch_manifest(&tag("v1")).await.unwrap();
    let (blob, content) = blobs().remove(4);
    server.push_fault(Fault::CutBody { after: 100 });
    let bytes = chunkfs_fetch::BlobSource::read_range(&layout, &blob, 10..1000, Priority::Demand);
    assert_eq!(bytes.await.unwrap(), content.slice(10..1000));
    let requests = server.requests();
    let asked: Vec<_> = requests
        .iter()
        .map(|request| (request.range.as_deref(), request.cache_control.as_deref()))
        .collect();
    let (index, manifest) = ((None, Some("no-cache")), (None, None));
    let ranges = [(Some("bytes=10-999"), None), (Some("bytes=110-999"), None)];
    assert_eq!(asked, [index, manifest, ranges[0], ranges[1]]);
}

#[tokio::test]
async fn web_servers_may_want_a_password() {
    let server = RangeServer::start().await;
    server.set_authorization(Authorization::Basic { encoded: "dTpw".to_owned() });
    let error = http_layout(&server).resolve(None).await.unwrap_err();
    assert!(matches!(error, FetchError::Unauthorized { .. }), "{error}");
    let credential = chunkfs_fetch::Credential::password("u", "p");
    let options = options().with_credentials(Arc::new(StaticCredentials::new(credential)));
    let reference = format!("{}/files/x", server.url()).parse().unwrap();
    let layout = HttpLayout::new(&reference, options).unwrap();
    fill(&layout).await;
}

#[tokio::test]
async fn content_that_does_not_fit_its_descriptor_is_refused() {
    let layout = in_memory();
    let (mut blob, bytes) = blobs().remove(2);
    let other = Bytes::from(vec![7; bytes.len()]);
    let error = layout.put_blob(&blob, BlobContent::Bytes(other)).await.unwrap_err();
    assert!(matches!(error, FetchError::DigestMismatch { .. }), "{error}");
    blob.len += 1;
    let error = layout.put_blob(&blob, BlobContent::Bytes(bytes)).await.unwrap_err();
    assert!(matches!(error, FetchError::LenMismatch { .. }), "{error}");
    blob.len -= 1;
    assert!(!layout.has_blob(&blob).await.unwrap());
}

#[tokio::test]
async fn large_blobs_are_sent_in_parts_and_only_if_they_are_right() {
    let layout = in_memory();
    let bytes = content((20 << 20) + 1);
    let blob = descriptor(&bytes);
    let file = || {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        file
    };
    let wrong = BlobDescriptor { id: chunkfs_format::BlobId::of(b""), len: blob.len };
    let error = layout.put_blob(&wrong, BlobContent::File(file())).await.unwrap_err();
    assert!(matches!(error, FetchError::DigestMismatch { .. }), "{error}");
    assert!(!layout.has_blob(&wrong).await.unwrap());
    layout.put_blob(&blob, BlobContent::File(file())).await.unwrap();
    let stored = chunkfs_fetch::fetch_verified(&layout, &blob, blob.len).await.unwrap();
    assert!(stored == bytes);
}

#[test]
fn object_stores_work_on_another_executor() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let layout = {
        let _entered = runtime.enter();
        in_memory()
    };
    futures::executor::block_on(async {
        fill(&layout).await;
        conformance::run(&layout, &blobs()).await;
    });
}
