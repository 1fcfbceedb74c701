#!/usr/bin/env python3
"""Lists a chunkfs index: a second reader, written from docs/format.md alone.

It shows that the specification is complete, and checks what the specification asks readers to
check, except the checksum and the image id: the standard library has no BLAKE3.
"""

import argparse
import shutil
import struct
import subprocess
import sys

SECTIONS = ["inodes", "dirents", "extents", "chunks", "xattrs", "strings", "locations", "blobs"]
RECORDS = {
    "inodes": "<HHIIIqIIQIII",
    "dirents": "<IIBBH",
    "extents": "<QQII",
    "chunks": "<32sI",
    "xattrs": "<IIHHI",
    "locations": "<QIHBB",
    "blobs": "<32sQ",
}
HOLE = 0xFFFFFFFF
KINDS = {1: "p", 2: "c", 4: "d", 6: "b", 8: "-", 10: "l", 12: "s"}


class Invalid(Exception):
    pass


def check(is_met, problem):
    if not is_met:
        raise Invalid(problem)


def decompress(path):
    with open(path, "rb") as file:
        content = file.read()
    if content[:4] != b"\x28\xb5\x2f\xfd":
        return content
    check(shutil.which("zstd"), "this is the transferred form: unpack it with zstd first")
    return to_records(subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout)


def to_records(content):
    """Undoes the columns of the transferred form."""
    records = bytearray(content)
    (count,) = struct.unpack_from("<H", content, 14)
    for position in range(count):
        kind, _, start, length = struct.unpack_from("<IIQQ", content, 80 + 24 * position)
        name = SECTIONS[kind - 1] if kind <= 8 else "strings"
        width = struct.calcsize(RECORDS.get(name, "<B"))
        rows = length // width
        for byte in range(width):
            column = content[start + byte * rows : start + (byte + 1) * rows]
            records[start + byte : start + length : width] = column
    return bytes(records)


def read_sections(content):
    check(content[:8] == b"CHUNKFSI", "it is not an index")
    check(len(content) >= 80, "it is shorter than a superblock")
    fields = struct.unpack_from("<8sHHBBHQQQ32s8s", content)
    major, algorithm, log2, count, features, total = (fields[i] for i in (1, 3, 4, 5, 6, 8))
    check(major == 1, "its major version is not 1")
    check(features == 0, "it needs unknown features")
    check(total == len(content), "its length is not the one in the superblock")
    check(algorithm in (1, 2), "its digest algorithm is unknown")
    check(16 <= log2 <= 24, "its chunk size is out of range")
    check(count <= 64 and 80 + 24 * count <= len(content), "it has too many sections")
    sections, last_kind, end = {}, 0, 80 + 24 * count
    for position in range(count):
        kind, reserved, start, length = struct.unpack_from("<IIQQ", content, 80 + 24 * position)
        check(kind > last_kind and reserved == 0, "the section table is invalid")
        check(start == (end + 7) // 8 * 8, "a section is not where it should be")
        check(not any(content[end:start]), "padding is not zero")
        last_kind, end = kind, start + length
        check(end <= len(content), "a section lies outside the file")
        if kind <= 8:
            sections[SECTIONS[kind - 1]] = content[start:end]
    check(len(sections) == 8 and end == len(content), "sections are missing or bytes follow them")
    for name, record in RECORDS.items():
        check(len(sections[name]) % struct.calcsize(record) == 0, f"{name} are cut off")
        sections[name] = list(struct.iter_unpack(record, sections[name]))
    return sections, 1 << log2


def string(sections, offset, length):
    check(offset + length <= len(sections["strings"]), "a string lies outside the strings")
    return sections["strings"][offset : offset + length]


def check_tables(s, chunk_size):
    check(len(s["chunks"]) == len(s["locations"]), "chunks and locations differ in number")
    check(len(s["blobs"]) <= 65535, "there are too many blobs")
    for (_, length), (offset, stored, blob, codec, reserved) in zip(s["chunks"], s["locations"]):
        check(0 < length <= chunk_size and 0 < stored <= length, "a chunk's length is wrong")
        check(codec == 1 or (codec == 0 and stored == length), "a codec is wrong")
        check(reserved == 0 and blob < len(s["blobs"]), "a location is wrong")
        check(offset + stored <= s["blobs"][blob][1], "a chunk lies outside its blob")
    for name_at, value_at, name_length, reserved, value_length in s["xattrs"]:
        name = string(s, name_at, name_length)
        string(s, value_at, value_length)
        check(0 < len(name) < 256 and 0 not in name and reserved == 0, "an xattr is wrong")
        check(value_length <= 65536, "an xattr's value is too long")


def check_extents(s, extents, length):
    at = 0
    for offset, extent_length, first, chunk_offset in extents:
        check(offset == at and extent_length > 0, "extents do not follow each other")
        at += extent_length
        if first == HOLE:
            check(chunk_offset == 0, "a hole has an offset")
            continue
        check(chunk_offset % 4096 == 0 and first < len(s["chunks"]), "an extent is wrong")
        rest = chunk_offset + extent_length
        if rest > s["chunks"][first][1]:
            chunk_length = s["chunks"][first][1]
            check(chunk_offset == 0, "an extent leaves a chunk in which it does not start")
            check(chunk_length % 4096 == 0, "an extent leaves a chunk that ends off the grid")
            while rest > 0:
                check(first < len(s["chunks"]), "an extent names no chunk")
                next_length = s["chunks"][first][1]
                is_last = rest <= chunk_length
                check(next_length == chunk_length or is_last, "a chunk has another length")
                check(next_length >= min(rest, chunk_length), "a chunk is too short")
                first, rest = first + 1, rest - chunk_length
    check(at == length, "the extents do not cover the file")


def read_inodes(s):
    """Returns for each inode its record and its content: names, target or nothing."""
    inodes, next_dirent, next_extent = [], 0, 0
    for number, inode in enumerate(s["inodes"]):
        mode, xattr_count, *_, nanos, first, length, count, xattr_first, parent = inode
        kind, content = KINDS.get(mode >> 12), None
        check(kind and nanos < 10**9, "an inode's type or time is wrong")
        check(kind == "d" or number > 0, "the root is not a directory")
        check(xattr_count or xattr_first == 0, "an inode without xattrs names one")
        xattrs = s["xattrs"][xattr_first : xattr_first + xattr_count]
        names = [string(s, xattr[0], xattr[2]) for xattr in xattrs]
        check(len(names) == xattr_count, "an inode's xattrs lie outside the table")
        check(names == sorted(set(names)), "xattrs are not in ascending order")
        check(parent == 0 or (kind == "d" and number > 0), "an inode has a parent")
        if kind == "d":
            check(length == 0 and first == next_dirent, "dirents do not follow each other")
            next_dirent += count
            content = s["dirents"][first:next_dirent]
        elif kind == "-":
            check(first == next_extent, "extents do not follow each other")
            next_extent += count
            extents = s["extents"][first:next_extent]
            check(len(extents) == count and length < 2**63, "extents are missing")
            check_extents(s, extents, length)
        elif kind == "l":
            content = string(s, first, length)
            check(0 < length < 4096 and count == 0 and 0 not in content, "a target is wrong")
        else:
            check(length == 0 and (kind in "bc" or first == count == 0), "a field is not zero")
        inodes.append((inode, kind, content))
    check(next_dirent == len(s["dirents"]), "dirents belong to no directory")
    check(next_extent == len(s["extents"]), "extents belong to no file")
    return inodes


def check_names(s, inodes):
    references = [0] * len(inodes)
    for number, (inode, kind, dirents) in enumerate(inodes):
        if kind != "d":
            continue
        check(len(dirents) == inode[9], "dirents are missing")
        names = [string(s, at, length) for _, at, length, _, _ in dirents]
        check(names == sorted(set(names)), "names are not in ascending order")
        check(not set(names) & {b"", b".", b".."}, "a name is wrong")
        check(not any(b"/" in name or 0 in name for name in names), "a name is wrong")
        link_count = 2
        for child, _, _, mode_high, reserved in dirents:
            check(child < len(inodes) and reserved == 0, "a dirent is wrong")
            check(mode_high == inodes[child][0][0] >> 12, "a dirent's type is wrong")
            references[child] += 1
            if inodes[child][1] == "d":
                check(child > number and inodes[child][0][11] == number, "a parent is wrong")
                link_count += 1
        check(inode[4] == link_count, "a directory's link count is wrong")
    check(references[0] == 0, "the root has a name")
    for (inode, kind, _), count in list(zip(inodes, references))[1:]:
        check(count > 0 and count == (1 if kind == "d" else inode[4]), "a link count is wrong")


def mode_string(kind, mode):
    text = kind
    for shift, special, letter in ((6, 0o4000, "s"), (3, 0o2000, "s"), (0, 0o1000, "t")):
        bits = mode >> shift
        text += ("r" if bits & 4 else "-") + ("w" if bits & 2 else "-")
        execute = "x" if bits & 1 else "-"
        text += (letter if bits & 1 else letter.upper()) if mode & special else execute
    return text


def escape(text):
    is_plain = [32 <= byte < 127 and byte != 92 for byte in text]
    return "".join(chr(b) if plain else f"\\x{b:02x}" for b, plain in zip(text, is_plain))


def listing(s, inodes):
    pending = [(0, b"")]
    while pending:
        number, path = pending.pop()
        inode, kind, content = inodes[number]
        mode, _, uid, gid, link_count, seconds, nanos, first, length, count, _, _ = inode
        length = f"{first},{count}" if kind in "bc" else length
        target = f" -> {escape(content)}" if kind == "l" else ""
        line = f"{mode_string(kind, mode)} {link_count} {uid} {gid} {length}"
        yield f"{line} {seconds}.{nanos:09} {escape(path or b'/')}{target}"
        for child, at, name_length, _, _ in reversed(content if kind == "d" else []):
            pending.append((child, path + b"/" + string(s, at, name_length)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--summary", action="store_true", help="print counts, not the tree")
    parser.add_argument("file", help="an index, or its transferred form if zstd is installed")
    arguments = parser.parse_args()
    try:
        sections, chunk_size = read_sections(decompress(arguments.file))
        check(sections["inodes"], "there is no root")
        check_tables(sections, chunk_size)
        inodes = read_inodes(sections)
        check_names(sections, inodes)
    except (Invalid, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{arguments.file}: {error}")
    if arguments.summary:
        counts = [f"{len(sections[name])} {name}" for name in SECTIONS if name != "strings"]
        print(", ".join(counts), f"chunk size {chunk_size}", sep="; ")
        print("not checked: the checksum and the image id, which need BLAKE3")
        return
    for line in listing(sections, inodes):
        print(line)


if __name__ == "__main__":
    main()
