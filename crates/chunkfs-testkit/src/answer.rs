//! Answers, and how faults change them.

use std::time::Duration;

use bytes::Bytes;

use crate::fault::Fault;

/// How the sending of a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Whole,
    CutAfter(u64),
    ResetAfter(u64),
    StallAfter(u64),
    Drip { piece_len: u64, pause: Duration },
}

/// An answer before it is sent.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) ending: Ending,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new(), ending: Ending::Whole }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Returns an error in the form of the OCI distribution specification.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let body =
            format!(r#"{{"errors":[{{"code":"{code}","message":"said the test server"}}]}}"#);
        Self::new(status).header("Content-Type", "application/json").body(body)
    }

    /// Returns content or a range of it, as changed by the faults that concern ranges.
    pub(crate) fn content(content: &Bytes, range: Option<(u64, u64)>, faults: &[Fault]) -> Self {
        let len = content.len() as u64;
        let Some((mut start, mut end)) = range.filter(|_| !faults.contains(&Fault::IgnoreRange))
        else {
            return Self::new(200).body(content.clone());
        };
        end = end.min(len);
        if start >= end {
            // Like distribution 2.8: the length is that of the blob, the body is not.
            return Self::new(416).header("Content-Range", format!("bytes */{len}"));
        }
        let mut claimed_len = len.to_string();
        for fault in faults {
            match fault {
                Fault::ClaimedLen { len } => {
                    claimed_len = len.map_or("*".to_owned(), |len| len.to_string());
                }
                Fault::ShiftedRange { by } => {
                    start = (start + by).min(len - 1);
                    end = (end + by).min(len);
                }
                Fault::ShortRange { len } => end = end.min(start + len),
                _ => {}
            }
        }
        let index = |offset| usize::try_from(offset).expect("the content is in memory");
        Self::new(206)
            .header("Content-Range", format!("bytes {start}-{}/{claimed_len}", end - 1))
            .body(content.slice(index(start)..index(end)))
    }

    /// Applies the faults that concern any answer.
    pub(crate) fn apply(&mut self, faults: &[Fault]) {
        for fault in faults {
            match fault {
                Fault::CutBody { after } => self.ending = Ending::CutAfter(*after),
                Fault::Stall { after } => self.ending = Ending::StallAfter(*after),
                Fault::Reset { after } => self.ending = Ending::ResetAfter(*after),
                Fault::Drip { piece_len, pause } => {
                    let piece_len = (*piece_len).max(1);
                    self.ending = Ending::Drip { piece_len, pause: *pause };
                }
                Fault::FlipBit { bit } => {
                    let mut bytes = self.body.to_vec();
                    let index = usize::try_from(bit / 8).unwrap_or(usize::MAX);
                    if let Some(byte) = bytes.get_mut(index) {
                        *byte ^= 1 << (bit % 8);
                    }
                    self.body = bytes.into();
                }
                Fault::ContentEncoding(name) => {
                    self.headers.push(("Content-Encoding".to_owned(), name.clone()));
                }
                Fault::Header { name, value } => {
                    self.headers.push((name.clone(), value.clone()));
                }
                _ => {}
            }
        }
    }

    /// Returns the head of the answer as sent.
    pub(crate) fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} Test\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let is_len_given = self.headers.iter().any(|(name, _)| name == "Content-Length");
        if !is_len_given {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        head + "\r\n"
    }
}
