//! OCI image layouts in object stores.
//!
//! `connector` (our HTTP client under object_store), `connect` (from a reference to a store),
//! `options`, `failure` (its errors become ours), `read` and `upload` (the operations), `source`
//! (the public type).

mod connect;
mod connector;
mod failure;
mod options;
mod read;
mod source;
mod upload;

pub use options::StoreOptions;
pub use source::ObjectLayout;
