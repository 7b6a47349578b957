//! One call of a webhook: connect to an address that may be called, POST, look at the status.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::{Guard, Webhook};
use crate::config::Push;

/// What is read of an answer's body, so that its connection can be used again, bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long that may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// What is read of an answer's head, bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Where systems keep the certificates that they trust.
const SYSTEM_CA_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const AGENT: &str = concat!("backbone/", env!("CARGO_PKG_VERSION"));

/// The certificates of `push.ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("push.ca_file: {}: {problem}", .file.display())]
pub struct CaFileError {
    file: PathBuf,
    problem: String,
}

/// Why a call failed. The texts say nothing of what is behind the host in the webhook's address.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No name server knows the host.
    #[error("the host {0} cannot be resolved")]
    Unknown(String),
    /// All its addresses are closed.
    #[error("the host {0} has no address that may be called (push.allowed)")]
    Forbidden(String),
    /// No connection.
    #[error("no connection to {0}: {1}")]
    Connect(String, std::io::Error),
    /// TLS was not agreed on.
    #[error("no TLS with {0}: {1}")]
    Tls(String, std::io::Error),
    /// The connection ended, or spoke something else than HTTP.
    #[error("the exchange with {0} failed: {1}")]
    Http(String, hyper::Error),
    /// Too long without an answer.
    #[error("no answer in {} ms", .0.as_millis())]
    Timeout(Duration),
    /// An answer that is no 2xx.
    #[error("the answer was {0}")]
    Status(StatusCode),
}

/// What is POSTed.
#[derive(Debug)]
pub struct Call<'a> {
    /// Names in small letters and values; in these, what is not visible ASCII is percent-encoded.
    pub headers: &'a [(&'static str, String)],
    /// JSON.
    pub body: Bytes,
}

/// Makes calls.
pub struct Courier {
    guard: Guard,
    tls: TlsConnector,
    timeout: Duration,
    calls_per_host: usize,
    hosts: DashMap<String, Arc<Semaphore>>,
}

/// The right to call one host, in turn with others.
pub struct Slot {
    courier: Arc<Courier>,
    host: String,
    calls: Arc<Semaphore>,
}

/// An open connection to a webhook.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Courier {
    /// A courier that goes where `settings` allow it to.
    ///
    /// # Errors
    /// [`CaFileError`].
    pub fn new(settings: &Push) -> Result<Self, CaFileError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the versions that it comes with")
            .with_root_certificates(roots(&settings.ca_file)?)
            .with_no_client_auth();
        Ok(Self {
            guard: Guard::new(&settings.allowed),
            tls: TlsConnector::from(Arc::new(config)),
            timeout: Duration::from_millis(settings.timeout_ms),
            calls_per_host: settings.calls_per_host as usize,
            hosts: DashMap::new(),
        })
    }

    /// A slot among those who call the same host.
    pub fn slot(self: &Arc<Self>, webhook: &Webhook) -> Slot {
        let entry = self.hosts.entry(webhook.host.clone());
        let calls = entry.or_insert_with(|| Arc::new(Semaphore::new(self.calls_per_host)));
        Slot {
            courier: Arc::clone(self),
            host: webhook.host.clone(),
            calls: Arc::clone(&calls),
        }
    }

    /// POSTs, on the `kept` connection if there is one, and keeps it if it can be used again.
    ///
    /// # Errors
    /// It was not answered with 2xx, or not in time. It may have arrived all the same.
    pub async fn call(
        &self,
        webhook: &Webhook,
        call: &Call<'_>,
        kept: &mut Option<Connection>,
    ) -> Result<(), Failure> {
        // Taken out: a connection on which a call is given up is of no use.
        let kept_before = kept.take();
        let answer = async {
            let mut ready = match still_open(kept_before).await {
                Some(connection) => connection,
                None => self.connect(webhook).await?,
            };
            let sent = ready.sender.send_request(request(webhook, call)).await;
            let answer = sent.map_err(|error| Failure::Http(webhook.place(), error))?;
            Ok((answer, ready))
        };
        let answered = tokio::time::timeout(self.timeout, answer).await;
        let (answer, connection) = answered.map_err(|_| Failure::Timeout(self.timeout))??;
        let status = answer.status();
        if !status.is_success() {
            return Err(Failure::Status(status));
        }
        let rest = tokio::time::timeout(ANSWER_TIMEOUT, read_short(answer.into_body()));
        if rest.await == Ok(true) {
            *kept = Some(connection);
        }
        Ok(())
    }

    async fn connect(&self, webhook: &Webhook) -> Result<Connection, Failure> {
        let stream = self.open(webhook).await?;
        stream
            .set_nodelay(true)
            .map_err(|error| Failure::Connect(webhook.place(), error))?;
        let stream: Pin<Box<dyn Stream>> = match webhook.is_secure {
            false => Box::pin(stream),
            true => {
                let failed = |error| Failure::Tls(webhook.place(), error);
                let name = ServerName::try_from(webhook.host.clone());
                let name = name.map_err(|error| failed(std::io::Error::other(error)))?;
                Box::pin(self.tls.connect(name, stream).await.map_err(failed)?)
            }
        };
        let handshake = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream));
        let opened = handshake.await;
        let (sender, work) = opened.map_err(|error| Failure::Http(webhook.place(), error))?;
        // What goes wrong with it, its sender hears.
        let task = tokio::spawn(async move { drop(work.await) });
        Ok(Connection { sender, task })
    }

    /// Resolves the host once, and connects to one of the addresses that may be called.
    async fn open(&self, webhook: &Webhook) -> Result<TcpStream, Failure> {
        let host = webhook.host.as_str();
        let found = tokio::net::lookup_host((host, webhook.port)).await;
        let found = found.map_err(|_| Failure::Unknown(host.to_owned()))?;
        let permitted = found.filter(|it: &SocketAddr| self.guard.permits(host, it.ip()));
        let mut failure = Failure::Forbidden(host.to_owned());
        for address in permitted.take(ADDRESSES_MAX) {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Failure::Connect(webhook.place(), error),
            }
        }
        Err(failure)
    }
}

impl Slot {
    /// Waits until a call may be made; those who wait are served in their order.
    pub async fn turn(&self) -> SemaphorePermit<'_> {
        let turn = self.calls.acquire().await;
        turn.expect("nobody closes it")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Two: the map's and ours.
        let is_last = |_: &String, calls: &Arc<Semaphore>| Arc::strong_count(calls) <= 2;
        self.courier.hosts.remove_if(&self.host, is_last);
    }
}

/// The connection, unless its peer has closed it.
async fn still_open(kept: Option<Connection>) -> Option<Connection> {
    let mut connection = kept?;
    let is_ready = connection.sender.ready().await.is_ok();
    is_ready.then_some(connection)
}

fn request(webhook: &Webhook, call: &Call<'_>) -> Request<Full<Bytes>> {
    let mut target = String::from(webhook.uri.path());
    if let Some(query) = webhook.uri.query() {
        target.push('?');
        target.push_str(query);
    }
    let mut request = Request::post(target)
        .body(Full::new(call.body.clone()))
        .expect("path and query are those of a URL that was parsed");
    let authority = webhook.uri.authority().map_or("", |it| it.as_str());
    let headers = request.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).expect("visible ASCII only");
    headers.insert(HOST, value(authority));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, text) in call.headers {
        headers.insert(HeaderName::from_static(name), value(&visible(text)));
    }
    request
}

/// The text with everything percent-encoded that is not visible ASCII, and `%`: nobody puts a header of theirs in.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_graphic() && byte != b'%' {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Reads a body, to its end if it is short: true.
async fn read_short(mut body: Incoming) -> bool {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > ANSWER_BYTES_MAX {
            return false;
        }
    }
    true
}

/// Whose signatures count.
fn roots(ca_file: &Path) -> Result<RootCertStore, CaFileError> {
    let mut roots = RootCertStore::empty();
    if !ca_file.as_os_str().is_empty() {
        let fail = |problem: String| CaFileError {
            file: ca_file.to_owned(),
            problem,
        };
        let read = CertificateDer::pem_file_iter(ca_file).and_then(Iterator::collect);
        let read: Vec<_> = read.map_err(|error| fail(error.to_string()))?;
        if read.is_empty() {
            return Err(fail("holds no certificate".into()));
        }
        for certificate in read {
            let added = roots.add(certificate);
            added.map_err(|error| fail(error.to_string()))?;
        }
        return Ok(roots);
    }
    let mut bundles = SYSTEM_CA_FILES.iter();
    let found = bundles.find_map(|file| CertificateDer::pem_file_iter(file).ok());
    match found {
        // What of the system's cannot be read is left out.
        Some(all) => drop(roots.add_parsable_certificates(all.flatten())),
        None => tracing::warn!("the system has no certificates: webhooks with https will fail"),
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(url: &str) -> Request<Full<Bytes>> {
        let headers = [("x-backbone-id", "\r\nx: y".to_owned())];
        let call = Call {
            headers: &headers,
            body: Bytes::new(),
        };
        request(&Webhook::parse(url).unwrap(), &call)
    }

    #[test]
    fn requests_have_the_path_and_query_of_the_address() {
        for (url, target) in [
            ("http://host", "/"),
            ("http://host:81/a/b?c=d&e", "/a/b?c=d&e"),
            ("https://host?c=d", "/?c=d"),
            ("https://host/a#part", "/a"),
        ] {
            let request = asked(url);
            assert_eq!(request.uri(), target, "{url}");
            assert_eq!(request.headers()["x-backbone-id"], "%0D%0Ax:%20y");
        }
        assert_eq!(asked("http://host:81/a").headers()[HOST], "host:81");
    }

    proptest! {
        #[test]
        fn whatever_is_an_address_can_be_asked(rest in "[!-~]{1,40}") {
            let url = format!("http://{rest}");
            if Webhook::parse(&url).is_ok() {
                prop_assert!(asked(&url).uri().path().starts_with('/'));
            }
        }

        #[test]
        fn whatever_is_behind_a_host_can_be_asked(rest in "[?/#][!-~]{0,40}") {
            let url = format!("https://host{rest}");
            if Webhook::parse(&url).is_ok() {
                prop_assert!(asked(&url).uri().path().starts_with('/'));
            }
        }
    }

    #[test]
    fn header_values_are_visible_ascii() {
        assert_eq!(visible("soar.noc-1"), "soar.noc-1");
        assert_eq!(visible("a b\r\nX: ä%"), "a%20b%0D%0AX:%20%C3%A4%25");
    }

    #[test]
    fn slots_of_one_host_are_shared_and_go_with_the_last() {
        let courier = Arc::new(Courier::new(&Push::default()).unwrap());
        let of = |text: &str| courier.slot(&Webhook::parse(text).unwrap());
        let (a, b) = (of("http://host/a"), of("https://HOST:9/b"));
        assert!(Arc::ptr_eq(&a.calls, &b.calls));
        assert_eq!(a.calls.available_permits(), 8);
        drop(a);
        assert_eq!(courier.hosts.len(), 1);
        drop(b);
        assert!(courier.hosts.is_empty());
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings = Push {
            ca_file: file.path().to_owned(),
            ..Push::default()
        };
        let refused = Courier::new(&settings).err().unwrap();
        assert!(refused.to_string().contains("holds no certificate"));
    }

    #[actix_web::test]
    async fn closed_addresses_are_not_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let courier = Courier::new(&Push::default()).unwrap();
        let call = Call {
            headers: &[],
            body: Bytes::new(),
        };
        for host in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "2130706433",
        ] {
            let webhook = Webhook::parse(&format!("http://{host}:{port}/")).unwrap();
            let refused = courier.call(&webhook, &call, &mut None).await.unwrap_err();
            let refused = matches!(refused, Failure::Forbidden(_) | Failure::Unknown(_));
            assert!(refused, "{host}");
        }
        let nobody = listener.accept().unwrap_err();
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    }
}
