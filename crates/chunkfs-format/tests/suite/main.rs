//! The bytes that chunks and packs consist of, and stored bytes that are not chunks.

mod corpus;
mod golden;
mod hostile;
