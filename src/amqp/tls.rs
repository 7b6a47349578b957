//! TLS by rustls: the stream of one connection.

use std::io::{BufRead, Error, ErrorKind, IoSlice, Read, Result, Write};

use bytes::BufMut;
use rustls::ServerConnection;
use tokio::net::TcpStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::buffers::ReadBuffer;
use crate::config::LoginFrom;
use crate::runtime::Certificates;

/// Read from the socket at a time.
const WIRE_BYTES: usize = 64 * 1024;
/// Encrypted and not yet taken by the system, at the most.
const UNSENT_BYTES_MAX: usize = 256 * 1024;

/// The socket of one connection with TLS around it.
pub(super) struct Tls {
    socket: TcpStream,
    session: ServerConnection,
    /// From the socket, and not yet deciphered.
    wire: ReadBuffer,
    /// Bytes deciphered and not yet read.
    received: usize,
    /// Nothing more comes from the peer.
    over: bool,
    login_from: LoginFrom,
}

/// The socket as rustls wants it.
struct Raw<'a>(&'a TcpStream);

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Tls {
    /// The server's side of TLS on `socket`.
    pub fn new(socket: TcpStream, certificates: &Certificates) -> Result<Self> {
        let mut session = ServerConnection::new(certificates.current()).map_err(Error::other)?;
        session.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        Ok(Self {
            socket,
            session,
            wire: ReadBuffer::default(),
            received: 0,
            over: false,
            login_from: certificates.login_from(),
        })
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Changes the socket.
    pub fn map_socket(self, change: impl FnOnce(TcpStream) -> Result<TcpStream>) -> Result<Self> {
        let socket = change(self.socket)?;
        Ok(Self { socket, ..self })
    }

    /// Whether something can be read without the socket.
    pub fn has_received(&self) -> bool {
        self.received > 0 || !self.wire.filled().is_empty() || self.over
    }

    /// Whether something enciphered is still here.
    pub fn has_unsent(&self) -> bool {
        self.session.wants_write()
    }

    /// Reads until `room` is full or the socket has no more; 0 is the end.
    pub fn try_read(&mut self, room: &mut [u8]) -> Result<usize> {
        self.try_read_buf(&mut &mut *room)
    }

    /// The same into the room of `buffer`.
    pub fn try_read_buf(&mut self, buffer: &mut impl BufMut) -> Result<usize> {
        let mut count = 0;
        while buffer.has_remaining_mut() {
            if self.received == 0 {
                match self.decipher() {
                    Ok(()) if self.received == 0 => break,
                    Ok(()) => {}
                    // What was read first counts first; the error comes again.
                    Err(_) if count > 0 => break,
                    Err(error) => return Err(error),
                }
            }
            let mut reader = self.session.reader();
            let chunk = reader.fill_buf()?;
            let taken = chunk.len().min(buffer.remaining_mut());
            buffer.put_slice(&chunk[..taken]);
            reader.consume(taken);
            self.received -= taken;
            count += taken;
        }
        Ok(count)
    }

    /// Deciphers until something is there to be read or the stream is over.
    fn decipher(&mut self) -> Result<()> {
        while self.received == 0 && !self.over {
            if self.wire.filled().is_empty() {
                let room = self.wire.room(WIRE_BYTES);
                let count = self.socket.try_read(room)?;
                self.wire.grow(count);
                self.over = count == 0;
            }
            let mut wire = self.wire.filled();
            let before = wire.len();
            self.session.read_tls(&mut wire as &mut dyn Read)?;
            let taken = before - wire.len();
            self.wire.consume(taken);
            match self.session.process_new_packets() {
                Ok(state) => {
                    self.received = state.plaintext_bytes_to_read();
                    self.over |= state.peer_has_closed();
                }
                Err(error) => {
                    // The alert that says why.
                    let _ = self.flush();
                    self.over = true;
                    return Err(Error::new(ErrorKind::InvalidData, error));
                }
            }
            match self.flush() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Enciphers some of `slices` and writes it.
    pub fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> Result<usize> {
        self.flush()?;
        let count = self.session.writer().write_vectored(slices)?;
        match self.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    /// Writes what is enciphered.
    pub fn flush(&mut self) -> Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut Raw(&self.socket))?;
        }
        Ok(())
    }

    /// Says that nothing more comes (RFC 8446 §6.1).
    pub fn say_goodbye(&mut self) -> Result<()> {
        self.session.send_close_notify();
        self.flush()
    }

    /// Gives up the buffer, if it holds next to nothing.
    pub fn rest(&mut self) {
        self.wire.rest();
    }

    /// The version of TLS and the cipher.
    pub fn protection(&self) -> Option<[String; 2]> {
        let version = self.session.protocol_version()?;
        let suite = self.session.negotiated_cipher_suite()?;
        Some([
            version.as_str()?.to_owned(),
            suite.suite().as_str()?.to_owned(),
        ])
    }

    /// The name in the peer's certificate, which the configuration's authority has signed.
    pub fn certified_name(&self) -> Option<String> {
        let certificate = self.session.peer_certificates()?.first()?;
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        match self.login_from {
            LoginFrom::CommonName => {
                let name = subject.iter_common_name().next()?;
                name.as_str().ok().map(str::to_owned)
            }
            LoginFrom::DistinguishedName => Some(subject.to_string()),
        }
    }
}
