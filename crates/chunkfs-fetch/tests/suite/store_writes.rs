//! Writing to an object store that fails now and then.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chunkfs_fetch::{
    BlobContent, FetchError, ImageSink as _, ImageSource as _, ObjectLayout, StoreOptions,
    fetch_verified,
};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};
use tokio::runtime::Handle;

use crate::stores::tag;
use crate::support::{content, descriptor};

/// What happens to one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    /// Nothing is written.
    Lost,
    /// All is written, but the writer does not learn it.
    Unconfirmed,
}

fn cut() -> Error {
    Error::Generic { store: "Flaky", source: "the cable was cut".into() }
}

/// A store in memory whose next writes meet the given fates.
#[derive(Debug, Default)]
struct Flaky {
    inner: InMemory,
    fates: Arc<Mutex<Vec<Fate>>>,
    writes: Mutex<Vec<String>>,
    /// Whether writes that compare versions are refused.
    is_simple: bool,
}

impl Flaky {
    /// `fates` are met from the last to the first.
    fn new(fates: &[Fate]) -> Arc<Self> {
        Arc::new(Self { fates: Arc::new(Mutex::new(fates.to_vec())), ..Self::default() })
    }

    fn note(&self, what: &str, location: &Path) {
        let name = location.filename().unwrap().get(..5).unwrap_or_default().to_owned();
        self.writes.lock().unwrap().push(format!("{what} {name}"));
    }

    fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.writes.lock().unwrap())
    }
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flaky")
    }
}

#[async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let what = match options.mode {
            PutMode::Overwrite => "put",
            PutMode::Create => "create",
            PutMode::Update(_) => "update",
        };
        self.note(what, location);
        if self.is_simple && options.mode != PutMode::Overwrite {
            let (operation, implementer) = (what.to_owned(), self.to_string());
            return Err(Error::NotImplemented { operation, implementer });
        }
        let fate = self.fates.lock().unwrap().pop().unwrap_or(Fate::Good);
        if fate == Fate::Lost {
            return Err(cut());
        }
        let result = self.inner.put_opts(location, payload, options).await;
        if fate == Fate::Unconfirmed { Err(cut()) } else { result }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.note("parts", location);
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(FlakyUpload { inner, fates: Arc::clone(&self.fates) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// An upload that meets its fate when its parts are to be put together.
#[derive(Debug)]
struct FlakyUpload {
    inner: Box<dyn MultipartUpload>,
    fates: Arc<Mutex<Vec<Fate>>>,
}

#[async_trait]
impl MultipartUpload for FlakyUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        self.inner.put_part(payload)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fate = self.fates.lock().unwrap().pop();
        match fate {
            None | Some(Fate::Good) => self.inner.complete().await,
            Some(_) => Err(cut()),
        }
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

fn layout(store: &Arc<Flaky>) -> ObjectLayout {
    let options = StoreOptions::new(Handle::current()).with_backoff(Duration::from_millis(2));
    ObjectLayout::new(Arc::clone(store) as _, "x", "memory://x", options)
}

#[tokio::test]
async fn a_lost_write_is_tried_four_times_more() {
    let content = content(100);
    let blob = descriptor(&content);
    let name = format!("put {}", &blob.id.to_hex()[..5]);
    let store = Flaky::new(&[Fate::Lost; 4]);
    let layout = layout(&store);
    layout.put_blob(&blob, BlobContent::Bytes(content.clone())).await.unwrap();
    assert_eq!(store.take_writes(), [name.as_str(); 5]);
    assert_eq!(fetch_verified(&layout, &blob, 100).await.unwrap(), content);
    *store.fates.lock().unwrap() = vec![Fate::Lost; 5];
    let error = layout.put_blob(&blob, BlobContent::Bytes(content)).await.unwrap_err();
    assert!(matches!(error, FetchError::Transport { .. }), "{error}");
    assert_eq!(store.take_writes(), [name.as_str(); 5]);
}

#[tokio::test]
async fn an_upload_in_parts_is_begun_anew() {
    let content = content((8 << 20) + 1);
    let blob = descriptor(&content);
    let name = format!("parts {}", &blob.id.to_hex()[..5]);
    let store = Flaky::new(&[Fate::Lost]);
    let layout = layout(&store);
    layout.put_blob(&blob, BlobContent::Bytes(content.clone())).await.unwrap();
    assert_eq!(store.take_writes(), [name.as_str(); 2]);
    assert!(fetch_verified(&layout, &blob, blob.len).await.unwrap() == content);
}

#[tokio::test]
async fn a_tag_that_was_written_but_not_confirmed_is_found() {
    let store = Flaky::new(&[Fate::Unconfirmed, Fate::Good, Fate::Unconfirmed, Fate::Good]);
    let layout = layout(&store);
    let manifest = Bytes::from_static(b"{}");
    let id = layout.put_manifest(&tag("v1"), "application/x", manifest).await.unwrap();
    assert_eq!(layout.fetch_manifest(&tag("v1")).await.unwrap().id, id);
    let name = format!("put {}", &id.to_hex()[..5]);
    let expected = [&*name, "create oci-l", "create oci-l", "create index", "create index"];
    assert_eq!(store.take_writes(), expected);
}

#[tokio::test]
async fn where_versions_cannot_be_compared_the_last_writer_wins() {
    let store = Arc::new(Flaky { is_simple: true, ..Flaky::default() });
    let layout = layout(&store);
    let id = layout.put_manifest(&tag("v1"), "application/x", "{}".into()).await.unwrap();
    assert_eq!(layout.fetch_manifest(&tag("v1")).await.unwrap().id, id);
    let name = format!("put {}", &id.to_hex()[..5]);
    let expected = [&*name, "create oci-l", "put oci-l", "create index", "put index"];
    assert_eq!(store.take_writes(), expected);
}
