//! Test servers of chunkfs. This crate is not published.
//!
//! [`RangeServer`] is an HTTP/1.1 server on loopback that speaks enough of the OCI distribution
//! protocol for a client to push, pull and read ranges, and that misbehaves on demand: per request
//! by a queue or a script of [`Fault`]s, and lastingly by [`Authorization`] and [`Redirect`].
//! Below `/files/` it is a plain web server that takes `PUT` and heeds `If-Match`. It
//! logs every request ([`LoggedRequest`]), so that tests can assert exactly what was asked for.
//!
//! [`FaultProxy`] stands before any other server, a real registry for example, and breaks its
//! answers by chance: each [`FaultKind`] with a probability of its own, from a seed. The program
//! `fault-proxy` is this proxy for scripts.
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
mod proxy;
mod random;
mod routes;
mod server;

pub use authorization::Authorization;
pub use fault::Fault;
pub use log::LoggedRequest;
pub use proxy::{FaultKind, FaultProxy, ProxiedRequest, ProxyOptions, ProxyTotals};
pub use random::Random;
pub use server::{RangeServer, Redirect};
