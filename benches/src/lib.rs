//! What the benchmarks of chunkfs share: deterministic content and short measurements.
//!
//! Each benchmark file says which question it answers and against which baseline. All data is made
//! from fixed seeds. `cargo bench -p chunkfs-benches` takes about two minutes; run it on an idle
//! machine and compare only figures of one run, for the noise between runs is about 10 %.
#![forbid(unsafe_code)]

use std::time::Duration;

use criterion::Criterion;

/// Returns whether this run measures; otherwise each benchmark runs once to see that it works.
pub fn is_measuring() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Returns `measured` in a run that measures and `tested` in one that only tests.
pub fn scaled(measured: usize, tested: usize) -> usize {
    if is_measuring() { measured } else { tested }
}

/// Returns settings under which one benchmark takes about a second and a half.
pub fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

/// A generator of numbers (xorshift64), the same for each seed on all machines.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Creates the generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns the next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns the next number, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next_number() >> 16) % end
    }
}

/// What content looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Words of which few are frequent and many rare; zstd makes it about a third.
    Text,
    /// Records with small numbers and some noise, as in executables; zstd makes it a bit over half.
    Binary,
    /// Noise, as in compressed files.
    Incompressible,
}

impl Content {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Text, Self::Binary, Self::Incompressible];

    /// Returns the name in benchmark ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Binary => "binary",
            Self::Incompressible => "incompressible",
        }
    }

    /// Makes `len` bytes.
    pub fn bytes(self, seed: u64, len: usize) -> Vec<u8> {
        let mut numbers = Numbers::new(seed);
        let mut bytes = Vec::with_capacity(len + 16);
        while bytes.len() < len {
            match self {
                Self::Text => push_word(&mut bytes, &mut numbers),
                Self::Binary => {
                    let number = numbers.next_number();
                    bytes.extend_from_slice(&[0x48, 0x8b, (number % 16) as u8, 0]);
                    bytes.extend_from_slice(&((number >> 8) as u16).to_le_bytes());
                    bytes.extend_from_slice(&[0, (number >> 32) as u8 & 0x3f]);
                }
                Self::Incompressible => {
                    bytes.extend_from_slice(&numbers.next_number().to_le_bytes());
                }
            }
        }
        bytes.truncate(len);
        bytes
    }
}

fn push_word(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    // The smaller of two is more often small: frequent words are frequent.
    let rank = numbers.below(2_000).min(numbers.below(2_000)).min(numbers.below(2_000));
    let mut letters = Numbers::new(rank + 1);
    for _ in 0..2 + letters.below(8) {
        bytes.push(b'a' + letters.below(26) as u8);
    }
    bytes.push(if numbers.below(10) == 0 { b'\n' } else { b' ' });
}
