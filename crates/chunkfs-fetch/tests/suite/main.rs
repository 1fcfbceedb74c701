//! Public behaviour of the sources: exact bytes, exact requests.

mod ahead;
mod authorization;
mod conformance;
mod damage;
mod faults;
mod layout;
mod mirrors;
mod progress;
mod proxies;
mod push;
mod ranges;
mod real;
mod redirects;
mod s3;
mod stores;
mod storm;
mod support;
