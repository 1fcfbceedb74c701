//! A record of the directory: one chunk, where it lies, and how it was used.
//!
//! Specified in `docs/format.md`, section 12.

use crate::key::StoreKey;

/// The length of a record.
pub(crate) const RECORD_LEN: usize = 64;
/// The unit of addresses.
pub(crate) const PAGE_LEN: u64 = 4096;

/// A chunk in the slabs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: StoreKey,
    /// Where the chunk starts, in pages over all slabs.
    pub(crate) page: u64,
    /// Its uncompressed length in bytes.
    pub(crate) len: u32,
    pub(crate) state: State,
    pub(crate) queue: Queue,
    /// How often it was used again, up to [`FREQUENCY_MAX`].
    pub(crate) frequency: u8,
    /// The place in its queue: lower ones came earlier.
    pub(crate) sequence: u64,
    /// The boot in which it was written.
    pub(crate) boot: u32,
}

/// More uses are not counted.
pub(crate) const FREQUENCY_MAX: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Its writer holds a lock on the first byte in the slab; without one it is dead.
    Pending = 1,
    Ready = 2,
    /// Evicted; remembered so that it is taken for useful when it comes back soon.
    Ghost = 3,
}

/// The two queues of S3-FIFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    /// What has not proved useful yet.
    Small = 0,
    Main = 1,
}

impl Record {
    /// Returns how many bytes of a slab the chunk takes.
    pub(crate) fn slot_len(&self) -> u64 {
        slot_len(self.len)
    }

    /// Returns whether the chunk is there, at this place.
    pub(crate) fn is_ready_at(&self, page: u64) -> bool {
        self.state == State::Ready && self.page == page
    }

    pub(crate) fn encode(&self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        let mut rest = &mut bytes[..];
        let mut put = |field: &[u8]| {
            let (front, back) = std::mem::take(&mut rest).split_at_mut(field.len());
            front.copy_from_slice(field);
            rest = back;
        };
        put(&self.key.bytes);
        put(&self.page.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&[self.state as u8, self.key.algorithm, self.queue as u8, self.frequency]);
        put(&self.sequence.to_le_bytes());
        put(&self.boot.to_le_bytes());
        let checksum = checksum(&bytes);
        bytes[RECORD_LEN - 4..].copy_from_slice(&checksum);
        bytes
    }

    /// Returns the record, or `None` if there is none: free, torn or garbage.
    pub(crate) fn decode(bytes: &[u8; RECORD_LEN]) -> Option<Self> {
        let state = match bytes[44] {
            1 => State::Pending,
            2 => State::Ready,
            3 => State::Ghost,
            _ => return None,
        };
        let queue = match bytes[46] {
            0 => Queue::Small,
            1 => Queue::Main,
            _ => return None,
        };
        if bytes[RECORD_LEN - 4..] != checksum(bytes) {
            return None;
        }
        let (key, rest) = bytes.split_first_chunk::<32>()?;
        let (page, rest) = rest.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (flags, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (boot, _) = rest.split_first_chunk::<4>()?;
        Some(Self {
            key: StoreKey { bytes: *key, algorithm: flags[1] },
            page: u64::from_le_bytes(*page),
            len: u32::from_le_bytes(*len),
            state,
            queue,
            frequency: flags[3],
            sequence: u64::from_le_bytes(*sequence),
            boot: u32::from_le_bytes(*boot),
        })
    }
}

/// Returns how many bytes of a slab a chunk takes.
pub(crate) fn slot_len(len: u32) -> u64 {
    u64::from(len).next_multiple_of(PAGE_LEN)
}

fn checksum(bytes: &[u8; RECORD_LEN]) -> [u8; 4] {
    let hash = blake3::hash(&bytes[..RECORD_LEN - 4]);
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            key: StoreKey { bytes: [9; 32], algorithm: 1 },
            page: 0x0123_4567_89ab,
            len: 1 << 20,
            state: State::Ready,
            queue: Queue::Main,
            frequency: 2,
            sequence: u64::MAX,
            boot: 7,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for state in [State::Pending, State::Ready, State::Ghost] {
            let record = Record { state, ..record() };
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
    }

    #[test]
    fn any_flipped_bit_makes_a_record_none() {
        let bytes = record().encode();
        for bit in 0..RECORD_LEN * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&flipped), None, "bit {bit}");
        }
        assert_eq!(Record::decode(&[0; RECORD_LEN]), None);
        assert_eq!(Record::decode(&[0xff; RECORD_LEN]), None);
    }
}
