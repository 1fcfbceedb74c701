//! The options of all commands that speak to registries and stores.

use std::path::PathBuf;
use std::time::Duration;

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
        help = "Registry credentials [default: $DOCKER_CONFIG/config.json or ~/.docker/config.json]"
    )]
    pub(crate) auth_file: Option<PathBuf>,
    /// Ask mirrors first, as containerd's HOST/hosts.toml files in this folder say
    #[arg(long, value_name = "FOLDER")]
    pub(crate) hosts_dir: Option<PathBuf>,
    /// Give up a read from a registry or store after this long, retries included
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub(crate) read_timeout: Duration,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(|| "write a number of seconds from 1 on".to_owned())
}
