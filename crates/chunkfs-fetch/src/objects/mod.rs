//! OCI image layouts in object stores.
//!
//! `connector` and `answer` (our HTTP client under object_store), `connect` and `settings` (from a
//! reference to a store), `store` (the present one), `options`, `failure` (its errors become ours),
//! `tries` (when something is tried again), `range`, `small` and `upload` (the operations), `source`
//! (the public type).

mod answer;
mod connect;
mod connector;
mod failure;
mod options;
mod range;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod settings;
mod small;
mod source;
mod store;
mod tries;
mod upload;

pub use options::StoreOptions;
pub use source::ObjectLayout;
