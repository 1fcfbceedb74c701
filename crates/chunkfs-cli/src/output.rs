//! Standard output, whose reader may leave when it has seen enough.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Stdout, Write};

/// Standard output; unlike any other broken pipe, that of its reader is recognizable.
#[derive(Debug)]
pub(crate) struct Output(Stdout);

impl Output {
    pub(crate) fn new() -> Self {
        Self(io::stdout())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(mark)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(mark)
    }
}

/// Returns a number of things with their name, such as `1 blob` and `2 blobs`.
pub(crate) fn counted(count: impl Into<u64>, name: &str) -> String {
    let count = count.into();
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

/// Returns whether an error means that the reader of standard output has left.
///
/// A connection to a registry can break like a pipe too, and that is a failure.
pub(crate) fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<ReaderGone>())
    })
}

#[derive(Debug)]
struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

impl Error for ReaderGone {}

fn mark(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::BrokenPipe => io::Error::new(ErrorKind::BrokenPipe, ReaderGone),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn only_the_reader_of_standard_output_may_leave() {
        let connection = io::Error::from(ErrorKind::BrokenPipe);
        let output = mark(io::Error::from(ErrorKind::BrokenPipe));
        let full = mark(io::Error::from(ErrorKind::StorageFull));
        for (error, is_gone) in [(connection, false), (output, true), (full, false)] {
            let error = Err::<(), _>(error).context("it cannot be written").unwrap_err();
            assert_eq!(is_reader_gone(&error), is_gone, "{error:?}");
        }
    }
}
