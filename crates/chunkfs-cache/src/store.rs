//! The disk tier.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use chunkfs_format::{ChunkId, DigestAlgorithm};

/// Names a chunk in a store: its id and the algorithm that the id was computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkKey {
    /// The algorithm.
    pub algorithm: DigestAlgorithm,
    /// The digest of the uncompressed bytes.
    pub id: ChunkId,
}

/// Keeps uncompressed chunks beyond the life of a process.
///
/// A store is a hint: what it returns is verified by the caller, and every failure means no more
/// than a fetch. Calls block and are made on threads where that is allowed.
pub trait ChunkStore: Send + Sync + fmt::Debug {
    /// Returns the chunk's bytes, or `None` if the store does not have it with this length.
    ///
    /// # Errors
    /// Whatever the system says; the caller counts it and fetches.
    fn read(&self, key: &ChunkKey, uncompressed_len: u32) -> io::Result<Option<Vec<u8>>>;

    /// Returns whether the store has the chunk, without reading it.
    fn contains(&self, key: &ChunkKey, uncompressed_len: u32) -> bool;

    /// Keeps a chunk; readers see all of it or nothing.
    ///
    /// # Errors
    /// Whatever the system says; the chunk is then not kept.
    fn write(&self, key: &ChunkKey, bytes: &[u8]) -> io::Result<()>;

    /// Forgets a chunk that turned out to be damaged.
    ///
    /// # Errors
    /// Whatever the system says.
    fn remove(&self, key: &ChunkKey) -> io::Result<()>;
}

/// A store that keeps each chunk in a file of its own: `FOLDER/chunks/blake3/ab/abcd...`.
///
/// Files are written under a temporary name and renamed, never synced: after a power loss a file
/// may be short or zeroed, which readers notice by its digest. Shared by any number of processes.
#[derive(Debug)]
pub struct DirectoryStore {
    chunks: PathBuf,
}

impl DirectoryStore {
    /// Opens a store in `folder`, creating it with mode 0700 if it is not there.
    ///
    /// # Errors
    /// Whatever the system says of creating the folder.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let chunks = folder.join("chunks");
        create_private_folder(&chunks)?;
        Ok(Self { chunks })
    }

    fn path(&self, key: &ChunkKey) -> PathBuf {
        let hex = key.id.to_hex();
        self.chunks.join(key.algorithm.name()).join(&hex[..2]).join(hex)
    }
}

fn create_private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl ChunkStore for DirectoryStore {
    fn read(&self, key: &ChunkKey, uncompressed_len: u32) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.path(key)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = u64::from(uncompressed_len);
        let mut bytes = Vec::with_capacity(uncompressed_len as usize);
        (&file).take(len).read_to_end(&mut bytes)?;
        let is_whole = bytes.len() as u64 == len && file.metadata()?.len() == len;
        Ok(is_whole.then_some(bytes))
    }

    fn contains(&self, key: &ChunkKey, uncompressed_len: u32) -> bool {
        fs::metadata(self.path(key)).is_ok_and(|file| file.len() == u64::from(uncompressed_len))
    }

    fn write(&self, key: &ChunkKey, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.chunks);
        let create = || {
            tempfile::Builder::new()
                .permissions(fs::Permissions::from_mode(0o600))
                .prefix(".new-")
                .tempfile_in(folder)
        };
        let mut file = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_private_folder(folder)?;
                create()?
            }
            other => other?,
        };
        file.write_all(bytes)?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    }

    fn remove(&self, key: &ChunkKey) -> io::Result<()> {
        fs::remove_file(self.path(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bytes: &[u8]) -> ChunkKey {
        let algorithm = DigestAlgorithm::Blake3;
        ChunkKey { algorithm, id: algorithm.chunk_id(bytes) }
    }

    #[test]
    fn what_is_written_is_read_with_the_right_length_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(folder.path()).unwrap();
        let key = key(b"chunk");
        assert_eq!(store.read(&key, 5).unwrap(), None);
        store.write(&key, b"chunk").unwrap();
        assert_eq!(store.read(&key, 5).unwrap(), Some(b"chunk".to_vec()));
        for len in [0, 4, 6] {
            assert_eq!(store.read(&key, len).unwrap(), None, "{len}");
            assert!(!store.contains(&key, len), "{len}");
        }
        assert!(store.contains(&key, 5));
        store.remove(&key).unwrap();
        assert_eq!(store.read(&key, 5).unwrap(), None);
    }

    #[test]
    fn files_are_private_and_no_temporary_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(folder.path()).unwrap();
        store.write(&key(b"a"), b"a").unwrap();
        store.write(&key(b"a"), b"a").unwrap();
        let path = store.path(&key(b"a"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let parent = path.parent().unwrap();
        assert_eq!(fs::metadata(parent).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(parent).unwrap().count(), 1);
    }
}
