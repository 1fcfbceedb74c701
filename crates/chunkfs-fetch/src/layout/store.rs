//! The file operations of a layout; all of them block.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chunkfs_format::{BlobHasher, BlobId};
use serde_json::Value;

use super::index::{INDEX_LEN_MAX, LayoutIndex, NewManifest, VERSION_TEXT};
use crate::error::FetchError;
use crate::manifest::MANIFEST_LEN_MAX;
use crate::source::{BlobContent, BlobDescriptor, ManifestSelector, StoredManifest};

const VERSION_LEN_MAX: u64 = 4096;
const COPY_STEP: usize = 1 << 20;

pub(super) struct Store {
    path: PathBuf,
}

impl Store {
    pub(super) fn open(path: PathBuf) -> Result<Self, FetchError> {
        let invalid = |problem: &str| FetchError::InvalidLayout {
            path: path.clone(),
            problem: problem.to_owned(),
        };
        let version_path = path.join("oci-layout");
        let text = match read_limited(&version_path, VERSION_LEN_MAX)? {
            Some(text) => text,
            None if path.is_dir() => return Err(invalid("the file `oci-layout` is missing")),
            None => return Err(FetchError::NotFound { what: format!("{}", path.display()) }),
        };
        let json: Value = serde_json::from_slice(&text)
            .map_err(|_| invalid("the file `oci-layout` is not JSON"))?;
        let version = json.get("imageLayoutVersion").and_then(Value::as_str).unwrap_or("");
        if version != "1" && !version.starts_with("1.") {
            return Err(invalid("it has another version than 1"));
        }
        Ok(Self { path })
    }

    pub(super) fn create(path: PathBuf) -> Result<Self, FetchError> {
        let blobs = path.join("blobs/sha256");
        if path.join("oci-layout").exists() {
            fs::create_dir_all(&blobs).map_err(|error| FetchError::io(&blobs, error))?;
            return Self::open(path);
        }
        fs::create_dir_all(&path).map_err(|error| FetchError::io(&path, error))?;
        let mut names = fs::read_dir(&path).map_err(|error| FetchError::io(&path, error))?;
        // What an interrupted or concurrent `create` leaves is no obstacle.
        let is_ours = |name: &std::ffi::OsStr| {
            let name = name.to_string_lossy();
            name == "blobs" || name.starts_with("index.json") || name.starts_with(TEMPORARY_PREFIX)
        };
        if names.any(|entry| entry.map_or(true, |entry| !is_ours(&entry.file_name()))) {
            let problem = "it holds other files and no `oci-layout`".to_owned();
            return Err(FetchError::InvalidLayout { path, problem });
        }
        fs::create_dir_all(&blobs).map_err(|error| FetchError::io(&blobs, error))?;
        let store = Self { path };
        store.update_index(|_| true)?;
        store.publish(&store.path, "oci-layout", |file| file.write_all(VERSION_TEXT))?;
        Ok(store)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn read_range(&self, blob: BlobId, range: Range<u64>) -> Result<Bytes, FetchError> {
        let path = self.blob_path(blob);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(self.blob_not_found(blob));
            }
            Err(error) => return Err(FetchError::io(path, error)),
        };
        // Checked before allocating: a descriptor may promise more than the file holds.
        let len = file.metadata().map_err(|error| FetchError::io(&path, error))?.len();
        if range.end > len {
            return Err(FetchError::OutOfRange { blob, range, len });
        }
        let count = usize::try_from(range.end - range.start).map_err(|_| FetchError::TooLarge {
            what: blob.to_string(),
            len,
            len_max: usize::MAX as u64,
        })?;
        let mut bytes = vec![0; count];
        match file.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok(bytes.into()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(FetchError::OutOfRange { blob, range, len })
            }
            Err(error) => Err(FetchError::io(path, error)),
        }
    }

    pub(super) fn read_manifest(
        &self,
        selector: &ManifestSelector,
    ) -> Result<StoredManifest, FetchError> {
        let (id, media_type) = self.read_index()?.find(selector, self.path.display())?;
        let bytes = read_limited(&self.blob_path(id), MANIFEST_LEN_MAX)?
            .ok_or_else(|| self.blob_not_found(id))?;
        let actual = BlobId::of(&bytes);
        if actual != id {
            return Err(FetchError::DigestMismatch { expected: id, actual });
        }
        Ok(StoredManifest { id, media_type, bytes: bytes.into() })
    }

    pub(super) fn read_index(&self) -> Result<LayoutIndex, FetchError> {
        match read_limited(&self.path.join("index.json"), INDEX_LEN_MAX)? {
            Some(bytes) => LayoutIndex::parse(&bytes, &self.path),
            None => Ok(LayoutIndex::empty()),
        }
    }

    pub(super) fn has_blob(&self, blob: &BlobDescriptor) -> Result<bool, FetchError> {
        let path = self.blob_path(blob.id);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len() == blob.len),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(FetchError::io(path, error)),
        }
    }

    pub(super) fn put_blob(
        &self,
        blob: &BlobDescriptor,
        content: &BlobContent,
    ) -> Result<(), FetchError> {
        let directory = self.path.join("blobs/sha256");
        let mut copied = None;
        self.publish_if(&directory, &blob.id.to_hex(), |target| {
            let outcome = match content {
                BlobContent::Bytes(bytes) => {
                    target.write_all(bytes)?;
                    (BlobId::of(bytes), bytes.len() as u64)
                }
                BlobContent::File(source) => copy_hashed(source, target)?,
            };
            copied = Some(outcome);
            Ok(outcome == (blob.id, blob.len))
        })?;
        match copied {
            Some((_, len)) if len != blob.len => {
                Err(FetchError::LenMismatch { blob: blob.id, expected: blob.len, actual: len })
            }
            Some((id, _)) if id != blob.id => {
                Err(FetchError::DigestMismatch { expected: blob.id, actual: id })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn put_manifest(
        &self,
        selector: &ManifestSelector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<BlobId, FetchError> {
        let manifest = NewManifest::parse(selector, media_type, &bytes)?;
        self.put_blob(&manifest.blob, &BlobContent::Bytes(bytes))?;
        self.update_index(|index| index.insert(&manifest))?;
        Ok(manifest.blob.id)
    }

    /// Changes `index.json` under its lock; writes nothing if `change` returns false.
    fn update_index(
        &self,
        change: impl FnOnce(&mut LayoutIndex) -> bool,
    ) -> Result<(), FetchError> {
        // The lock file stays: removing it would let two writers lock different files.
        let lock_path = self.path.join("index.json.lock");
        let lock = File::options().create(true).append(true).open(&lock_path);
        let lock = lock.and_then(|file| file.lock().map(|()| file));
        let _lock = lock.map_err(|error| FetchError::io(&lock_path, error))?;
        let mut index = self.read_index()?;
        if !change(&mut index) {
            return Ok(());
        }
        let json = index.to_json();
        self.publish(&self.path, "index.json", |file| file.write_all(&json))
    }

    fn publish(
        &self,
        directory: &Path,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), FetchError> {
        self.publish_if(directory, name, |file| write(file).map(|()| true))
    }

    /// Writes a file that appears under `name` whole and synced, if `write` returns true.
    fn publish_if(
        &self,
        directory: &Path,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<bool>,
    ) -> Result<(), FetchError> {
        let target = directory.join(name);
        let result = (|| {
            let mut temporary = tempfile::Builder::new()
                .prefix(TEMPORARY_PREFIX)
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
                .tempfile_in(directory)?;
            if !write(temporary.as_file_mut())? {
                return Ok(());
            }
            temporary.as_file().sync_all()?;
            temporary.persist(&target).map_err(|error| error.error)?;
            File::open(directory)?.sync_all()
        })();
        result.map_err(|error| FetchError::io(target, error))
    }

    fn blob_path(&self, blob: BlobId) -> PathBuf {
        self.path.join("blobs/sha256").join(blob.to_hex())
    }

    fn blob_not_found(&self, blob: BlobId) -> FetchError {
        FetchError::NotFound { what: format!("blob {blob} in {}", self.path.display()) }
    }
}

const TEMPORARY_PREFIX: &str = ".chunkfs-";

fn copy_hashed(source: &File, target: &mut File) -> io::Result<(BlobId, u64)> {
    let mut hasher = BlobHasher::new();
    let mut buffer = vec![0; COPY_STEP];
    let mut offset = 0;
    loop {
        let count = match source.read_at(&mut buffer, offset) {
            Ok(0) => return Ok((hasher.finish(), offset)),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..count]);
        target.write_all(&buffer[..count])?;
        offset += count as u64;
    }
}

/// Reads a small file, or returns `None` if it does not exist.
fn read_limited(path: &Path, len_max: u64) -> Result<Option<Vec<u8>>, FetchError> {
    use std::io::Read as _;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(FetchError::io(path, error)),
    };
    let mut bytes = Vec::new();
    let mut limited = file.take(len_max + 1);
    limited.read_to_end(&mut bytes).map_err(|error| FetchError::io(path, error))?;
    let len = bytes.len() as u64;
    if len > len_max {
        let what = path.display().to_string();
        return Err(FetchError::TooLarge { what, len, len_max });
    }
    Ok(Some(bytes))
}
