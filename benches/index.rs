//! How long does it take until the tree of an image of 60,000 files is there, and to use it?
//!
//! `open` checks all records of an index of 60,000 inodes, from plain bytes and from the zstd
//! frame that is transferred. Its baselines are what any reader has to do: decompress the frame,
//! and hash the bytes. `lookup_path` finds one of 1,000 paths of five components; its baseline is
//! a hash map from whole paths. `readdir` lists a directory of 10,000 names; its baseline is a
//! vector of names. Noise: about 5 % within a run.

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;

use bytes::Bytes;
use chunkfs_benches::{Numbers, scaled, short};
use chunkfs_format::{BlobId, ChunkSize, Codec, DigestAlgorithm};
use chunkfs_index::{
    Attributes, Blob, Content, INDEX_LEN_MAX, Index, IndexBuilder, Location, Node, NodeId, Segment,
    SegmentChunk, Timestamp, Tree,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const FILES_PER_FOLDER: usize = 50;
const FILES_PER_PACK: u32 = 16;

fn attributes(numbers: &mut Numbers, permissions: u16) -> Attributes {
    let seconds = 1_700_000_000 + numbers.below(10_000_000) as i64;
    Attributes { permissions, mtime: Timestamp { seconds, nanos: 0 }, ..Attributes::default() }
}

fn add_folder(tree: &mut Tree, parent: NodeId, name: String, numbers: &mut Numbers) -> NodeId {
    let content = Content::Directory(BTreeMap::new());
    let node = tree.add(Node { attributes: attributes(numbers, 0o755), content });
    let names = tree.children_mut(parent).expect("the parent is a directory");
    names.insert(name.into_bytes(), node);
    node
}

/// Makes an index of packed files, one folder with a fifth of them and many small ones.
fn make_index(file_count: usize) -> (Index, Vec<String>) {
    let algorithm = DigestAlgorithm::Blake3;
    let mut numbers = Numbers::new(1);
    let mut builder = IndexBuilder::new(algorithm, ChunkSize::default());
    let blob = Blob { id: BlobId::of(b"blob"), len: 1 << 40 };
    let blob = builder.add_blob(blob).expect("one blob");
    let mut tree = Tree::new(Attributes { permissions: 0o755, ..Attributes::default() });
    let root = tree.root();
    let usr = add_folder(&mut tree, root, "usr".to_owned(), &mut numbers);
    let library = add_folder(&mut tree, usr, "lib".to_owned(), &mut numbers);
    let large = add_folder(&mut tree, library, "large".to_owned(), &mut numbers);
    let mut paths = Vec::with_capacity(file_count);
    let (mut folder, mut folder_path) = (large, "usr/lib/large".to_owned());
    let mut chunk = None;
    for number in 0..file_count {
        let in_small = number.saturating_sub(file_count / 6);
        if number >= file_count / 6 && in_small.is_multiple_of(FILES_PER_FOLDER) {
            let name = format!("package_{:05}", in_small / FILES_PER_FOLDER);
            let package = add_folder(&mut tree, library, name.clone(), &mut numbers);
            folder = add_folder(&mut tree, package, "source".to_owned(), &mut numbers);
            folder_path = format!("usr/lib/{name}/source");
        }
        let slot = number as u32 % FILES_PER_PACK;
        if slot == 0 {
            let id = algorithm.chunk_id(&number.to_le_bytes());
            let offset = number as u64 * 50_000;
            let location = Location { blob, offset, stored_len: 20_000, codec: Codec::Zstd };
            chunk = builder.add_chunk(id, FILES_PER_PACK * 4_096, location).ok();
        }
        let place = SegmentChunk { index: chunk.expect("made above"), offset: slot * 4_096 };
        let segment = Segment { len: 1 + numbers.below(4_096), chunk: Some(place) };
        let content = Content::Regular(vec![segment]);
        let file = tree.add(Node { attributes: attributes(&mut numbers, 0o644), content });
        let name = format!("module_{number:06}_{:x}.py", numbers.below(1 << 20));
        paths.push(format!("{folder_path}/{name}"));
        let names = tree.children_mut(folder).expect("the folder is a directory");
        names.insert(name.into_bytes(), file);
    }
    (builder.build(&tree).expect("the tree keeps all rules"), paths)
}

fn index(criterion: &mut Criterion) {
    let (index, paths) = make_index(scaled(60_000, 600));
    let bytes = index.as_bytes().clone();
    let compressed = index.compress().expect("enough memory");
    let sizes = (index.inode_count(), bytes.len(), compressed.len());
    eprintln!("index: {} inodes, {} bytes, {} compressed", sizes.0, sizes.1, sizes.2);

    let mut group = criterion.benchmark_group("index/open");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("plain", |bencher| {
        bencher.iter(|| Index::open(black_box(bytes.clone())).expect("it is valid"));
    });
    group.bench_function("compressed", |bencher| {
        bencher.iter(|| Index::decompress(black_box(&compressed), INDEX_LEN_MAX).expect("valid"));
    });
    group.bench_function("baseline-zstd", |bencher| {
        bencher.iter(|| {
            let bytes = zstd::bulk::decompress(black_box(&compressed), bytes.len());
            Bytes::from(bytes.expect("it is a frame"))
        });
    });
    group.bench_function("baseline-blake3", |bencher| {
        bencher.iter(|| blake3::hash(black_box(&bytes)));
    });
    group.finish();

    let mut numbers = Numbers::new(2);
    let count = paths.len() as u64;
    let wanted: Vec<&str> =
        (0..1_000).map(|_| paths[numbers.below(count) as usize].as_str()).collect();
    let by_path: HashMap<&[u8], u32> = (0..).zip(&paths).map(|(n, p)| (p.as_bytes(), n)).collect();
    let mut group = criterion.benchmark_group("index/lookup_path");
    let mut next = wanted.iter().cycle();
    group.bench_function("one", |bencher| {
        bencher.iter(|| {
            let path = next.next().expect("a cycle has no end").as_bytes();
            index.lookup_path(black_box(path)).expect("it is there")
        });
    });
    let mut next = wanted.iter().cycle();
    group.bench_function("baseline-hash-map", |bencher| {
        bencher.iter(|| {
            let path = next.next().expect("a cycle has no end").as_bytes();
            by_path[black_box(path)]
        });
    });
    group.finish();

    let folder = index.lookup_path(b"usr/lib/large").expect("it is there");
    let names: Vec<Vec<u8>> =
        index.dirents(&folder, 0).map(|dirent| dirent.name.to_vec()).collect();
    let mut group = criterion.benchmark_group("index/readdir");
    group.throughput(Throughput::Elements(names.len() as u64));
    group.bench_function("names", |bencher| {
        bencher.iter(|| {
            let dirents = index.dirents(black_box(&folder), 0);
            dirents.map(|dirent| dirent.name.len() + dirent.position as usize).sum::<usize>()
        });
    });
    group.bench_function("names-and-attributes", |bencher| {
        bencher.iter(|| {
            let dirents = index.dirents(black_box(&folder), 0);
            let inodes = dirents.filter_map(|dirent| index.inode(dirent.inode));
            inodes.map(|inode| inode.len).sum::<u64>()
        });
    });
    group.bench_function("baseline-vector", |bencher| {
        bencher.iter(|| black_box(&names).iter().map(Vec::len).sum::<usize>());
    });
    group.finish();
}

criterion_group! { name = benches; config = short(); targets = index }
criterion_main!(benches);
