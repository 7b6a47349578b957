//! HMAC-SHA256 (RFC 2104), for tokens and for what is pushed to webhooks.

use sha2::{Digest, Sha256};

/// The block of SHA-256, bytes.
const BLOCK_BYTES: usize = 64;

/// The code of `parts`, one after the other, under `key`.
///
/// # Panics
/// If the key is longer than a block, 64 bytes.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    assert!(key.len() <= BLOCK_BYTES, "a key has one block at most");
    let pad = |mask: u8| {
        let mut block = [mask; BLOCK_BYTES];
        block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
        Sha256::new().chain_update(block)
    };
    let inner = parts
        .iter()
        .fold(pad(0x36), |hash, part| hash.chain_update(part));
    pad(0x5c).chain_update(inner.finalize()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231.
    #[test]
    fn the_codes_are_those_of_the_specification() {
        let counted: Vec<u8> = (1..=25).collect();
        for (key, message, code) in [
            (
                &[0x0b; 20][..],
                &b"Hi There"[..],
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &counted,
                &[0xcd; 50],
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
            ),
        ] {
            let hex = |bytes: [u8; 32]| bytes.map(|byte| format!("{byte:02x}")).concat();
            assert_eq!(hex(hmac_sha256(key, &[message])), code);
            let (begin, end) = message.split_at(3);
            assert_eq!(hex(hmac_sha256(key, &[begin, end])), code);
        }
    }
}
