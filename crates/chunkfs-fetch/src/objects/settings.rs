//! Settings by name for the builders of object_store.

use std::str::FromStr;
use std::sync::Arc;

use object_store::ObjectStore;

/// What the names of settings begin with.
const PREFIXES: [&str; 3] = ["aws_", "google_", "azure_"];
/// Names without a prefix: where Azure's container services give out tokens.
const OTHER_NAMES: [&str; 2] = ["identity_endpoint", "msi_endpoint"];

/// Hands all settings that the store knows to its builder.
pub(super) fn configured<B, K: FromStr>(
    settings: &[(String, String)],
    builder: B,
    with: impl Fn(B, K, String) -> B,
) -> B {
    settings.iter().fold(builder, |builder, (name, value)| match key(name) {
        Some(key) => with(builder, key, value.clone()),
        None => builder,
    })
}

/// Returns what a builder has built, or what is wrong with its settings.
pub(super) fn built<S: ObjectStore>(
    store: object_store::Result<S>,
) -> Result<Arc<dyn ObjectStore>, String> {
    store.map(|store| Arc::new(store) as _).map_err(|error| error.to_string())
}

/// Returns the setting of that name, in any case.
fn key<K: FromStr>(name: &str) -> Option<K> {
    let name = name.to_ascii_lowercase();
    // object_store knows short names, too, such as `token`, which may mean anything here.
    let is_ours = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if is_ours || OTHER_NAMES.contains(&&*name) { name.parse().ok() } else { None }
}
