//! The specification and the tests name the same requirements.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Finds all `[F-n]` in a text.
fn requirements(text: &str) -> BTreeSet<u32> {
    let number = |rest: &str| rest.split_once(']')?.0.parse().ok();
    text.split("[F-").skip(1).filter_map(number).collect()
}

fn collect(folder: &Path, found: &mut BTreeMap<u32, PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            found.extend(requirements(&text).into_iter().map(|number| (number, path.clone())));
        }
    }
}

#[test]
fn every_requirement_is_named_by_a_test_and_the_other_way_round() {
    let specification = std::fs::read_to_string(root().join("docs/format.md")).unwrap();
    let stated = requirements(&specification);
    let mut tested = BTreeMap::new();
    collect(&root().join("crates"), &mut tested);
    collect(&root().join("testdata"), &mut tested);
    let untested: Vec<_> = stated.iter().filter(|number| !tested.contains_key(number)).collect();
    assert!(untested.is_empty(), "no test names {untested:?}");
    tested.retain(|number, _| !stated.contains(number));
    assert!(tested.is_empty(), "docs/format.md does not state {tested:?}");
    let last = stated.last().copied().unwrap_or(0);
    assert!(stated.iter().copied().eq(1..=last), "requirements are numbered without gaps");
}

#[test]
fn every_must_has_a_number() {
    let specification = std::fs::read_to_string(root().join("docs/format.md")).unwrap();
    let mut block = String::new();
    // A block is a paragraph, a list item or a row of a table.
    for line in specification.lines().chain([""]) {
        if line.is_empty() || line.starts_with("- ") || line.starts_with('|') {
            let is_definition = block.contains("RFC 2119");
            assert!(!block.contains("MUST") || is_definition || block.contains("[F-"), "{block}");
            block.clear();
        }
        block.push_str(line);
        block.push('\n');
    }
}

/// `testdata/requirements.txt` names the tests of crates that do not carry the numbers themselves.
#[test]
fn tests_named_by_the_list_of_requirements_exist() {
    let list = std::fs::read_to_string(root().join("testdata/requirements.txt")).unwrap();
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let [_, path, name] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("not `[F-n] file test`: {line}")
        };
        let source = std::fs::read_to_string(root().join(path)).unwrap();
        assert!(source.contains(&format!("fn {name}(")), "{path} has no test {name}");
    }
}
