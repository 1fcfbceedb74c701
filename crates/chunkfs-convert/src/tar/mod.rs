//! Reading tar archives: V7, ustar, GNU and PAX, as Go's `archive/tar` and GNU tar read them.
//!
//! This is a reader of our own because the ones at hand lose what an image needs: the `tar` crate
//! reads PAX sparse files wrongly, and `tar-core` 0.1 rejects times before 1970 in PAX records,
//! drops the rest of a damaged record list without a word, and wraps numbers that do not fit.
//! Archives are hostile: every number is checked, and nothing is allocated by what a header claims.
//!
//! Global PAX headers are skipped, as container runtimes do.

mod header;
mod pax;
mod reader;
mod sparse;

pub(crate) use reader::{TarEntry, TarKind, TarReader};
pub(crate) use sparse::Region;

/// The length of a header, and the unit that content is padded to.
pub(crate) const BLOCK_LEN: usize = 512;
