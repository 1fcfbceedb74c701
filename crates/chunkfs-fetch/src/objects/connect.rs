//! From a reference to a store.

use std::sync::Arc;
use std::time::Duration;

use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::connector::Connector;
use super::failure::clean;
use super::options::StoreOptions;
use crate::error::FetchError;
use crate::reference::{StoreReference, StoreScheme};
use crate::registry::client;

/// Retries within object_store: few and short, because reads have retries of their own.
const RETRIES_MAX: usize = 2;
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);

/// Sets up a store; sends nothing.
pub(super) fn connect(
    reference: &StoreReference,
    options: &StoreOptions,
) -> Result<Arc<dyn ObjectStore>, FetchError> {
    let unusable = |problem: String| {
        let problem = clean(&problem);
        FetchError::Store { place: reference.place(), problem }
    };
    let client = client::Settings {
        connect_timeout: options.connect_timeout,
        idle_max: options.connections_max,
        user_agent: concat!("chunkfs/", env!("CARGO_PKG_VERSION")),
        root_certificates_pem: &options.root_certificates_pem,
        proxies: &options.settings,
        needs_roots: false,
    };
    let connector =
        Connector { client: client.build()?, progress_timeout: options.progress_timeout };
    let retry = RetryConfig {
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIMEOUT,
        ..RetryConfig::default()
    };
    let _ = (&connector, &retry);
    match reference.scheme() {
        #[cfg(feature = "s3")]
        StoreScheme::S3 => {
            let mut builder = object_store::aws::AmazonS3Builder::new()
                .with_retry(retry)
                .with_client_options(ClientOptions::new())
                .with_http_connector(connector);
            for (name, value) in lower_case(&options.settings) {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let store = builder.with_bucket_name(reference.bucket()).build();
            Ok(Arc::new(store.map_err(|error| unusable(error.to_string()))?))
        }
        #[cfg(feature = "gcs")]
        StoreScheme::Gcs => {
            let mut builder = object_store::gcp::GoogleCloudStorageBuilder::new()
                .with_retry(retry)
                .with_client_options(ClientOptions::new())
                .with_http_connector(connector);
            for (name, value) in lower_case(&options.settings) {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let store = builder.with_bucket_name(reference.bucket()).build();
            Ok(Arc::new(store.map_err(|error| unusable(error.to_string()))?))
        }
        #[cfg(feature = "azure")]
        StoreScheme::Azure => {
            let mut builder = object_store::azure::MicrosoftAzureBuilder::new()
                .with_retry(retry)
                .with_client_options(ClientOptions::new())
                .with_http_connector(connector);
            for (name, value) in lower_case(&options.settings) {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let store = builder.with_container_name(reference.bucket()).build();
            Ok(Arc::new(store.map_err(|error| unusable(error.to_string()))?))
        }
        scheme => {
            let name = scheme.name();
            Err(unusable(format!("this build has no support for {name}:// in object_store")))
        }
    }
}

/// Names of settings as object_store parses them.
fn lower_case(settings: &[(String, String)]) -> impl Iterator<Item = (String, &str)> {
    let prefixed = settings.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()));
    prefixed.filter(|(name, _)| {
        ["aws_", "google_", "azure_"].iter().any(|prefix| name.starts_with(prefix))
    })
}
