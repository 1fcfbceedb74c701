//! PAX extended headers.

use chunkfs_index::Timestamp;

use super::sparse::Region;

/// The largest sparse map that is read, in regions.
pub(super) const REGION_COUNT_MAX: usize = 1 << 17;

/// What the extended header before an entry says about it.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) content_len: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse_major: Option<u64>,
    pub(super) sparse_minor: Option<u64>,
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse_len: Option<u64>,
    pub(super) sparse_regions: Option<Vec<Region>>,
}

impl Pax {
    /// Parses the records `<length> <key>=<value>\n` of an extended header.
    pub(super) fn parse(mut records: &[u8]) -> Result<Self, &'static str> {
        let mut pax = Self::default();
        let mut region_start = None;
        while !records.is_empty() {
            let (key, value, rest) = split_record(records).ok_or("a PAX record is malformed")?;
            records = rest;
            pax.apply(key, value, &mut region_start)?;
        }
        Ok(pax)
    }

    /// Applies one record; an empty value takes back what an earlier one said.
    fn apply(
        &mut self,
        key: &[u8],
        value: &[u8],
        region_start: &mut Option<u64>,
    ) -> Result<(), &'static str> {
        let text = (!value.is_empty()).then(|| value.to_vec());
        let number = |problem| match value {
            [] => Ok(None),
            _ => parse_decimal(value).map(Some).ok_or(problem),
        };
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link = text,
            b"size" => self.content_len = number("its PAX size is not a number")?,
            b"uid" => self.uid = number("its PAX uid is not a number")?,
            b"gid" => self.gid = number("its PAX gid is not a number")?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => {
                let mtime = parse_time(value);
                self.mtime = Some(mtime.ok_or("its PAX mtime is not a time")?);
            }
            b"GNU.sparse.major" => self.sparse_major = number("its sparse version is invalid")?,
            b"GNU.sparse.minor" => self.sparse_minor = number("its sparse version is invalid")?,
            b"GNU.sparse.name" => self.sparse_name = text,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse_len = number("its sparse length is not a number")?;
            }
            b"GNU.sparse.map" => self.sparse_regions = Some(parse_map(value)?),
            b"GNU.sparse.numblocks" => {
                self.sparse_regions.get_or_insert_default();
            }
            b"GNU.sparse.offset" => *region_start = number("a sparse offset is not a number")?,
            b"GNU.sparse.numbytes" => {
                let offset = region_start.take().ok_or("a sparse region has no offset")?;
                let len = number("a sparse length is not a number")?;
                let region = Region { offset, len: len.ok_or("a sparse region has no length")? };
                push_region(self.sparse_regions.get_or_insert_default(), region)?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

pub(super) fn push_region(regions: &mut Vec<Region>, region: Region) -> Result<(), &'static str> {
    if regions.len() >= REGION_COUNT_MAX {
        return Err("its sparse map has too many regions");
    }
    regions.push(region);
    Ok(())
}

/// Splits off the first record: its key, its value and the rest.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(21).position(|byte| *byte == b' ')?;
    let len = usize::try_from(parse_decimal(records.get(..space)?)?).ok()?;
    let (record, rest) = records.split_at_checked(len)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = record.split_at_checked(equals)?;
    (!key.is_empty()).then_some((key, value.get(1..)?, rest))
}

pub(super) fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        value.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Parses seconds with an optional fraction; digits below the nanosecond are dropped.
fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(parse_decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or(&[]);
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0u32, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    if !is_negative {
        return Some(Timestamp { seconds, nanos });
    }
    match nanos {
        0 => Some(Timestamp { seconds: -seconds, nanos: 0 }),
        _ => Some(Timestamp { seconds: (-seconds).checked_sub(1)?, nanos: 1_000_000_000 - nanos }),
    }
}

/// Parses the comma-separated offsets and lengths of sparse format 0.1.
fn parse_map(text: &[u8]) -> Result<Vec<Region>, &'static str> {
    let mut regions = Vec::new();
    if text.is_empty() {
        return Ok(regions);
    }
    let mut numbers = text.split(|byte| *byte == b',').map(parse_decimal);
    while let Some(offset) = numbers.next() {
        let region = offset.zip(numbers.next().flatten());
        let (offset, len) = region.ok_or("its sparse map is malformed")?;
        push_region(&mut regions, Region { offset, len })?;
    }
    Ok(regions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        [len.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
    }

    #[test]
    fn times_keep_fractions_and_signs() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("-0", Some((0, 0))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-1", Some((-1, 0))),
            ("-0.25", Some((-1, 750_000_000))),
            ("1700000000.123456789123", Some((1_700_000_000, 123_456_789))),
            ("5000000000.1", Some((5_000_000_000, 100_000_000))),
            ("1.", Some((1, 0))),
            (".5", None),
            ("1.-5", None),
            ("--1", None),
            ("9223372036854775808", None),
            ("", None),
        ] {
            let expected = expected.map(|(seconds, nanos)| Timestamp { seconds, nanos });
            assert_eq!(parse_time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn records_are_parsed_with_binary_values() {
        let mut records = record("SCHILY.xattr.user.a", b"x\n=\0y");
        records.extend(record("path", b"long"));
        records.extend(record("uid", b""));
        let pax = Pax::parse(&records).unwrap();
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"x\n=\0y".to_vec())]);
        assert_eq!(pax.path, Some(b"long".to_vec()));
        assert_eq!(pax.uid, None);
    }

    #[test]
    fn malformed_records_are_errors() {
        for bad in [
            &b"5 a=b\n"[..],
            b"7 a=b\n",
            b"6 a=bc",
            b"6 abcd\n",
            b"x a=b\n",
            b"6a=b\n",
            b"0 a=b\n",
            b"99999999999999999999999 a=b\n",
            b"4 =\n",
            b"12 size=-10\n",
            b"25 GNU.sparse.map=1,2,3\n",
            b"25 GNU.sparse.numbytes=1\n",
        ] {
            assert!(Pax::parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
