//! Images of a registry: the requests of opening, damage on the way, and servers that vanish.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chunkfs_fetch::{BlobSource as _, FetchError, ImageSource as _, MemorySource, Priority};
use chunkfs_fetch::{MANIFEST_MEDIA_TYPE, RegistryOptions};
use chunkfs_format::BlobId;
use chunkfs_image::{Cache, CacheOptions, Image, ImageReference, OpenError, OpenOptions};
use chunkfs_testkit::{Fault, RangeServer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use crate::support::{SHAPES, chain, file, manifest, memory_cache, plain_options, tag, until};

const DEADLINE: Duration = Duration::from_secs(20);

/// Copies an image to a new server.
async fn serve(store: &MemorySource) -> RangeServer {
    let server = RangeServer::start().await;
    for descriptor in manifest(store).await.descriptors() {
        let blob = descriptor.blob().unwrap();
        let bytes = store.read_range(&blob, 0..blob.len, Priority::Demand).await.unwrap();
        server.add_blob("app", bytes);
    }
    let stored = store.fetch_manifest(&tag()).await.unwrap();
    server.add_manifest("app", "image", MANIFEST_MEDIA_TYPE, stored.bytes);
    server
}

fn reference(address: SocketAddr, suffix: &str) -> ImageReference {
    format!("docker://{address}/app{suffix}").parse().unwrap()
}

fn options() -> OpenOptions {
    let registry = RegistryOptions::new(Handle::current());
    let registry = registry.with_retries_max(1).with_backoff(Duration::from_millis(1));
    plain_options().with_registry(registry.with_deadline(DEADLINE))
}

async fn open(server: &RangeServer, suffix: &str) -> Result<Image, OpenError> {
    let cache = memory_cache(Handle::current());
    Image::open(&reference(server.address(), suffix), &cache, options()).await
}

/// The method and path of each request so far.
fn log(server: &RangeServer) -> Vec<(String, String)> {
    server.requests().into_iter().map(|request| (request.method, request.path)).collect()
}

fn get(path: impl std::fmt::Display) -> (String, String) {
    ("GET".to_owned(), format!("/v2/app/{path}"))
}

#[tokio::test]
async fn opening_is_one_manifest_and_one_index_request_and_nothing_else() {
    let server = serve(&SHAPES.1).await;
    let image = open(&server, ":image").await.unwrap();
    let index = image.manifest().index.blob().unwrap();
    assert_eq!(log(&server), [get("manifests/image"), get(format_args!("blobs/{}", index.id))]);
    let stored = SHAPES.1.fetch_manifest(&tag()).await.unwrap();
    assert_eq!(server.bytes_sent(), stored.bytes.len() as u64 + index.len);

    // The tree needs no further request; one chunk needs one.
    server.clear_requests();
    for dirent in image.index().dirents(&image.index().root(), 0) {
        assert!(image.index().inode(dirent.inode).is_some());
    }
    assert_eq!(log(&server), []);
    let file = file(&image, b"chunk");
    assert_eq!(image.read(&file, 5, 5).await.unwrap(), SHAPES.0[&b"chunk"[..]][5..10]);
    assert_eq!(server.requests().len(), 1);
    assert_eq!(server.bytes_sent(), crate::support::stored_len(&image, &file, 0..file.len));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_because_a_server_gives_no_parts_is_kept() {
    let server = serve(&SHAPES.1).await;
    server.set_script(|_| vec![Fault::IgnoreRange]);
    let folder = tempfile::tempdir().unwrap();
    let cache = || {
        let options = CacheOptions::new(Handle::current()).with_folder(folder.path());
        Cache::open(options.with_memory_len_max(0))
    };
    let first = cache();
    // Not in memory, so the blob lies in the cache's folder meanwhile.
    let registry = RegistryOptions::new(Handle::current()).with_whole_blobs_len_max(0);
    let options = plain_options().with_registry(registry);
    let name = reference(server.address(), ":image");
    let image = Image::open(&name, &first, options.clone()).await.unwrap();
    server.clear_requests();
    let bytes = image.read(&file(&image, b"chunk"), 5, 5).await.unwrap();
    assert_eq!(bytes, SHAPES.0[&b"chunk"[..]][5..10]);
    until(|| image.is_complete().unwrap()).await;
    assert_eq!(server.requests().len(), 1, "one transfer of the one blob");
    drop(image);
    first.flush().await;

    let image = Image::open(&name, &cache(), options).await.unwrap();
    server.clear_requests();
    for (name, content) in &SHAPES.0 {
        assert_eq!(image.read(&file(&image, name), 0, u64::MAX).await.unwrap(), content);
    }
    assert_eq!(log(&server), []);
}

#[tokio::test]
async fn a_digest_pins_the_image() {
    let server = serve(&SHAPES.1).await;
    let id = SHAPES.1.fetch_manifest(&tag()).await.unwrap().id;
    let image = open(&server, &format!("@{id}")).await.unwrap();
    assert_eq!(image.manifest_id(), id);
    assert_eq!(log(&server)[0], get(format_args!("manifests/{id}")));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_manifest_with_another_digest_is_refused() {
    let server = serve(&SHAPES.1).await;
    let pinned = BlobId::of(b"pinned");
    let stored = SHAPES.1.fetch_manifest(&tag()).await.unwrap();
    server.add_manifest("app", &pinned.to_string(), MANIFEST_MEDIA_TYPE, stored.bytes);
    let error = open(&server, &format!("@{pinned}")).await.unwrap_err();
    let OpenError::Manifest { image, source } = &error else { panic!("{error}") };
    assert_eq!(*image, reference(server.address(), &format!("@{pinned}")).to_string());
    let FetchError::DigestMismatch { expected, actual } = source else { panic!("{source}") };
    assert_eq!((*expected, *actual), (pinned, stored.id));
}

#[tokio::test]
async fn an_index_with_a_flipped_byte_is_refused_and_the_image_named() {
    let server = serve(&SHAPES.1).await;
    let flip = Fault::FlipBit { bit: 1_000 };
    // Once is mended by asking again.
    server.push_fault(flip.clone());
    open(&server, ":image").await.unwrap();
    assert_eq!(server.requests().len(), 3);
    for _ in 0..4 {
        server.push_fault(flip.clone());
    }
    let error = open(&server, ":image").await.unwrap_err();
    let OpenError::Index { source: FetchError::DigestMismatch { .. }, .. } = &error else {
        panic!("{error:?}")
    };
    let name = reference(server.address(), ":image").to_string();
    assert_eq!(error.to_string(), format!("the index of {name} cannot be fetched"));
}

#[tokio::test]
async fn an_unknown_image_is_not_found() {
    let server = serve(&SHAPES.1).await;
    let error = open(&server, ":other").await.unwrap_err();
    assert!(error.is_not_found(), "{}", chain(&error));
    // Asked once more, as the options say: it might have been a mistake.
    assert_eq!(log(&server), [get("manifests/other"), get("manifests/other")]);
}

#[tokio::test]
async fn dropping_a_read_closes_its_connection() {
    let server = serve(&SHAPES.1).await;
    let image = open(&server, ":image").await.unwrap();
    let three = file(&image, b"three-chunks");
    server.clear_requests();
    server.push_fault(Fault::Stall { after: 10 });
    let read = tokio::spawn(image.read(&three, 0, u64::MAX));
    until(|| server.bytes_sent() == 10).await;
    read.abort();
    assert!(read.await.unwrap_err().is_cancelled());
    // The next read waits for nothing.
    let bytes = image.read(&three, 0, u64::MAX).await.unwrap();
    assert_eq!(bytes, SHAPES.0[&b"three-chunks"[..]]);
    assert_eq!(server.requests().len(), 2);
}

/// Forwards connections to a server that may come and go, so that its address stays the same.
struct Forwarder {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    task: tokio::task::JoinHandle<()>,
}

impl Forwarder {
    async fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let targets = target.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = *targets.lock().unwrap();
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { address, target, task }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_server_that_is_unplugged_is_an_error_in_time_until_it_is_back() {
    let server = serve(&SHAPES.1).await;
    let forwarder = Forwarder::new(server.address()).await;
    let cache = memory_cache(Handle::current());
    let image = Image::open(&reference(forwarder.address, ":image"), &cache, options()).await;
    let image = image.unwrap();
    let three = file(&image, b"three-chunks");
    server.clear_requests();
    server.push_fault(Fault::Stall { after: 1_000 });
    let read = tokio::spawn(image.read(&three, 0, u64::MAX));
    until(|| server.bytes_sent() == 1_000).await;
    drop(server);
    let result = tokio::time::timeout(DEADLINE, read).await.expect("in time").unwrap();
    let error = result.unwrap_err();
    assert!(error.is_retryable() && !error.is_corrupt(), "{}", chain(&error));
    let again = tokio::time::timeout(DEADLINE, image.read(&three, 0, 1)).await.expect("in time");
    assert!(again.unwrap_err().is_retryable());

    let server = serve(&SHAPES.1).await;
    *forwarder.target.lock().unwrap() = server.address();
    let bytes = image.read(&three, 0, u64::MAX).await.unwrap();
    assert_eq!(bytes, SHAPES.0[&b"three-chunks"[..]]);
    assert_eq!(server.requests().len(), 1);
}
