//! The three kinds of digest and how each is computed.

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

/// A digest written as text has the wrong shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a digest of the form `{algorithm}:<64 lower-case hex digits>`")]
pub struct DigestParseError {
    text: String,
    algorithm: &'static str,
}

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps the 32 bytes of an already computed digest.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Returns the 32 bytes of the digest.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Returns the digest as 64 lower-case hex digits, without an algorithm prefix.
            pub fn to_hex(&self) -> String {
                let mut text = String::with_capacity(64);
                for byte in self.0 {
                    text.push(char::from(HEX[usize::from(byte >> 4)]));
                    text.push(char::from(HEX[usize::from(byte & 15)]));
                }
                text
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

digest_newtype! {
    /// Names a chunk: the digest of its *uncompressed* bytes.
    ///
    /// The algorithm is not part of the value; it belongs to the image (see [`DigestAlgorithm`]).
    ChunkId
}
digest_newtype! {
    /// Names a stored blob: the SHA-256 of its bytes as stored, which is what OCI registries use.
    BlobId
}
digest_newtype! {
    /// Names an image: the BLAKE3 digest over its tree and the ids of its chunks.
    ///
    /// Two images with equal ids hold the same files, wherever and however their chunks are stored.
    ImageId
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.to_hex())
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", self.to_hex())
    }
}

impl BlobId {
    /// Computes the id of a blob that is wholly in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl FromStr for BlobId {
    type Err = DigestParseError;

    /// Parses `sha256:<64 lower-case hex digits>`, the only form that OCI registries accept.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_prefixed(text, "sha256").map(Self)
    }
}

impl FromStr for ImageId {
    type Err = DigestParseError;

    /// Parses `blake3:<64 lower-case hex digits>`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_prefixed(text, "blake3").map(Self)
    }
}

fn parse_prefixed(text: &str, algorithm: &'static str) -> Result<[u8; 32], DigestParseError> {
    text.strip_prefix(algorithm)
        .and_then(|rest| rest.strip_prefix(':'))
        .and_then(parse_hex)
        .ok_or_else(|| DigestParseError { text: text.chars().take(100).collect(), algorithm })
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(high)? << 4 | nibble(low)?;
    }
    Some(bytes)
}

/// The algorithm that turns a chunk's uncompressed bytes into its [`ChunkId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DigestAlgorithm {
    /// BLAKE3 with 256 bits of output: about three times as fast as SHA-256, and the default.
    #[default]
    Blake3,
    /// SHA-256, for environments that allow only FIPS 180-4 digests.
    Sha256,
}

impl DigestAlgorithm {
    /// Computes the id of the chunk with these uncompressed bytes.
    pub fn chunk_id(self, uncompressed: &[u8]) -> ChunkId {
        match self {
            Self::Blake3 => ChunkId(*blake3::hash(uncompressed).as_bytes()),
            Self::Sha256 => ChunkId(sha2::Sha256::digest(uncompressed).into()),
        }
    }

    /// Returns the number that stands for this algorithm in stored structures.
    pub const fn code(self) -> u8 {
        match self {
            Self::Blake3 => 1,
            Self::Sha256 => 2,
        }
    }

    /// Returns the algorithm with this stored number, or `None` if there is none.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Blake3),
            2 => Some(Self::Sha256),
            _ => None,
        }
    }

    /// Returns the lower-case name: `blake3` or `sha256`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }
}

impl fmt::Display for DigestAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Computes a [`BlobId`] from pieces.
#[derive(Clone, Default)]
pub struct BlobHasher(sha2::Sha256);

impl BlobHasher {
    /// Creates a hasher that has seen no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes of the blob.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the id of all bytes added.
    pub fn finish(self) -> BlobId {
        BlobId(self.0.finalize().into())
    }
}

impl fmt::Debug for BlobHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlobHasher")
    }
}

/// Computes an [`ImageId`] from the byte strings that it covers.
///
/// Every string is preceded by its length, so that moving a byte from one to the next changes the id.
#[derive(Debug, Clone)]
pub struct ImageHasher(blake3::Hasher);

impl ImageHasher {
    /// Creates a hasher for image ids; the derivation context keeps them apart from chunk ids.
    pub fn new() -> Self {
        Self(blake3::Hasher::new_derive_key("chunkfs image id v1"))
    }

    /// Adds the next covered byte string.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Returns the id of all byte strings added.
    pub fn finish(self) -> ImageId {
        ImageId(*self.0.finalize().as_bytes())
    }
}

impl Default for ImageHasher {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4 and BLAKE3 reference vectors for "abc".
    const SHA256_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const BLAKE3_ABC: &str = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";

    #[test]
    fn known_answers() {
        assert_eq!(DigestAlgorithm::Sha256.chunk_id(b"abc").to_hex(), SHA256_ABC);
        assert_eq!(DigestAlgorithm::Blake3.chunk_id(b"abc").to_hex(), BLAKE3_ABC);
        assert_eq!(BlobId::of(b"abc").to_string(), format!("sha256:{SHA256_ABC}"));
        let mut pieces = BlobHasher::new();
        pieces.update(b"a");
        pieces.update(b"bc");
        assert_eq!(pieces.finish(), BlobId::of(b"abc"));
    }

    #[test]
    fn blob_id_text_round_trips_and_nothing_else_parses() {
        let id = BlobId::of(b"x");
        assert_eq!(id.to_string().parse::<BlobId>(), Ok(id));
        let hex = id.to_hex();
        for bad in [
            String::new(),
            "sha256:".to_owned(),
            hex.clone(),
            format!("sha512:{hex}"),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}\u{e9}", &hex[2..]),
            format!("sha256:../{}", &hex[3..]),
        ] {
            assert!(bad.parse::<BlobId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn image_id_separates_its_parts() {
        let id = |parts: &[&[u8]]| {
            let mut hasher = ImageHasher::new();
            parts.iter().for_each(|part| hasher.update(part));
            hasher.finish()
        };
        assert_ne!(id(&[b"ab", b"c"]), id(&[b"a", b"bc"]));
        assert_ne!(id(&[b"abc"]), id(&[b"abc", b""]));
    }

    #[test]
    fn algorithm_codes_round_trip() {
        for code in 0..=255 {
            if let Some(algorithm) = DigestAlgorithm::from_code(code) {
                assert_eq!(algorithm.code(), code);
            }
        }
        assert_eq!(DigestAlgorithm::from_code(0), None);
        assert_eq!(DigestAlgorithm::from_code(3), None);
    }
}
