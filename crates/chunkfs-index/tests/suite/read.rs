//! Looking up, listing and mapping what an index holds.

use chunkfs_index::{Device, FileKind, InodeIndex, PieceSource, Timestamp};

use crate::fixture::{CHUNK, everything};

#[test]
fn everything_that_was_built_is_read() {
    let index = everything().build();
    let get = |path: &[u8]| index.lookup_path(path).unwrap();
    assert_eq!(index.root().link_count, 3);
    assert_eq!(get(b"/usr").link_count, 4);
    assert_eq!(get(b"usr/bin/big"), get(b"/also-big"));
    assert_eq!((get(b"also-big").link_count, get(b"also-big").len), (2, 3 * CHUNK + 5));
    assert_eq!(get(b"empty").len, 0);
    assert_eq!(index.symlink_target(&get(&[0xff; 255])), Some(&b"usr/bin/big"[..]));
    assert_eq!(get(b"new\nline").kind, FileKind::Fifo);
    assert_eq!(get(b"socket").kind, FileKind::Socket);
    assert_eq!(get(b"tty").device, Device { major: 5, minor: 70_000 });
    assert_eq!(get(b"disk").mode(), 0o060644);
    let sparse = get(b"sparse");
    assert_eq!((sparse.uid, sparse.gid, sparse.permissions), (3_000_000_000, 70_000, 0o7777));
    assert_eq!(sparse.mtime, Timestamp { seconds: -2, nanos: 999_999_999 });
    let xattrs: Vec<_> = index.xattrs(&sparse).map(|xattr| (xattr.name, xattr.value)).collect();
    assert_eq!(
        xattrs,
        [(&b"security.capability"[..], &[0, 1, 0xff][..]), (&b"user.empty"[..], &[][..])]
    );
    let names: Vec<_> = index.dirents(&index.root(), 0).map(|dirent| dirent.name).collect();
    assert!(names.is_sorted());
    assert_eq!(names.len(), 9);
}

#[test]
fn paths_need_no_slash_and_follow_dots_but_no_links() {
    let index = everything().build();
    let bin = index.lookup_path(b"/usr/bin").unwrap();
    for path in [&b"usr/bin"[..], b"usr/bin/", b"//usr/./bin", b"usr/bin/../bin", b"../usr/bin"] {
        assert_eq!(index.lookup_path(path), Some(bin), "{path:?}");
    }
    for path in [&b"usr/bin/none"[..], b"empty/", b"empty/x", b"empty/..", b"usr/bi"] {
        assert_eq!(index.lookup_path(path), None, "{path:?}");
    }
    assert_eq!(index.lookup_path(b""), Some(index.root()));
    assert_eq!(bin.parent(), index.lookup_path(b"usr").unwrap().index);
}

#[test]
fn inode_numbers_round_trip() {
    assert_eq!(InodeIndex::ROOT.ino(), 1);
    for ino in [1, 2, 1 << 32] {
        assert_eq!(InodeIndex::from_ino(ino).unwrap().ino(), ino);
    }
    assert_eq!(InodeIndex::from_ino(0), None);
    assert_eq!(InodeIndex::from_ino((1 << 32) + 1), None);
}

#[test]
fn consecutive_chunks_are_one_extent_and_ranges_are_cut_exactly() {
    let index = everything().build();
    let big = index.lookup_path(b"also-big").unwrap();
    let pieces = |offset, len| -> Vec<(u64, u64, u32, u32)> {
        let pieces = index.pieces(&big, offset, len);
        pieces
            .map(|piece| match piece.source {
                PieceSource::Chunk { index, offset } => {
                    (piece.file_offset, piece.len, index.get(), offset)
                }
                PieceSource::Hole => panic!("{piece:?}"),
            })
            .collect()
    };
    assert_eq!(pieces(0, 1), [(0, 1, 0, 0)]);
    assert_eq!(pieces(CHUNK - 1, 2), [(CHUNK - 1, 1, 0, CHUNK as u32 - 1), (CHUNK, 1, 1, 0)]);
    assert_eq!(pieces(3 * CHUNK, 100), [(3 * CHUNK, 5, 3, 0)]);
    assert_eq!(pieces(0, u64::MAX).len(), 4);
    assert_eq!(pieces(3 * CHUNK + 5, 1), []);
    assert_eq!(pieces(u64::MAX, u64::MAX), []);
    assert_eq!(pieces(7, 0), []);
}

#[test]
fn packed_files_are_pieces_at_their_offsets() {
    let index = everything().build();
    for (path, offset, len) in [(&b"usr/setuid"[..], 4096, 300), (b"usr/packed/setuid", 4096, 300)]
    {
        let file = index.lookup_path(path).unwrap();
        let [piece] = index.pieces(&file, 0, u64::MAX).collect::<Vec<_>>()[..] else { panic!() };
        let PieceSource::Chunk { index: chunk, offset: actual } = piece.source else { panic!() };
        assert_eq!((piece.len, actual, chunk.get()), (len, offset, 6));
    }
}

#[test]
fn holes_are_pieces_too() {
    let index = everything().build();
    let sparse = index.lookup_path(b"sparse").unwrap();
    let pieces: Vec<_> = index.pieces(&sparse, CHUNK - 1, (1 << 33) + 2).collect();
    assert_eq!(pieces.len(), 3);
    assert_eq!((pieces[1].len, pieces[1].source), (1 << 33, PieceSource::Hole));
    assert_eq!(pieces[2].len, 1);
}
