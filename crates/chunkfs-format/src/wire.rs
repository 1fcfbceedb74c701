//! Bounds-checked reading and writing of little-endian values.
//!
//! [`Cursor`] never panics and never reads past its end; every error names the value that was
//! wanted and the offset at which the bytes ran out.

/// A value was wanted where too few bytes remain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset} needs {needed} bytes, {remaining} remain")]
pub struct Truncated {
    /// The value that was wanted.
    pub what: &'static str,
    /// Where it should start.
    pub offset: usize,
    /// How many bytes it takes.
    pub needed: usize,
    /// How many there are.
    pub remaining: usize,
}

/// Reads values one after another from a byte slice.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// Creates a cursor at the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    /// Returns the number of bytes read so far.
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the number of bytes not yet read.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Reads the next `len` bytes.
    ///
    /// # Errors
    /// [`Truncated`] if fewer remain; the cursor does not move then.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Truncated> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Truncated {
            what,
            offset: self.offset,
            needed: len,
            remaining: self.rest.len(),
        })?;
        self.rest = rest;
        self.offset += len;
        Ok(taken)
    }

    /// Reads the next `N` bytes as an array.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Truncated> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// Reads a byte.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Truncated> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// Reads a little-endian `u16`.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Truncated> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// Reads a little-endian `u32`.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Truncated> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// Reads a little-endian `u64`.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Truncated> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Reads a little-endian `i64`.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn i64(&mut self, what: &'static str) -> Result<i64, Truncated> {
        self.array(what).map(i64::from_le_bytes)
    }

    /// Reads a byte string that is preceded by its length as a `u32`.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn string(&mut self, what: &'static str) -> Result<&'a [u8], Truncated> {
        let len = self.u32(what)?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX), what)
    }
}

/// Appends little-endian values to a buffer: the mirror image of [`Cursor`].
pub trait WriteExt {
    /// Appends a little-endian `u16`.
    fn put_u16(&mut self, value: u16);
    /// Appends a little-endian `u32`.
    fn put_u32(&mut self, value: u32);
    /// Appends a little-endian `u64`.
    fn put_u64(&mut self, value: u64);
    /// Appends a little-endian `i64`.
    fn put_i64(&mut self, value: i64);
    /// Appends a byte string preceded by its length as a `u32`.
    ///
    /// # Panics
    /// If the string is 4 GiB or longer.
    fn put_string(&mut self, value: &[u8]);
}

impl WriteExt for Vec<u8> {
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_i64(&mut self, value: i64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_string(&mut self, value: &[u8]) {
        self.put_u32(u32::try_from(value.len()).expect("strings are shorter than 4 GiB"));
        self.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        bytes.put_u16(0x0102);
        bytes.put_u32(3);
        bytes.put_u64(u64::MAX);
        bytes.put_i64(-5);
        bytes.put_string(b"name");
        let mut cursor = Cursor::new(&bytes);
        assert_eq!(cursor.u16("a"), Ok(0x0102));
        assert_eq!(cursor.u32("b"), Ok(3));
        assert_eq!(cursor.u64("c"), Ok(u64::MAX));
        assert_eq!(cursor.i64("d"), Ok(-5));
        assert_eq!(cursor.string("e"), Ok(&b"name"[..]));
        assert_eq!((cursor.remaining(), cursor.offset()), (0, bytes.len()));
    }

    #[test]
    fn running_out_of_bytes_names_the_value_and_does_not_move() {
        let mut cursor = Cursor::new(&[1, 2, 3, 4, 5]);
        cursor.u16("head").unwrap();
        let error = cursor.u32("length").unwrap_err();
        assert_eq!(error, Truncated { what: "length", offset: 2, needed: 4, remaining: 3 });
        assert_eq!(error.to_string(), "length at byte 2 needs 4 bytes, 3 remain");
        assert_eq!(cursor.take(3, "rest"), Ok(&[3, 4, 5][..]));
        assert!(cursor.u8("end").is_err());
    }

    #[test]
    fn a_string_longer_than_the_input_is_an_error() {
        assert!(Cursor::new(&u32::MAX.to_le_bytes()).string("name").is_err());
    }
}
