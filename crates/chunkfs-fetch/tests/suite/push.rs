use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chunkfs_fetch::{
    BlobContent, BlobDescriptor, Credential, FetchError, ImageSink as _, ImageSource as _,
    ManifestSelector, StaticCredentials,
};
use chunkfs_format::BlobId;
use chunkfs_testkit::{Authorization, Fault, RangeServer};

use crate::support::{REPOSITORY, content, descriptor, options, read, source, source_with};

fn file(content: &Bytes) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

#[tokio::test]
async fn what_is_pushed_can_be_read_back() {
    let server = RangeServer::start().await;
    server.set_authorization(Authorization::Bearer {
        expires_in: Some(300),
        encoded: Some("dTpw".to_owned()),
        refresh_token: None,
    });
    let credentials = StaticCredentials::new(Credential::password("u", "p"));
    let source = source_with(&server, options().with_credentials(Arc::new(credentials)));
    for len in [0, 1, 256 << 10, (256 << 10) + 1, 3 << 20] {
        let content = content(len);
        let blob = descriptor(&content);
        for blob_content in [BlobContent::File(file(&content)), BlobContent::Bytes(content.clone())]
        {
            server.remove_blob(REPOSITORY, blob.id);
            assert!(!source.has_blob(&blob).await.unwrap());
            source.put_blob(&blob, blob_content).await.unwrap();
            assert!(source.has_blob(&blob).await.unwrap());
            assert_eq!(server.blob(REPOSITORY, blob.id).unwrap(), content);
            assert_eq!(read(&source, &blob, 0..blob.len).await.unwrap(), content);
        }
    }
    // One for pull, one for push: all the blobs use the same.
    assert_eq!(source.counters().token_requests, 2);
    let manifest = Bytes::from_static(b"{\"schemaVersion\":2}");
    let tag = ManifestSelector::Tag("v1".to_owned());
    let id = source.put_manifest(&tag, "application/x-test", manifest.clone()).await.unwrap();
    assert_eq!(id, BlobId::of(&manifest));
    let stored = source.fetch_manifest(&tag).await.unwrap();
    assert_eq!((stored.id, stored.bytes), (id, manifest));
    assert_eq!(stored.media_type.as_deref(), Some("application/x-test"));
}

#[tokio::test]
async fn an_upload_is_one_post_and_one_put() {
    let server = RangeServer::start().await;
    let content = content(1000);
    let blob = descriptor(&content);
    source(&server).put_blob(&blob, BlobContent::Bytes(content)).await.unwrap();
    let requests = server.requests();
    let methods: Vec<_> = requests.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["POST", "PUT"]);
    assert_eq!(requests[1].bytes_received, 1000);
    assert!(requests[1].query.starts_with("_state=secret-state&digest=sha256"), "{requests:?}");
}

#[tokio::test]
async fn a_failed_upload_starts_again() {
    for method in ["POST", "PUT"] {
        let lost = (method == "PUT").then_some(Fault::status(404));
        for fault in [Fault::status(500), Fault::Close, Fault::StallHead].into_iter().chain(lost) {
            let server = RangeServer::start().await;
            let content = content(1000);
            let blob = descriptor(&content);
            let failures = std::sync::Mutex::new(2);
            server.set_script(move |request| {
                let mut failures = failures.lock().unwrap();
                if request.method != method || *failures == 0 {
                    return Vec::new();
                }
                *failures -= 1;
                vec![fault.clone()]
            });
            let options = options().with_progress_timeout(Duration::from_millis(250));
            let source = source_with(&server, options);
            source.put_blob(&blob, BlobContent::Bytes(content.clone())).await.unwrap();
            assert_eq!(server.blob(REPOSITORY, blob.id).unwrap(), content);
            assert_eq!(source.counters().retries, 2);
        }
    }
}

#[tokio::test]
async fn content_that_does_not_fit_its_descriptor_is_refused() {
    let server = RangeServer::start().await;
    let content = content(1000);
    let source = source(&server);
    let longer = BlobDescriptor { len: 1001, ..descriptor(&content) };
    let error = source.put_blob(&longer, BlobContent::Bytes(content.clone())).await.unwrap_err();
    assert!(matches!(error, FetchError::LenMismatch { .. }), "{error}");
    assert!(server.requests().is_empty());
    let other = BlobDescriptor { id: BlobId::of(b"other"), len: 1000 };
    let error = source.put_blob(&other, BlobContent::Bytes(content)).await.unwrap_err();
    let FetchError::Status { status: 400, detail, .. } = &error else { panic!("{error}") };
    assert_eq!(detail, "DIGEST_INVALID: said the test server");
    let selector = ManifestSelector::Digest(other.id);
    let error = source.put_manifest(&selector, "a/b", "{}".into()).await.unwrap_err();
    assert!(matches!(error, FetchError::DigestMismatch { .. }), "{error}");
}

#[tokio::test]
async fn blobs_are_mounted_if_the_registry_can() {
    let server = RangeServer::start().await;
    let content = content(1000);
    let blob = descriptor(&content);
    server.add_blob("library/base", content.clone());
    let source = source(&server);
    assert!(!source.mount_blob(&blob, "library/other").await.unwrap());
    assert!(!source.mount_blob(&blob, "../base").await.unwrap());
    assert!(source.mount_blob(&blob, "library/base").await.unwrap());
    assert_eq!(server.blob(REPOSITORY, blob.id).unwrap(), content);
    server.set_script(|_| vec![Fault::status(403)]);
    assert!(!source.mount_blob(&blob, "library/base").await.unwrap());
}

#[tokio::test]
async fn a_token_for_a_mount_names_both_repositories() {
    let server = RangeServer::start().await;
    server.set_authorization(Authorization::Bearer {
        expires_in: None,
        encoded: None,
        refresh_token: None,
    });
    let content = content(10);
    server.add_blob("library/base", content.clone());
    assert!(source(&server).mount_blob(&descriptor(&content), "library/base").await.unwrap());
    let requests = server.requests();
    let token = requests.iter().find(|request| request.path == "/token").unwrap();
    assert!(token.query.contains("library%2Ftest%3Apull%2Cpush"), "{}", token.query);
    assert!(token.query.contains("library%2Fbase%3Apull"), "{}", token.query);
}
