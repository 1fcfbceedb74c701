//! The programs are in the folder above: `cargo run --example quickstart`.
