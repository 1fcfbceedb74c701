//! containerd's `hosts.toml`, in folders named like registries (containerd docs/hosts.md).

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::mirrors::{Mirror, Places};
use crate::error::FetchError;

const FILE_LEN_MAX: u64 = 1 << 20;
const MIRRORS_MAX: usize = 16;

#[derive(Deserialize)]
struct RawFile {
    server: Option<String>,
    #[serde(flatten)]
    of_server: RawHost,
    /// In the order of the file: it is the order in which mirrors are asked.
    #[serde(default)]
    host: toml::Table,
}

#[derive(Deserialize, Default)]
struct RawHost {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<toml::Value>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: std::collections::BTreeMap<String, OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn iter(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::One(text) => std::slice::from_ref(text).iter(),
            Self::Many(texts) => texts.iter(),
        }
    }
}

/// Reads what `folder` says of a registry: nothing, if neither its file nor `_default` exists.
pub(super) fn read(folder: &Path, namespace: &str) -> Result<Places, FetchError> {
    for name in folder_names(namespace) {
        let path = folder.join(name).join("hosts.toml");
        if let Some(text) = read_limited(&path)? {
            return parse(&text, &path);
        }
    }
    Ok(Places::default())
}

/// As containerd looks: `HOST_PORT_` before `HOST:PORT`, `_default` last.
fn folder_names(namespace: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((host, port)) = namespace.rsplit_once(':') {
        names.push(format!("{host}_{port}_"));
    }
    names.extend([namespace.to_owned(), "_default".to_owned()]);
    names
}

fn parse(text: &str, path: &Path) -> Result<Places, FetchError> {
    let invalid = |problem: String| FetchError::InvalidHosts { path: path.to_owned(), problem };
    // The parser's own message quotes the file, which may hold secrets in headers.
    let problem = |error: toml::de::Error| invalid(error.message().to_owned());
    let raw: RawFile = toml::from_str(text).map_err(problem)?;
    if raw.host.len() > MIRRORS_MAX {
        return Err(invalid(format!("it names more than {MIRRORS_MAX} hosts")));
    }
    let mut places = Places::default();
    for (url, host) in raw.host {
        let host: RawHost = host.try_into().map_err(problem)?;
        let mirror = mirror(&url, &host, path)?;
        if mirror.can_pull || mirror.can_resolve {
            places.mirrors.push(mirror);
        }
    }
    if let Some(server) = raw.server.filter(|server| !server.is_empty()) {
        places.server = Some(mirror(&server, &raw.of_server, path)?);
    }
    Ok(places)
}

fn mirror(url: &str, host: &RawHost, path: &Path) -> Result<Mirror, FetchError> {
    let invalid = |problem: String| FetchError::InvalidHosts { path: path.to_owned(), problem };
    let with_scheme = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let mut mirror = Mirror::new(&with_scheme).map_err(|error| invalid(error.to_string()))?;
    if host.skip_verify {
        let problem = "`skip_verify` is not supported; name the certificate with `ca`";
        return Err(invalid(problem.to_owned()));
    }
    if host.client.is_some() {
        return Err(invalid("`client` certificates are not supported".to_owned()));
    }
    if let Some(capabilities) = &host.capabilities {
        let has = |name: &str| capabilities.iter().any(|capability| capability == name);
        (mirror.can_pull, mirror.can_resolve) = (has("pull"), has("resolve"));
    }
    for ca in host.ca.iter().flat_map(OneOrMany::iter) {
        let path: PathBuf = path.parent().unwrap_or(path).join(ca);
        let pem = read_limited(&path)?;
        let pem = pem.ok_or_else(|| invalid(format!("there is no file {}", path.display())))?;
        mirror = mirror.with_root_certificates_pem(pem);
    }
    for (name, values) in &host.header {
        for value in values.iter() {
            mirror = mirror.with_header(name, value);
        }
    }
    Ok(mirror.with_override_path(host.override_path))
}

fn read_limited(path: &Path) -> Result<Option<String>, FetchError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(FetchError::io(path, error)),
    };
    let mut text = String::new();
    let read = file.take(FILE_LEN_MAX).read_to_string(&mut text);
    read.map_err(|error| FetchError::io(path, error))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
server = "https://registry-1.docker.io"

[host."https://z.example/path"]
  capabilities = ["pull"]
  override_path = true
  dial_timeout = "1s"
  [host."https://z.example/path".header]
    x-token = "secret"
    x-many = ["a", "b"]

[host."http://127.0.0.1:5000"]
  capabilities = ["pull", "resolve"]

[host."a.example"]

[host."https://push-only.example"]
  capabilities = ["push"]
"#;

    #[test]
    fn hosts_are_read_in_their_order() {
        let places = parse(EXAMPLE, Path::new("x/hosts.toml")).unwrap();
        let seen: Vec<_> = places
            .mirrors
            .iter()
            .map(|mirror| (mirror.url.as_str(), mirror.can_resolve, mirror.headers.len()))
            .collect();
        let expected = [
            ("https://z.example/path", false, 3),
            ("http://127.0.0.1:5000/", true, 0),
            ("https://a.example/", true, 0),
        ];
        assert_eq!(seen, expected);
        assert!(places.mirrors[0].overrides_path);
        assert_eq!(places.server.as_ref().unwrap().url.as_str(), "https://registry-1.docker.io/");
        assert!(!format!("{places:?}").contains("secret"));
    }

    #[test]
    fn what_cannot_be_done_is_an_error_without_secrets() {
        for text in [
            "server = 1",
            "[host.\"https://h\"]\nskip_verify = true",
            "[host.\"https://h\"]\nclient = \"secret.pem\"",
            "[host.\"https://h\"]\nca = \"missing.pem\"",
            "[host.\"https://user:secret@h\"]",
            "[host.\"ftp://h\"]",
            "[host.\"https://h\".header]\nx = \"secret",
        ] {
            let error = parse(text, Path::new("/nowhere/hosts.toml")).unwrap_err();
            assert!(matches!(error, FetchError::InvalidHosts { .. }), "{text}: {error}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn folders_are_tried_as_containerd_does() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, host: &str| {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
            let text = format!("[host.\"https://{host}\"]");
            std::fs::write(folder.path().join(name).join("hosts.toml"), text).unwrap();
        };
        let first = |namespace: &str| {
            let places = read(folder.path(), namespace).unwrap();
            places.mirrors.first().map(|mirror| mirror.url.host_str().unwrap().to_owned())
        };
        assert_eq!(first("r.io:5000"), None);
        write("_default", "default");
        assert_eq!(first("r.io:5000"), Some("default".to_owned()));
        write("r.io:5000", "with-colon");
        assert_eq!(first("r.io:5000"), Some("with-colon".to_owned()));
        write("r.io_5000_", "with-lines");
        assert_eq!(first("r.io:5000"), Some("with-lines".to_owned()));
        assert_eq!(first("docker.io"), Some("default".to_owned()));
    }
}
