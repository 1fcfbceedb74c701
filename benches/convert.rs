//! How fast is an archive converted, by the clock and by the CPU second?
//!
//! `wall` and `cpu` convert a tar archive of 256 MiB, from memory to memory, with the default
//! options: text, binaries and noise in files from 100 bytes to 8 MiB. `cpu` counts the processor
//! time of all threads, so that its figure does not depend on how many cores are free. The
//! baseline compresses the same archive with zstd level 3 on one thread and does nothing else: no
//! hashing, no parsing, no packing. Noise: about 5 % by CPU, more by the clock.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chunkfs_benches::{Content, Numbers, scaled, short};
use chunkfs_convert::{ConvertOptions, ConvertReport, Destination, convert_tar};
use chunkfs_fetch::{ManifestSelector, MemorySource};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;

/// Writes a ustar header and the content of a regular file.
fn push_file(archive: &mut Vec<u8>, path: &str, content: &[u8]) {
    let mut header = [0; 512];
    let mut field = |start: usize, text: &str| {
        header[start..start + text.len()].copy_from_slice(text.as_bytes());
    };
    field(0, path);
    field(100, "0000644");
    field(108, "0000000");
    field(116, "0000000");
    field(124, &format!("{:011o}", content.len()));
    field(136, "14524100000");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    archive.extend_from_slice(&header);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// Makes an archive of about `len` bytes: half of it large files, half small ones.
fn make_archive(len: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(6);
    let mut archive = Vec::with_capacity(len + (9 << 20));
    let mut number = 0;
    let mut small_len = 0;
    while archive.len() < len {
        let is_small = small_len < archive.len() / 2;
        let file_len = match is_small {
            true => 100 + numbers.below(60_000),
            false => (1 << 20) + numbers.below(7 << 20),
        };
        // As in images: half binaries, a third text, the rest compressed before.
        let kind = match numbers.below(6) {
            0 | 1 => Content::Text,
            2..=4 => Content::Binary,
            _ => Content::Incompressible,
        };
        let content = kind.bytes(number + 100, (file_len as usize).min(len));
        push_file(&mut archive, &format!("usr/lib/{}/file-{number}", number / 50), &content);
        small_len += if is_small { content.len() } else { 0 };
        number += 1;
    }
    archive.resize(archive.len() + 1_024, 0);
    archive
}

fn convert_once(archive: &[u8], runtime: &Runtime) -> ConvertReport {
    let options = ConvertOptions::new(runtime.handle().clone());
    let options = options.with_spool_directory(std::env::temp_dir());
    let selector = ManifestSelector::Tag("image".to_owned());
    let destination = Destination { sink: Arc::new(MemorySource::new()), selector };
    let report = convert_tar(black_box(archive), "archive", &destination, &[], &options);
    report.expect("the archive is good")
}

/// The processor time that all threads of this process used so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.try_into().expect("processor time is not negative")
}

fn convert(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let archive = make_archive(scaled(256 << 20, 1 << 20));
    let statistics = convert_once(&archive, &runtime).statistics;
    eprintln!(
        "convert: {} bytes in {} files are stored as {}, in {} chunks, {} files packed",
        archive.len(),
        statistics.files,
        statistics.stored_bytes,
        statistics.chunks,
        statistics.packed_files
    );
    let mut group = criterion.benchmark_group("convert");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::BytesDecimal(archive.len() as u64));
    let measure = |count: u64, now: &dyn Fn() -> Duration| {
        let start = now();
        for _ in 0..count {
            convert_once(&archive, &runtime);
        }
        now() - start
    };
    let begin = Instant::now();
    group.bench_function("wall", |bencher| {
        bencher.iter_custom(|count| measure(count, &|| begin.elapsed()));
    });
    group.bench_function("cpu", |bencher| {
        bencher.iter_custom(|count| measure(count, &cpu_time));
    });
    let mut zstd = zstd::bulk::Compressor::new(3).expect("enough memory");
    group.bench_function("baseline-zstd-cpu", |bencher| {
        bencher.iter_custom(|count| {
            let start = cpu_time();
            for _ in 0..count {
                // In pieces of the default chunk size, as far as zstd is concerned the same work.
                for chunk in archive.chunks(1 << 20) {
                    black_box(zstd.compress(chunk).expect("enough memory"));
                }
            }
            cpu_time() - start
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = short(); targets = convert }
criterion_main!(benches);
