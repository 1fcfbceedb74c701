//! The kinds of fault, and what each needs to happen.

use std::fmt;
use std::str::FromStr;

use super::head::RequestHead;
use crate::log::is_blob_path;

/// One way in which [`FaultProxy`](crate::FaultProxy) breaks an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FaultKind {
    /// 429 with a `Retry-After` of one second.
    ThrottledSeconds,
    /// 429 with a `Retry-After` that is a date, two seconds ahead.
    ThrottledDate,
    /// 429 without `Retry-After`.
    Throttled,
    /// 500.
    InternalError,
    /// 502.
    BadGateway,
    /// 503.
    Unavailable,
    /// 504.
    GatewayTimeout,
    /// 401 without a challenge.
    Unauthorized,
    /// 401 with a challenge that leads nowhere.
    WrongChallenge,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 400.
    BadRequest,
    /// A redirect to a URL that answers 403, as when a signature has expired.
    Expired,
    /// 416 that claims a body and sends none.
    NotSatisfiable,
    /// The connection is closed without an answer.
    Close,
    /// The head never comes.
    StallHead,
    /// The connection is closed in mid-body.
    Cut,
    /// The connection is reset in mid-body.
    Reset,
    /// The rest of the body never comes.
    Stall,
    /// The body comes very slowly.
    Drip,
    /// One bit of the body is inverted.
    FlipBit,
    /// The body is called gzip and is not.
    Gzip,
    /// 200 with everything for a range.
    IgnoreRange,
    /// 206 with less than was asked for, which says so.
    ShortRange,
    /// 206 with a range that begins later, which says so.
    ShiftedRange,
    /// 206 with the right range that does not tell the length of the whole.
    NoTotal,
    /// 206 with the right range and a wrong length of the whole.
    WrongTotal,
}

impl FaultKind {
    /// All kinds, in the order in which chance is asked about them.
    pub const ALL: [Self; 27] = [
        Self::ThrottledSeconds,
        Self::ThrottledDate,
        Self::Throttled,
        Self::InternalError,
        Self::BadGateway,
        Self::Unavailable,
        Self::GatewayTimeout,
        Self::Unauthorized,
        Self::WrongChallenge,
        Self::Forbidden,
        Self::NotFound,
        Self::BadRequest,
        Self::Expired,
        Self::NotSatisfiable,
        Self::Close,
        Self::StallHead,
        Self::Cut,
        Self::Reset,
        Self::Stall,
        Self::Drip,
        Self::FlipBit,
        Self::Gzip,
        Self::IgnoreRange,
        Self::ShortRange,
        Self::ShiftedRange,
        Self::NoTotal,
        Self::WrongTotal,
    ];

    /// Returns the name in logs and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ThrottledSeconds => "429-seconds",
            Self::ThrottledDate => "429-date",
            Self::Throttled => "429",
            Self::InternalError => "500",
            Self::BadGateway => "502",
            Self::Unavailable => "503",
            Self::GatewayTimeout => "504",
            Self::Unauthorized => "401",
            Self::WrongChallenge => "401-wrong",
            Self::Forbidden => "403",
            Self::NotFound => "404",
            Self::BadRequest => "400",
            Self::Expired => "expired",
            Self::NotSatisfiable => "416",
            Self::Close => "close",
            Self::StallHead => "stall-head",
            Self::Cut => "cut",
            Self::Reset => "reset",
            Self::Stall => "stall",
            Self::Drip => "drip",
            Self::FlipBit => "flip-bit",
            Self::Gzip => "gzip",
            Self::IgnoreRange => "ignore-range",
            Self::ShortRange => "short-range",
            Self::ShiftedRange => "shifted-range",
            Self::NoTotal => "no-total",
            Self::WrongTotal => "wrong-total",
        }
    }

    /// Returns whether this says no: for good, as far as a client can know.
    pub(super) fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Unauthorized
                | Self::WrongChallenge
                | Self::Forbidden
                | Self::NotFound
                | Self::BadRequest
                | Self::Expired
        )
    }

    /// Returns whether this can happen to a request; refusals happen to reads of blobs, and
    /// everything else to every GET, unless everything shall be broken.
    pub(super) fn applies(self, request: &RequestHead, breaks_everything: bool) -> bool {
        let needs_len = match self {
            Self::IgnoreRange | Self::NoTotal | Self::WrongTotal => 1,
            Self::ShortRange | Self::ShiftedRange => 2,
            _ => 0,
        };
        let range_len = request.range.map_or(0, |(start, end)| end.saturating_sub(start));
        let is_read =
            request.method == "GET" && (!self.is_refusal() || is_blob_path(&request.path));
        range_len >= needs_len && (is_read || breaks_everything)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
            format!("{text} is not a fault; there are {}", names.join(", "))
        })
    }
}
