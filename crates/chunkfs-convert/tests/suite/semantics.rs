//! The rules of the OCI image specification, and of tar.

use chunkfs_index::FileKind;

use crate::archive::{Archive, Entry, gnu_long};
use crate::support::{chain, convert_archives, convert_layers, names, options};

fn file(path: &str) -> Entry {
    Entry::file(path, path)
}

type Case = (&'static str, Vec<Vec<Entry>>, &'static [&'static str]);

/// Layers and the names that must be left, in order.
fn whiteout_cases() -> Vec<Case> {
    let dir = Entry::directory;
    vec![
        ("whiteout of a file", vec![vec![file("a"), file("b")], vec![file(".wh.a")]], &["b"]),
        (
            "whiteout of a directory",
            vec![vec![dir("d"), file("d/a"), dir("d/e"), file("d/e/f")], vec![file(".wh.d")]],
            &[],
        ),
        (
            "whiteout spares what its own layer wrote before",
            vec![vec![dir("d"), file("d/low")], vec![file("d/new"), file(".wh.d")]],
            &["d", "d/new"],
        ),
        (
            "whiteout spares what its own layer writes after",
            vec![vec![file("d/low")], vec![file(".wh.d"), file("d/new")]],
            &["d", "d/new"],
        ),
        (
            "whiteout of nothing",
            vec![vec![file("a")], vec![file(".wh.b"), file("x/.wh.y")]],
            &["a"],
        ),
        ("whiteout in its own layer", vec![vec![file("a"), file(".wh.a")]], &["a"]),
        (
            "opaque whiteout after new content",
            vec![
                vec![file("d/a"), file("d/e/f"), file("d/e/g")],
                vec![file("d/e/f"), file("d/.wh..wh..opq")],
            ],
            &["d", "d/e", "d/e/f"],
        ),
        (
            "opaque whiteout before new content",
            vec![vec![file("d/a")], vec![file("d/.wh..wh..opq"), file("d/b")]],
            &["d", "d/b"],
        ),
        ("opaque root", vec![vec![file("a")], vec![file(".wh..wh..opq"), file("b")]], &["b"]),
        (
            "bookkeeping is ignored",
            vec![vec![file(".wh..wh.aufs"), dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2")]],
            &[],
        ),
        ("a file replaces a directory", vec![vec![dir("d"), file("d/a")], vec![file("d")]], &["d"]),
        (
            "a directory replaces a file",
            vec![vec![file("d")], vec![dir("d"), file("d/a")]],
            &["d", "d/a"],
        ),
        (
            "a symlink replaces a directory",
            vec![vec![file("d/a")], vec![Entry::symlink("d", "e")]],
            &["d"],
        ),
        (
            "a directory over a directory keeps its content",
            vec![vec![file("d/a")], vec![dir("d"), file("d/b")]],
            &["d", "d/a", "d/b"],
        ),
        (
            "prefixes and slashes mean nothing",
            vec![vec![dir("./"), file("./a"), file("/b"), file("c//./d")]],
            &["a", "b", "c", "c/d"],
        ),
        (
            "a replaced directory takes the marks of its names with it",
            vec![
                vec![file("d/a")],
                vec![file("d/a"), file("d"), dir("d"), file("d/b"), file("d/.wh..wh..opq")],
            ],
            &["d", "d/b"],
        ),
    ]
}

/// Layers that lead through symbolic links, and the names that must be left.
fn link_cases() -> Vec<Case> {
    let link = Entry::symlink;
    vec![
        (
            "relative",
            vec![vec![file("real/a"), link("alias", "real")], vec![file("alias/b")]],
            &["alias", "real", "real/a", "real/b"],
        ),
        (
            "absolute and above the root",
            vec![vec![link("x/alias", "/../../y"), file("x/alias/b")]],
            &["x", "x/alias", "y", "y/b"],
        ),
        (
            "parents in a target",
            vec![vec![file("p/q/r"), link("p/up", "q/.."), file("p/up/s")]],
            &["p", "p/q", "p/q/r", "p/s", "p/up"],
        ),
        (
            "whiteout through a link",
            vec![vec![file("real/a"), file("real/b"), link("l", "real")], vec![file("l/.wh.a")]],
            &["l", "real", "real/b"],
        ),
        (
            "the last name is not followed",
            vec![vec![file("real/a"), link("l", "real"), file("l")]],
            &["l", "real", "real/a"],
        ),
    ]
}

/// All cases, for a comparison with another implementation.
pub(crate) fn cases() -> impl Iterator<Item = (&'static str, Vec<Vec<Entry>>)> {
    let cases = whiteout_cases().into_iter().chain(link_cases());
    // What union file systems leave behind is no part of the image here, but umoci keeps it.
    let cases = cases.filter(|(case, ..)| *case != "bookkeeping is ignored");
    cases.map(|(case, layers, _)| (case, layers))
}

fn check(cases: Vec<Case>) {
    for (case, layers, expected) in cases {
        let tree =
            convert_layers(layers).unwrap_or_else(|error| panic!("{case}: {}", chain(&error)));
        assert_eq!(names(&tree), expected, "{case}");
    }
}

#[test]
fn whiteouts_and_replacements_follow_the_specification() {
    check(whiteout_cases());
}

#[test]
fn symlinks_in_a_parents_place_lead_nowhere_but_into_the_image() {
    check(link_cases());
}

#[test]
fn hard_links_share_an_inode() {
    let tree = convert_layers([
        vec![Entry::file("a", "one").mode(0o600), file("gone"), Entry::symlink("s", "a")],
        vec![
            Entry::hard_link("b", "a").mode(0o777),
            Entry::hard_link("kept", "/./gone"),
            file(".wh.gone"),
            Entry::hard_link("t", "s"),
        ],
        vec![Entry::file("a", "two"), Entry::hard_link("b", "b")],
    ])
    .unwrap();
    assert_eq!(names(&tree), ["a", "b", "kept", "s", "t"]);
    assert_eq!((&tree[&b"a"[..]].content[..], tree[&b"a"[..]].link_count), (&b"two"[..], 1));
    assert_eq!((&tree[&b"b"[..]].content[..], tree[&b"b"[..]].permissions), (&b"one"[..], 0o600));
    assert_eq!(tree[&b"kept"[..]].content, b"gone");
    assert_eq!(tree[&b"s"[..]].inode, tree[&b"t"[..]].inode);
    assert_eq!((tree[&b"t"[..]].kind, tree[&b"t"[..]].link_count), (FileKind::Symlink, 2));
}

#[test]
fn all_attributes_arrive() {
    let tree = convert_layers([vec![
        Entry::directory("./").mode(0o1777).owner(1, 2).mtime(3),
        Entry::file("f", "x").mode(0o6755).owner(65_536, 2_097_151).mtime(5_000_000_000),
        Entry::file("p", "y")
            .pax("uid", b"4294967295")
            .pax("gid", b"3000000000")
            .pax("mtime", b"-1.5")
            .pax("SCHILY.xattr.security.capability", b"\x01\0=\n\xff")
            .pax("SCHILY.xattr.user.empty", b""),
        Entry::new(b'3', b"c").device(1, 3),
        Entry::new(b'4', b"b").device(259, 1_048_575),
        Entry::new(b'6', b"i").mode(0o600),
        Entry::symlink("s", "\u{e9}/../x").mode(0o644),
        Entry::new(b'0', b"caf\xe9"),
        Entry::new(0, b"old/"),
        Entry::new(b'0', b"before").text(136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"),
    ]])
    .unwrap();
    let get = |name: &[u8]| tree.get(name).unwrap();
    let root = get(b"");
    assert_eq!((root.permissions, root.owner, root.mtime), (0o1777, (1, 2), (3, 0)));
    let f = get(b"f");
    let expected = (0o6755, (65_536, 2_097_151), (5_000_000_000, 0));
    assert_eq!((f.permissions, f.owner, f.mtime), expected);
    let p = get(b"p");
    assert_eq!((p.owner, p.mtime), ((u32::MAX, 3_000_000_000), (-2, 500_000_000)));
    assert_eq!(p.xattrs[&b"security.capability"[..]], b"\x01\0=\n\xff");
    assert_eq!(p.xattrs[&b"user.empty"[..]], b"");
    assert_eq!((get(b"c").kind, get(b"c").device), (FileKind::CharDevice, (1, 3)));
    assert_eq!((get(b"b").kind, get(b"b").device), (FileKind::BlockDevice, (259, 1_048_575)));
    assert_eq!(get(b"i").kind, FileKind::Fifo);
    assert_eq!((&get(b"s").content[..], get(b"s").permissions), ("\u{e9}/../x".as_bytes(), 0o777));
    assert_eq!(get(b"caf\xe9").kind, FileKind::Regular);
    assert_eq!(get(b"old").kind, FileKind::Directory);
    assert_eq!(get(b"before").mtime, (-2, 0));
}

#[test]
fn long_names_work_in_every_dialect() {
    let name = "n".repeat(255);
    let path = format!("{name}/{name}");
    let deep = format!("{}x", "d/".repeat(2047));
    let mut archive = Archive::default();
    archive.push(&gnu_long(b'L', path.as_bytes()));
    archive.push(&gnu_long(b'K', path.as_bytes()));
    archive.push(&Entry::symlink("short", "short"));
    archive.push(&Entry::file(&format!("{name}/pax"), "1"));
    archive.push(&Entry::hard_link("link", &format!("{name}/pax")));
    archive.push(&Entry::file(&deep, "2"));
    archive.push(&Entry::file("name", "3").text(345, b"a/prefix"));
    let tree = convert_archives([archive.finish()], &options()).unwrap();
    assert_eq!(tree[path.as_bytes()].content, path.as_bytes());
    assert_eq!(tree[&b"link"[..]].content, b"1");
    assert_eq!(tree[deep.as_bytes()].content, b"2");
    assert_eq!(tree[&b"a/prefix/name"[..]].content, b"3");
}

#[test]
fn the_last_of_duplicate_paths_wins_and_missing_parents_are_made_up() {
    let tree = convert_layers([vec![
        Entry::file("a/b/c", "1"),
        Entry::file("./a/b/c", "22").mode(0o600).owner(5, 6),
    ]])
    .unwrap();
    let file = &tree[&b"a/b/c"[..]];
    assert_eq!((&file.content[..], file.permissions, file.owner), (&b"22"[..], 0o600, (5, 6)));
    for parent in [&b"a"[..], b"a/b"] {
        let parent = &tree[parent];
        assert_eq!((parent.permissions, parent.owner, parent.mtime), (0o755, (0, 0), (0, 0)));
    }
}

#[test]
fn directories_take_the_attributes_of_the_last_layer() {
    let old = Entry::directory("d").mode(0o700).pax("SCHILY.xattr.user.old", b"1");
    let new = Entry::directory("d").mode(0o750).owner(7, 8).pax("SCHILY.xattr.user.new", b"2");
    let tree = convert_layers([vec![old, file("d/a")], vec![new]]).unwrap();
    let directory = &tree[&b"d"[..]];
    assert_eq!((directory.permissions, directory.owner), (0o750, (7, 8)));
    assert_eq!(directory.xattrs, [(b"user.new".to_vec(), b"2".to_vec())].into());
}

#[test]
fn hostile_entries_are_errors_that_name_the_layer_and_the_entry() {
    let link_loop = || vec![Entry::symlink("a", "b"), Entry::symlink("b", "a"), file("a/x")];
    let long_xattr = vec![0; 65_537];
    for (entries, expected) in [
        (vec![file("../x")], "entry `../x`: its path leads outside the image by a `..` component"),
        (vec![file("a/../../x")], "entry `a/../../x`: its path leads outside"),
        (vec![Entry::file("x", "").pax("path", b"a\0b")], "its path holds a NUL"),
        (vec![file(&"n".repeat(256))], "a name of more than 255 bytes"),
        (vec![file(&"n/".repeat(2049))], "longer than 4,095 bytes"),
        (
            vec![Entry::hard_link("l", "none")],
            "entry `l`: the target of its hard link does not exist",
        ),
        (vec![Entry::hard_link("l", "../x")], "the target of its hard link is no path inside"),
        (vec![Entry::directory("d"), Entry::hard_link("l", "d")], "a hard link to a directory"),
        (vec![Entry::hard_link("l", "/")], "it is a hard link to the root"),
        (link_loop(), "entry `a/x`: its path leads through more than 40 symbolic links"),
        (vec![file("f"), file("f/x")], "entry `f/x`: its parent is not a directory"),
        (vec![Entry::file("./", "x")], "the root is not a directory"),
        (vec![Entry::symlink("s", "")], "its link target is empty"),
        (vec![file(".wh.")], "entry `.wh.`: it is a whiteout of no name"),
        (vec![file(".wh...")], "it is a whiteout of no name"),
        (vec![Entry::new(b'Z', b"z")], "entry `z`: its type is unknown"),
        (vec![file("x").pax("uid", b"4294967296")], "its owner does not fit into 32 bits"),
        (vec![file("x").text(116, &[0xff; 8])], "its group does not fit into 32 bits"),
        (vec![file("x").text(124, &[0xff; 12])], "its length is negative"),
        (vec![file("x").pax("size", b"9223372036854775808")], "does not fit into 63 bits"),
        (vec![file("x").pax("size", b"99999999999")], "entry `x` is cut off"),
        (vec![file("x").octal(124, 12, 1 << 32)], "entry `x` is cut off"),
        (vec![file("x").pax("mtime", b"1e9")], "its PAX mtime is not a time"),
        (vec![file("x").pax("SCHILY.xattr.", b"1")], "an xattr's name is empty"),
        (vec![file("x").pax("SCHILY.xattr.u", &long_xattr)], "an xattr's value is longer"),
        (vec![Entry::new(b'3', b"c").text(329, &[0x80, 0, 0, 1, 0, 0, 0, 0])], "too large"),
    ] {
        let error = convert_layers([vec![file("ok")], entries]).unwrap_err();
        let text = chain(&error);
        assert!(text.contains(expected), "{text:?} lacks {expected:?}");
        assert!(text.starts_with("layer sha256:"), "{text}");
        assert!(error.is_corrupt(), "{text}");
    }
}
