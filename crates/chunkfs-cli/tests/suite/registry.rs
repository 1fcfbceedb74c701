//! Registries, which here run in this process.

use std::path::PathBuf;

use chunkfs_testkit::{Authorization, Fault, RangeServer};
use tokio::runtime::{Builder, Runtime};

use crate::archive::{self, Archive, noise};
use crate::support::Scratch;

pub(crate) struct Registry {
    runtime: Runtime,
    pub(crate) server: RangeServer,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(RangeServer::start());
        Self { runtime, server }
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.server.address())
    }

    /// Ends the server as a pulled plug does and returns once its port is free.
    pub(crate) fn unplug(self) {
        drop(self.server);
        drop(self.runtime);
    }
}

#[test]
fn an_image_in_a_registry_is_the_one_in_a_layout() {
    let (scratch, registry) = (Scratch::new(), Registry::new());
    std::fs::write(scratch.path("a.tar"), archive::everything()).unwrap();
    let remote = registry.reference("a/b:v1");
    let pushed = scratch.run(["convert", "tar:a.tar", &remote, "--chunk-size", "64K"]);
    let stored = scratch.run(["convert", "tar:a.tar", "oci:layout:v1", "--chunk-size", "64K"]);
    assert_eq!(pushed, stored);
    registry.server.clear_requests();
    let listing = scratch.run(["ls", "-lR", &remote]);
    assert_eq!(listing, scratch.run(["ls", "-lR", "oci:layout:v1"]));
    let requests = registry.server.requests();
    assert_eq!(requests.len(), 2, "a manifest and an index: {requests:?}");
    assert_eq!(scratch.run(["cat", &remote, "dir/up"]), "hello\n");
    let verified = scratch.run(["verify", &remote]);
    assert_eq!(verified, scratch.run(["verify", "oci:layout:v1"]));
}

#[test]
fn an_ordinary_image_is_converted_from_a_registry_to_a_registry() {
    let (scratch, registry) = (Scratch::new(), Registry::new());
    let tar = Archive::new().file("a", b"hello\n").file("b", &noise(1, 100_000)).finish();
    let layer = registry.server.add_blob("in", tar.clone().into());
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#
    );
    let config_len = config.len();
    let config = registry.server.add_blob("in", config.into());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.to_string(), "size": config_len,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer.to_string(), "size": tar.len(),
        }],
    });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    registry.server.add_manifest("in", "v1", media_type, manifest.to_string().into());
    let (original, converted) = (registry.reference("in:v1"), registry.reference("out:v1"));

    let error = scratch.fail(["mount", &original, "home"]);
    assert!(error.contains("convert it first with `chunkfs convert`"), "{error}");
    scratch.run(["convert", &original, &converted]);
    assert_eq!(scratch.run(["cat", &converted, "a"]), "hello\n");
    let inspection = scratch.json(["inspect", &converted, "--json"]);
    let layers = serde_json::json!([{ "digest": layer.to_string(), "diff_id": layer.to_string() }]);
    assert_eq!(inspection["layers"], layers);
    scratch.run(["convert", &original, "oci:layout:v1"]);
    assert_eq!(scratch.json(["inspect", "oci:layout:v1", "--json"]), inspection);

    // All of it is reused: the layer is not read again.
    registry.server.clear_requests();
    let again = ["convert", &original, "oci:layout:v2", "--reuse", &converted, "--json"];
    let statistics = scratch.json(again);
    assert_eq!((&statistics["reused_layers"], &statistics["read_bytes"]), (&1.into(), &0.into()));
    let layer = format!("/v2/in/blobs/{layer}");
    assert!(registry.server.requests().iter().all(|request| request.path != layer));
}

#[test]
fn credentials_come_from_a_file() {
    let (scratch, registry) = (Scratch::new(), Registry::new());
    std::fs::write(scratch.path("a.tar"), Archive::new().file("a", b"hello\n").finish()).unwrap();
    let image = registry.reference("a:v1");
    scratch.run(["convert", "tar:a.tar", &image]);
    registry.server.set_authorization(Authorization::Basic {
        // me:secret
        encoded: "bWU6c2VjcmV0".to_owned(),
    });
    let error = scratch.fail(["cat", &image, "a"]);
    assert!(error.contains("redential"), "{error}");
    let address = registry.server.address();
    let auth = format!(r#"{{"auths":{{"{address}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#);
    std::fs::write(scratch.path("auth.json"), &auth).unwrap();
    assert_eq!(scratch.run(["cat", &image, "a", "--auth-file", "auth.json"]), "hello\n");
    let docker: PathBuf = scratch.path("home/.docker");
    std::fs::create_dir(&docker).unwrap();
    std::fs::write(docker.join("config.json"), &auth).unwrap();
    assert_eq!(scratch.run(["cat", &image, "a"]), "hello\n");
}

#[test]
fn plain_http_is_for_this_machine_or_by_request() {
    let (scratch, registry) = (Scratch::new(), Registry::new());
    std::fs::write(scratch.path("a.tar"), Archive::new().file("a", b"hello\n").finish()).unwrap();
    scratch.run(["convert", "tar:a.tar", &registry.reference("a:v1")]);
    // Leads here, but is no loopback address.
    let other = format!("docker://0.0.0.0:{}/a:v1", registry.server.address().port());
    let error = scratch.fail(["cat", &other, "a"]);
    let remedy =
        "would be spoken to without encryption, which is refused; allow it with `--plain-http`";
    assert!(error.contains(remedy), "{error}");
    assert_eq!(scratch.run(["cat", &other, "a", "--plain-http"]), "hello\n");
}

#[test]
fn a_missing_image_and_an_unplugged_server_are_named() {
    let (scratch, registry) = (Scratch::new(), Registry::new());
    let (image, address) = (registry.reference("a:v1"), registry.server.address());
    let error = scratch.fail(["inspect", &image]);
    assert!(error.ends_with(&format!("manifest v1 at {address} does not exist")), "{error}");
    registry.unplug();
    std::fs::write(scratch.path("a.tar"), Archive::new().file("a", b"hello\n").finish()).unwrap();
    for arguments in [vec!["inspect", &image], vec!["convert", "tar:a.tar", &image]] {
        let output = scratch.command(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let error = crate::support::one_error_line(&crate::support::errors(&output));
        assert!(error.contains(&format!("the connection to http://{address}/")), "{error}");
        assert!(error.contains("Connection refused"), "{error}");
    }
}

#[test]
fn a_broken_connection_is_a_failure() {
    let (scratch, registry) = (Scratch::new(), Registry::new());
    std::fs::write(scratch.path("a.tar"), Archive::new().file("a", &noise(1, 5000)).finish())
        .unwrap();
    let image = registry.reference("a:v1");
    registry.server.set_script(|request| match request.method.as_str() {
        "PUT" | "PATCH" => vec![Fault::Close],
        _ => Vec::new(),
    });
    scratch.fail(["convert", "tar:a.tar", &image]);
}

#[test]
fn credential_helpers_are_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let (scratch, registry) = (Scratch::new(), Registry::new());
    // base64 of `user:helper-secret`.
    let encoded = "dXNlcjpoZWxwZXItc2VjcmV0".to_owned();
    registry.server.set_authorization(Authorization::Basic { encoded });
    let helper = "#!/bin/sh\necho asked >>\"$0.log\"\n\
                  echo '{\"Username\":\"user\",\"Secret\":\"helper-secret\"}'\n";
    let path = scratch.path("docker-credential-rig");
    std::fs::write(&path, helper).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!(r#"{{"credHelpers":{{"{}":"rig"}}}}"#, registry.server.address());
    std::fs::create_dir(scratch.path("home/.docker")).unwrap();
    std::fs::write(scratch.path("home/.docker/config.json"), config).unwrap();
    std::fs::write(scratch.path("a.tar"), archive::everything()).unwrap();
    let image = registry.reference("a:v1");
    let mut command = scratch.command(["convert", "tar:a.tar", &image]);
    let folders = format!("{}:/usr/bin:/bin", scratch.text(""));
    let output = command.env("PATH", folders).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(!errors.contains("helper-secret"));
    let log = std::fs::read_to_string(scratch.path("docker-credential-rig.log")).unwrap();
    assert_eq!(log, "asked\n");
}
