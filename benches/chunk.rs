//! What does it cost to turn the stored bytes of a chunk into verified ones?
//!
//! `verified` decodes a chunk of 1 MiB and checks its digest, as happens once to every chunk that
//! is fetched. The baselines are its parts: zstd alone for the same frame (a copy for content
//! that is stored raw), and each digest alone for the same bytes. What is left is what chunkfs
//! itself costs. Noise: about 3 % within a run.

use std::hint::black_box;

use chunkfs_benches::{Content, scaled, short};
use chunkfs_format::{ChunkDecoder, ChunkEncoder, Codec, CompressionLevel, DigestAlgorithm};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sha2::Digest as _;

fn chunk(criterion: &mut Criterion) {
    let len = scaled(1 << 20, 64 << 10);
    let mut encoder = ChunkEncoder::new(CompressionLevel::default()).expect("enough memory");
    let mut decoder = ChunkDecoder::new().expect("enough memory");
    for kind in Content::ALL {
        let content = kind.bytes(7, len);
        let (codec, stored) = encoder.encode(&content).expect("enough memory");
        let stored = stored.to_vec();
        eprintln!("chunk: {} bytes of {} are stored as {}", len, kind.name(), stored.len());
        let mut group = criterion.benchmark_group(format!("chunk/{}", kind.name()));
        group.throughput(Throughput::Bytes(len as u64));
        let mut output = Vec::with_capacity(len);
        for algorithm in [DigestAlgorithm::Blake3, DigestAlgorithm::Sha256] {
            let id = algorithm.chunk_id(&content);
            group.bench_function(format!("verified-{algorithm}"), |bencher| {
                bencher.iter(|| {
                    let stored = black_box(&stored);
                    let decoded =
                        decoder.decode(algorithm, id, len as u32, codec, stored, &mut output);
                    decoded.expect("the chunk is good");
                });
            });
        }
        let mut zstd = zstd::bulk::Decompressor::new().expect("enough memory");
        let baseline = if codec == Codec::Raw { "baseline-copy" } else { "baseline-zstd" };
        group.bench_function(baseline, |bencher| {
            bencher.iter(|| {
                output.clear();
                if codec == Codec::Raw {
                    output.extend_from_slice(black_box(&stored));
                } else {
                    let decoded = zstd.decompress_to_buffer(black_box(&stored), &mut output);
                    decoded.expect("the frame is good");
                }
            });
        });
        group.finish();
    }

    let content = Content::Binary.bytes(7, len);
    let mut group = criterion.benchmark_group("chunk/digest");
    group.throughput(Throughput::Bytes(len as u64));
    group.bench_function("baseline-blake3", |bencher| {
        bencher.iter(|| blake3::hash(black_box(&content)));
    });
    group.bench_function("baseline-sha256", |bencher| {
        bencher.iter(|| sha2::Sha256::digest(black_box(&content)));
    });
    group.finish();
}

criterion_group! { name = benches; config = short(); targets = chunk }
criterion_main!(benches);
