//! A writer of tar archives that can also write wrong ones.

/// An archive without its end mark.
#[derive(Debug, Clone, Default)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

/// One entry: a ustar header, perhaps with a PAX header before it, and content.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) header: [u8; 512],
    pub(crate) pax: Vec<u8>,
    pub(crate) content: Vec<u8>,
}

impl Archive {
    pub(crate) fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut archive = Self::default();
        entries.into_iter().for_each(|entry| archive.push(&entry));
        archive
    }

    pub(crate) fn push(&mut self, entry: &Entry) {
        if !entry.pax.is_empty() {
            let mut header = Entry::new(b'x', b"pax");
            header.content.clone_from(&entry.pax);
            self.push(&header.octal(124, 12, entry.pax.len() as u64));
        }
        let mut header = entry.header;
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(&entry.content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// The archive with its end mark.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

impl Entry {
    pub(crate) fn new(type_flag: u8, path: &[u8]) -> Self {
        let mut header = [0; 512];
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[156] = type_flag;
        let entry = Self { header, pax: Vec::new(), content: Vec::new() };
        let entry = entry.octal(100, 8, 0o644).octal(108, 8, 0).octal(116, 8, 0);
        let entry = entry.octal(124, 12, 0).octal(136, 12, 1_000_000_000);
        if path.len() <= 100 { entry.text(0, path) } else { entry.pax("path", path) }
    }

    pub(crate) fn file(path: &str, content: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::new(b'0', path.as_bytes());
        entry.content = content.as_ref().to_vec();
        let len = entry.content.len() as u64;
        entry.octal(124, 12, len)
    }

    pub(crate) fn directory(path: &str) -> Self {
        Self::new(b'5', path.as_bytes()).mode(0o755)
    }

    pub(crate) fn symlink(path: &str, target: &str) -> Self {
        Self::new(b'2', path.as_bytes()).mode(0o777).link(target)
    }

    pub(crate) fn hard_link(path: &str, target: &str) -> Self {
        Self::new(b'1', path.as_bytes()).link(target)
    }

    pub(crate) fn text(mut self, offset: usize, text: &[u8]) -> Self {
        self.header[offset..offset + text.len()].copy_from_slice(text);
        self
    }

    pub(crate) fn octal(self, offset: usize, len: usize, value: u64) -> Self {
        let text = format!("{value:0width$o}\0", width = len - 1);
        self.text(offset, text.as_bytes())
    }

    pub(crate) fn link(self, target: &str) -> Self {
        if target.len() <= 100 {
            return self.text(157, target.as_bytes());
        }
        self.pax("linkpath", target.as_bytes())
    }

    pub(crate) fn mode(self, mode: u64) -> Self {
        self.octal(100, 8, mode)
    }

    pub(crate) fn owner(self, uid: u64, gid: u64) -> Self {
        self.octal(108, 8, uid).octal(116, 8, gid)
    }

    pub(crate) fn mtime(self, mtime: u64) -> Self {
        self.octal(136, 12, mtime)
    }

    pub(crate) fn device(self, major: u64, minor: u64) -> Self {
        self.octal(329, 8, major).octal(337, 8, minor)
    }

    pub(crate) fn pax(mut self, key: &str, value: &[u8]) -> Self {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        self.pax.extend_from_slice(format!("{len} {key}=").as_bytes());
        self.pax.extend_from_slice(value);
        self.pax.push(b'\n');
        self
    }
}

/// An old GNU header that carries a long name for the entry after it.
pub(crate) fn gnu_long(type_flag: u8, text: &[u8]) -> Entry {
    let mut entry = Entry::new(type_flag, b"././@LongLink").text(257, b"ustar  \0");
    entry.content = [text, &[0]].concat();
    let len = entry.content.len() as u64;
    entry.octal(124, 12, len)
}

/// Bytes that do not compress and differ by seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).unwrap()
}
