//! Test servers of chunkfs. This crate is not published.
//!
//! [`RangeServer`] is an HTTP/1.1 server on loopback that speaks enough of the OCI distribution
//! protocol for a client to push, pull and read ranges, and that misbehaves on demand: per request
//! by a queue or a script of [`Fault`]s, and lastingly by [`Authorization`] and [`Redirect`]. It
//! Below `/files/` it is a plain web server that takes `PUT` and heeds `If-Match`. It
//! logs every request ([`LoggedRequest`]), so that tests can assert exactly what was asked for.
//!
//! ```
//! use bytes::Bytes;
//! use chunkfs_testkit::RangeServer;
//!
//! # tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
//! # .block_on(async {
//! let server = RangeServer::start().await;
//! let blob = server.add_blob("repo", Bytes::from_static(b"hello"));
//! assert_eq!(server.url(), format!("http://{}", server.address()));
//! assert_eq!(blob, chunkfs_format::BlobId::of(b"hello"));
//! assert!(server.requests().is_empty());
//! # });
//! ```
#![forbid(unsafe_code)]

mod answer;
mod authorization;
mod content;
mod fault;
mod http;
mod log;
mod routes;
mod server;

pub use authorization::Authorization;
pub use fault::Fault;
pub use log::LoggedRequest;
pub use server::{RangeServer, Redirect};
