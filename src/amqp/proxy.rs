//! The PROXY protocol, version 2: a proxy says before anything else for whom it speaks
//! (<https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt> §2.2).
//!
//! ```text
//! signature 12 | version and command u8 | family and transport u8 | length u16 | addresses | more (ignored)
//! ```

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const HEADER_BYTES: usize = 16;
/// Addresses and what may follow them: certificates' names and checksums fit.
const REST_BYTES_MAX: usize = 2048;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP_V4: u8 = 0x11;
const TCP_V6: u8 = 0x21;

/// Reads the header and nothing beyond it. The peer of whom it speaks; `None` when the proxy speaks for itself.
///
/// # Errors
/// There is no such header, or one that cannot be understood.
pub(super) async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if header[..12] != SIGNATURE || length > REST_BYTES_MAX {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    peer(header[12], header[13], &rest)
}

fn peer(command: u8, family: u8, rest: &[u8]) -> Result<Option<SocketAddr>> {
    let invalid = || Error::from(ErrorKind::InvalidData);
    let address: IpAddr = match (command, family) {
        (LOCAL, _) => return Ok(None),
        (PROXY, TCP_V4) => bytes::<4>(rest, 0).ok_or_else(invalid)?.into(),
        (PROXY, TCP_V6) => bytes::<16>(rest, 0).ok_or_else(invalid)?.into(),
        _ => return Err(invalid()),
    };
    // Behind both addresses.
    let port_at = if family == TCP_V4 { 8 } else { 32 };
    let port = bytes::<2>(rest, port_at).ok_or_else(invalid)?;
    Ok(Some((address, u16::from_be_bytes(port)).into()))
}

fn bytes<const N: usize>(rest: &[u8], at: usize) -> Option<[u8; N]> {
    rest.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    fn read(mut bytes: &[u8]) -> (Option<Option<SocketAddr>>, usize) {
        let peer = futures_lite::future::block_on(read_header(&mut bytes)).ok();
        (peer, bytes.len())
    }

    #[test]
    fn the_peer_is_whom_the_proxy_names_and_nothing_beyond_the_header_is_taken() {
        let v4 = [
            10, 1, 2, 3, 127, 0, 0, 1, 0x30, 0x39, 0x16, 0x28, 3, 0, 1, 9,
        ];
        let mut bytes = header(PROXY, TCP_V4, &v4);
        bytes.extend_from_slice(b"AMQP");
        assert_eq!(
            read(&bytes),
            (Some(Some("10.1.2.3:12345".parse().unwrap())), 4)
        );
        let mut v6 = [0; 36];
        (v6[0], v6[15], v6[33]) = (0x20, 9, 80);
        assert_eq!(
            read(&header(PROXY, TCP_V6, &v6)).0,
            Some(Some("[2000::9]:80".parse().unwrap()))
        );
        assert_eq!(read(&header(LOCAL, 0, &[])), (Some(None), 0));
    }

    #[test]
    fn what_is_no_such_header_is_refused() {
        let whole = header(PROXY, TCP_V4, &[0; 12]);
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]).0, None, "{cut}");
        }
        assert_eq!(read(b"AMQP\0\0\x09\x01AMQP\0\0\x09\x01").0, None);
        assert_eq!(read(&header(PROXY, TCP_V4, &[0; 9])).0, None, "too short");
        assert_eq!(read(&header(PROXY, 0x12, &[0; 12])).0, None, "UDP");
        assert_eq!(read(&header(0x11, TCP_V4, &[0; 12])).0, None, "version 1");
        assert_eq!(read(&header(PROXY, TCP_V4, &[0; 2049])).0, None, "too long");
    }
}
