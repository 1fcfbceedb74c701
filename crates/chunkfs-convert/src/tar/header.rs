//! The fields of one 512-byte header.

use super::BLOCK_LEN;

/// A header block whose checksum was verified.
pub(super) struct Header<'a> {
    block: &'a [u8; BLOCK_LEN],
    pub(super) dialect: Dialect,
}

/// Which fields beyond the first 257 bytes a header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// None.
    V7,
    /// POSIX: user and group names, device numbers and a prefix of 155 bytes.
    Ustar,
    /// As `Ustar`, but with a prefix of 131 bytes.
    Star,
    /// GNU: no prefix.
    Gnu,
}

impl<'a> Header<'a> {
    /// Checks the checksum of a block that is not all zero.
    pub(super) fn parse(block: &'a [u8; BLOCK_LEN]) -> Result<Self, &'static str> {
        let header = Self { block, dialect: dialect(block) };
        let stated = parse_octal(header.field(148, 8))?;
        let (mut unsigned, mut signed) = (0u64, 0i64);
        for (at, byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { *byte };
            unsigned += u64::from(byte);
            signed += i64::from(byte as i8);
        }
        if stated != unsigned && i64::try_from(stated) != Ok(signed) {
            return Err("its checksum does not match");
        }
        Ok(header)
    }

    fn field(&self, start: usize, len: usize) -> &'a [u8] {
        self.block.get(start..start + len).unwrap_or(&[])
    }

    fn text(&self, start: usize, len: usize) -> &'a [u8] {
        until_nul(self.field(start, len))
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block[156]
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let prefix = match self.dialect {
            Dialect::Ustar => self.text(345, 155),
            Dialect::Star => self.text(345, 131),
            Dialect::V7 | Dialect::Gnu => &[],
        };
        let name = self.text(0, 100);
        if prefix.is_empty() { name.to_vec() } else { [prefix, name].join(&b'/') }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        self.text(157, 100).to_vec()
    }

    pub(super) fn mode(&self) -> Result<i64, &'static str> {
        parse_number(self.field(100, 8))
    }

    pub(super) fn uid(&self) -> Result<i64, &'static str> {
        parse_number(self.field(108, 8))
    }

    pub(super) fn gid(&self) -> Result<i64, &'static str> {
        parse_number(self.field(116, 8))
    }

    pub(super) fn content_len(&self) -> Result<i64, &'static str> {
        parse_number(self.field(124, 12))
    }

    pub(super) fn mtime(&self) -> Result<i64, &'static str> {
        parse_number(self.field(136, 12))
    }

    /// The major and minor number of a device.
    pub(super) fn device(&self) -> Result<(i64, i64), &'static str> {
        if self.dialect == Dialect::V7 {
            return Ok((0, 0));
        }
        Ok((parse_number(self.field(329, 8))?, parse_number(self.field(337, 8))?))
    }

    /// The fields of an old GNU sparse file: four regions, whether more follow, and the length.
    pub(super) fn gnu_sparse(&self) -> Result<(&'a [u8], bool, i64), &'static str> {
        let is_extended = self.block[482] != 0;
        Ok((self.field(386, 96), is_extended, parse_number(self.field(483, 12))?))
    }
}

fn dialect(block: &[u8; BLOCK_LEN]) -> Dialect {
    match (&block[257..263], &block[263..265]) {
        (b"ustar ", b" \0") => Dialect::Gnu,
        (b"ustar\0", _) if &block[508..512] == b"tar\0" => Dialect::Star,
        (b"ustar\0", _) => Dialect::Ustar,
        _ => Dialect::V7,
    }
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(&[])
}

/// Parses a field as octal text, or as GNU's big-endian two's complement if its first bit is set.
pub(super) fn parse_number(field: &[u8]) -> Result<i64, &'static str> {
    const TOO_LARGE: &str = "a number does not fit into 64 bits";
    let Some(first) = field.first().filter(|first| **first & 0x80 != 0) else {
        return i64::try_from(parse_octal(field)?).map_err(|_| TOO_LARGE);
    };
    let is_negative = first & 0x40 != 0;
    let inversion = if is_negative { 0xff } else { 0 };
    let mut value = 0u64;
    for (at, byte) in field.iter().enumerate() {
        let byte = (byte ^ inversion) & if at == 0 { 0x7f } else { 0xff };
        if value >> 56 != 0 {
            return Err(TOO_LARGE);
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).map_err(|_| TOO_LARGE)?;
    Ok(if is_negative { !value } else { value })
}

fn parse_octal(field: &[u8]) -> Result<u64, &'static str> {
    let is_padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_padding(byte)).unwrap_or(field.len());
    let digits = field.get(start..).unwrap_or(&[]);
    let end = digits.iter().position(is_padding).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    // Like Go, everything after a NUL is ignored, but after a space only padding may follow.
    let tail = until_nul(rest);
    if tail.iter().any(|byte| *byte != b' ') {
        return Err("a number is followed by something else");
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' if value >> 61 == 0 => Ok(value << 3 | u64::from(digit - b'0')),
        b'0'..=b'7' => Err("a number does not fit into 64 bits"),
        _ => Err("a number is not octal"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_parse_as_octal_or_as_two_s_complement() {
        for (field, expected) in [
            (&b""[..], Ok(0)),
            (b"        ", Ok(0)),
            (b"\0\0\0\0", Ok(0)),
            (b"0000644\0", Ok(0o644)),
            (b"   644 \0", Ok(0o644)),
            (b"644\0junk", Ok(0o644)),
            (b"644 7   ", Err(())),
            (b"0000-12\0", Err(())),
            (b"0000008\0", Err(())),
            (b"\x80\0\0\0\0\0\0\x2a", Ok(42)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Ok(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Ok(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Ok(i64::MAX)),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Ok(i64::MIN)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", Err(())),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", Err(())),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Err(())),
            (b"7777777777777777777777", Err(())),
        ] {
            assert_eq!(parse_number(field).map_err(|_| ()), expected, "{field:?}");
        }
    }
}
