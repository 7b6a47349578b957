//! HMAC-SHA256 (RFC 2104), for tokens.

use sha2::{Digest, Sha256};

/// The block of SHA-256, bytes.
const BLOCK_BYTES: usize = 64;

/// The code of `parts`, one after the other, under `key`, which has one block at most.
pub(super) fn hmac_sha256(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
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

    /// RFC 4231; keys shorter than 32 bytes are the same with zeros behind them.
    #[test]
    fn the_codes_are_those_of_the_specification() {
        let key = |short: &[u8]| {
            let mut key = [0; 32];
            key[..short.len()].copy_from_slice(short);
            key
        };
        let counted: Vec<u8> = (1..=25).collect();
        for (key, message, code) in [
            (
                key(&[0x0b; 20]),
                &b"Hi There"[..],
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                key(b"Jefe"),
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                key(&counted),
                &[0xcd; 50],
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
            ),
        ] {
            let hex = |bytes: [u8; 32]| bytes.map(|byte| format!("{byte:02x}")).concat();
            assert_eq!(hex(hmac_sha256(&key, &[message])), code);
            let (begin, end) = message.split_at(3);
            assert_eq!(hex(hmac_sha256(&key, &[begin, end])), code);
        }
    }
}
