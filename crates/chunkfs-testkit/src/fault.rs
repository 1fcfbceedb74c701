//! How an answer can go wrong.

use std::time::Duration;

/// One way in which an answer goes wrong. Several can be combined.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Answers with this status, these headers and no body.
    Status {
        /// The HTTP status.
        status: u16,
        /// Additional headers.
        headers: Vec<(String, String)>,
    },
    /// Answers a range request with 200 and the whole blob.
    IgnoreRange,
    /// Closes the connection after this many bytes of the body.
    CutBody {
        /// Bytes sent.
        after: u64,
    },
    /// Sends this many bytes of the body, then nothing more, and keeps the connection open.
    Stall {
        /// Bytes sent.
        after: u64,
    },
    /// Sends the body in pieces with pauses between them.
    Drip {
        /// The bytes of a piece, at least one.
        piece_len: u64,
        /// The pause before each piece.
        pause: Duration,
    },
    /// Sends this many bytes of the body, then resets the connection.
    Reset {
        /// Bytes sent.
        after: u64,
    },
    /// Never answers and keeps the connection open.
    StallHead,
    /// Closes the connection without an answer.
    Close,
    /// Answers 206 with a range that starts this many bytes later, and says so.
    ShiftedRange {
        /// How far.
        by: u64,
    },
    /// Answers 206 with at most this many bytes of the range, and says so.
    ShortRange {
        /// Bytes in the answer.
        len: u64,
    },
    /// Inverts this bit of the body, counted from its start.
    FlipBit {
        /// The number of the bit.
        bit: u64,
    },
    /// Claims this content encoding.
    ContentEncoding(String),
    /// Answers 206 with the right range and this length of the whole, `*` for `None`.
    ClaimedLen {
        /// The length after the slash.
        len: Option<u64>,
    },
    /// Adds a header to an otherwise right answer.
    Header {
        /// The name.
        name: String,
        /// The value.
        value: String,
    },
}

impl Fault {
    /// Returns an answer with this status and no additional headers.
    pub fn status(status: u16) -> Self {
        Self::Status { status, headers: Vec::new() }
    }

    /// Returns an answer with this status and a `Retry-After` of seconds or a date.
    pub fn retry_after(status: u16, value: &str) -> Self {
        let headers = vec![("Retry-After".to_owned(), value.to_owned())];
        Self::Status { status, headers }
    }
}
