use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;
use chunkfs_fetch::{
    BlobContent, BlobDescriptor, FetchError, ImageSink as _, ImageSource as _, ManifestSelector,
    OciLayout,
};
use chunkfs_format::BlobId;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::runtime::Handle;

use crate::support::{content, descriptor};

const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

fn tag(tag: &str) -> ManifestSelector {
    ManifestSelector::Tag(tag.to_owned())
}

fn manifest(text: &str) -> Bytes {
    format!(r#"{{"schemaVersion":2,"artifactType":"a/b","x":"{text}"}}"#).into()
}

fn create(path: &Path) -> OciLayout {
    OciLayout::create(path, Handle::current()).unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_new_layout_has_the_files_of_the_specification() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    let layout = create(&path);
    assert_eq!(names(&path), ["blobs", "index.json", "index.json.lock", "oci-layout"]);
    let version = std::fs::read_to_string(path.join("oci-layout")).unwrap();
    assert_eq!(version, r#"{"imageLayoutVersion":"1.0.0"}"#);
    assert_eq!(layout.tags().await.unwrap(), Vec::<String>::new());
    OciLayout::open(&path, Handle::current()).unwrap();
    create(&path);
}

#[tokio::test]
async fn other_folders_are_not_layouts() {
    let folder = tempfile::tempdir().unwrap();
    let missing = OciLayout::open(folder.path().join("x"), Handle::current()).unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    let empty = OciLayout::open(folder.path(), Handle::current()).unwrap_err();
    assert!(matches!(empty, FetchError::InvalidLayout { .. }), "{empty}");
    std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
    let used = OciLayout::create(folder.path(), Handle::current()).unwrap_err();
    assert!(matches!(used, FetchError::InvalidLayout { .. }), "{used}");
    for version in ["", "{}", r#"{"imageLayoutVersion":"2.0.0"}"#] {
        std::fs::write(folder.path().join("oci-layout"), version).unwrap();
        let error = OciLayout::open(folder.path(), Handle::current()).unwrap_err();
        assert!(matches!(error, FetchError::InvalidLayout { .. }), "{error}");
    }
}

#[tokio::test]
async fn blobs_are_stored_whole_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let layout = create(folder.path());
    let content = content(3 << 20);
    let blob = descriptor(&content);
    let mut file = tempfile::tempfile_in(folder.path()).unwrap();
    file.write_all(&content).unwrap();
    assert!(!layout.has_blob(&blob).await.unwrap());
    for (wrong, bytes) in [
        (BlobDescriptor { len: blob.len + 1, ..blob }, content.clone()),
        (BlobDescriptor { id: BlobId::of(b"x"), ..blob }, content.clone()),
    ] {
        let error = layout.put_blob(&wrong, BlobContent::Bytes(bytes)).await.unwrap_err();
        assert!(error.is_corrupt(), "{error}");
    }
    assert!(names(&folder.path().join("blobs/sha256")).is_empty());
    layout.put_blob(&blob, BlobContent::File(file)).await.unwrap();
    assert!(layout.has_blob(&blob).await.unwrap());
    assert_eq!(names(&folder.path().join("blobs/sha256")), [blob.id.to_hex()]);
    let pieces: Vec<Bytes> = layout.stream_blob(&blob).try_collect().await.unwrap();
    assert_eq!(pieces.len(), 3);
    assert_eq!(pieces.concat(), content);
    let missing = BlobDescriptor { id: BlobId::of(b"x"), len: 5 };
    let pieces: Vec<_> = layout.stream_blob(&missing).collect().await;
    assert!(pieces.len() == 1 && pieces[0].as_ref().unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_blob_that_is_shorter_than_its_descriptor_is_out_of_range() {
    use chunkfs_fetch::BlobSource as _;
    let folder = tempfile::tempdir().unwrap();
    let layout = create(folder.path());
    let content = content(10);
    let blob = descriptor(&content);
    layout.put_blob(&blob, BlobContent::Bytes(content)).await.unwrap();
    let larger = BlobDescriptor { len: u64::MAX, ..blob };
    let read = layout.read_range(&larger, 0..u64::MAX, chunkfs_fetch::Priority::Demand).await;
    assert!(matches!(read, Err(FetchError::OutOfRange { len: 10, .. })), "{read:?}");
}

#[tokio::test]
async fn a_tag_is_replaced_and_others_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let layout = create(folder.path());
    for (name, text) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "3")] {
        layout.put_manifest(&tag(name), MEDIA_TYPE, manifest(text)).await.unwrap();
    }
    assert_eq!(layout.tags().await.unwrap(), ["a", "b"]);
    let stored = layout.fetch_manifest(&tag("a")).await.unwrap();
    assert_eq!((stored.bytes, stored.media_type.as_deref()), (manifest("3"), Some(MEDIA_TYPE)));
    assert!(layout.fetch_manifest(&tag("c")).await.unwrap_err().is_not_found());
    let old = ManifestSelector::Digest(BlobId::of(&manifest("1")));
    assert_eq!(layout.fetch_manifest(&old).await.unwrap().bytes, manifest("1"));
    let index = std::fs::read_to_string(folder.path().join("index.json")).unwrap();
    let id = BlobId::of(&manifest("2"));
    let entry = format!(
        r#"{{"annotations":{{"org.opencontainers.image.ref.name":"b"}},"artifactType":"a/b","digest":"{id}","mediaType":"{MEDIA_TYPE}","size":{}}}"#,
        manifest("2").len()
    );
    assert!(index.contains(&entry), "{index}");
}

#[tokio::test]
async fn unknown_parts_of_an_index_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let layout = create(folder.path());
    let other = r#"{"digest":"sha512:00","mediaType":"x/y","platform":{"os":"linux"},"size":1}"#;
    let text = format!(r#"{{"manifests":[{other}],"schemaVersion":2,"x-later":[1]}}"#);
    std::fs::write(folder.path().join("index.json"), text).unwrap();
    layout.put_manifest(&tag("a"), MEDIA_TYPE, manifest("1")).await.unwrap();
    let index = std::fs::read_to_string(folder.path().join("index.json")).unwrap();
    assert!(index.contains(other) && index.contains(r#""x-later":[1]"#), "{index}");
}

#[tokio::test]
async fn without_a_tag_the_only_manifest_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let layout = create(folder.path());
    assert!(layout.resolve(None).await.unwrap_err().is_not_found());
    let id = layout.put_manifest(&tag("a"), MEDIA_TYPE, manifest("1")).await.unwrap();
    layout.put_manifest(&tag("b"), MEDIA_TYPE, manifest("1")).await.unwrap();
    assert_eq!(layout.resolve(None).await.unwrap(), ManifestSelector::Digest(id));
    layout.put_manifest(&tag("c"), MEDIA_TYPE, manifest("2")).await.unwrap();
    let error = layout.resolve(None).await.unwrap_err();
    assert!(error.to_string().contains("(tags: a, b, c)"), "{error}");
    assert_eq!(layout.resolve(Some(&tag("b"))).await.unwrap(), tag("b"));
}

#[tokio::test]
async fn a_damaged_manifest_is_a_mismatch() {
    let folder = tempfile::tempdir().unwrap();
    let layout = create(folder.path());
    let id = layout.put_manifest(&tag("a"), MEDIA_TYPE, manifest("1")).await.unwrap();
    std::fs::write(folder.path().join("blobs/sha256").join(id.to_hex()), "{}").unwrap();
    let error = layout.fetch_manifest(&tag("a")).await.unwrap_err();
    assert!(matches!(error, FetchError::DigestMismatch { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_lose_no_tag() {
    let folder = tempfile::tempdir().unwrap();
    let writes = (0..20).map(|number| {
        let layout = create(folder.path());
        async move {
            let name = format!("t{number}");
            layout.put_manifest(&tag(&name), MEDIA_TYPE, manifest(&name)).await.unwrap();
        }
    });
    futures::future::join_all(writes).await;
    assert_eq!(create(folder.path()).tags().await.unwrap().len(), 20);
}
