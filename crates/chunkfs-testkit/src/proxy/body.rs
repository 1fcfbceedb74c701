//! Bodies as they pass through, a piece at a time.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::http::{invalid, read_head};

const PIECE_LEN_MAX: usize = 64 << 10;
const CHUNK_LINE_LEN_MAX: usize = 1 << 10;

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Len(u64),
    Chunked,
    /// By the end of the connection.
    Close,
}

/// Reads a body without its framing.
#[derive(Debug)]
pub(super) struct BodyReader {
    framing: Framing,
    /// The bytes left of the body, or of the current chunk.
    left: u64,
    is_first_chunk: bool,
    is_done: bool,
}

impl BodyReader {
    pub(super) fn new(framing: Framing) -> Self {
        let left = if let Framing::Len(len) = framing { len } else { 0 };
        let is_done = matches!(framing, Framing::None | Framing::Len(0));
        Self { framing, left, is_first_chunk: true, is_done }
    }

    /// Returns the next piece, or `None` at the end; an error if the body ends before its end.
    ///
    /// `buffer` holds what was read beyond the previous piece. A piece has at most 64 KiB.
    pub(super) async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        buffer: &mut Vec<u8>,
    ) -> io::Result<Option<Vec<u8>>> {
        if self.is_done {
            return Ok(None);
        }
        if self.framing == Framing::Chunked && self.left == 0 {
            self.left = self.next_chunk(stream, buffer).await?;
            if self.left == 0 {
                self.is_done = true;
                return Ok(None);
            }
        }
        if buffer.is_empty() {
            buffer.reserve(PIECE_LEN_MAX);
            if stream.read_buf(buffer).await? == 0 {
                self.is_done = true;
                return match self.framing {
                    Framing::Close => Ok(None),
                    _ => Err(invalid("cut in the body")),
                };
            }
        }
        let left = match self.framing {
            Framing::Close => buffer.len(),
            _ => usize::try_from(self.left).unwrap_or(usize::MAX),
        };
        let piece: Vec<u8> = buffer.drain(..left.min(buffer.len()).min(PIECE_LEN_MAX)).collect();
        self.left = self.left.saturating_sub(piece.len() as u64);
        self.is_done = self.left == 0 && matches!(self.framing, Framing::Len(_));
        Ok(Some(piece))
    }

    /// Reads up to the data of the next chunk and returns its length, 0 after the last one.
    async fn next_chunk(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        buffer: &mut Vec<u8>,
    ) -> io::Result<u64> {
        if !std::mem::take(&mut self.is_first_chunk) && !line(stream, buffer).await?.is_empty() {
            return Err(invalid("no line break after a chunk"));
        }
        let text = line(stream, buffer).await?;
        let digits = text.split(';').next().unwrap_or("").trim();
        let len = u64::from_str_radix(digits, 16);
        let len = len.map_err(|_| invalid("the length of a chunk is not a number"))?;
        if len == 0 {
            // Trailers are read and dropped.
            while !line(stream, buffer).await?.is_empty() {}
        }
        Ok(len)
    }
}

/// Writes a piece of a body with its framing; an empty one ends a chunked body.
pub(super) async fn write_piece(
    stream: &mut (impl AsyncWrite + Unpin),
    framing: Framing,
    piece: &[u8],
) -> io::Result<()> {
    if framing != Framing::Chunked {
        return stream.write_all(piece).await;
    }
    stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
    stream.write_all(piece).await?;
    stream.write_all(b"\r\n").await
}

/// Reads the head of an answer, past those that only say to go on.
pub(super) async fn read_final_head(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<String> {
    loop {
        let head = read_head(stream, buffer).await?;
        let head = head.ok_or_else(|| invalid("closed without an answer"))?;
        if !head.starts_with("HTTP/1.1 1") {
            return Ok(head);
        }
    }
}

async fn line(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(at) = buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=at).collect();
            return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        if buffer.len() > CHUNK_LINE_LEN_MAX {
            return Err(invalid("a line between chunks is too long"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(invalid("cut between chunks"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(framing: Framing, bytes: &[u8]) -> (io::Result<Vec<u8>>, Vec<u8>) {
        let (mut stream, mut buffer) = (bytes, Vec::new());
        let mut body = BodyReader::new(framing);
        let mut whole = Vec::new();
        let result = loop {
            match body.next(&mut stream, &mut buffer).await {
                Ok(Some(piece)) => whole.extend(piece),
                Ok(None) => break Ok(whole),
                Err(error) => break Err(error),
            }
        };
        buffer.extend_from_slice(stream);
        (result, buffer)
    }

    #[tokio::test]
    async fn bodies_end_where_their_framing_says() {
        let chunked = "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\nnext";
        let cases = [
            (Framing::None, "next", "", "next"),
            (Framing::Len(0), "next", "", "next"),
            (Framing::Len(5), "abcdenext", "abcde", "next"),
            (Framing::Chunked, chunked, "abcde", "next"),
            (Framing::Chunked, "0\r\n\r\n", "", ""),
            (Framing::Close, "abcde", "abcde", ""),
        ];
        for (framing, bytes, expected, rest) in cases {
            let (whole, left) = read(framing, bytes.as_bytes()).await;
            assert_eq!(whole.unwrap(), expected.as_bytes(), "{framing:?}");
            assert_eq!(left, rest.as_bytes(), "{framing:?}");
        }
    }

    #[tokio::test]
    async fn bodies_that_end_too_early_are_errors() {
        let cases: [(Framing, &[u8], &str); 5] = [
            (Framing::Len(5), b"abcd", "cut in the body"),
            (Framing::Chunked, b"3\r\nab", "cut in the body"),
            (Framing::Chunked, b"3\r\nabcX\r\n", "no line break after a chunk"),
            (Framing::Chunked, b"3\r\nabc\r\n", "cut between chunks"),
            (Framing::Chunked, b"x\r\n", "the length of a chunk is not a number"),
        ];
        for (framing, bytes, problem) in cases {
            let (whole, _) = read(framing, bytes).await;
            assert_eq!(whole.unwrap_err().to_string(), problem);
        }
    }
}
