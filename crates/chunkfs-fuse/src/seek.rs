//! Finding data and holes.

use chunkfs_index::{FileKind, Index, Inode, PieceSource};

use crate::attributes::PIECES_MAX;
use crate::errno::Refusal;

/// `SEEK_DATA` and `SEEK_HOLE` of `include/uapi/linux/fs.h`.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// Returns the first offset from `offset` on that is in data, or in a hole, as `lseek(2)` says.
///
/// The end of the file counts as a hole. Looks at 65,536 pieces at most; what follows is taken as
/// data, which is allowed since holes read as zeros.
pub(crate) fn seek(index: &Index, file: &Inode, offset: i64, whence: i32) -> Result<i64, Refusal> {
    if file.kind != FileKind::Regular {
        return Err(Refusal::Invalid);
    }
    let wants_data = match whence {
        SEEK_DATA => true,
        SEEK_HOLE => false,
        _ => return Err(Refusal::Invalid),
    };
    let start = u64::try_from(offset).ok().filter(|start| *start < file.len);
    let start = start.ok_or(Refusal::OutOfFile)?;
    let mut found = None;
    for (count, piece) in index.pieces(file, start, u64::MAX).enumerate() {
        let is_data = matches!(piece.source, PieceSource::Chunk { .. });
        if count == PIECES_MAX {
            found = wants_data.then_some(piece.file_offset);
            break;
        }
        if is_data == wants_data {
            found = Some(piece.file_offset);
            break;
        }
    }
    match found {
        None if wants_data => Err(Refusal::OutOfFile),
        found => i64::try_from(found.unwrap_or(file.len)).map_err(|_| Refusal::OutOfFile),
    }
}
