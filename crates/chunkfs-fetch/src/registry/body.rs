//! Bodies of answers: progress timeouts, limits, and what failures say.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use reqwest::header::{CONTENT_ENCODING, CONTENT_RANGE};
use reqwest::{Response, StatusCode, Url};
use tokio::time::Instant;

use super::client::transport_error;
use super::counters::Count;
use super::origin::{host_of, redacted};
use super::pace::Pace;
use crate::error::FetchError;

/// How much of an error's body is looked at.
const ERROR_LEN_MAX: u64 = 8 << 10;
const DETAIL_LEN_MAX: usize = 200;

/// The body of an answer, read piece by piece.
#[derive(Debug)]
pub(super) struct Body {
    response: Response,
    url: Url,
    progress_timeout: Duration,
    pace: Pace,
}

/// The `Content-Range` of a 206 answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) start: u64,
    /// One past the last byte.
    pub(crate) end: u64,
    /// The length of the whole; `None` if the server does not know it.
    pub(crate) whole_len: Option<u64>,
}

impl Body {
    pub(super) fn new(response: Response, url: Url, progress_timeout: Duration) -> Self {
        Self { response, url, progress_timeout, pace: Pace::new(progress_timeout) }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn response(&self) -> &Response {
        &self.response
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the next piece, or `None` at the end of the body.
    pub(super) async fn next(&mut self, received: &Count) -> Result<Option<Bytes>, FetchError> {
        let started = Instant::now();
        match tokio::time::timeout(self.pace.patience(), self.response.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                received.add(bytes.len() as u64);
                self.pace.note(started.elapsed(), bytes.len() as u64);
                Ok(Some(bytes))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(transport_error(&self.url, error)),
            Err(_) => Err(stalled(&self.url, self.progress_timeout)),
        }
    }

    /// Reads to the end of a body whose wanted bytes have all arrived, so that the connection can
    /// be used again; gives up at once if there is more to come.
    pub(super) async fn finish(mut self) {
        let _ = self.response.chunk().now_or_never();
    }

    /// Reads all of a body that must not be longer than `len_max`.
    pub(super) async fn read_limited(
        mut self,
        len_max: u64,
        received: &Count,
    ) -> Result<Bytes, FetchError> {
        let too_large = |len| {
            let what = redacted(self.response.url());
            Err(FetchError::TooLarge { what, len, len_max })
        };
        if let Some(len) = self.response.content_length().filter(|len| *len > len_max) {
            return too_large(len);
        }
        let what = redacted(&self.url);
        let mut bytes = BytesMut::new();
        while let Some(piece) = self.next(received).await? {
            let len = bytes.len() as u64 + piece.len() as u64;
            if len > len_max {
                return Err(FetchError::TooLarge { what, len, len_max });
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// Returns an error if a proxy encoded the body: its bytes are then not those of the blob.
    pub(super) fn check_encoding(&self) -> Result<(), FetchError> {
        for value in self.response.headers().get_all(CONTENT_ENCODING) {
            if !value.as_bytes().eq_ignore_ascii_case(b"identity") {
                return Err(FetchError::ContentEncoding {
                    url: redacted(&self.url),
                    encoding: printable(&String::from_utf8_lossy(value.as_bytes())),
                });
            }
        }
        Ok(())
    }

    /// Returns the text of `Content-Range`, empty if there is none.
    pub(super) fn content_range_text(&self) -> String {
        let value = self.response.headers().get(CONTENT_RANGE);
        value.map_or(String::new(), |value| printable(&String::from_utf8_lossy(value.as_bytes())))
    }

    /// Turns an answer that means failure into an error about `what`.
    pub(super) async fn into_error(self, what: &str) -> FetchError {
        let status = self.response.status();
        let (url, host) = (redacted(&self.url), host_of(&self.url));
        // Some registries announce a body for 416 that they do not send.
        let detail = match status {
            StatusCode::RANGE_NOT_SATISFIABLE => String::new(),
            _ => match self.read_limited(ERROR_LEN_MAX, &Count::default()).await {
                Ok(body) => registry_message(&body),
                Err(_) => String::new(),
            },
        };
        match status {
            StatusCode::NOT_FOUND => FetchError::NotFound { what: what.to_owned() },
            StatusCode::UNAUTHORIZED => FetchError::Unauthorized { host, detail },
            StatusCode::FORBIDDEN => FetchError::Forbidden { host, what: what.to_owned() },
            _ => FetchError::Status { url, status: status.as_u16(), detail },
        }
    }
}

impl ContentRange {
    /// Parses `bytes START-LAST/LEN` (RFC 9110, 14.4).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (range, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (start, last) = range.split_once('-')?;
        let whole_len = match whole {
            "*" => None,
            len => Some(len.parse().ok()?),
        };
        let (start, last) = (start.parse().ok()?, last.parse::<u64>().ok()?);
        let end = last.checked_add(1).filter(|end| *end > start)?;
        Some(Self { start, end, whole_len })
    }
}

pub(super) fn stalled(url: &Url, after: Duration) -> FetchError {
    FetchError::Stalled { url: redacted(url), after }
}

/// Returns code and message of the first error in the form of the OCI distribution specification.
fn registry_message(body: &[u8]) -> String {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else {
        return String::new();
    };
    let text = |name: &str| json.pointer(name).and_then(|value| value.as_str());
    match (text("/errors/0/code"), text("/errors/0/message")) {
        (Some(code), Some(message)) => printable(&format!("{code}: {message}")),
        (Some(text), None) | (None, Some(text)) => printable(text),
        (None, None) => String::new(),
    }
}

/// Makes text from a server fit for a message: short, on one line, and without escape sequences.
pub(crate) fn printable(text: &str) -> String {
    let clean = |character: char| if character.is_control() { ' ' } else { character };
    text.chars().take(DETAIL_LEN_MAX).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_parsed() {
        let range = |start, end, whole_len| Some(ContentRange { start, end, whole_len });
        for (text, expected) in [
            ("bytes 0-0/1", range(0, 1, Some(1))),
            ("bytes 5-9/10", range(5, 10, Some(10))),
            ("bytes 5-9/*", range(5, 10, None)),
            ("bytes 9-5/10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes */10", None),
            ("bytes 0-1", None),
            ("octets 0-1/2", None),
            ("", None),
        ] {
            assert_eq!(ContentRange::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn registry_messages_are_short_and_printable() {
        let message = |json: &str| registry_message(json.as_bytes());
        assert_eq!(message(r#"{"errors":[{"code":"A","message":"b"}]}"#), "A: b");
        assert_eq!(message("{\"errors\":[{\"code\":\"A\\u001b[31m\\n\"}]}"), "A [31m ");
        assert_eq!(message("<html>"), "");
        assert_eq!(message(r#"{"errors":[]}"#), "");
        let long = format!(r#"{{"errors":[{{"code":"{}"}}]}}"#, "x".repeat(1000));
        assert_eq!(message(&long).len(), DETAIL_LEN_MAX);
    }
}
