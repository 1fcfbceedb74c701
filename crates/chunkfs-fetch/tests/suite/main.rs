//! Public behaviour of the sources: exact bytes, exact requests.

mod ahead;
mod authorization;
#[cfg(any(feature = "azure", feature = "gcs"))]
mod clouds;
mod conformance;
mod damage;
mod faults;
mod instance_credentials;
mod layout;
mod metadata;
mod mirrors;
mod progress;
mod proxies;
mod push;
mod ranges;
mod real;
mod redirects;
mod rotation;
mod s3;
mod store_faults;
mod store_writes;
mod stores;
mod storm;
mod support;
