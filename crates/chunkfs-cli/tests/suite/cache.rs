//! `chunkfs cache`: looking after the folder.

use crate::archive::{Archive, noise};
use crate::support::Scratch;

/// Two images of which the second has the first one's file too.
fn two_images(scratch: &Scratch) -> [String; 2] {
    let (a, b) = (noise(1, 400_000), noise(2, 300_000));
    let first = Archive::new().file("a", &a).finish();
    let second = Archive::new().file("a", &a).file("b", &b).finish();
    let images = [scratch.convert("first", &first), scratch.convert("second", &second)];
    for image in &images {
        scratch.run(["pull", image]);
    }
    images
}

#[test]
fn usage_shows_what_images_share_and_rm_gives_back_the_rest() {
    let scratch = Scratch::new();
    let [first, second] = two_images(&scratch);
    let usage = scratch.json(["cache", "usage", "--json"]);
    // Chunks of 64 KiB: seven of `a`, five of `b`, the last of each shorter.
    let (a, b) = (6 * 65_536 + 8_192, 4 * 65_536 + 40_960);
    let images = usage["images"].as_array().unwrap();
    for (image, (name, own)) in images.iter().zip([(&first, 0), (&second, b)]) {
        assert_eq!(image["name"].as_str(), Some(&name[..]));
        assert_eq!(
            (image["own_bytes"].as_u64(), image["shared_bytes"].as_u64()),
            (Some(own), Some(a))
        );
        assert_eq!(image["chunks"], image["cached_chunks"]);
    }
    assert_eq!(usage["chunk_bytes"].as_u64(), Some(a + b));
    let text = scratch.run(["cache", "usage"]);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert_eq!(scratch.run(["cache", "rm", &second]), "296.00 KiB given back\n");
    let usage = scratch.json(["cache", "usage", "--json"]);
    assert_eq!(usage["chunk_bytes"].as_u64(), Some(a));
    let error = scratch.fail(["cache", "rm", &second]);
    assert!(error.contains("`chunkfs cache usage` lists them"), "{error}");
}

#[test]
fn pinned_images_survive_a_quota_that_they_fill() {
    let scratch = Scratch::new();
    let [first, second] = two_images(&scratch);
    let said = scratch.run(["cache", "pin", &first]);
    assert_eq!(said, format!("{first} is pinned; it is complete\n"));
    scratch.run(["cache", "gc", "--cache-quota", "600K"]);
    let usage = scratch.json(["cache", "usage", "--json"]);
    let cached = |image: usize| usage["images"][image]["cached_chunks"].as_u64().unwrap();
    assert_eq!(cached(0), 7);
    assert!(cached(1) < 12, "{usage}");
    let error = scratch.fail(["pull", &second, "--cache-quota", "300K"]);
    assert!(error.contains("did not fit into the cache folder"), "{error}");
    scratch.run(["cache", "unpin", &first]);
    let error = scratch.fail(["cache", "unpin", &first]);
    assert!(error.contains("is not pinned"), "{error}");
}

#[test]
fn verify_removes_what_is_damaged_and_says_so() {
    let scratch = Scratch::new();
    two_images(&scratch);
    let good = scratch.run(["cache", "verify"]);
    assert!(good.starts_with("12 chunks good, "), "{good}");
    let slab = scratch.path("cache/chunkfs/v1-slab-1-0");
    let mut bytes = std::fs::read(&slab).unwrap();
    bytes[70_000] ^= 1;
    std::fs::write(&slab, bytes).unwrap();
    let error = scratch.fail(["cache", "verify"]);
    assert!(error.contains("1 chunk damaged; they are fetched again when read"), "{error}");
    assert!(scratch.run(["cache", "verify"]).starts_with("11 chunks good, "));
}
