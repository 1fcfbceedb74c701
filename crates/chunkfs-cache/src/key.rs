//! What chunks are found by.

use std::fmt;

use chunkfs_format::{ChunkId, DigestAlgorithm, ImageId};

/// Names a chunk: its id and the algorithm that the id was computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkKey {
    /// The algorithm.
    pub algorithm: DigestAlgorithm,
    /// The digest of the uncompressed bytes.
    pub id: ChunkId,
}

/// A tenant of a cache: its chunks are neither shared with nor visible to other domains.
///
/// Chunks of a domain are kept under a keyed digest of their ids. Whoever opens the cache without the
/// key, or with another one, misses them in memory and on disk and fetches them itself, so that neither
/// presence nor timing tells what the domain holds. Processes that can read the folder's files can still
/// read the content: give tenants that do not trust each other folders of their own users.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CacheDomain([u8; 32]);

impl CacheDomain {
    /// Returns the domain of a name under a secret key.
    pub fn new(name: &str, key: &[u8; 32]) -> Self {
        Self(*blake3::keyed_hash(key, name.as_bytes()).as_bytes())
    }
}

impl fmt::Debug for CacheDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheDomain(..)")
    }
}

/// Set in the algorithm of keys of domains.
const IN_DOMAIN: u8 = 0x80;

/// What a chunk is kept under: its id, or a keyed digest of it in a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StoreKey {
    pub(crate) bytes: [u8; 32],
    pub(crate) algorithm: u8,
}

impl StoreKey {
    /// Returns what a chunk is kept under in a domain, or in none.
    pub(crate) fn new(domain: Option<&CacheDomain>, key: &ChunkKey) -> Self {
        let algorithm = key.algorithm.code();
        match domain {
            None => Self { bytes: *key.id.as_bytes(), algorithm },
            Some(domain) => {
                let bytes = keyed(domain, algorithm, key.id.as_bytes());
                Self { bytes, algorithm: algorithm | IN_DOMAIN }
            }
        }
    }

    /// Returns the algorithm of the id, if it is known.
    pub(crate) fn id_algorithm(&self) -> Option<DigestAlgorithm> {
        DigestAlgorithm::from_code(self.algorithm & !IN_DOMAIN)
    }

    pub(crate) fn is_in_domain(&self) -> bool {
        self.algorithm & IN_DOMAIN != 0
    }

    /// A number that tells keys apart, evenly distributed over 62 bits.
    pub(crate) fn number(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.bytes;
        (u64::from_le_bytes([a, b, c, d, e, f, g, h]) ^ u64::from(self.algorithm)) >> 2
    }
}

/// What an image is registered under: its id, or a keyed digest of it in a domain.
pub(crate) fn image_name(domain: Option<&CacheDomain>, id: &ImageId) -> String {
    match domain {
        None => id.to_hex(),
        Some(domain) => ImageId::from_bytes(keyed(domain, 0, id.as_bytes())).to_hex(),
    }
}

fn keyed(domain: &CacheDomain, kind: u8, bytes: &[u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(&domain.0);
    hasher.update(&[kind]).update(bytes);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_the_algorithm_the_domain_and_the_secret() {
        let id = ChunkId::from_bytes([7; 32]);
        let keys = [DigestAlgorithm::Blake3, DigestAlgorithm::Sha256]
            .map(|algorithm| ChunkKey { algorithm, id });
        let domains =
            [("a", 1), ("b", 1), ("a", 2)].map(|(name, key)| CacheDomain::new(name, &[key; 32]));
        let mut all: Vec<_> = keys
            .iter()
            .flat_map(|key| {
                let keyed = domains.iter().map(|domain| StoreKey::new(Some(domain), key));
                keyed.chain([StoreKey::new(None, key)]).collect::<Vec<_>>()
            })
            .collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 8);
        assert_eq!(StoreKey::new(None, &keys[0]).bytes, [7; 32]);
        assert_eq!(format!("{:?}", domains[0]), "CacheDomain(..)");
    }
}
