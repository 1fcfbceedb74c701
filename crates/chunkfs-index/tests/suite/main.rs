//! Public behaviour of the index: what is built is read, and hostile bytes are rejected.

mod build;
mod corpus;
mod fixture;
mod golden;
mod hostile;
mod limits;
mod listing;
mod open;
mod read;
mod rules;
mod specification;
mod transfer;
