//! Converts OCI images, tar archives and directories to chunkfs images.
//!
//! A converted image is an index, which holds the merged file tree and the place of every chunk,
//! and data blobs, which hold the chunks. Conversion streams: nothing is unpacked to disk, and
//! finished blobs are sent while the rest is still being read.
//!
//! * [`convert_image`], [`convert_tar`], [`convert_rootfs`]: the three sources.
//! * [`ConvertOptions`]: sizes, digests, compression, threads.
//! * [`Destination`]: where the result goes; [`ReuseImage`]: what need not be made again.
//! * [`ConvertReport`] and [`Statistics`]: what was done; [`ConvertObserver`]: what is being done.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//!
//! use chunkfs_convert::{ConvertOptions, Destination, convert_tar};
//! use chunkfs_fetch::{ManifestSelector, MemorySource};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = tokio::runtime::Runtime::new()?;
//! let options = ConvertOptions::new(runtime.handle().clone());
//! let selector = ManifestSelector::Tag("latest".to_owned());
//! let destination = Destination { sink: Arc::new(MemorySource::new()), selector };
//! // An empty archive is two blocks of zeros.
//! let report = convert_tar(&[0; 1024][..], "empty.tar", &destination, &[], &options)?;
//! assert_eq!(report.statistics.files, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # What is guaranteed
//! The result is a function of the layers and of those options that
//! [`ConvertOptions::conversion`] names: the same bytes on any machine and for any number of
//! threads. With images to be reused, it is a function of these as well. Layers are verified; if
//! anything is wrong with any of them, no manifest is put. Input is hostile: paths never lead out
//! of the image, and nothing is ever written but blobs, a manifest and temporary files.
//!
//! # Limits
//! Layers must be named by SHA-256. Entries of all layers together take at most 4 GiB of memory,
//! an extended header 1 MiB, a sparse map 131,072 regions, a path 4,095 bytes. Global PAX headers
//! are skipped, as container runtimes do. This crate does not sign, squash, or drop anything.
#![forbid(unsafe_code)]

mod attach;
mod convert;
mod entry;
mod error;
mod fragment;
mod image;
mod layer;
mod merge;
mod options;
mod pipeline;
mod progress;
mod publish;
mod reuse;
mod rootfs;
mod run;
mod statistics;
mod stream;
mod tar;

pub use convert::{Destination, convert_image, convert_rootfs, convert_tar};
pub use error::{ConvertError, LayerError};
pub use fragment::{FragmentError, verify_fragment};
pub use options::{AttachForm, BLOB_LEN_MAX_DEFAULT, ConvertOptions, Platform};
pub use progress::{BlobTransfer, ConvertEvent, ConvertObserver};
pub use reuse::ReuseImage;
pub use statistics::{ConvertReport, Statistics};
