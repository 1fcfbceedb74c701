//! The options of all commands that speak to registries and stores.

use std::path::PathBuf;
use std::time::Duration;

use chunkfs_fetch::SearchOptions;
use clap::Args;

/// How registries are spoken to.
#[derive(Debug, Args)]
pub(crate) struct RegistryArguments {
    /// Allow registries without TLS; loopback addresses are always allowed
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Read registry credentials from this file
    #[arg(
        long,
        value_name = "FILE",
        help = "Registry credentials [default: $DOCKER_CONFIG/config.json, ~/.docker/config.json or podman's auth.json]"
    )]
    pub(crate) auth_file: Option<PathBuf>,
    /// Ask mirrors first, as containerd's HOST/hosts.toml files in this folder say
    #[arg(long, value_name = "FOLDER")]
    pub(crate) hosts_dir: Option<PathBuf>,
    /// Also take a converted image that only refers to the named one; whoever may push can add such
    #[arg(long)]
    pub(crate) follow_referrers: bool,
    /// Give up a read from a registry or store after this long, retries included
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub(crate) read_timeout: Duration,
}

impl RegistryArguments {
    /// How converted images beside their originals are searched for.
    pub(crate) fn search(&self) -> SearchOptions {
        SearchOptions::default().with_follow_referrers(self.follow_referrers)
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(|| "write a number of seconds from 1 on".to_owned())
}
