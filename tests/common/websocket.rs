//! A websocket client that does what a test tells it, and no more.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// Any mask is as good as another.
const MASK: [u8; 4] = [1, 2, 3, 4];

/// An open websocket.
pub struct WebSocket {
    stream: TcpStream,
    /// Whether pings are answered.
    pub answers_pings: bool,
}

/// What comes from the server.
#[derive(Debug, PartialEq)]
pub enum Frame {
    Json(Value),
    /// With the code.
    Close(u16),
    /// The connection has ended without a close.
    End,
}

impl WebSocket {
    /// Opens one on `path`, with further header lines.
    pub fn open(address: SocketAddr, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let (mut head, mut octet) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut octet).unwrap();
            head.push(octet[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self {
            stream,
            answers_pings: true,
        }
    }

    /// Sends a text.
    pub fn text(&mut self, text: &str) {
        self.send(TEXT, text.as_bytes());
    }

    /// Sends a close.
    pub fn close(&mut self) {
        self.send(CLOSE, &1000_u16.to_be_bytes());
    }

    fn send(&mut self, kind: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | kind];
        match payload.len() {
            len @ 0..=125 => frame.push(0x80 | len as u8),
            len @ 126..=65_535 => {
                frame.push(0x80 | 126);
                frame.extend((len as u16).to_be_bytes());
            }
            len => {
                frame.push(0x80 | 127);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        frame.extend(MASK);
        let masked = payload.iter().zip(MASK.iter().cycle());
        frame.extend(masked.map(|(octet, mask)| octet ^ mask));
        // The server may have closed it already; then the test sees that when it reads.
        let _ = self.stream.write_all(&frame);
    }

    /// The next frame that is neither ping nor pong.
    pub fn next(&mut self) -> Frame {
        loop {
            let mut head = [0; 2];
            if self.stream.read_exact(&mut head).is_err() {
                return Frame::End;
            }
            let len = match head[1] {
                126 => self.number(2),
                127 => self.number(8),
                len => len.into(),
            };
            let mut payload = vec![0; len as usize];
            self.stream.read_exact(&mut payload).unwrap();
            match head[0] & 0x0f {
                TEXT => return Frame::Json(serde_json::from_slice(&payload).unwrap()),
                CLOSE => return Frame::Close(u16::from_be_bytes([payload[0], payload[1]])),
                PING if self.answers_pings => self.send(PONG, &payload),
                PING | PONG => {}
                other => panic!("a frame of kind {other}"),
            }
        }
    }

    /// The next frame, which is JSON.
    pub fn json(&mut self) -> Value {
        match self.next() {
            Frame::Json(value) => value,
            other => panic!("{other:?}"),
        }
    }

    fn number(&mut self, len: usize) -> u64 {
        let mut octets = [0; 8];
        self.stream.read_exact(&mut octets[8 - len..]).unwrap();
        u64::from_be_bytes(octets)
    }
}
