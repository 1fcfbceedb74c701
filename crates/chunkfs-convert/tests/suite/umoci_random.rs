//! Random layers, merged here and by `umoci unpack`.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use chunkfs_fetch::MemorySource;

use crate::archive::{Archive, Entry};
use crate::support::{Layer, convert_in, options, put_image};
use crate::umoci::{differences, layout_of, obstacle};

/// Draws a layer of entries that get in each other's way: directories are mostly called a to c,
/// files x to z, so that not too many layers are wrong.
fn random_layer(
    random: &mut impl FnMut(usize) -> usize,
    serial: usize,
    files: &mut Vec<String>,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    for n in 0..4 + random(14) {
        let depth = random(3);
        let directory: Vec<_> = (0..depth).map(|_| ["a", "b", "c"][random(3)]).collect();
        let directory = if depth == 0 { ".".to_owned() } else { directory.join("/") };
        let leaf = ["x", "y", "z"][random(3)];
        let other = ["a", "b", "c"][random(3)];
        let path = format!("{directory}/{leaf}");
        let content = format!("{serial} {n} {path}");
        entries.push(match random(14) {
            0..5 => {
                files.push(path.clone());
                Entry::file(&path, content).owner(random(3) as u64, 0)
            }
            5 | 6 => Entry::directory(&format!("{directory}/{other}")).mode(0o700 + n as u64),
            7 => Entry::directory(&path),
            8 => {
                let target = ["/", "../", "../../", "", "./x/../"][random(5)];
                Entry::symlink(
                    &format!("{directory}/{other}"),
                    &format!("{target}{}", ["a", "b/c"][random(2)]),
                )
            }
            9 if !files.is_empty() => Entry::hard_link(&path, &files[random(files.len())]),
            10 => Entry::file(&format!("{directory}/{other}"), content),
            11 => Entry::file(&format!("{directory}/.wh.{leaf}"), ""),
            12 => Entry::file(&format!("{directory}/.wh.{other}"), ""),
            _ => Entry::file(&format!("{directory}/.wh..wh..opq"), ""),
        });
    }
    entries
}

#[test]
fn random_layers_are_merged_as_umoci_unpacks_them() {
    if let Some(obstacle) = obstacle() {
        println!("skipped: {obstacle}");
        return;
    }
    let seed = std::env::var("CHUNKFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or(20_261_123);
    println!("seed {seed}");
    let mut state = seed;
    let mut random = |bound: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let (mut compared, mut rejected) = (0, 0);
    while compared < 40 {
        let mut files = Vec::new();
        let entries: Vec<_> =
            (0..3).map(|serial| random_layer(&mut random, serial, &mut files)).collect();
        let layers: Vec<_> =
            entries.iter().map(|e| Layer::tar(Archive::new(e.clone()).finish())).collect();
        let store = Arc::new(MemorySource::new());
        put_image(&store, &layers);
        if convert_in(&store, &options()).is_err() {
            rejected += 1;
            assert!(rejected < 1_000, "nearly all layers are rejected");
            continue;
        }
        let (folder, layout) = layout_of(&layers);
        if !is_unpacked(folder.path()) {
            rejected += 1;
            continue;
        }
        compared += 1;
        let differences = differences(&layout, folder.path(), "image");
        let told = |entry: &Entry| {
            let text = |range: std::ops::Range<usize>| {
                let field = entry.header[range].split(|byte| *byte == 0).next();
                String::from_utf8_lossy(field.unwrap()).into_owned()
            };
            format!("{} {} {}", text(156..157), text(0..100), text(157..257))
        };
        let told: Vec<Vec<_>> = entries.iter().map(|e| e.iter().map(told).collect()).collect();
        assert!(differences.is_empty(), "{compared}: {told:#?} {differences:#?}");
    }
    println!("{compared} compared, {rejected} rejected");
}

/// Returns whether umoci accepts an image.
fn is_unpacked(layout: &Path) -> bool {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let image = format!("{}:image", layout.display());
    let mut command = Command::new("umoci");
    command.args(["unpack", "--image", &image]).arg(folder.path().join("bundle"));
    command.output().unwrap().status.success()
}
