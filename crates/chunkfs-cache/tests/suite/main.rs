//! Public behaviour of the cache.

mod crashes;
mod disk;
mod eviction;
mod levels;
mod loading;
mod processes;
mod sim;
mod support;
mod upkeep;
