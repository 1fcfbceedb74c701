//! Room for the bytes of one blob, in memory or in a file without a name.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Where the bytes of a blob are kept while they arrive and afterwards.
#[derive(Debug)]
pub(super) enum Room {
    Memory(Mutex<Vec<u8>>),
    /// It has no name: it is gone when it is closed, also if this process is killed.
    File(Arc<File>),
}

impl Room {
    /// Reserves memory for `len` bytes.
    pub(super) fn in_memory(len: u64) -> io::Result<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(index(len)).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self::Memory(Mutex::new(bytes)))
    }

    /// Creates a file in `folder`.
    pub(super) async fn in_folder(folder: &Path) -> io::Result<Self> {
        let folder = folder.to_owned();
        let file = blocking(move || tempfile::tempfile_in(folder)).await?;
        Ok(Self::File(Arc::new(file)))
    }

    /// Adds the bytes from `offset` on, which is where those before ended.
    pub(super) async fn append(&self, offset: u64, piece: Bytes) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => {
                let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                bytes.extend_from_slice(&piece);
                Ok(())
            }
            Self::File(file) => {
                let file = Arc::clone(file);
                blocking(move || file.write_all_at(&piece, offset)).await
            }
        }
    }

    /// Copies out bytes that were added, so that they do not keep the whole alive.
    pub(super) async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => {
                let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                let slice = bytes.get(index(range.start)..index(range.end));
                slice.map(Bytes::copy_from_slice).ok_or(io::ErrorKind::UnexpectedEof.into())
            }
            Self::File(file) => {
                let file = Arc::clone(file);
                blocking(move || {
                    let mut bytes = vec![0; index(range.end - range.start)];
                    file.read_exact_at(&mut bytes, range.start)?;
                    Ok(bytes.into())
                })
                .await
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_kinds_return_what_was_added_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = [Room::in_memory(10).unwrap(), Room::in_folder(folder.path()).await.unwrap()];
        for room in rooms {
            room.append(0, Bytes::from_static(b"01234")).await.unwrap();
            room.append(5, Bytes::from_static(b"567")).await.unwrap();
            assert_eq!(room.read(0..8).await.unwrap(), "01234567");
            assert_eq!(room.read(4..6).await.unwrap(), "45");
            assert_eq!(room.read(8..8).await.unwrap(), "");
            let error = room.read(7..9).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        assert!(Room::in_folder(&folder.path().join("missing")).await.is_err());
    }
}
