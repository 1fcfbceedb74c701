//! Where files are cut: chunk size, pack size and the 4 KiB grid.

/// The grid of uncompressed space, in bytes: chunks and packed files start on multiples of it.
///
/// EROFS and memory maps can address nothing finer.
pub const GRID: u32 = 4096;

/// The smallest allowed chunk size: 64 KiB.
pub const CHUNK_SIZE_MIN: u32 = 64 << 10;

/// The largest allowed chunk size: 16 MiB. Also the bound on any chunk a reader ever allocates.
pub const CHUNK_SIZE_MAX: u32 = 16 << 20;

/// A chunk or pack size is outside its allowed values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SizeError {
    /// The chunk size is no power of two, or out of range.
    #[error("chunk size {bytes} is not a power of two from {CHUNK_SIZE_MIN} to {CHUNK_SIZE_MAX}")]
    ChunkSize {
        /// The rejected size.
        bytes: u64,
    },
    /// The pack size is neither zero nor a multiple of the grid within the chunk size.
    #[error("pack size {bytes} is not 0 or a multiple of {GRID} up to the chunk size {chunk_size}")]
    PackSize {
        /// The rejected size.
        bytes: u64,
        /// The chunk size that bounds it.
        chunk_size: u32,
    },
}

/// The uncompressed length of the chunks of large files, and the bound on all chunks: 64 KiB to
/// 16 MiB.
///
/// Programs and libraries are cut finer; see [`PieceCutter`](crate::PieceCutter).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkSize(u32);

impl ChunkSize {
    /// Checks that `bytes` is a power of two from 64 KiB to 16 MiB.
    ///
    /// # Errors
    /// [`SizeError::ChunkSize`] otherwise.
    pub const fn new(bytes: u64) -> Result<Self, SizeError> {
        if bytes < CHUNK_SIZE_MIN as u64
            || bytes > CHUNK_SIZE_MAX as u64
            || !bytes.is_power_of_two()
        {
            return Err(SizeError::ChunkSize { bytes });
        }
        Ok(Self(bytes as u32))
    }

    /// Returns the size in bytes.
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

impl Default for ChunkSize {
    /// 1 MiB.
    fn default() -> Self {
        Self(1 << 20)
    }
}

/// The target length of a pack, the chunk that several small files share.
///
/// Files shorter than half of this are packed; zero turns packing off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackSize(u32);

impl PackSize {
    /// Checks that `bytes` is zero, or a multiple of 4 KiB not above `chunk_size`.
    ///
    /// # Errors
    /// [`SizeError::PackSize`] otherwise.
    pub const fn new(bytes: u64, chunk_size: ChunkSize) -> Result<Self, SizeError> {
        if bytes > chunk_size.0 as u64 || !bytes.is_multiple_of(GRID as u64) {
            return Err(SizeError::PackSize { bytes, chunk_size: chunk_size.0 });
        }
        Ok(Self(bytes as u32))
    }

    /// Returns the size in bytes; zero means that no file is packed.
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

impl Default for PackSize {
    /// 1 MiB.
    fn default() -> Self {
        Self(1 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_size_limits_are_exact() {
        for good in [64 << 10, 128 << 10, 1 << 20, 16 << 20] {
            assert_eq!(ChunkSize::new(good).map(ChunkSize::bytes), Ok(good as u32));
        }
        for bad in [0, 1, 32 << 10, (64 << 10) - 1, (64 << 10) + 1, 3 << 20, 32 << 20, u64::MAX] {
            assert_eq!(ChunkSize::new(bad), Err(SizeError::ChunkSize { bytes: bad }));
        }
    }

    #[test]
    fn pack_size_limits_are_exact() {
        let chunk_size = ChunkSize::new(64 << 10).unwrap();
        for good in [0, 4096, 8192, 64 << 10] {
            assert_eq!(PackSize::new(good, chunk_size).map(PackSize::bytes), Ok(good as u32));
        }
        for bad in [1, 4095, 4097, (64 << 10) + 4096] {
            assert!(PackSize::new(bad, chunk_size).is_err(), "{bad}");
        }
    }
}
