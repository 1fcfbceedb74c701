//! From a reference to a store.

use std::sync::Arc;
use std::time::Duration;

use object_store::{ObjectStore, RetryConfig};

use super::connector::Connector;
use super::failure::clean;
use super::options::StoreOptions;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
use super::settings::{built, configured};
use crate::error::FetchError;
use crate::reference::StoreReference;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
use crate::reference::StoreScheme;
use crate::registry::client;

/// Retries within object_store: few and short, because reads have retries of their own.
const RETRIES_MAX: usize = 2;
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);

/// All that is needed to set up a store, once or again.
#[derive(Debug)]
pub(super) struct Connect {
    reference: StoreReference,
    connector: Connector,
}

impl Connect {
    /// Reads the system's root certificates.
    pub(super) fn new(
        reference: &StoreReference,
        options: &StoreOptions,
    ) -> Result<Self, FetchError> {
        let client = client::Settings {
            connect_timeout: options.connect_timeout,
            idle_max: options.connections_max,
            user_agent: concat!("chunkfs/", env!("CARGO_PKG_VERSION")),
            root_certificates_pem: &options.root_certificates_pem,
            proxies: &options.settings,
            needs_roots: false,
        };
        let connector = Connector { client: client.build()?, options: options.clone() };
        Ok(Self { reference: reference.clone(), connector })
    }

    /// Sets up a store that has no credentials yet; sends nothing.
    pub(super) fn connect(&self) -> Result<Arc<dyn ObjectStore>, FetchError> {
        let (connector, bucket) = (self.connector.clone(), self.reference.bucket());
        let settings = &self.connector.options.settings;
        let retry = RetryConfig {
            max_retries: RETRIES_MAX,
            retry_timeout: RETRY_TIMEOUT,
            ..RetryConfig::default()
        };
        let _ = (&connector, &retry, bucket, settings);
        let store = match self.reference.scheme() {
            #[cfg(feature = "s3")]
            StoreScheme::S3 => {
                use object_store::aws::AmazonS3Builder as Builder;
                let builder = configured(settings, Builder::new(), Builder::with_config);
                let builder = builder.with_retry(retry).with_http_connector(connector);
                built(builder.with_bucket_name(bucket).build())
            }
            #[cfg(feature = "gcs")]
            StoreScheme::Gcs => {
                use object_store::gcp::GoogleCloudStorageBuilder as Builder;
                let builder = configured(settings, Builder::new(), Builder::with_config);
                let builder = builder.with_retry(retry).with_http_connector(connector);
                built(builder.with_bucket_name(bucket).build())
            }
            #[cfg(feature = "azure")]
            StoreScheme::Azure => {
                use object_store::azure::MicrosoftAzureBuilder as Builder;
                let builder = configured(settings, Builder::new(), Builder::with_config);
                let builder = builder.with_retry(retry).with_http_connector(connector);
                built(builder.with_container_name(bucket).build())
            }
            scheme => {
                let name = scheme.name();
                Err(format!("this build has no support for {name}:// in object_store"))
            }
        };
        store.map_err(|problem| {
            let problem = clean(&problem);
            FetchError::Store { place: self.reference.place(), problem }
        })
    }
}
