use super::*;

const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn registry(text: &str) -> (String, String, String) {
    let reference: RegistryReference = text.parse().unwrap();
    (reference.host.clone(), reference.repository.clone(), reference.selector.to_string())
}

fn parts(host: &str, repository: &str, selector: &str) -> (String, String, String) {
    (host.to_owned(), repository.to_owned(), selector.to_owned())
}

#[test]
fn registry_references_are_parsed() {
    let hub = "registry-1.docker.io";
    for (text, expected) in [
        ("docker://r.io/a/b:1.0", parts("r.io", "a/b", "1.0")),
        ("docker://r.io:5000/a", parts("r.io:5000", "a", "latest")),
        ("docker://localhost/a", parts("localhost", "a", "latest")),
        ("docker://127.0.0.1:5000/a-b__c.d:X_y", parts("127.0.0.1:5000", "a-b__c.d", "X_y")),
        ("docker://[::1]:5000/a", parts("[::1]:5000", "a", "latest")),
        ("docker://alpine", parts(hub, "library/alpine", "latest")),
        ("docker://alpine:3.20", parts(hub, "library/alpine", "3.20")),
        ("docker://docker.io/alpine", parts(hub, "library/alpine", "latest")),
        ("docker://docker.io/grafana/loki:1", parts(hub, "grafana/loki", "1")),
        ("docker://grafana/loki", parts(hub, "grafana/loki", "latest")),
    ] {
        assert_eq!(registry(text), expected, "{text}");
    }
    let digest = format!("sha256:{HEX}");
    assert_eq!(registry(&format!("docker://r.io/a@{digest}")), parts("r.io", "a", &digest));
    assert_eq!(registry(&format!("docker://r.io/a:1@{digest}")), parts("r.io", "a", &digest));
}

#[test]
fn everything_that_could_change_a_url_is_rejected() {
    for text in [
        "",
        "docker://",
        "docker:///a",
        "docker://r.io/",
        "alpine",
        "r.io/a:1",
        "docker://r.io/../a",
        "docker://r.io/a/..",
        "docker://r.io/a//b",
        "docker://r.io/a/./b",
        "docker://r.io/A",
        "docker://r.io/a%2fb",
        "docker://r.io/a?b",
        "docker://r.io/a#b",
        "docker://r.io/a b",
        "docker://r.io/-a",
        "docker://r.io/a-",
        "docker://r.io/a..b",
        "docker://r.io/a___b",
        "docker://r.io/a.-b",
        "docker://user@r.io/a",
        "docker://r.io:/a",
        "docker://r.io:99999/a",
        "docker://r.io:+1/a",
        "docker://r..io/a",
        "docker://-r.io/a",
        "docker://[::1/a",
        "docker://[x]:1/a",
        "docker://r.io/a:",
        "docker://r.io/a:.b",
        "docker://r.io/a:b/c:",
        "docker://r.io/a@sha256:00",
        "docker://r.io/a@sha512:00",
        "docker://r.io/a\u{e9}",
        "docker://r.io/a:b\n",
    ] {
        let error = text.parse::<ImageReference>().unwrap_err();
        assert!(matches!(error, FetchError::InvalidReference { .. }), "{text}");
        assert!(error.to_string().contains("docker://HOST[:PORT]/REPOSITORY[:TAG]"), "{error}");
    }
}

#[test]
fn lengths_are_limited() {
    let tag = |len| format!("docker://r.io/a:{}", "t".repeat(len)).parse::<ImageReference>();
    assert!(tag(128).is_ok());
    assert!(tag(129).is_err());
    let name = |len: usize| format!("docker://r.io/{}", "n".repeat(len)).parse::<ImageReference>();
    assert!(name(250).is_ok());
    assert!(name(251).is_err());
}

#[test]
fn layout_references_are_parsed() {
    for (text, path, selector) in [
        ("oci:images", "images", None),
        ("oci:/a/b:v1", "/a/b", Some("v1")),
        ("oci:/a:b/c", "/a:b/c", None),
        ("oci:/a:b/c:v1", "/a:b/c", Some("v1")),
        ("oci:/a/b:c/", "/a/b:c/", None),
        ("oci:/a@b", "/a@b", None),
    ] {
        let reference: LayoutReference = text.parse().unwrap();
        assert_eq!(reference.path(), Path::new(path), "{text}");
        let tag = reference.selector().map(|selector| selector.to_string());
        assert_eq!(tag.as_deref(), selector, "{text}");
        assert_eq!(reference.to_string(), text);
    }
    let text = format!("oci:/a:b@sha256:{HEX}");
    let reference: LayoutReference = text.parse().unwrap();
    assert_eq!(reference.path(), Path::new("/a:b"));
    assert!(matches!(reference.selector(), Some(ManifestSelector::Digest(_))));
    assert_eq!(reference.to_string(), text);
    for text in ["oci:", "oci::tag", "oci:/a:", "oci:/a:-", "oci:/a@sha256:00", "oci:a\0b"] {
        assert!(text.parse::<LayoutReference>().is_err(), "{text}");
    }
}

#[test]
fn a_layout_folder_with_a_colon_round_trips() {
    let reference = LayoutReference::new("/a/b:c", None).unwrap();
    let parsed: LayoutReference = reference.to_string().parse().unwrap();
    assert_eq!(parsed.selector(), None);
    assert_eq!(parsed.path().components().next_back(), reference.path().components().next_back());
}

#[test]
fn registry_references_round_trip() {
    for text in ["docker://r.io:1/a/b:c".to_owned(), format!("docker://r.io/a@sha256:{HEX}")] {
        assert_eq!(text.parse::<ImageReference>().unwrap().to_string(), text);
    }
}

#[test]
fn loopback_hosts_are_known() {
    for (host, expected) in [
        ("localhost:5000", true),
        ("127.0.0.1", true),
        ("127.9.9.9:1", true),
        ("[::1]:5000", true),
        ("127.0.0.1.example.com", false),
        ("10.0.0.1:5000", false),
    ] {
        let selector = ManifestSelector::Tag("t".to_owned());
        let reference = RegistryReference::new(host, "a", selector).unwrap();
        assert_eq!(reference.is_loopback(), expected, "{host}");
    }
}
