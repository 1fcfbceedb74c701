//! Public behaviour of the sources: exact bytes, exact requests.

mod authorization;
mod conformance;
mod faults;
mod layout;
mod push;
mod ranges;
mod real;
mod redirects;
mod support;
