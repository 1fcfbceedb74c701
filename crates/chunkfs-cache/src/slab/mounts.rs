//! Chunks that a kernel reads by their addresses, through no process of ours.
//!
//! A kernel mount has a metadata image, a file that the kernel keeps open while it is mounted. The
//! chunks that it points at are listed beside it and are not evicted while anybody has that file
//! open, whoever mounted it and whether that process still lives.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::images::{ImageEntry, read_file, remove_file};
use super::store::SlabStore;
use crate::file_lease::is_open_elsewhere;
use crate::files::Durability;
use crate::key::StoreKey;

const MOUNT_PREFIX: &str = "v1-mount-";

impl SlabStore {
    /// Keeps chunks from being evicted while anybody has the metadata image open.
    ///
    /// The caller has it open itself until the kernel has.
    pub(crate) fn hold_for_mount(
        &self,
        metadata: &Path,
        chunks: Vec<(StoreKey, u32)>,
    ) -> io::Result<()> {
        let path = metadata.canonicalize()?;
        let name = path.into_os_string().into_string().map_err(|_| io::ErrorKind::InvalidInput)?;
        let id = blake3::hash(name.as_bytes()).to_hex();
        let entry = ImageEntry { name, chunks }.encode();
        self.files.replace(&format!("{MOUNT_PREFIX}{id}"), &entry, Durability::Synced)
    }

    /// The chunks of living mounts. Forgets the mounts that ended.
    pub(super) fn mounted_keys(&self) -> io::Result<HashSet<StoreKey>> {
        let mut keys = HashSet::new();
        for name in self.files.list()?.iter().filter(|name| name.starts_with(MOUNT_PREFIX)) {
            let Some(bytes) = read_file(&*self.files, name)? else { continue };
            // These files are synced before they have their name: damage is not from a power loss.
            let entry = ImageEntry::decode(&bytes).ok_or(io::ErrorKind::InvalidData)?;
            if is_alive(&PathBuf::from(&entry.name))? {
                keys.extend(entry.chunks.into_iter().map(|(key, _)| key));
            } else {
                remove_file(&*self.files, name)?;
            }
        }
        Ok(keys)
    }
}

fn is_alive(metadata: &Path) -> io::Result<bool> {
    match File::options().read(true).write(true).open(metadata) {
        Ok(file) => is_open_elsewhere(&file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // A file that is being executed or mapped so that it cannot be written is in use.
        Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => Ok(true),
        Err(error) => Err(error),
    }
}
