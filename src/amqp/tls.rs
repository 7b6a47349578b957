//! TLS by rustls: the stream of one connection, and what all are set up with, which SIGHUP reads anew.

use std::io::{BufRead, Error, ErrorKind, IoSlice, Read, Result, Write};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::BufMut;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::buffers::ReadBuffer;
use crate::config::{self, ClientCertificates, LoginFrom};

/// Read from the socket at a time.
const WIRE_BYTES: usize = 64 * 1024;
/// Encrypted and not yet taken by the system, at the most.
const UNSENT_BYTES_MAX: usize = 256 * 1024;

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("tls.{key}: {problem}")]
pub struct TlsError {
    key: &'static str,
    problem: String,
}

impl TlsError {
    fn new(key: &'static str, problem: impl std::fmt::Display) -> Self {
        let problem = problem.to_string();
        Self { key, problem }
    }
}

/// What new connections are set up with.
pub(super) struct Certificates {
    settings: config::Tls,
    current: ArcSwap<ServerConfig>,
}

impl Certificates {
    /// Reads the files that `settings` names.
    ///
    /// # Errors
    /// The key whose file cannot be used.
    pub fn read(settings: &config::Tls) -> std::result::Result<Self, TlsError> {
        Ok(Self {
            settings: settings.clone(),
            current: ArcSwap::from_pointee(server_config(settings)?),
        })
    }

    /// Reads the files again; new connections use what they hold now, and if they cannot be used, what was there.
    ///
    /// # Errors
    /// The key whose file cannot be used.
    pub fn reload(&self) -> std::result::Result<(), TlsError> {
        self.current.store(Arc::new(server_config(&self.settings)?));
        Ok(())
    }

    /// The server's side of TLS on `socket`.
    pub fn wrap(&self, socket: TcpStream) -> Result<Tls> {
        let mut session = ServerConnection::new(self.current.load_full()).map_err(Error::other)?;
        session.set_buffer_limit(Some(UNSENT_BYTES_MAX));
        Ok(Tls {
            socket,
            session,
            wire: ReadBuffer::default(),
            received: 0,
            over: false,
            login_from: self.settings.login_from,
        })
    }
}

fn server_config(settings: &config::Tls) -> std::result::Result<ServerConfig, TlsError> {
    let chain = certificates("certificate_file", &settings.certificate_file)?;
    let key = PrivateKeyDer::from_pem_file(&settings.key_file)
        .map_err(|error| TlsError::new("key_file", describe(&settings.key_file, error)))?;
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::new("certificate_file", error))?;
    let builder = match settings.client_certificates {
        ClientCertificates::None => builder.with_no_client_auth(),
        asked => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client_ca_file", &settings.client_ca_file)? {
                roots
                    .add(certificate)
                    .map_err(|error| TlsError::new("client_ca_file", error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = match asked {
                ClientCertificates::Required => verifier,
                _ => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| TlsError::new("client_ca_file", error))?,
            )
        }
    };
    builder
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::new("key_file", error))
}

fn certificates(
    key: &'static str,
    file: &Path,
) -> std::result::Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(|all| all.collect());
    let all: Vec<_> = read.map_err(|error| TlsError::new(key, describe(file, error)))?;
    match all.is_empty() {
        true => Err(TlsError::new(key, describe(file, "holds no certificate"))),
        false => Ok(all),
    }
}

/// When the first of the server's certificates, as they are in the file, is not good any more: seconds since 1970.
///
/// # Errors
/// They cannot be read.
pub fn certificate_expiry_s(settings: &config::Tls) -> std::result::Result<u64, TlsError> {
    const KEY: &str = "certificate_file";
    let mut first = u64::MAX;
    for certificate in certificates(KEY, &settings.certificate_file)? {
        let parsed = X509Certificate::from_der(&certificate);
        let (_, parsed) = parsed
            .map_err(|error| TlsError::new(KEY, describe(&settings.certificate_file, error)))?;
        let end = parsed.validity().not_after.timestamp();
        first = first.min(u64::try_from(end).unwrap_or(0));
    }
    Ok(first)
}

fn describe(file: &Path, problem: impl std::fmt::Display) -> String {
    format!("{}: {problem}", file.display())
}

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
