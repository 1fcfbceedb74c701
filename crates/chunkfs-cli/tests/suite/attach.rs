//! Converted images beside their originals.

use chunkfs_testkit::Fault;
use serde_json::{Value, json};

use crate::archive::{Archive, noise};
use crate::registry::Registry;
use crate::support::Scratch;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry with an ordinary image `in:v1` and returns the digest of its manifest.
fn original() -> (Registry, String) {
    let registry = Registry::new();
    let tar = Archive::new().file("a", b"hello\n").file("b", &noise(1, 100_000)).finish();
    let layer = registry.server.add_blob("in", tar.clone().into());
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [layer.to_string()] },
    });
    let config = config.to_string();
    let config_len = config.len();
    let config = registry.server.add_blob("in", config.into());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.to_string(), "size": config_len,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer.to_string(), "size": tar.len(),
        }],
    });
    let id = registry.server.add_manifest("in", "v1", MANIFEST, manifest.to_string().into());
    (registry, id.to_string())
}

fn stored(registry: &Registry, name: &str) -> (String, Value) {
    let (media_type, bytes) = registry.server.manifest("in", name).unwrap();
    (media_type, serde_json::from_slice(&bytes).unwrap())
}

/// [F-81]
#[test]
fn an_attached_image_lies_beside_its_original_under_one_tag() {
    let (scratch, (registry, original)) = (Scratch::new(), original());
    let image = registry.reference("in:v1");
    let converted = scratch.run(["convert", "--attach", &image, &image]).trim().to_owned();
    let (media_type, index) = stored(&registry, "v1");
    assert_eq!(media_type, INDEX);
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["digest"], original);
    assert_eq!(entries[0]["platform"], json!({ "architecture": "amd64", "os": "linux" }));
    assert_eq!(entries[0]["annotations"]["org.chunkfs.image.converted"], converted);
    assert_eq!(entries[1]["digest"], converted);
    assert_eq!(entries[1]["platform"], json!({ "architecture": "unknown", "os": "unknown" }));
    assert_eq!(entries[1]["annotations"]["org.chunkfs.image.original"], original);
    // What gives the name its meaning was written last, after the manifest that it names.
    let requests = registry.server.requests();
    let writes = requests.iter().filter(|request| request.method == "PUT");
    let paths: Vec<_> = writes.map(|request| request.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(paths[paths.len() - 2..], [&*converted, "v1"]);

    registry.server.clear_requests();
    assert_eq!(scratch.run(["cat", &image, "a"]), "hello\n");
    let requests = registry.server.requests();
    assert_eq!(requests.len(), 4, "image index, manifest, index, range: {requests:?}");
    scratch.run(["verify", &image]);
    // Once more: the original is found again, and nothing is added twice.
    let again = scratch.run(["convert", "--attach", "--reuse", &image, &image, &image]);
    assert_eq!(again.trim(), converted);
    assert_eq!(stored(&registry, "v1").1, index);
}

/// [F-80]
#[test]
fn a_referrer_changes_no_tag_and_counts_only_if_asked_for() {
    let (scratch, (registry, original)) = (Scratch::new(), original());
    let image = registry.reference("in:v1");
    let before = stored(&registry, "v1");
    let converted = scratch.run(["convert", "--attach=referrer", &image, &image]).trim().to_owned();
    assert_eq!(stored(&registry, "v1"), before);
    let (_, manifest) = stored(&registry, &converted);
    assert_eq!(manifest["subject"]["digest"], original);
    // The test server has no referrers API, so that a tag stands in for it.
    let (media_type, list) = stored(&registry, &original.replace(':', "-"));
    assert_eq!(media_type, INDEX);
    assert_eq!(list["manifests"][0]["digest"], converted);
    let line = scratch.fail(["cat", &image, "a"]);
    assert!(line.contains("convert it first"), "{line}");
    assert_eq!(scratch.run(["cat", "--follow-referrers", &image, "a"]), "hello\n");
}

#[test]
fn a_registry_that_refuses_artifacts_gets_the_plain_form() {
    let (scratch, (registry, _)) = (Scratch::new(), original());
    let refused = std::sync::atomic::AtomicBool::new(false);
    registry.server.set_script(move |request| {
        let is_first = request.method == "PUT"
            && request.path.contains("/manifests/")
            && !refused.swap(true, std::sync::atomic::Ordering::Relaxed);
        if is_first { vec![Fault::status(400)] } else { Vec::new() }
    });
    let (image, lazy) = (registry.reference("in:v1"), registry.reference("in:lazy"));
    scratch.run(["convert", &image, &lazy]);
    let (_, manifest) = stored(&registry, "lazy");
    assert_eq!(manifest.get("artifactType"), None);
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar");
    assert_eq!(scratch.run(["cat", &lazy, "a"]), "hello\n");
    scratch.run(["verify", &lazy]);
}

#[test]
fn an_image_can_be_attached_only_where_its_original_is() {
    let (scratch, (registry, _)) = (Scratch::new(), original());
    let (image, other) = (registry.reference("in:v1"), registry.reference("other:v1"));
    let line = scratch.fail(["convert", "--attach", &image, &other]);
    assert!(line.contains("--attach needs an original in"), "{line}");
}
