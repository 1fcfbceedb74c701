use bytes::Bytes;
use chunkfs_fetch::{BlobContent, BlobDescriptor, ImageSink, MemorySource, OciLayout, conformance};
use chunkfs_testkit::{Authorization, Fault, RangeServer, Redirect};
use tokio::runtime::Handle;

use crate::support::{REPOSITORY, content, descriptor, options, source, source_with};

fn blobs() -> Vec<(BlobDescriptor, Bytes)> {
    let contents = [0, 1, 2, 4096, 65_536, 300_001].map(content);
    contents.into_iter().map(|content| (descriptor(&content), content)).collect()
}

async fn fill(sink: &dyn ImageSink) {
    for (blob, content) in blobs() {
        sink.put_blob(&blob, BlobContent::Bytes(content)).await.unwrap();
    }
}

fn serve(server: &RangeServer) {
    for (_, content) in blobs() {
        server.add_blob(REPOSITORY, content);
    }
}

#[tokio::test]
async fn memory_conforms() {
    let source = MemorySource::new();
    fill(&source).await;
    conformance::run(&source, &blobs()).await;
}

#[tokio::test]
async fn a_layout_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(folder.path().join("layout"), Handle::current()).unwrap();
    fill(&layout).await;
    conformance::run(&layout, &blobs()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_conforms() {
    let server = RangeServer::start().await;
    serve(&server);
    conformance::run(&source(&server), &blobs()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_with_tokens_and_redirects_conforms() {
    let (server, storage) = (RangeServer::start().await, RangeServer::start().await);
    serve(&server);
    server.set_authorization(Authorization::Bearer {
        expires_in: Some(300),
        encoded: None,
        refresh_token: None,
    });
    server.redirect_blobs_to(&storage, Redirect::default());
    conformance::run(&source(&server), &blobs()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_ignores_ranges_conforms() {
    for whole_blobs_len_max in [0, 70_000, 1 << 20] {
        let server = RangeServer::start().await;
        serve(&server);
        server.set_script(|_| vec![Fault::IgnoreRange]);
        let options = options().with_whole_blobs_len_max(whole_blobs_len_max);
        conformance::run(&source_with(&server, options), &blobs()).await;
    }
}

#[test]
fn sources_work_on_another_executor() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let server = runtime.block_on(RangeServer::start());
    serve(&server);
    let folder = tempfile::tempdir().unwrap();
    let layout = OciLayout::create(folder.path(), runtime.handle().clone()).unwrap();
    let registry = runtime.block_on(async { source(&server) });
    futures::executor::block_on(async {
        fill(&layout).await;
        conformance::run(&layout, &blobs()).await;
        conformance::run(&registry, &blobs()).await;
    });
}
