//! Just enough HTTP/1.1 for the requests that registry clients send.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

const HEAD_LEN_MAX: usize = 32 << 10;
const BODY_LEN_MAX: usize = 256 << 20;

/// A parsed request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the decoded value of a query or form parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        parameters(&self.query).find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Returns the decoded value of a form parameter in the body.
    pub(crate) fn form(&self, name: &str) -> Option<String> {
        let body = String::from_utf8_lossy(&self.body);
        parameters(&body).find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Parses `Range: bytes=a-b`, with an exclusive end; `u64::MAX` where the end is open.
    pub(crate) fn byte_range(&self) -> Option<(u64, u64)> {
        parse_range(self.header("range")?)
    }
}

/// Reads the next request, or `None` if the connection was closed before it.
///
/// `buffer` holds what was read beyond the previous request.
pub(crate) async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<Option<Request>> {
    let Some(head) = read_head(stream, buffer).await? else { return Ok(None) };
    let mut request = parse_head(&head).ok_or_else(|| invalid("not a request"))?;
    if request.header("transfer-encoding").is_some() {
        return Err(invalid("chunked requests are not supported"));
    }
    let len = request.header("content-length").unwrap_or("0").parse::<usize>();
    let len = len.ok().filter(|&len| len <= BODY_LEN_MAX);
    let len = len.ok_or_else(|| invalid("the body is too long"))?;
    while buffer.len() < len {
        if stream.read_buf(buffer).await? == 0 {
            return Err(invalid("cut in the body"));
        }
    }
    request.body = buffer.drain(..len).collect();
    Ok(Some(request))
}

/// Parses `bytes=a-b`, with an exclusive end; `u64::MAX` where the end is open.
pub(crate) fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    let end = if end.is_empty() { u64::MAX } else { end.parse::<u64>().ok()?.checked_add(1)? };
    Some((start.parse().ok()?, end))
}

/// Reads up to and with the empty line that ends a head, or `None` if nothing came before the end.
///
/// `buffer` holds what was read beyond it.
pub(crate) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<Option<String>> {
    let head_len = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if buffer.len() > HEAD_LEN_MAX {
            return Err(invalid("the head is too long"));
        }
        if buffer.first().is_some_and(|first| !first.is_ascii_uppercase()) {
            return Err(invalid("not HTTP, but perhaps the start of TLS"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(invalid("cut in the head")) };
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_len]).into_owned();
    buffer.drain(..head_len);
    Ok(Some(head))
}

fn parse_head(head: &str) -> Option<Request> {
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    // What a client asks a proxy for has a host before the path.
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |start| &rest[start..]),
        None => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let body = Vec::new();
    Some(Request { method, path: decode(path), query: query.to_owned(), headers, body })
}

fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decode(key), decode(value)))
}

fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let digits = [bytes.next().unwrap_or(0), bytes.next().unwrap_or(0)];
                let digits = std::str::from_utf8(&digits).unwrap_or("");
                decoded.push(u8::from_str_radix(digits, 16).unwrap_or(b'?'));
            }
            _ => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

pub(crate) fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
