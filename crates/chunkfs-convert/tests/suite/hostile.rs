//! Damaged and hostile input: a typed error or a good result, never a panic.

use std::sync::Arc;

use chunkfs_convert::{ConvertError, Destination, LayerError, convert_tar};
use chunkfs_fetch::MemorySource;
use chunkfs_format::BlobId;

use crate::archive::{Archive, Entry, gnu_long, gzip, noise, zstd};
use crate::support::{Layer, chain, convert_in, options, put_image, runtime, tag};

/// Something of everything.
fn archive() -> Vec<u8> {
    let mut archive = Archive::default();
    archive.push(&Entry::directory("./"));
    archive.push(&Entry::file("small", "small").pax("mtime", b"1.25"));
    archive.push(&Entry::file("large", noise(1, 100_000)));
    archive.push(&gnu_long(b'L', "long/".repeat(30).as_bytes()));
    archive.push(&Entry::directory("short"));
    archive.push(&Entry::symlink("link", "small").pax("SCHILY.xattr.user.a", b"1"));
    archive.push(&Entry::hard_link("hard", "small"));
    let sparse = Entry::file("sparse", noise(2, 1_000)).pax("GNU.sparse.map", b"5000,1000");
    archive.push(&sparse.pax("GNU.sparse.size", b"100000"));
    let mut map = b"1\n4096\n600\n".to_vec();
    map.resize(512, 0);
    let sparse = Entry::file("sparse1", [&map[..], &noise(2, 600)].concat());
    let sparse = sparse.pax("GNU.sparse.major", b"1").pax("GNU.sparse.minor", b"0");
    archive.push(&sparse.pax("GNU.sparse.realsize", b"50000"));
    archive.push(&Entry::file(".wh.gone", ""));
    archive.push(&Entry::new(b'3', b"null").device(1, 3));
    archive.finish()
}

fn convert_stored(stored: Vec<u8>, diff_id: BlobId) -> Result<(), ConvertError> {
    let layer = Layer { stored, diff_id, media_type: "x/tar" };
    let store = Arc::new(MemorySource::new());
    put_image(&store, &[layer]);
    let result = convert_in(&store, &options());
    if result.is_err() {
        let selector = tag("converted");
        let manifest = chunkfs_fetch::ImageSource::fetch_manifest(&*store, &selector);
        assert!(runtime().block_on(manifest).is_err_and(|error| error.is_not_found()));
    }
    result.map(|_| ())
}

#[test]
fn every_truncation_of_a_compressed_layer_is_an_error() {
    let archive = archive();
    for stored in [gzip(&archive), zstd(&archive)] {
        for step in 0..60 {
            let len = stored.len() * step / 60;
            let error = convert_stored(stored[..len].to_vec(), BlobId::of(&archive)).unwrap_err();
            assert!(error.is_corrupt(), "{len}: {}", chain(&error));
        }
    }
}

#[test]
fn an_archive_may_end_at_an_entry_but_not_inside_one() {
    let whole = archive();
    let entry_end = whole.len() - 1024;
    let convert = |len: usize| {
        let bytes = whole[..len].to_vec();
        let diff_id = BlobId::of(&bytes);
        convert_stored(bytes, diff_id)
    };
    for good in [0, entry_end, entry_end + 512, whole.len()] {
        convert(good).unwrap_or_else(|error| panic!("{good}: {}", chain(&error)));
    }
    for bad in [1, 511, 513, 600, entry_end - 512 + 1, entry_end + 1, entry_end + 513] {
        let error = convert(bad).unwrap_err();
        assert!(chain(&error).contains("cut off"), "{bad}: {}", chain(&error));
    }
    for step in 1..200 {
        let len = entry_end * step / 200;
        if !len.is_multiple_of(512) {
            assert!(convert(len).unwrap_err().is_corrupt(), "{len}");
        }
    }
}

#[test]
fn wrong_digests_and_lengths_are_errors() {
    let archive = archive();
    let diff_id = BlobId::of(&archive);
    let error = convert_stored(archive.clone(), BlobId::of(b"other")).unwrap_err();
    let ConvertError::Layer { source: LayerError::DiffIdMismatch { expected, actual }, .. } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((expected, actual), (BlobId::of(b"other"), diff_id));

    // The store serves other bytes than the manifest names.
    for (served, expected) in [
        (archive[..archive.len() - 512].to_vec(), "bytes long instead of"),
        ([&archive[..], &[0; 512]].concat(), "bytes long instead of"),
        (
            {
                let mut bytes = archive.clone();
                *bytes.last_mut().unwrap() = 1;
                bytes
            },
            "have the digest",
        ),
    ] {
        let store = Arc::new(Swapped::default());
        put_image(&store.inner, &[Layer::tar(archive.clone())]);
        *store.served.lock().unwrap() = Some((BlobId::of(&archive), served.into()));
        let error = crate::support::convert(store, Arc::new(MemorySource::new()), &[], &options());
        let text = chain(&error.unwrap_err());
        assert!(text.contains(expected), "{text}");
    }
}

/// A store that serves other bytes for one blob.
#[derive(Debug, Default)]
struct Swapped {
    inner: MemorySource,
    served: std::sync::Mutex<Option<(BlobId, bytes::Bytes)>>,
}

#[async_trait::async_trait]
impl chunkfs_fetch::BlobSource for Swapped {
    async fn read_range(
        &self,
        blob: &chunkfs_fetch::BlobDescriptor,
        range: std::ops::Range<u64>,
        priority: chunkfs_fetch::Priority,
    ) -> Result<bytes::Bytes, chunkfs_fetch::FetchError> {
        self.inner.read_range(blob, range, priority).await
    }
}

#[async_trait::async_trait]
impl chunkfs_fetch::ImageSource for Swapped {
    async fn fetch_manifest(
        &self,
        manifest: &chunkfs_fetch::ManifestSelector,
    ) -> Result<chunkfs_fetch::StoredManifest, chunkfs_fetch::FetchError> {
        self.inner.fetch_manifest(manifest).await
    }

    fn stream_blob(
        &self,
        blob: &chunkfs_fetch::BlobDescriptor,
    ) -> futures::stream::BoxStream<'static, Result<bytes::Bytes, chunkfs_fetch::FetchError>> {
        match &*self.served.lock().unwrap() {
            Some((id, bytes)) if *id == blob.id => {
                Box::pin(futures::stream::iter([Ok(bytes.clone())]))
            }
            _ => self.inner.stream_blob(blob),
        }
    }
}

#[test]
fn what_follows_the_end_of_an_archive_is_ignored_but_what_follows_a_frame_is_not() {
    let padded = [archive(), noise(3, 20_000)].concat();
    convert_stored(padded.clone(), BlobId::of(&padded)).unwrap();
    for stored in [gzip(&padded), zstd(&padded)] {
        convert_stored(stored.clone(), BlobId::of(&padded)).unwrap();
        let trailing = [&stored[..], b"garbage that is no frame"].concat();
        let error = convert_stored(trailing, BlobId::of(&padded)).unwrap_err();
        assert!(error.is_corrupt(), "{}", chain(&error));
    }
}

#[test]
fn a_layer_above_the_limit_is_an_error_before_it_is_read_to_its_end() {
    let bomb =
        gzip(&[Archive::new([Entry::file("z", vec![0; 30_000_000])]).0, vec![0; 1024]].concat());
    let layer = Layer { stored: bomb, diff_id: BlobId::of(b""), media_type: "x/tar" };
    let store = Arc::new(MemorySource::new());
    put_image(&store, &[layer]);
    let error = convert_in(&store, &options().with_layer_len_max(10_000_000)).unwrap_err();
    assert!(chain(&error).contains("longer than 10000000 bytes uncompressed"), "{}", chain(&error));
}

#[test]
fn damaged_headers_are_errors() {
    let with = |at: usize, byte: u8| {
        let mut bytes = archive();
        bytes[at] = byte;
        bytes
    };
    let mut lone_zero_block = vec![0; 512];
    lone_zero_block.extend(archive());
    let mut orphan = Archive::default();
    orphan.push(&gnu_long(b'L', b"name"));
    let huge_name = Entry::new(b'L', b"x").octal(124, 12, (1 << 20) + 1);
    for (bytes, expected) in [
        (
            with(0, b'X'),
            "the header at byte 0 of the archive is invalid: its checksum does not match",
        ),
        (lone_zero_block, "a single zero block is followed by something else"),
        (orphan.finish(), "an extended header is followed by no entry"),
        (Archive::new([huge_name]).finish(), "longer than 1 MiB"),
        (vec![b'x'; 2048], "the header at byte 0"),
    ] {
        let diff_id = BlobId::of(&bytes);
        let text = chain(&convert_stored(bytes, diff_id).unwrap_err());
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn invalid_sparse_maps_are_errors() {
    let sparse = |map: &str, len: &str| {
        let entry = Entry::file("s", noise(1, 1000)).pax("GNU.sparse.map", map.as_bytes());
        if len.is_empty() { entry } else { entry.pax("GNU.sparse.size", len.as_bytes()) }
    };
    let version_1 = |map: &[u8]| {
        let entry = Entry::file("s", map).pax("GNU.sparse.major", b"1");
        entry.pax("GNU.sparse.minor", b"0").pax("GNU.sparse.realsize", b"1000")
    };
    for entry in [
        sparse("0,999", "5000"),
        sparse("0,1001", "5000"),
        sparse("0,500,400,500", "5000"),
        sparse("4500,1000", "5000"),
        sparse("18446744073709551615,1000", "5000"),
        sparse("0,1000", ""),
        sparse("0,1000,5", "5000"),
        sparse("0,1000", "9223372036854775808"),
        version_1(b""),
        version_1(&[b'9'; 600]),
        version_1(b"99999999\n"),
        version_1(&[&b"1\n0\n"[..], &[b'\n'; 600]].concat()),
        Entry::file("s", "").pax("GNU.sparse.major", b"2").pax("GNU.sparse.minor", b"0"),
    ] {
        let bytes = Archive::new([entry]).finish();
        let diff_id = BlobId::of(&bytes);
        let error = convert_stored(bytes, diff_id).unwrap_err();
        assert!(error.is_corrupt(), "{}", chain(&error));
    }
}

#[test]
fn random_damage_gives_an_error_or_an_image() {
    let seed: u64 = 0x000c_0ffe_e000;
    println!("seed {seed:#x}");
    let good = archive();
    let headers: Vec<usize> = (0..good.len() / 512).collect();
    let mut state = seed;
    let mut random = |bound: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let (mut good_count, mut bad_count) = (0, 0);
    let options = options().with_jobs(1.try_into().unwrap());
    for _ in 0..2_000 {
        let mut bytes = good.clone();
        let mut touched = Vec::new();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            bytes[at] = [0, b'0', b'7', 0x80, 0xff, random(256) as u8][random(6)];
            touched.push(at / 512);
        }
        // Repair most checksums, so that the damage gets past them.
        for block in touched.into_iter().filter(|block| headers.contains(block)) {
            let header = &mut bytes[block * 512..block * 512 + 512];
            if &header[257..262] == b"ustar" {
                header[148..156].fill(b' ');
                let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
                header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        if random(8) == 0 {
            bytes.truncate(random(bytes.len()));
        }
        let sink = Arc::new(MemorySource::new());
        let destination = Destination { sink, selector: tag("t") };
        match convert_tar(&bytes[..], "damaged.tar", &destination, &[], &options) {
            Ok(_) => good_count += 1,
            Err(error) => {
                assert!(error.is_corrupt(), "{}", chain(&error));
                bad_count += 1;
            }
        }
    }
    assert!(good_count > 100 && bad_count > 100, "{good_count} good, {bad_count} bad");
}

#[test]
fn invalid_images_are_errors() {
    let store = Arc::new(MemorySource::new());
    for (manifest, expected) in [
        (serde_json::json!([]), "the manifest is invalid"),
        (serde_json::json!({}), "the manifest is invalid: it has no configuration"),
        (
            serde_json::json!({ "config": { "digest": "sha256:x", "size": 1 }, "layers": [] }),
            "the manifest is invalid: \"sha256:x\" is not a digest",
        ),
        (
            serde_json::json!({ "config": { "digest": "sha256:x", "size": -1 }, "layers": [] }),
            "the manifest is invalid: invalid value",
        ),
        (serde_json::json!({ "manifests": [] }), "the image has no variant for"),
    ] {
        crate::support::put_manifest(&store, "image", "x/y", &manifest);
        let error = convert_in(&store, &options()).unwrap_err();
        assert!(chain(&error).starts_with(expected), "{}", chain(&error));
    }
}
