//! The rules on sections and records, each broken alone in an index whose digests are right.

use bytes::Bytes;
use chunkfs_index::{Index, OpenError};

use crate::fixture::everything;
use crate::hostile::{resign, section};

const INODES: u32 = 1;
const DIRENTS: u32 = 2;
const EXTENTS: u32 = 3;
const CHUNKS: u32 = 4;
const XATTRS: u32 = 5;
const STRINGS: u32 = 6;
const LOCATIONS: u32 = 7;
const BLOBS: u32 = 8;

// Positions of inodes in the tree: breadth first, names in byte order.
const BIG: usize = 1;
const EMPTY: usize = 3;
const FIFO: usize = 4;
const SPARSE: usize = 6;
const TTY: usize = 7;
const USR: usize = 8;
const SYMLINK: usize = 9;
const BIN: usize = 10;
const PACKED: usize = 11;
const LAST_FILE: usize = 13;
const NONE: usize = 15;

/// A change: a section, a byte offset in it, and the new bytes.
type Change = (u32, usize, Vec<u8>);

fn record_len(kind: u32) -> usize {
    [52, 12, 24, 36, 16, 1, 16, 40][kind as usize - 1]
}

fn set(kind: u32, record: usize, field: usize, value: &[u8]) -> Change {
    (kind, record * record_len(kind) + field, value.to_vec())
}

fn set16(kind: u32, record: usize, field: usize, value: u16) -> Change {
    set(kind, record, field, &value.to_le_bytes())
}

fn set32(kind: u32, record: usize, field: usize, value: u32) -> Change {
    set(kind, record, field, &value.to_le_bytes())
}

fn set64(kind: u32, record: usize, field: usize, value: u64) -> Change {
    set(kind, record, field, &value.to_le_bytes())
}

fn open_changed(good: &[u8], changes: &[Change]) -> Result<Index, OpenError> {
    let mut bytes = good.to_vec();
    for (kind, offset, value) in changes {
        let start = section(&bytes, *kind).unwrap().start + offset;
        bytes[start..start + value.len()].copy_from_slice(value);
    }
    resign(&mut bytes);
    Index::open(bytes.into())
}

/// Checks that each list of changes makes opening fail with an error that holds the text.
fn assert_rejected(cases: &[(&str, Vec<Change>, &str)]) {
    let good = everything().build().as_bytes().clone();
    assert!(open_changed(&good, &[]).is_ok(), "what is changed was good");
    for (number, (requirement, changes, expected)) in cases.iter().enumerate() {
        let message = open_changed(&good, changes).map(drop).unwrap_err().to_string();
        assert!(message.contains(expected), "{requirement}, case {number}: {message}");
    }
}

#[test]
fn rules_on_inodes_are_checked() {
    let good = everything().build().as_bytes().clone();
    let strings = &good[section(&good, STRINGS).unwrap()];
    let target = strings.windows(11).position(|string| string == b"usr/bin/big").unwrap();
    assert_rejected(&[
        ("[F-36]", vec![set16(INODES, 0, 0, 0o100644)], "the root is not a directory"),
        ("[F-36]", vec![set32(INODES, 0, 48, 1)], "the root has a parent"),
        (
            "[F-37]",
            vec![set16(INODES, EMPTY, 0, 0o644), set(DIRENTS, 2, 9, &[0])],
            "its type is unknown",
        ),
        (
            "[F-37]",
            vec![set16(INODES, EMPTY, 0, 0o170644), set(DIRENTS, 2, 9, &[15])],
            "its type is unknown",
        ),
        ("[F-38]", vec![set32(INODES, EMPTY, 24, 1_000_000_000)], "its nanoseconds"),
        ("[F-39]", vec![set16(INODES, SPARSE, 2, 3)], "not in ascending order"),
        ("[F-39]", vec![set16(INODES, SPARSE, 2, 4)], "its xattrs lie outside"),
        ("[F-39]", vec![set32(INODES, SPARSE, 44, u32::MAX)], "its xattrs lie outside"),
        ("[F-39]", vec![set32(INODES, EMPTY, 44, 1)], "its xattrs lie outside"),
        ("[F-40]", vec![set64(INODES, FIFO, 32, 1)], "does not use is not zero"),
        ("[F-40]", vec![set32(INODES, FIFO, 28, 1)], "does not use is not zero"),
        ("[F-40]", vec![set32(INODES, FIFO, 40, 1)], "does not use is not zero"),
        ("[F-40]", vec![set64(INODES, TTY, 32, 1)], "does not use is not zero"),
        ("[F-40]", vec![set32(INODES, FIFO, 48, 1)], "only directories have a parent"),
        ("[F-40]", vec![set32(INODES, SYMLINK, 40, 1)], "its target is empty"),
        ("[F-41]", vec![set64(INODES, USR, 32, 1)], "its dirents do not follow"),
        ("[F-41]", vec![set32(INODES, USR, 28, 8)], "its dirents do not follow"),
        ("[F-41]", vec![set32(INODES, NONE, 40, 1)], "its dirents lie outside"),
        ("[F-41]", vec![set32(INODES, NONE, 40, u32::MAX)], "its dirents lie outside"),
        ("[F-41]", vec![set32(INODES, PACKED, 40, 3)], "its dirents do not follow"),
        ("[F-42]", vec![set32(INODES, SPARSE, 28, 0)], "its extents do not follow"),
        ("[F-42]", vec![set64(INODES, EMPTY, 32, 1 << 63)], "its extents do not follow"),
        ("[F-42]", vec![set32(INODES, LAST_FILE, 40, 2)], "its extents lie outside"),
        (
            "[F-42]",
            vec![set32(INODES, LAST_FILE, 40, 0), set64(INODES, LAST_FILE, 32, 0)],
            "it belongs to no file",
        ),
        ("[F-43]", vec![set64(INODES, SYMLINK, 32, 0)], "its target is empty"),
        ("[F-43]", vec![set64(INODES, SYMLINK, 32, u64::MAX)], "its target lies outside"),
        ("[F-43]", vec![set32(INODES, SYMLINK, 28, u32::MAX)], "its target lies outside"),
        ("[F-43]", vec![(STRINGS, target + 3, vec![0])], "its target is empty"),
        (
            "[F-43]",
            vec![set32(INODES, SYMLINK, 28, 0), set64(INODES, SYMLINK, 32, 4096)],
            "its target",
        ),
        ("[F-44]", vec![set32(INODES, EMPTY, 12, 2)], "is not the number of its names"),
        ("[F-44]", vec![set32(INODES, USR, 12, 5)], "is not that of its subdirectories"),
        (
            "[F-45]",
            vec![set32(DIRENTS, 2, 0, BIG as u32), set32(INODES, EMPTY, 12, 0)],
            "is not the number of its names",
        ),
        ("[F-46]", vec![set32(DIRENTS, 9, 0, USR as u32)], "comes before its parent"),
        ("[F-46]", vec![set32(DIRENTS, 9, 0, 0)], "comes before its parent"),
        ("[F-46]", vec![set32(INODES, BIN, 48, 0)], "names another one"),
        ("[F-46]", vec![set32(DIRENTS, 10, 0, BIN as u32)], "is not the number of its names"),
    ]);
}

#[test]
fn rules_on_dirents_are_checked() {
    assert_rejected(&[
        ("[F-2]", vec![set16(DIRENTS, 0, 10, 1)], "a reserved field is set"),
        ("[F-47]", vec![set(DIRENTS, 0, 8, &[0])], "its name is empty"),
        ("[F-47]", vec![set32(DIRENTS, 0, 4, u32::MAX)], "its name lies outside the strings"),
        ("[F-47]", vec![(STRINGS, 1, b"/".to_vec())], "holds `/`"),
        ("[F-47]", vec![(STRINGS, 1, vec![0])], "holds `/` or NUL"),
        ("[F-47]", vec![(STRINGS, 0, b".".to_vec()), set(DIRENTS, 0, 8, &[1])], "`.`"),
        ("[F-47]", vec![(STRINGS, 0, b"..".to_vec()), set(DIRENTS, 0, 8, &[2])], "`..`"),
        ("[F-48]", vec![(STRINGS, 0, b"z".to_vec())], "not in ascending order"),
        ("[F-48]", vec![set(DIRENTS, 1, 4, &[0; 4]), set(DIRENTS, 1, 8, &[8])], "ascending order"),
        ("[F-49]", vec![set(DIRENTS, 0, 9, &[4])], "its type differs"),
        ("[F-49]", vec![set32(DIRENTS, 0, 0, 16)], "it has no such inode"),
        ("[F-49]", vec![set32(DIRENTS, 0, 0, u32::MAX)], "it has no such inode"),
    ]);
}

#[test]
fn rules_on_extents_are_checked() {
    assert_rejected(&[
        ("[F-50]", vec![set64(EXTENTS, 2, 0, 1)], "does not start where the one before ends"),
        ("[F-50]", vec![set64(EXTENTS, 2, 8, 0)], "it is empty"),
        ("[F-50]", vec![set64(EXTENTS, 2, 8, u64::MAX)], "ends after its file"),
        ("[F-50]", vec![set64(EXTENTS, 3, 8, 11)], "ends after its file"),
        ("[F-50]", vec![set64(EXTENTS, 3, 8, 9)], "its extents do not cover it"),
        ("[F-51]", vec![set32(EXTENTS, 2, 20, 4096)], "a hole has an offset"),
        ("[F-15]", vec![set32(EXTENTS, 4, 20, 1)], "does not start on the 4 KiB grid"),
        ("[F-52]", vec![set32(EXTENTS, 0, 16, 7)], "it has no such chunk"),
        ("[F-52]", vec![set32(EXTENTS, 0, 16, u32::MAX - 1)], "it has no such chunk"),
        ("[F-52]", vec![set32(EXTENTS, 0, 20, 4096)], "leaves a chunk"),
        ("[F-52]", vec![set32(EXTENTS, 4, 20, 8192)], "leaves a chunk"),
        ("[F-52]", vec![set32(EXTENTS, 0, 16, 1)], "has another length than its first"),
        ("[F-52]", vec![set32(EXTENTS, 3, 16, 3)], "ends off the 4 KiB grid"),
        (
            "[F-52]",
            vec![set32(CHUNKS, 3, 32, 4), set32(LOCATIONS, 3, 8, 4)],
            "its last chunk is too short",
        ),
        (
            "[F-52]",
            vec![set64(EXTENTS, 0, 8, i64::MAX as u64), set64(INODES, BIG, 32, i64::MAX as u64)],
            "has another length than its first",
        ),
    ]);
}

#[test]
fn rules_on_chunks_and_locations_are_checked() {
    let zstd = |stored_len| vec![set(LOCATIONS, 0, 14, &[1]), set32(LOCATIONS, 0, 8, stored_len)];
    assert_rejected(&[
        ("[F-53]", vec![set32(CHUNKS, 0, 32, 0)], "its length is zero"),
        ("[F-53]", vec![set32(CHUNKS, 0, 32, 65_537)], "above the chunk size"),
        ("[F-8]", vec![set32(LOCATIONS, 0, 8, 65_535)], "a raw chunk has two lengths"),
        ("[F-57]", zstd(0), "the stored length is zero"),
        ("[F-57]", zstd(65_537), "above the uncompressed length"),
        ("[F-57]", vec![set64(LOCATIONS, 0, 0, 1 << 40)], "it lies outside its blob"),
        ("[F-57]", vec![set64(LOCATIONS, 0, 0, u64::MAX)], "it lies outside its blob"),
        ("[F-57]", vec![set64(BLOBS, 0, 32, 0)], "it lies outside its blob"),
        ("[F-57]", vec![set16(LOCATIONS, 0, 12, 1)], "it has no such blob"),
        ("[F-7]", vec![set(LOCATIONS, 0, 14, &[2])], "the codec is unknown"),
        ("[F-2]", vec![set(LOCATIONS, 0, 15, &[1])], "a reserved field is not zero"),
    ]);
}

#[test]
fn rules_on_xattrs_are_checked() {
    assert_rejected(&[
        ("[F-2]", vec![set16(XATTRS, 0, 10, 1)], "a reserved field is not zero"),
        ("[F-55]", vec![set16(XATTRS, 0, 8, 0)], "its name is empty"),
        ("[F-55]", vec![set16(XATTRS, 0, 8, 256), set32(XATTRS, 0, 0, 0)], "too long"),
        ("[F-55]", vec![set32(XATTRS, 0, 0, u32::MAX)], "its name lies outside"),
        ("[F-55]", vec![set32(XATTRS, 0, 12, 65_537)], "its value is too long"),
        ("[F-56]", vec![set32(XATTRS, 0, 4, u32::MAX)], "lies outside the strings"),
        // Both names of the set are the first ten bytes of the strings.
        (
            "[F-39]",
            vec![set32(XATTRS, 0, 0, 0), set16(XATTRS, 0, 8, 10), set32(XATTRS, 1, 0, 0)],
            "not in ascending order",
        ),
    ]);
}

/// Puts an index together from sections, as the builder does but with any kinds.
fn assemble(good: &[u8], sections: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = good[..80].to_vec();
    bytes[14..16].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    let mut end = 80 + 24 * sections.len();
    for (kind, section) in sections {
        let start = end.next_multiple_of(8);
        end = start + section.len();
        bytes.extend((u64::from(*kind)).to_le_bytes());
        bytes.extend((start as u64).to_le_bytes());
        bytes.extend((section.len() as u64).to_le_bytes());
    }
    for (_, section) in sections {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend_from_slice(section);
    }
    let total_len = bytes.len() as u64;
    bytes[32..40].copy_from_slice(&total_len.to_le_bytes());
    resign(&mut bytes);
    bytes
}

fn open_error(bytes: Vec<u8>) -> String {
    Index::open(Bytes::from(bytes)).map(drop).unwrap_err().to_string()
}

#[test]
fn rules_on_sections_are_checked() {
    let good = everything().build().as_bytes().to_vec();
    let sections: Vec<(u32, &[u8])> =
        (1..=8).map(|kind| (kind, &good[section(&good, kind).unwrap()])).collect();
    assert_eq!(assemble(&good, &sections), good);

    // [F-33]
    let mut more = sections.clone();
    more.extend([(9, &b"later"[..]), (70_000, b"")]);
    assert!(Index::open(assemble(&good, &more).into()).is_ok(), "unknown sections are skipped");

    // [F-31]
    more.extend((0..55).map(|kind| (80_000 + kind, &b""[..])));
    assert!(open_error(assemble(&good, &more)).contains("too many sections"));
    more.pop();
    assert!(Index::open(assemble(&good, &more).into()).is_ok(), "64 sections are allowed");
    more.swap(8, 9);
    assert!(open_error(assemble(&good, &more)).contains("not in ascending order"));
    let mut twice = sections.clone();
    twice.insert(7, twice[7]);
    assert!(open_error(assemble(&good, &twice)).contains("not in ascending order"));

    // [F-32]
    let missing = open_error(assemble(&good, &sections[..7]));
    assert!(missing.contains("a section is missing"), "{missing}");

    // [F-35] [F-54] [F-59]
    for (kind, change, expected) in [
        (7, -1i64, "not a whole number of records"),
        (7, -16, "the chunk and location tables differ in length"),
        (4, 36, "the chunk and location tables differ in length"),
        (8, 40 * 65_535, "more blobs than the format allows"),
    ] {
        let mut section = sections[kind - 1].1.to_vec();
        section.resize((section.len() as i64 + change) as usize, 0);
        let mut changed = sections.clone();
        changed[kind - 1].1 = &section;
        let error = open_error(assemble(&good, &changed));
        assert!(error.contains(expected), "{error}");
    }
    let blobs = [sections[7].1, &vec![0; 40 * 65_534]].concat();
    let mut changed = sections.clone();
    changed[7].1 = &blobs;
    assert_eq!(Index::open(assemble(&good, &changed).into()).unwrap().blob_count(), 65_535);
}

/// [F-2] [F-34]
#[test]
fn sections_follow_each_other_with_zero_padding() {
    let good = everything().build().as_bytes().to_vec();
    let entry = |kind: usize| 80 + (kind - 1) * 24;
    let strings = section(&good, STRINGS).unwrap();
    assert_ne!(strings.end % 8, 0, "the fixture has padding after the strings");
    for (position, value, expected) in [
        (entry(1) + 4, 1, "a reserved field is not zero"),
        (entry(2) + 8, 0, "it does not follow the section before"),
        (entry(8) + 15, 0xff, "it lies outside the index"),
        (entry(8) + 16, 0, "bytes follow the last section"),
        (strings.end, 1, "the padding before it is not zero"),
    ] {
        let mut bytes = good.clone();
        bytes[position] = value;
        resign(&mut bytes);
        let error = open_error(bytes);
        assert!(error.contains(expected), "{error}");
    }
}
