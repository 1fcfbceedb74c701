//! Public behaviour of the servers: exact bytes on the wire, exact logs.

mod faults;
mod options;
mod server;
mod support;
mod transparent;
