//! OCI image layouts in a local folder.

mod index;
mod source;
mod store;

pub use source::OciLayout;
