//! Layouts that are not in a local folder.

use crate::archive;
use crate::registry::Registry;
use crate::support::Scratch;

#[test]
fn an_image_on_a_web_server_is_the_one_in_a_layout() {
    let (scratch, web) = (Scratch::new(), Registry::new());
    std::fs::write(scratch.path("a.tar"), archive::everything()).unwrap();
    let remote = format!("{}/files/images/x:v1", web.server.url());
    let pushed = scratch.run(["convert", "tar:a.tar", &remote, "--chunk-size", "64K"]);
    let stored = scratch.run(["convert", "tar:a.tar", "oci:layout:v1", "--chunk-size", "64K"]);
    assert_eq!(pushed, stored);
    let listing = scratch.run(["ls", "-lR", &remote]);
    assert_eq!(listing, scratch.run(["ls", "-lR", "oci:layout:v1"]));
    let only = remote.strip_suffix(":v1").unwrap();
    assert_eq!(scratch.run(["cat", only, "dir/up"]), "hello\n");
    web.server.clear_requests();
    assert_eq!(scratch.run(["cat", &remote, "dir/up"]), "hello\n");
    let requests = web.server.requests();
    assert_eq!(requests.len(), 4, "tags, a manifest, an index, a range: {requests:?}");
    let verified = scratch.run(["verify", &remote]);
    assert_eq!(verified, scratch.run(["verify", "oci:layout:v1"]));
}
