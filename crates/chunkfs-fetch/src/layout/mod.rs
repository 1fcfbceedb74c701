//! OCI image layouts: in a local folder, or as files of a store that is not local.

mod index;
#[cfg(feature = "registry")]
pub(crate) mod remote;
#[cfg(feature = "layout")]
mod source;
#[cfg(any(feature = "layout", feature = "object-store"))]
mod steps;
#[cfg(feature = "layout")]
mod store;

#[cfg(feature = "layout")]
pub use source::OciLayout;
#[cfg(any(feature = "layout", feature = "object-store"))]
pub(crate) use steps::stream_in_steps;
