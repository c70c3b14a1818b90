//! The prefix hash: how edge and cloud agree on what the cloud already holds. Its only definition.

use crate::ids::PrefixHash;

const DOMAIN: &[u8] = b"relay.v1.prefix";

/// The first 16 bytes of BLAKE3 over the domain and the ids as `u32` little-endian
/// (PROTOCOL.md, *Call*). The hash of no ids is that of base 0.
pub fn prefix_hash(ids: &[u32]) -> PrefixHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(DOMAIN);
    for id in ids {
        hasher.update(&id.to_le_bytes());
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    PrefixHash::new(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_that_of_the_committed_vectors() {
        let none = blake3::hash(b"relay.v1.prefix");
        assert_eq!(prefix_hash(&[]).bytes()[..], none.as_bytes()[..16]);
        let one = blake3::hash(b"relay.v1.prefix\x01\x02\x00\x00");
        assert_eq!(prefix_hash(&[0x201]).bytes()[..], one.as_bytes()[..16]);
    }
}
