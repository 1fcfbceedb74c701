//! What files hold after a conversion.

use std::sync::Arc;

use chunkfs_convert::{Destination, convert_tar};
use chunkfs_fetch::MemorySource;
use chunkfs_format::{ChunkSize, DigestAlgorithm, PackSize};

use crate::archive::{Archive, Entry, gzip, noise, zstd};
use crate::support::{
    Layer, convert_archives, convert_in, convert_layers, open_image, options, put_image,
    put_manifest, read_image, tag,
};

const K: usize = 1 << 10;

#[test]
fn files_of_every_boundary_length_round_trip() {
    let chunk_size = ChunkSize::new(64 << 10).unwrap();
    for (pack_len, algorithm) in [
        (0, DigestAlgorithm::Blake3),
        (16 << 10, DigestAlgorithm::Sha256),
        (64 << 10, DigestAlgorithm::Blake3),
    ] {
        let pack_size = PackSize::new(pack_len, chunk_size).unwrap();
        let options = options().with_sizes(chunk_size, pack_size).with_algorithm(algorithm);
        let around = |len: usize| [len - 1, len, len + 1];
        let mut lens = vec![0, 1];
        for len in [4 * K, 16 * K, 32 * K, 64 * K, 128 * K, 200 * K] {
            lens.extend(around(len));
        }
        let content = |len: usize| match len % 3 {
            0 => noise(len as u64, len),
            1 => vec![b'z'; len],
            _ => noise(7, len).repeat(2)[..len].to_vec(),
        };
        let entries = lens.iter().map(|len| Entry::file(&format!("f{len}"), content(*len)));
        let tree = convert_archives([Archive::new(entries).finish()], &options).unwrap();
        for len in lens {
            let file = &tree[format!("f{len}").as_bytes()];
            assert!(file.content == content(len), "{len} bytes, packs of {pack_len}");
        }
    }
}

#[test]
fn every_compression_is_read_whatever_the_media_type_says() {
    let archive =
        Archive::new([Entry::file("a", noise(1, 300 * K)), Entry::file("b", "b")]).finish();
    let (front, back) = archive.split_at(archive.len() / 2);
    let oci = "application/vnd.oci.image.layer.v1.tar";
    for (stored, media_type) in [
        (archive.clone(), oci),
        (gzip(&archive), "application/vnd.oci.image.layer.v1.tar+gzip"),
        (gzip(&archive), "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        (gzip(&archive), oci),
        (zstd(&archive), "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"),
        ([gzip(front), gzip(back)].concat(), "application/vnd.oci.image.layer.v1.tar+gzip"),
        ([zstd(front), zstd(back)].concat(), "application/x-unknown"),
        // A skippable frame, as seekable zstd has them.
        ([&b"\x51\x2a\x4d\x18\x03\0\0\0abc"[..], &zstd(&archive)].concat(), oci),
    ] {
        for jobs in [1, 3] {
            let store = Arc::new(MemorySource::new());
            let layer = Layer::tar(archive.clone()).stored_as(stored.clone(), media_type);
            put_image(&store, &[layer]);
            let options = options().with_jobs(jobs.try_into().unwrap());
            let report = convert_in(&store, &options).unwrap();
            assert_eq!(report.statistics.read_bytes, stored.len() as u64);
            let tree = read_image(&*store, &report);
            assert!(tree[&b"a"[..]].content == noise(1, 300 * K), "{media_type}");
        }
    }
}

/// A sparse file of 1 MiB: 10 bytes at 5,000, 70,000 bytes at 200,000, the rest holes.
fn sparse_content() -> (Vec<u8>, Vec<u8>) {
    let stored = noise(3, 70_010);
    let mut whole = vec![0; 1 << 20];
    whole[5_000..5_010].copy_from_slice(&stored[..10]);
    whole[200_000..270_000].copy_from_slice(&stored[10..]);
    (stored, whole)
}

#[test]
fn sparse_files_of_every_dialect_have_holes() {
    let (stored, whole) = sparse_content();
    let base = |content: &[u8]| Entry::file("GNUSparseFile.0/s", content);
    let pax = |entry: Entry| entry.pax("GNU.sparse.name", b"s").pax("GNU.sparse.size", b"1048576");
    let pair = |entry: Entry, offset: &str, len: &str| {
        let entry = entry.pax("GNU.sparse.offset", offset.as_bytes());
        entry.pax("GNU.sparse.numbytes", len.as_bytes())
    };
    let v00 = pax(base(&stored)).pax("GNU.sparse.numblocks", b"2");
    let v00 = pair(pair(v00, "5000", "10"), "200000", "70000");
    let v01 = pax(base(&stored)).pax("GNU.sparse.map", b"5000,10,200000,70000");
    let mut map = b"3\n5000\n10\n200000\n70000\n1048576\n0\n".to_vec();
    map.resize(512, 0);
    let v10 = base(&[&map, &stored[..]].concat());
    let v10 = v10.pax("GNU.sparse.major", b"1").pax("GNU.sparse.minor", b"0");
    let v10 = v10.pax("GNU.sparse.name", b"s").pax("GNU.sparse.realsize", b"1048576");
    let gnu = |start: usize, entry: Entry, regions: &[(u64, u64)]| {
        regions.iter().enumerate().fold(entry, |entry, (n, (offset, len))| {
            entry.octal(start + 24 * n, 12, *offset).octal(start + 24 * n + 12, 12, *len)
        })
    };
    let mut old = Entry::file("s", &stored).text(156, b"S").text(257, b"ustar  \0");
    old = gnu(386, old, &[(5_000, 10), (200_000, 70_000)]).octal(483, 12, 1 << 20);
    // The same with a map that goes on in a second block.
    let mut extended = Entry::file("s", &stored).text(156, b"S").text(257, b"ustar  \0");
    extended = gnu(386, extended, &[(5_000, 5), (5_005, 1), (5_006, 2), (5_008, 2)]);
    extended = extended.octal(483, 12, 1 << 20).text(482, &[1]);
    let block = gnu(0, Entry { header: [0; 512], ..Entry::file("", "") }, &[(200_000, 70_000)]);
    extended.content = [&block.header[..], &stored].concat();
    for (dialect, entry) in
        [("0.0", v00), ("0.1", v01), ("1.0", v10), ("old", old), ("old, extended", extended)]
    {
        let tree = convert_layers([vec![entry, Entry::file("after", "after")]]).unwrap();
        let file = &tree[&b"s"[..]];
        assert!(file.content == whole, "{dialect}");
        // The data, widened to 4 KiB on both sides.
        assert_eq!(file.hole_len, (1 << 20) - 4096 - (270_336 - 196_608), "{dialect}");
        assert_eq!(tree[&b"after"[..]].content, b"after", "{dialect}");
    }
}

#[test]
fn a_sparse_file_may_be_almost_all_hole() {
    let len = (1u64 << 62).to_string();
    let entry = Entry::file("huge", "end").pax("GNU.sparse.size", len.as_bytes());
    let offset = (1u64 << 62) - 3;
    let entry = entry.pax("GNU.sparse.map", format!("{offset},3").as_bytes());
    let none = Entry::file("none", "").pax("GNU.sparse.size", b"1000000");
    let none = none.pax("GNU.sparse.map", b"");
    let tree = convert_layers([vec![entry, none]]).unwrap();
    assert_eq!(tree[&b"huge"[..]].hole_len, (1 << 62) - 4096);
    assert!(tree[&b"huge"[..]].content.ends_with(b"\0end"));
    assert_eq!(tree[&b"none"[..]].hole_len, 1_000_000);
}

#[test]
fn equal_content_is_stored_once() {
    let big = noise(5, 200 * K);
    let store = Arc::new(MemorySource::new());
    let first = Archive::new([Entry::file("a", &big), Entry::file("b", &big)]).finish();
    let second = Archive::new([Entry::file("c", &big), Entry::file("d", "new")]).finish();
    put_image(&store, &[Layer::tar(first), Layer::tar(second)]);
    let report = convert_in(&store, &options()).unwrap();
    let statistics = report.statistics;
    assert_eq!((statistics.files, statistics.source_bytes), (4, 3 * big.len() as u64 + 3));
    assert_eq!((statistics.chunks, statistics.duplicate_chunks), (5, 8));
    assert_eq!(statistics.unique_bytes, big.len() as u64 + 3);
    assert_eq!((statistics.packed_files, statistics.layers), (1, 2));
    let (manifest, index) = open_image(&*store, &report);
    // Both layers have a blob of their own; the chunks that they share are read from the lower one.
    assert_eq!(manifest.blobs.len(), 2);
    assert_eq!((statistics.blobs, index.blob_count()), (2, 2));
    let lower = manifest.blobs[0].blob().unwrap();
    let in_lower = index
        .chunks()
        .filter(|chunk| index.blob(chunk.location.blob).is_some_and(|blob| blob.id == lower.id));
    assert_eq!(in_lower.count(), 4);
}

#[test]
fn the_configuration_is_kept_and_the_layers_are_remembered() {
    let archive = Archive::new([Entry::file("a", "a")]).finish();
    let layer = Layer::tar(archive.clone()).stored_as(gzip(&archive), "x/tar+gzip");
    let store = Arc::new(MemorySource::new());
    put_image(&store, std::slice::from_ref(&layer));
    let report = convert_in(&store, &options()).unwrap();
    let (manifest, _) = open_image(&*store, &report);
    let annotations = &manifest.fragments[0].annotations;
    assert_eq!(annotations["org.chunkfs.layer.diff-id"], layer.diff_id.to_string());
    let digest = chunkfs_format::BlobId::of(&layer.stored).to_string();
    assert_eq!(annotations["org.chunkfs.layer.digest"], digest);
    assert_eq!(
        annotations["org.chunkfs.layer.conversion"],
        "chunkfs/2 zstd-1.5.7 level=3 chunk=65536 pack=16384 blob=67108864 digest=blake3"
    );
    assert_eq!(manifest.annotations["org.chunkfs.image.id"], report.image_id.to_string());
    assert_eq!(manifest.config.media_type, "application/vnd.oci.image.config.v1+json");
}

#[test]
fn image_indexes_are_resolved_by_platform() {
    let store = Arc::new(MemorySource::new());
    put_image(&store, &[Layer::tar(Archive::new([Entry::file("a", "a")]).finish())]);
    let stored = crate::support::runtime()
        .block_on(chunkfs_fetch::ImageSource::fetch_manifest(&*store, &tag("image")))
        .unwrap();
    let entry = |architecture: &str, digest: String| {
        serde_json::json!({
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "digest": digest, "size": 1,
            "platform": { "os": "linux", "architecture": architecture },
        })
    };
    let other = chunkfs_format::BlobId::of(b"other").to_string();
    let list = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [entry("s390x", other), entry("amd64", stored.id.to_string())],
    });
    put_manifest(
        &store,
        "image",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        &list,
    );
    let platform = |text| chunkfs_convert::Platform::parse(text).unwrap();
    let report = convert_in(&store, &options().with_platform(platform("linux/amd64"))).unwrap();
    assert_eq!(report.statistics.files, 1);
    let error =
        convert_in(&store, &options().with_platform(platform("linux/riscv64"))).unwrap_err();
    assert!(error.to_string().contains("for linux/s390x, linux/amd64"), "{error}");
}

#[test]
fn a_converted_image_is_not_converted_again() {
    let store = Arc::new(MemorySource::new());
    put_image(&store, &[]);
    convert_in(&store, &options()).unwrap();
    let destination = Destination { sink: Arc::clone(&store) as _, selector: tag("again") };
    let error = chunkfs_convert::convert_image(
        Arc::clone(&store) as _,
        &tag("converted"),
        &destination,
        &[],
        &options(),
    );
    assert!(matches!(error, Err(chunkfs_convert::ConvertError::AlreadyConverted)), "{error:?}");
}

#[test]
fn a_plain_archive_becomes_an_image() {
    let archive = Archive::new([Entry::file("a", noise(9, 100 * K))]).finish();
    let store = Arc::new(MemorySource::new());
    let destination = Destination { sink: Arc::clone(&store) as _, selector: tag("t") };
    let mut reports = Vec::new();
    for stored in [archive.clone(), gzip(&archive), zstd(&archive)] {
        let report = convert_tar(&stored[..], "a.tar", &destination, &[], &options()).unwrap();
        assert!(read_image(&*store, &report)[&b"a"[..]].content == noise(9, 100 * K));
        reports.push(report.manifest);
    }
    assert_eq!(reports[0], reports[1]);
    assert_eq!(reports[0], reports[2]);
}
