//! Where the blobs of an image come from: OCI layouts, OCI registries, memory.
//!
//! A converted image is an ordinary OCI manifest whose blobs are read by range. This crate reads
//! and writes such images. It moves bytes and decides *how*: connections, credentials, redirects,
//! retries, priorities. It does not know what the bytes mean.
//!
//! * [`BlobSource`] reads ranges of blobs; [`ImageSource`] adds manifests and whole blobs;
//!   [`ImageSink`] writes both. All three are object-safe, so that embedders can bring their own.
//! * [`MemorySource`]: blobs in memory, for tests and embedders.
#![cfg_attr(feature = "layout", doc = "* [`OciLayout`]: an OCI image layout in a local folder.")]
#![cfg_attr(
    feature = "registry",
    doc = "* [`RegistrySource`]: one repository of an OCI registry, configured by\n  [`RegistryOptions`], with secrets from a [`Credentials`] implementation.\n* [`HttpLayout`]: an OCI image layout on a web server, by the same options."
)]
#![cfg_attr(
    feature = "object-store",
    doc = "* [`ObjectLayout`]: an OCI image layout in S3, GCS, Azure or any other object store."
)]
//! * [`ImageReference`]: how people name an image: `docker://HOST/REPO:TAG`, `oci:DIR:TAG`,
//!   `s3://BUCKET/PREFIX:TAG` and so on.
//! * [`ConvertedManifest`]: the manifest of a converted image.
//! * [`find_converted`]: the converted image beside an original, in one [`ImageIndex`] or a referrer.
//! * [`fetch_verified`]: a small blob, whole and checked against its digest.
//!
//! # Example
//!
//! ```
//! use bytes::Bytes;
//! use chunkfs_fetch::{BlobSource, MemorySource, Priority, fetch_verified};
//!
//! # futures::executor::block_on(async {
//! let source = MemorySource::new();
//! let blob = source.insert_blob(Bytes::from_static(b"hello world"));
//! let bytes = source.read_range(&blob, 6..11, Priority::Demand).await?;
//! assert_eq!(bytes, "world");
//! assert_eq!(fetch_verified(&source, &blob, 1024).await?, "hello world");
//! # Ok::<(), chunkfs_fetch::FetchError>(())
//! # }).unwrap();
//! ```
//!
//! # Features
//!
//! `layout` and `registry` (both on by default) add the two stores. `s3`, `gcs` and `azure` add
//! object stores and the way to connect to them; `object-store` alone takes one that is connected
//! already. `conformance` adds the suite
//! that every [`BlobSource`] should pass.
//!
//! # Limits
//!
//! * [`BlobSource::read_range`] does not verify: a range has no digest of its own. Callers check
//!   the chunks that they cut from it; [`fetch_verified`] does it for whole blobs.
//! * Nothing is cached on disk, and nothing is read from the environment: the paths of
//!   configuration files, proxies and timeouts are the caller's to give.
//! * Only SHA-256 digests and single byte ranges are used, as OCI registries support no others
//!   reliably.
#![forbid(unsafe_code)]

mod attached;
mod check;
#[cfg(feature = "conformance")]
pub mod conformance;
mod counters;
mod error;
mod image_index;
#[cfg(any(feature = "layout", feature = "registry"))]
mod layout;
mod manifest;
mod memory;
#[cfg(feature = "object-store")]
mod objects;
mod reference;
#[cfg(feature = "registry")]
mod registry;
mod source;
#[cfg(any(feature = "layout", feature = "registry"))]
mod task;

pub use attached::{SearchOptions, find_converted};
pub use counters::{FetchCounters, PriorityCounters};
pub use error::{ErrorSource, FetchError};
pub use image_index::ImageIndex;
#[cfg(feature = "layout")]
pub use layout::OciLayout;
pub use manifest::{
    BLOB_MEDIA_TYPE, CONFIG_MEDIA_TYPE, CONVERSION_ANNOTATION, CONVERTED_ANNOTATION,
    ConvertedManifest, DIFF_ID_ANNOTATION, Descriptor, FRAGMENT_MEDIA_TYPE, IMAGE_ARTIFACT_TYPE,
    IMAGE_ID_ANNOTATION, IMAGE_INDEX_MEDIA_TYPE, INDEX_MEDIA_TYPE, LAYER_DIGEST_ANNOTATION,
    MANIFEST_LEN_MAX, MANIFEST_MEDIA_TYPE, ORIGINAL_ANNOTATION,
};
pub use memory::MemorySource;
#[cfg(feature = "object-store")]
pub use objects::{ObjectLayout, StoreOptions};
pub use reference::{
    ImageReference, LayoutReference, RegistryReference, StoreReference, StoreScheme,
};
#[cfg(feature = "registry")]
pub use registry::{
    AnonymousCredentials, Credential, Credentials, CredentialsReason, DockerConfigCredentials,
    HttpLayout, Mirror, RegistryOptions, RegistrySource, StaticCredentials,
};
pub use source::{
    BlobContent, BlobDescriptor, BlobSource, ImageSink, ImageSource, ManifestSelector, Priority,
    StoredManifest, fetch_verified,
};
