//! The PROXY protocol, versions 1 and 2: a proxy says before anything else for whom it speaks
//! (<https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt> §2). Which version it speaks, its first octets say.
//!
//! ```text
//! 1: "PROXY TCP4 " or "PROXY TCP6 " | source | " " | destination | " " | port | " " | port | "\r\n", or "PROXY UNKNOWN" | more (ignored) | "\r\n"
//! 2: signature 12 | version and command u8 | family and transport u8 | length u16 | addresses | more (ignored)
//! ```

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncReadExt};

/// What tells the versions apart; the shortest header is longer.
const FIRST_BYTES: usize = 8;
/// What a line of version 1 begins with.
const WORD: &[u8] = b"PROXY ";
/// The longest line of version 1, its end included (§2.1).
const LINE_BYTES_MAX: usize = 107;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const HEADER_BYTES: usize = 16;
/// Addresses of version 2 and what may follow them: certificates' names and checksums fit.
const REST_BYTES_MAX: usize = 2048;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0;
const TCP_V4: u8 = 0x11;
const TCP_V6: u8 = 0x21;

/// For whom a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// A peer at this address.
    Peer(SocketAddr),
    /// For itself, to see whether we are there.
    Itself,
    /// A peer whose address it does not tell.
    Unknown,
}

/// Reads the header and nothing beyond it.
///
/// # Errors
/// There is no such header, or one that cannot be understood.
pub(super) async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> Result<Speaker> {
    let mut first = [0; FIRST_BYTES];
    stream.read_exact(&mut first).await?;
    if first.starts_with(WORD) {
        read_line(stream, &first).await
    } else if SIGNATURE.starts_with(&first) {
        read_binary(stream).await
    } else {
        Err(invalid())
    }
}

/// The rest of a line of version 1. Octet by octet, since what is behind its end is not ours to read.
async fn read_line(stream: &mut (impl AsyncRead + Unpin), first: &[u8]) -> Result<Speaker> {
    let mut line = [0; LINE_BYTES_MAX];
    line[..first.len()].copy_from_slice(first);
    for end in first.len()..LINE_BYTES_MAX {
        line[end] = stream.read_u8().await?;
        if let Some(words) = line[..=end].strip_suffix(b"\r\n") {
            return speaker_of_line(&words[WORD.len()..]).ok_or_else(invalid);
        }
    }
    Err(invalid())
}

/// What is said between `PROXY ` and the end of the line.
fn speaker_of_line(words: &[u8]) -> Option<Speaker> {
    let words = str::from_utf8(words).ok()?;
    let mut words = words.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Speaker::Unknown);
    }
    let mut next = || words.next();
    let (source, destination) = (next()?, next()?);
    let (source_port, destination_port) = (next()?, next()?);
    let source = match family {
        "TCP4" => ends::<Ipv4Addr>(source, destination)?,
        "TCP6" => ends::<Ipv6Addr>(source, destination)?,
        _ => return None,
    };
    port(destination_port)?;
    let peer = Speaker::Peer((source, port(source_port)?).into());
    words.next().is_none().then_some(peer)
}

/// The source, if the destination is such an address, too.
fn ends<A: FromStr + Into<IpAddr>>(source: &str, destination: &str) -> Option<IpAddr> {
    destination.parse::<A>().ok()?;
    Some(source.parse::<A>().ok()?.into())
}

/// A number without a sign and without zeros before it.
fn port(text: &str) -> Option<u16> {
    let canonical = text == "0" || text.starts_with(|first: char| matches!(first, '1'..='9'));
    canonical.then(|| text.parse().ok())?
}

/// The rest of a header of version 2.
async fn read_binary(stream: &mut (impl AsyncRead + Unpin)) -> Result<Speaker> {
    let mut rest = [0; HEADER_BYTES - FIRST_BYTES];
    stream.read_exact(&mut rest).await?;
    let [signature @ .., command, family, high, low] = rest;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if signature != SIGNATURE[FIRST_BYTES..] || length > REST_BYTES_MAX {
        return Err(invalid());
    }
    let mut addresses = vec![0; length];
    stream.read_exact(&mut addresses).await?;
    speaker_of_binary(command, family, &addresses).ok_or_else(invalid)
}

fn speaker_of_binary(command: u8, family: u8, addresses: &[u8]) -> Option<Speaker> {
    let address: IpAddr = match (command, family) {
        (LOCAL, _) => return Some(Speaker::Itself),
        (PROXY, UNSPECIFIED) => return Some(Speaker::Unknown),
        (PROXY, TCP_V4) => bytes::<4>(addresses, 0)?.into(),
        (PROXY, TCP_V6) => bytes::<16>(addresses, 0)?.into(),
        _ => return None,
    };
    // Behind both addresses.
    let port_at = if family == TCP_V4 { 8 } else { 32 };
    let port = u16::from_be_bytes(bytes(addresses, port_at)?);
    Some(Speaker::Peer((address, port).into()))
}

fn bytes<const N: usize>(addresses: &[u8], at: usize) -> Option<[u8; N]> {
    addresses.get(at..at + N)?.try_into().ok()
}

fn invalid() -> Error {
    ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    fn read(mut bytes: &[u8]) -> (Option<Speaker>, usize) {
        let speaker = futures_lite::future::block_on(read_header(&mut bytes)).ok();
        (speaker, bytes.len())
    }

    fn peer(address: &str) -> Option<Speaker> {
        Some(Speaker::Peer(address.parse().unwrap()))
    }

    #[test]
    fn the_peer_is_whom_the_proxy_names_and_nothing_beyond_the_header_is_taken() {
        let v4 = [
            10, 1, 2, 3, 127, 0, 0, 1, 0x30, 0x39, 0x16, 0x28, 3, 0, 1, 9,
        ];
        let mut bytes = header(PROXY, TCP_V4, &v4);
        bytes.extend_from_slice(b"AMQP");
        assert_eq!(read(&bytes), (peer("10.1.2.3:12345"), 4));
        let mut v6 = [0; 36];
        (v6[0], v6[15], v6[33]) = (0x20, 9, 80);
        assert_eq!(read(&header(PROXY, TCP_V6, &v6)).0, peer("[2000::9]:80"));
        let itself = Some(Speaker::Itself);
        assert_eq!(read(&header(LOCAL, 0, &[])), (itself, 0));
        let unknown = Some(Speaker::Unknown);
        assert_eq!(read(&header(PROXY, UNSPECIFIED, &[1; 9])), (unknown, 0));
    }

    #[test]
    fn what_is_no_such_header_is_refused() {
        let whole = header(PROXY, TCP_V4, &[0; 12]);
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]).0, None, "{cut}");
        }
        assert_eq!(read(b"AMQP\0\0\x09\x01AMQP\0\0\x09\x01"), (None, 8));
        assert_eq!(read(&header(PROXY, TCP_V4, &[0; 9])).0, None, "too short");
        assert_eq!(read(&header(PROXY, 0x12, &[0; 12])).0, None, "UDP");
        assert_eq!(read(&header(0x11, TCP_V4, &[0; 12])).0, None, "version 1");
        assert_eq!(read(&header(PROXY, TCP_V4, &[0; 2049])).0, None, "too long");
        let mut spoilt = whole;
        spoilt[9] ^= 1;
        assert_eq!(read(&spoilt).0, None, "behind the first octets");
    }

    #[test]
    fn a_line_says_the_same() {
        let of = |line: &str| read(format!("{line}\r\nAMQP").as_bytes());
        for (line, speaker) in [
            (
                "PROXY TCP4 10.1.2.3 127.0.0.1 12345 5672",
                peer("10.1.2.3:12345"),
            ),
            ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0", peer("0.0.0.0:0")),
            ("PROXY TCP6 2000::9 ::1 80 65535", peer("[2000::9]:80")),
            ("PROXY UNKNOWN", Some(Speaker::Unknown)),
            ("PROXY UNKNOWN ff:ff 1 what\never", Some(Speaker::Unknown)),
        ] {
            assert_eq!(of(line), (speaker, 4), "{line}");
        }
    }

    #[test]
    fn a_line_that_says_something_else_is_refused() {
        for wrong in [
            "",
            " ",
            "TCP4",
            "TCP5 1.1.1.1 1.1.1.1 1 1",
            "tcp4 1.1.1.1 1.1.1.1 1 1",
            "UNKNOWNS",
            "TCP4 1.1.1.1 1.1.1.1 1",
            "TCP4 1.1.1.1 1.1.1.1 1 1 1",
            "TCP4 1.1.1.1 1.1.1.1 1 1 ",
            "TCP4  1.1.1.1 1.1.1.1 1 1",
            "TCP4 1.1.1 1.1.1.1 1 1",
            "TCP4 256.1.1.1 1.1.1.1 1 1",
            "TCP4 01.1.1.1 1.1.1.1 1 1",
            "TCP4 1.1.1.1 1.1.1.x 1 1",
            "TCP4 ::1 ::1 1 1",
            "TCP6 1.1.1.1 ::1 1 1",
            "TCP6 ::1 1.1.1.1 1 1",
            "TCP4 1.1.1.1 1.1.1.1 65536 1",
            "TCP4 1.1.1.1 1.1.1.1 1 65536",
            "TCP4 1.1.1.1 1.1.1.1 -1 1",
            "TCP4 1.1.1.1 1.1.1.1 +1 1",
            "TCP4 1.1.1.1 1.1.1.1 01 1",
            "TCP4 1.1.1.1 1.1.1.1 00 1",
            "TCP4 1.1.1.1 1.1.1.1 1 ",
            "TCP4 1.1.1.1 1.1.1.1 1\t1",
        ] {
            let line = format!("PROXY {wrong}\r\n{:80}", "");
            assert_eq!(read(line.as_bytes()).0, None, "{wrong}");
        }
        assert_eq!(read(b"PROXY\tUNKNOWN\r\n").0, None);
    }

    #[test]
    fn a_line_of_107_octets_is_read_and_a_longer_one_is_not_read_to_its_end() {
        let line = |length: usize| format!("{:1$}\r\n", "PROXY UNKNOWN ", length - 2);
        assert_eq!(read(line(107).as_bytes()), (Some(Speaker::Unknown), 0));
        assert_eq!(read(line(108).as_bytes()), (None, 1));
        assert_eq!(read(line(4000).as_bytes()), (None, 4000 - 107));
        let whole = b"PROXY UNKNOWN\r\n";
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]).0, None, "{cut}");
        }
    }

    proptest! {
        #[test]
        fn both_versions_name_any_peer_and_leave_what_follows(
            source: (IpAddr, u16), destination: (IpAddr, u16), more in prop::collection::vec(any::<u8>(), 0..64)
        ) {
            let (source, destination) = (SocketAddr::from(source), SocketAddr::from(destination));
            let octets = match (source.ip(), destination.ip()) {
                (IpAddr::V4(a), IpAddr::V4(b)) => ("TCP4", TCP_V4, [a.octets(), b.octets()].concat()),
                (IpAddr::V6(a), IpAddr::V6(b)) => ("TCP6", TCP_V6, [a.octets(), b.octets()].concat()),
                _ => return Ok(()),
            };
            let (word, family, mut addresses) = octets;
            let (from, to) = (source.port(), destination.port());
            addresses.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
            let line = format!("PROXY {word} {} {} {from} {to}\r\n", source.ip(), destination.ip());
            for header in [line.into_bytes(), header(PROXY, family, &addresses)] {
                let bytes = [&header[..], &more].concat();
                prop_assert_eq!(read(&bytes), (Some(Speaker::Peer(source)), more.len()));
            }
        }

        #[test]
        fn no_octets_are_read_beyond_what_a_header_may_be(
            version_1: bool, bytes in prop::collection::vec(any::<u8>(), 0..5000)
        ) {
            let bytes = if version_1 { [WORD, &bytes].concat() } else { [&SIGNATURE[..], &bytes].concat() };
            let (_, left) = read(&bytes);
            let most = if version_1 { LINE_BYTES_MAX } else { HEADER_BYTES + REST_BYTES_MAX };
            prop_assert!(bytes.len() - left <= most);
        }

        #[test]
        fn a_line_of_any_words_names_nobody_but_whom_it_says(line in "PROXY (TCP4|TCP6|UNKNOWN)?[ 0-9a-f:.]{0,90}\r\n") {
            if let Some(Speaker::Peer(peer)) = read(line.as_bytes()).0 {
                let words: Vec<_> = line.trim_end().split(' ').collect();
                prop_assert_eq!(words.len(), 6);
                prop_assert_eq!(words[2].parse::<IpAddr>().ok(), Some(peer.ip()));
                prop_assert_eq!(words[4], peer.port().to_string());
            }
        }
    }
}
