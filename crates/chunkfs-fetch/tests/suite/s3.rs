//! An S3 server in this process, which checks signatures.

use std::net::SocketAddr;
use std::path::Path;

use chunkfs_fetch::{FetchError, ObjectLayout, StoreOptions, conformance};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::{S3Auth, SimpleAuth};
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::stores::{blobs, fill, tag, tags_are_kept};

/// Serves a folder with one bucket; ends with the runtime of the test.
pub(crate) async fn start(folder: &Path, auth: impl S3Auth) -> SocketAddr {
    std::fs::create_dir(folder.join("bucket")).unwrap();
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).unwrap());
    service.set_auth(auth);
    let service = service.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn start_with_key(folder: &Path) -> SocketAddr {
    start(folder, SimpleAuth::from_single("key", "secret-key")).await
}

fn connect(address: SocketAddr, secret: &str) -> ObjectLayout {
    let settings = [
        ("AWS_ENDPOINT", format!("http://{address}")),
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_OF_ANOTHER_VERSION", "ignored".to_owned()),
        ("PATH", "/bin".to_owned()),
    ];
    let options = StoreOptions::new(Handle::current()).with_settings(settings);
    ObjectLayout::connect(&"s3://bucket/images/x".parse().unwrap(), options).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_s3_server_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let layout = connect(start_with_key(folder.path()).await, "secret-key");
    fill(&layout).await;
    conformance::run(&layout, &blobs()).await;
    for name in ["index.json", "oci-layout"] {
        assert!(!folder.path().join("bucket/images/x").join(name).exists());
    }
    chunkfs_fetch::ImageSink::put_manifest(&layout, &tag("v1"), "application/x", "{}".into())
        .await
        .unwrap();
    for name in ["index.json", "oci-layout"] {
        assert!(folder.path().join("bucket/images/x").join(name).exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_of_a_real_s3_server_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let layout = connect(start_with_key(folder.path()).await, "secret-key");
    // This server compares versions, but not in one step with the write: one writer at a time.
    tags_are_kept(&layout, 1).await;
}

#[tokio::test]
async fn wrong_keys_are_told_without_their_value() {
    let folder = tempfile::tempdir().unwrap();
    let layout = connect(start_with_key(folder.path()).await, "secret-wrong");
    let error = layout.resolve(None).await.unwrap_err();
    assert!(matches!(error, FetchError::Forbidden { .. }), "{error:?}");
    let text = format!("{layout:?} {}", crate::support::whole_text(&error));
    assert!(!text.contains("secret"), "{text}");
    assert!(text.contains("s3://bucket/images/x"), "{text}");
    assert!(text.contains("(SignatureDoesNotMatch)"), "{text}");
}

#[tokio::test]
async fn an_unreachable_store_is_an_error_soon() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = connect(address, "secret-key").resolve(None).await.unwrap_err();
    assert!(matches!(error, FetchError::Transport { .. }), "{error:?}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn stores_without_their_feature_say_so() {
    let reference = "gs://bucket/x".parse().unwrap();
    let result = ObjectLayout::connect(&reference, StoreOptions::new(Handle::current()));
    if !cfg!(feature = "gcs") {
        let error = result.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot use gs://bucket/x: this build has no support for gs:// in object_store"
        );
    }
}
