//! What all commands need: a runtime, a way to registries, a cache, an opened image.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use chunkfs_fetch::{
    AnonymousCredentials, Credentials, DockerConfigCredentials, HttpLayout, ImageReference,
    ImageSink, ImageSource, ManifestSelector, ObjectLayout, OciLayout, RegistryOptions,
    RegistrySource, StoreOptions, find_converted,
};
use chunkfs_image::{Cache, CacheOptions, DiskEvent, Image, OpenOptions};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::arguments::{CacheArguments, RegistryArguments};
use crate::progress::plain_line;

/// Starts the runtime that all fetching runs on.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build().context("the runtime cannot be started")
}

/// Opens an image through a cache.
pub(crate) async fn open_image(
    image: &ImageReference,
    registry: &RegistryArguments,
    cache: &Cache,
    options: OpenOptions,
) -> anyhow::Result<Image> {
    let options = options
        .with_registry(registry_options(registry)?)
        .with_store(store_options(registry))
        .with_search(registry.search());
    Ok(Image::open(image, cache, options).await?)
}

/// A cache for commands that keep nothing.
pub(crate) fn memory_cache() -> Cache {
    Cache::open(CacheOptions::new(Handle::current()))
}

/// The cache in the folder that was asked for, within the bounds that were asked for.
pub(crate) fn folder_cache(arguments: &CacheArguments) -> anyhow::Result<Cache> {
    let folder = cache_folder(arguments.cache.as_deref())?;
    // What may pass, such as a full disk, is not an error; this will not.
    anyhow::ensure!(
        folder.is_dir() || !folder.exists(),
        "the cache folder {} is not a folder; choose another one",
        folder.display()
    );
    let mut options = CacheOptions::new(Handle::current())
        .with_folder(folder)
        .with_disk_observer(Arc::new(|event| plain_line(&describe(event))));
    options.quota_len = arguments.cache_quota;
    if let Some(len) = arguments.cache_reserve {
        options = options.with_reserve_len(len);
    }
    Ok(Cache::open(options))
}

fn describe(event: &DiskEvent<'_>) -> String {
    match event {
        DiskEvent::Failed { operation, error } => {
            format!("chunkfs: cache: {operation}: {error}; going on without it for now")
        }
        _ => "chunkfs: cache: the folder works again".to_owned(),
    }
}

pub(crate) fn registry_options(arguments: &RegistryArguments) -> anyhow::Result<RegistryOptions> {
    let credentials: Arc<dyn Credentials> = match auth_file(arguments)? {
        Some(path) => Arc::new(DockerConfigCredentials::from_path(path)),
        None => Arc::new(AnonymousCredentials),
    };
    let mut options = RegistryOptions::new(Handle::current())
        .with_credentials(credentials)
        .with_deadline(arguments.read_timeout)
        .with_proxies(environment(&PROXY_VARIABLES))
        .with_plain_http(arguments.plain_http);
    if let Some(folder) = &arguments.hosts_dir {
        anyhow::ensure!(folder.is_dir(), "there is no folder {}", folder.display());
        options = options.with_hosts_folder(folder);
    }
    Ok(options)
}

/// Settings come from the usual environment variables; the library picks those of the store.
fn store_options(arguments: &RegistryArguments) -> StoreOptions {
    StoreOptions::new(Handle::current())
        .with_settings(environment(&STORE_VARIABLES))
        .with_settings(environment(&PROXY_VARIABLES))
        .with_deadline(arguments.read_timeout)
}

/// The last two are how Azure's container services name where tokens are given out.
const STORE_VARIABLES: [&str; 5] =
    ["AWS_", "GOOGLE_", "AZURE_", "IDENTITY_ENDPOINT", "MSI_ENDPOINT"];

/// `HTTP_PROXY` counts in lower case only: a web server that runs this for a request puts the request's
/// headers into variables with that prefix.
const PROXY_VARIABLES: [&str; 7] =
    ["HTTPS_PROXY", "https_proxy", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"];

/// The environment variables whose names begin with one of these.
fn environment(prefixes: &[&str]) -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(move |(name, value)| {
        let name = name.into_string().ok()?;
        let is_wanted = prefixes.iter().any(|prefix| name.starts_with(prefix));
        is_wanted.then_some((name, value.into_string().ok()?))
    })
}

/// The file named on the command line must be there; docker's own and podman's may be missing.
fn auth_file(arguments: &RegistryArguments) -> anyhow::Result<Option<PathBuf>> {
    if let Some(path) = &arguments.auth_file {
        anyhow::ensure!(path.is_file(), "there is no auth file {}", path.display());
        return Ok(Some(path.clone()));
    }
    let docker = env_folder("DOCKER_CONFIG").or_else(|| Some(home()?.join(".docker")));
    let podman = env_folder("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json"));
    let paths = [docker.map(|folder| folder.join("config.json")), podman];
    Ok(paths.into_iter().flatten().find(|path| path.is_file()))
}

/// The source of an image: a registry or a layout of some kind, and which manifest there.
pub(crate) async fn connect_source(
    image: &ImageReference,
    registry: &RegistryArguments,
) -> anyhow::Result<(Arc<dyn ImageSource>, ManifestSelector)> {
    Ok(match image {
        ImageReference::Registry(reference) => {
            let source = RegistrySource::new(reference.clone(), registry_options(registry)?)?;
            (Arc::new(source), reference.selector().clone())
        }
        ImageReference::Layout(reference) => {
            let layout = OciLayout::open(reference.path(), Handle::current())?;
            let selector = layout.resolve(reference.selector()).await?;
            (Arc::new(layout), selector)
        }
        ImageReference::Store(reference) if reference.scheme().is_web() => {
            let layout = HttpLayout::new(reference, registry_options(registry)?)?;
            let selector = layout.resolve(reference.selector()).await?;
            (Arc::new(layout), selector)
        }
        ImageReference::Store(reference) => {
            let layout = ObjectLayout::connect(reference, store_options(registry))?;
            let selector = layout.resolve(reference.selector()).await?;
            (Arc::new(layout), selector)
        }
    })
}

/// As [`connect_source`], for a converted image, which may lie beside the one that is named.
pub(crate) async fn connect_converted(
    image: &ImageReference,
    registry: &RegistryArguments,
) -> anyhow::Result<(Arc<dyn ImageSource>, ManifestSelector)> {
    let (source, selector) = connect_source(image, registry).await?;
    Ok(find_converted(source, &selector, &registry.search()).await?)
}

/// The destination of an image: a registry or a layout of some kind, and the tag there.
pub(crate) fn connect_sink(
    image: &ImageReference,
    registry: &RegistryArguments,
) -> anyhow::Result<(Arc<dyn ImageSink>, ManifestSelector)> {
    Ok(match image {
        ImageReference::Registry(reference) => {
            let sink = RegistrySource::new(reference.clone(), registry_options(registry)?)?;
            (Arc::new(sink), reference.selector().clone())
        }
        ImageReference::Layout(reference) => {
            let selector = reference.selector().context("a destination needs a tag")?;
            let layout = OciLayout::create(reference.path(), Handle::current())?;
            (Arc::new(layout), selector.clone())
        }
        ImageReference::Store(reference) => {
            let selector = reference.selector().context("a destination needs a tag")?;
            let sink: Arc<dyn ImageSink> = match reference.scheme().is_web() {
                true => Arc::new(HttpLayout::new(reference, registry_options(registry)?)?),
                false => Arc::new(ObjectLayout::connect(reference, store_options(registry))?),
            };
            (sink, selector.clone())
        }
    })
}

/// The folder for chunks: as asked for, else `$XDG_CACHE_HOME/chunkfs`, else `~/.cache/chunkfs`.
pub(crate) fn cache_folder(asked: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(folder) = asked {
        return Ok(folder.to_owned());
    }
    let folder = env_folder("XDG_CACHE_HOME").or_else(|| Some(home()?.join(".cache")));
    let folder = folder.context("neither XDG_CACHE_HOME nor HOME is set; use --cache FOLDER")?;
    Ok(folder.join("chunkfs"))
}

fn env_folder(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn home() -> Option<PathBuf> {
    env_folder("HOME")
}

/// An error and its causes on one line, without saying anything twice or steering the terminal.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| cause.to_string().replace(char::is_control, " ")) {
        if line.ends_with(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}
