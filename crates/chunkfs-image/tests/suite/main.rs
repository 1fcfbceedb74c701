//! Public behaviour of images: what is asked for, what is returned, what happens when things fail.

mod faults;
mod lifetime;
mod neighbours;
mod open;
mod prefetch;
mod read;
#[cfg(feature = "registry")]
mod registry;
mod requests;
mod resolve;
mod support;
