//! What comes back from a store, checked before object_store sees it.
//!
//! object_store keeps error bodies in its errors and reads them, and some others, whole. Here they
//! are cut to the code that they hold: the rest is unbounded and may repeat tokens.

use std::time::Duration;

use http::header::{CONTENT_RANGE, RANGE};
use http::request;
use http_body_util::{BodyExt as _, Limited};
use object_store::client::{HttpError, HttpErrorKind, HttpResponse, HttpResponseBody};
use reqwest::{Body, Method, StatusCode, Url};

use super::connector::transport;
use crate::error::{FetchError, is_retryable_status};
use crate::registry::body::{ContentRange, printable};
use crate::registry::origin::{host_of, redacted};

/// How much of an error's body is looked at.
const ERROR_LEN_MAX: usize = 64 << 10;
/// The largest answer to anything but a range request.
const ANSWER_LEN_MAX: usize = 32 << 20;
const CODE_LEN_MAX: usize = 64;
/// Codes by which S3 says with status 400 that credentials are no longer good.
const EXPIRED_CODES: [&str; 4] =
    ["ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"];

/// What was asked for, as far as the answer must fit it.
pub(super) struct Asked {
    url: Url,
    /// Whether the request changes nothing, so that object_store may repeat it.
    is_read: bool,
    range: Option<String>,
}

impl Asked {
    pub(super) fn new(parts: &request::Parts, url: Url) -> Self {
        let range = parts.headers.get(RANGE).and_then(|value| value.to_str().ok());
        let is_read = matches!(parts.method, Method::GET | Method::HEAD);
        Self { url, is_read, range: range.map(str::to_owned) }
    }

    /// Returns the answer in the form that object_store can cope with, or what is wrong with it.
    pub(super) async fn check(
        &self,
        answer: http::Response<Body>,
        timeout: Duration,
    ) -> Result<HttpResponse, HttpError> {
        let status = answer.status();
        if status.is_success() {
            if self.range.is_some() && self.is_read {
                self.check_range(&answer)?;
                let (parts, body) = answer.into_parts();
                let body = HttpResponseBody::new(body.map_err(transport));
                return Ok(HttpResponse::from_parts(parts, body));
            }
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_LEN_MAX);
            let body =
                body.map_err(|error| HttpError::new_boxed(HttpErrorKind::Interrupted, error));
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
        }
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            let problem = "stores must not redirect; the region or the endpoint may be wrong";
            return Err(ours(FetchError::Redirect { url: redacted(&self.url), problem }));
        }
        let (parts, body) = answer.into_parts();
        let code = match parts.headers.get("x-ms-error-code") {
            Some(code) => printable(&String::from_utf8_lossy(code.as_bytes())),
            None => error_code(body, timeout).await,
        };
        if status == StatusCode::BAD_REQUEST && EXPIRED_CODES.contains(&&*code) {
            let host = host_of(&self.url);
            return Err(ours(FetchError::Unauthorized { host, detail: code }));
        }
        let is_known = matches!(status.as_u16(), 304 | 401 | 403 | 404 | 409 | 412);
        let is_retryable = is_retryable_status(status.as_u16());
        if is_known || (is_retryable && !self.is_read) {
            return Ok(HttpResponse::from_parts(parts, code.into()));
        }
        let (url, status) = (redacted(&self.url), status.as_u16());
        let error = FetchError::Status { url, status, detail: code };
        // Reads that were interrupted are sent again.
        let kind = if is_retryable { HttpErrorKind::Interrupted } else { HttpErrorKind::Unknown };
        Err(HttpError::new(kind, error))
    }

    /// Checks that an answer to a range request holds that range.
    fn check_range(&self, answer: &http::Response<Body>) -> Result<(), HttpError> {
        let asked = self.range.as_deref().and_then(|range| range.strip_prefix("bytes="));
        let asked = asked.and_then(|range| ContentRange::parse(&format!("bytes {range}/*")));
        // Only ranges with both ends are asked for here.
        let Some(asked) = asked else { return Ok(()) };
        let text = match answer.headers().get(CONTENT_RANGE) {
            Some(value) => printable(&String::from_utf8_lossy(value.as_bytes())),
            None => String::new(),
        };
        let actual = ContentRange::parse(&text);
        let is_right = actual.is_some_and(|actual| {
            (actual.start, actual.end) == (asked.start, asked.end) && actual.whole_len.is_some()
        });
        if is_right && answer.status() == StatusCode::PARTIAL_CONTENT {
            return Ok(());
        }
        let (url, expected) = (redacted(&self.url), asked.start..asked.end);
        Err(ours(FetchError::RangeMismatch { url, expected, actual: text }))
    }
}

/// Wraps an error that is final for object_store; `failure` unwraps it.
pub(super) fn ours(error: FetchError) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, error)
}

/// Returns the code in the XML of an error, empty if there is none.
async fn error_code(body: Body, timeout: Duration) -> String {
    let collected = tokio::time::timeout(timeout, Limited::new(body, ERROR_LEN_MAX).collect());
    let Ok(Ok(collected)) = collected.await else { return String::new() };
    code_in(&String::from_utf8_lossy(&collected.to_bytes())).to_owned()
}

fn code_in(xml: &str) -> &str {
    let code = xml.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let code = code.map_or("", |(code, _)| code);
    let is_code = code.len() <= CODE_LEN_MAX && code.chars().all(|c| c.is_ascii_alphanumeric());
    if is_code { code } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_words_and_nothing_else_is_taken() {
        let xml = "<?xml?><Error><Code>ExpiredToken</Code><Token-0>secret</Token-0></Error>";
        assert_eq!(code_in(xml), "ExpiredToken");
        for xml in ["", "<Code>", "<Code>a b</Code>", "<Code>\u{1b}</Code>", "</Code><Code>x"] {
            assert_eq!(code_in(xml), "", "{xml}");
        }
        let long = |len| format!("<Code>{}</Code>", "x".repeat(len));
        assert_eq!(code_in(&long(CODE_LEN_MAX)).len(), CODE_LEN_MAX);
        assert_eq!(code_in(&long(CODE_LEN_MAX + 1)), "");
    }
}
