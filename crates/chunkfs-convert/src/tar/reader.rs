//! From bytes to entries.

use std::io::{BufReader, Read};

use chunkfs_index::{Attributes, Device, Timestamp};

use super::BLOCK_LEN;
use super::header::{Header, parse_number, until_nul};
use super::pax::{Pax, parse_decimal, push_region};
use super::sparse::{Region, validate_regions};
use crate::error::{LayerError, display_path};

/// The longest extended header or long name that is read.
const METADATA_LEN_MAX: u64 = 1 << 20;
const BUFFER_LEN: usize = 128 << 10;

/// Reads the entries of an archive one after another; between two entries it is a [`Read`] of the
/// first one's stored content.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    input: BufReader<R>,
    offset: u64,
    /// Content and padding of the current entry that were not read yet.
    content_rest: u64,
    padding: u64,
}

/// An entry as its headers describe it; the paths are as written.
#[derive(Debug)]
pub(crate) struct TarEntry {
    pub(crate) path: Vec<u8>,
    pub(crate) attributes: Attributes,
    pub(crate) kind: TarKind,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TarKind {
    /// A file of `len` bytes of which `regions` are stored, or all if there is no map.
    Regular {
        len: u64,
        regions: Option<Vec<Region>>,
    },
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(input: R) -> Self {
        let input = BufReader::with_capacity(BUFFER_LEN, input);
        Self { input, offset: 0, content_rest: 0, padding: 0 }
    }

    /// Skips what was not read of the last entry and returns the next one, or `None` at the end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<TarEntry>, LayerError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip(self.content_rest)?;
            self.skip_padding()?;
            let start = self.offset;
            let error = |problem| LayerError::Header { offset: start, problem };
            let Some(block) = self.read_header_block()? else {
                return match extensions.is_empty() {
                    true => Ok(None),
                    false => Err(error("an extended header is followed by no entry")),
                };
            };
            let header = Header::parse(&block).map_err(error)?;
            let content_len = header.content_len().map_err(error)?;
            let content_len =
                u64::try_from(content_len).map_err(|_| error("its length is negative"))?;
            match header.type_flag() {
                b'x' => extensions.pax = Some(self.read_pax(content_len, start)?),
                b'L' => extensions.path = Some(self.read_text(content_len, start)?),
                b'K' => extensions.link = Some(self.read_text(content_len, start)?),
                b'g' => self.set_content(content_len),
                _ => return self.finish_entry(&header, content_len, extensions, start).map(Some),
            }
        }
    }

    /// Reads the rest of the stream, which may be anything, so that its digest covers all of it.
    pub(crate) fn drain(&mut self) -> Result<(), LayerError> {
        std::io::copy(&mut self.input, &mut std::io::sink()).map_err(LayerError::from_io)?;
        Ok(())
    }

    /// Returns the next block that is no end mark, or `None` at the end of the archive.
    fn read_header_block(&mut self) -> Result<Option<[u8; BLOCK_LEN]>, LayerError> {
        let start = self.offset;
        let mut block = [0; BLOCK_LEN];
        if !self.fill_or_end(&mut block)? {
            return Ok(None);
        }
        if block != [0; BLOCK_LEN] {
            return Ok(Some(block));
        }
        if self.fill_or_end(&mut block)? && block != [0; BLOCK_LEN] {
            let problem = "a single zero block is followed by something else";
            return Err(LayerError::Header { offset: start, problem });
        }
        Ok(None)
    }

    /// Fills the buffer, or returns false if the input ends before its first byte.
    fn fill_or_end(&mut self, buffer: &mut [u8]) -> Result<bool, LayerError> {
        let filled = self.read_some(buffer)?;
        if filled == 0 && !buffer.is_empty() {
            return Ok(false);
        }
        self.fill(buffer.get_mut(filled..).unwrap_or(&mut []))?;
        Ok(true)
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), LayerError> {
        while !buffer.is_empty() {
            let filled = self.read_some(buffer)?;
            if filled == 0 {
                return Err(LayerError::Truncated { offset: self.offset });
            }
            buffer = buffer.get_mut(filled..).unwrap_or(&mut []);
        }
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        loop {
            match self.input.read(buffer) {
                Ok(filled) => {
                    self.offset += filled as u64;
                    return Ok(filled);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::from_io(error)),
            }
        }
    }

    fn skip(&mut self, len: u64) -> Result<(), LayerError> {
        let skipped = std::io::copy(&mut (&mut self.input).take(len), &mut std::io::sink());
        let skipped = skipped.map_err(LayerError::from_io)?;
        self.offset += skipped;
        self.content_rest = self.content_rest.saturating_sub(skipped);
        if skipped < len { Err(LayerError::Truncated { offset: self.offset }) } else { Ok(()) }
    }

    /// Skips the zeros after content; at the very end of an archive they may be missing.
    fn skip_padding(&mut self) -> Result<(), LayerError> {
        let padding = std::mem::take(&mut self.padding);
        self.skip(padding)
    }

    fn set_content(&mut self, content_len: u64) {
        self.content_rest = content_len;
        self.padding = content_len.wrapping_neg() % BLOCK_LEN as u64;
    }

    /// Reads the content of a metadata entry.
    fn read_metadata(&mut self, content_len: u64, start: u64) -> Result<Vec<u8>, LayerError> {
        if content_len > METADATA_LEN_MAX {
            let problem = "an extended header or long name is longer than 1 MiB";
            return Err(LayerError::Header { offset: start, problem });
        }
        let mut metadata = vec![0; usize::try_from(content_len).unwrap_or(0)];
        self.fill(&mut metadata)?;
        self.set_content(content_len);
        self.content_rest = 0;
        Ok(metadata)
    }

    fn read_pax(&mut self, content_len: u64, start: u64) -> Result<Pax, LayerError> {
        let records = self.read_metadata(content_len, start)?;
        Pax::parse(&records).map_err(|problem| LayerError::Header { offset: start, problem })
    }

    fn read_text(&mut self, content_len: u64, start: u64) -> Result<Vec<u8>, LayerError> {
        self.read_metadata(content_len, start).map(|text| until_nul(&text).to_vec())
    }

    /// Combines a header with the extensions before it, and reads the sparse maps after it.
    fn finish_entry(
        &mut self,
        header: &Header<'_>,
        content_len: u64,
        extensions: Extensions,
        start: u64,
    ) -> Result<TarEntry, LayerError> {
        let pax = extensions.pax.unwrap_or_default();
        let path = extensions.path.or_else(|| pax.path.clone()).unwrap_or_else(|| header.path());
        let link = extensions.link.or_else(|| pax.link.clone()).unwrap_or_else(|| header.link());
        let path = pax.sparse_name.clone().unwrap_or(path);
        let error = |problem| LayerError::Entry { entry: display_path(&path), problem };
        let attributes = attributes(header, &pax).map_err(error)?;
        let content_len = pax.content_len.unwrap_or(content_len);
        if i64::try_from(content_len).is_err() {
            return Err(error("its length does not fit into 63 bits"));
        }
        let device = |header: &Header<'_>| {
            let (major, minor) = header.device()?;
            let number = |value| u32::try_from(value).map_err(|_| "a device number is too large");
            Ok(Device { major: number(major)?, minor: number(minor)? })
        };
        self.set_content(0);
        let kind = match header.type_flag() {
            0 if path.ends_with(b"/") => TarKind::Directory,
            b'0' | b'7' | 0 => self.regular(&path, content_len, &pax, start)?,
            b'S' => self.gnu_sparse(header, &path, content_len, start)?,
            b'1' => TarKind::HardLink(link),
            b'2' => TarKind::Symlink(link),
            b'3' => TarKind::CharDevice(device(header).map_err(error)?),
            b'4' => TarKind::BlockDevice(device(header).map_err(error)?),
            b'5' => TarKind::Directory,
            b'6' => TarKind::Fifo,
            _ => return Err(error("its type is unknown")),
        };
        Ok(TarEntry { path, attributes, kind })
    }

    fn regular(
        &mut self,
        path: &[u8],
        content_len: u64,
        pax: &Pax,
        start: u64,
    ) -> Result<TarKind, LayerError> {
        let error = |problem| LayerError::Entry { entry: display_path(path), problem };
        self.set_content(content_len);
        let regions = match (pax.sparse_major, pax.sparse_minor) {
            (Some(1), Some(0)) => Some(self.read_map(path, start)?),
            (None | Some(0), None | Some(0 | 1)) => pax.sparse_regions.clone(),
            _ => return Err(error("its sparse format is unknown")),
        };
        let Some(mut regions) = regions else {
            return Ok(TarKind::Regular { len: content_len, regions: None });
        };
        let len = pax.sparse_len.ok_or(error("it is sparse and states no length"))?;
        if i64::try_from(len).is_err() {
            return Err(error("its length does not fit into 63 bits"));
        }
        validate_regions(&mut regions, len, self.content_rest).map_err(error)?;
        Ok(TarKind::Regular { len, regions: Some(regions) })
    }

    /// Reads the map of sparse format 1.0: decimal lines in front of the content, padded to a block.
    fn read_map(&mut self, path: &[u8], start: u64) -> Result<Vec<Region>, LayerError> {
        let error = |problem| LayerError::Entry { entry: display_path(path), problem };
        let malformed = || error("its sparse map is malformed");
        let mut lines = Lines { text: Vec::new(), at: 0 };
        let count = lines.next(self, start)?.ok_or_else(malformed)?;
        let mut regions = Vec::new();
        for _ in 0..count {
            let offset = lines.next(self, start)?.ok_or_else(malformed)?;
            let len = lines.next(self, start)?.ok_or_else(malformed)?;
            push_region(&mut regions, Region { offset, len }).map_err(error)?;
        }
        Ok(regions)
    }

    /// Reads the map of an old GNU sparse file, which goes on in blocks after the header.
    fn gnu_sparse(
        &mut self,
        header: &Header<'_>,
        path: &[u8],
        content_len: u64,
        start: u64,
    ) -> Result<TarKind, LayerError> {
        let error = |problem| LayerError::Entry { entry: display_path(path), problem };
        let (inline, mut is_extended, len) = header.gnu_sparse().map_err(error)?;
        let len = u64::try_from(len).map_err(|_| error("its length is negative"))?;
        let mut regions = Vec::new();
        push_gnu_regions(&mut regions, inline).map_err(error)?;
        while is_extended {
            let mut block = [0; BLOCK_LEN];
            if !self.fill_or_end(&mut block)? {
                return Err(LayerError::Truncated { offset: start });
            }
            let (fields, rest) = block.split_at(504);
            push_gnu_regions(&mut regions, fields).map_err(error)?;
            is_extended = rest.first().is_some_and(|flag| *flag != 0);
        }
        self.set_content(content_len);
        validate_regions(&mut regions, len, content_len).map_err(error)?;
        Ok(TarKind::Regular { len, regions: Some(regions) })
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = usize::try_from(self.content_rest).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..len).unwrap_or(&mut []);
        if buffer.is_empty() {
            return Ok(0);
        }
        let filled = self.read_some(buffer).map_err(std::io::Error::other)?;
        self.content_rest -= filled as u64;
        Ok(filled)
    }
}

/// What the headers before an entry say about it.
#[derive(Debug, Default)]
struct Extensions {
    pax: Option<Pax>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.path.is_none() && self.link.is_none()
    }
}

/// The decimal lines at the start of a sparse file's content, read block by block.
struct Lines {
    text: Vec<u8>,
    at: usize,
}

impl Lines {
    fn next<R: Read>(
        &mut self,
        reader: &mut TarReader<R>,
        start: u64,
    ) -> Result<Option<u64>, LayerError> {
        loop {
            let rest = self.text.get(self.at..).unwrap_or(&[]);
            if let Some(end) = rest.iter().take(21).position(|byte| *byte == b'\n') {
                self.at += end + 1;
                return Ok(parse_decimal(rest.get(..end).unwrap_or(&[])));
            }
            if rest.len() > 20 || reader.content_rest < BLOCK_LEN as u64 {
                return Ok(None);
            }
            let mut block = [0; BLOCK_LEN];
            if !reader.fill_or_end(&mut block)? {
                return Err(LayerError::Truncated { offset: start });
            }
            reader.content_rest -= BLOCK_LEN as u64;
            self.text = [rest, &block].concat();
            self.at = 0;
        }
    }
}

fn push_gnu_regions(regions: &mut Vec<Region>, fields: &[u8]) -> Result<(), &'static str> {
    for field in fields.chunks_exact(24) {
        let (offset, len) = field.split_at(12);
        if field.first() == Some(&0) || len.first() == Some(&0) {
            break;
        }
        let number = |field| {
            u64::try_from(parse_number(field)?).map_err(|_| "its sparse map has negative numbers")
        };
        push_region(regions, Region { offset: number(offset)?, len: number(len)? })?;
    }
    Ok(())
}

fn attributes(header: &Header<'_>, pax: &Pax) -> Result<Attributes, &'static str> {
    let id = |stated: Option<u64>, field: Result<i64, &'static str>, problem| match stated {
        Some(id) => u32::try_from(id).map_err(|_| problem),
        None => u32::try_from(field?).map_err(|_| problem),
    };
    let mtime = match pax.mtime {
        Some(mtime) => mtime,
        None => Timestamp { seconds: header.mtime()?, nanos: 0 },
    };
    Ok(Attributes {
        // The mask leaves 12 bits.
        permissions: (header.mode()? & 0o7777) as u16,
        uid: id(pax.uid, header.uid(), "its owner does not fit into 32 bits")?,
        gid: id(pax.gid, header.gid(), "its group does not fit into 32 bits")?,
        mtime,
        xattrs: pax.xattrs.iter().cloned().collect(),
    })
}
