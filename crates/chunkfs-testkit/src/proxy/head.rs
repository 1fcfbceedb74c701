//! Heads of requests and answers as a proxy passes them on.

use std::io;

use super::body::Framing;
use crate::http::{invalid, parse_range};

/// Headers that concern one connection, or that the proxy writes anew.
const OF_CONNECTION: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Header fields in the order in which they came.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    /// Replaces the value of a field where it stands, or adds the field.
    pub(super) fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(key, _)| key.eq_ignore_ascii_case(name)) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Returns whether a field with a list holds this word.
    pub(super) fn has_word(&self, name: &str, word: &str) -> bool {
        let mut words = self.get(name).unwrap_or("").split(',');
        words.any(|found| found.trim().eq_ignore_ascii_case(word))
    }

    fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let fields = lines.filter_map(|line| line.split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    fn len(&self) -> io::Result<Option<u64>> {
        let len = self.get("content-length").map(str::parse);
        len.transpose().map_err(|_| invalid("Content-Length is not a number"))
    }

    fn write(&self, framing: Framing) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            if !OF_CONNECTION.contains(&name.to_ascii_lowercase().as_str()) {
                text += &format!("{name}: {value}\r\n");
            }
        }
        if framing == Framing::Chunked {
            text += "Transfer-Encoding: chunked\r\n";
        }
        text
    }
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub(super) struct RequestHead {
    pub(super) method: String,
    /// Path and query as they were sent.
    pub(super) target: String,
    /// The path as it was sent.
    pub(super) path: String,
    pub(super) fields: Fields,
    pub(super) framing: Framing,
    /// The range that is asked for, if it is a single one that begins at an offset.
    pub(super) range: Option<(u64, u64)>,
    pub(super) keeps_alive: bool,
}

impl RequestHead {
    pub(super) fn parse(head: &str) -> io::Result<Self> {
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or("").split(' ');
        let (Some(method), Some(target), Some(version)) =
            (first.next(), first.next(), first.next())
        else {
            return Err(invalid("not a request"));
        };
        let fields = Fields::parse(lines);
        let framing = match fields.len()? {
            _ if fields.has_word("transfer-encoding", "chunked") => Framing::Chunked,
            Some(len) => Framing::Len(len),
            None => Framing::None,
        };
        Ok(Self {
            method: method.to_owned(),
            target: target.to_owned(),
            path: target.split('?').next().unwrap_or("").to_owned(),
            range: fields.get("range").and_then(parse_range),
            keeps_alive: version == "HTTP/1.1" && !fields.has_word("connection", "close"),
            fields,
            framing,
        })
    }

    pub(super) fn host(&self) -> Option<&str> {
        self.fields.get("host")
    }

    /// Asks for a range that begins `by` bytes later and has this length, or as long a one.
    pub(super) fn move_range(&mut self, by: u64, len: Option<u64>) {
        let Some((start, end)) = self.range else { return };
        let start = start.saturating_add(by);
        let end = len.map_or(end.saturating_add(by), |len| start.saturating_add(len));
        let last = if end == u64::MAX { String::new() } else { (end - 1).to_string() };
        self.fields.set("Range", format!("bytes={start}-{last}"));
    }

    /// Returns the head as it is sent upstream, on a connection of its own.
    pub(super) fn write(&self) -> String {
        let fields = self.fields.write(self.framing);
        format!("{} {} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n", self.method, self.target)
    }
}

/// What the upstream answers.
#[derive(Debug, Clone)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    reason: String,
    pub(super) fields: Fields,
    pub(super) framing: Framing,
}

impl ResponseHead {
    pub(super) fn parse(head: &str, method: &str) -> io::Result<Self> {
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or("").splitn(3, ' ');
        let version = first.next().unwrap_or("");
        let status = first.next().and_then(|status| status.parse().ok());
        let Some(status) = status.filter(|_| version.starts_with("HTTP/1.")) else {
            return Err(invalid("not an answer"));
        };
        let reason = first.next().unwrap_or("").to_owned();
        let fields = Fields::parse(lines);
        let has_no_body = method == "HEAD" || matches!(status, 100..200 | 204 | 304);
        let framing = match fields.len()? {
            _ if has_no_body => Framing::None,
            _ if fields.has_word("transfer-encoding", "chunked") => Framing::Chunked,
            Some(len) => Framing::Len(len),
            None => Framing::Close,
        };
        Ok(Self { status, reason, fields, framing })
    }

    /// Returns the length of the body if it is told.
    pub(super) fn body_len(&self) -> Option<u64> {
        match self.framing {
            Framing::Len(len) => Some(len),
            Framing::None => Some(0),
            Framing::Chunked | Framing::Close => None,
        }
    }

    /// Replaces the length of the whole in `Content-Range`; `change` gets the one that is there.
    pub(super) fn claim_len(&mut self, change: impl FnOnce(u64) -> Option<u64>) -> Option<()> {
        let (range, len) = self.fields.get("content-range")?.split_once('/')?;
        let claimed = change(len.parse().ok()?).map_or("*".to_owned(), |len| len.to_string());
        let value = format!("{range}/{claimed}");
        self.fields.set("Content-Range", value);
        Some(())
    }

    /// Returns the head as it is sent to the client.
    pub(super) fn write(&self, keeps_alive: bool) -> String {
        let fields = self.fields.write(self.framing);
        let end = if keeps_alive { "" } else { "Connection: close\r\n" };
        format!("HTTP/1.1 {} {}\r\n{fields}{end}\r\n", self.status, self.reason)
    }
}
