//! What TLS is set up with, for all listeners: the server's certificates and keys, and who signs those of clients. SIGHUP reads the files
//! anew, all of them or none; connections that come from then on use what they hold.

mod by_name;

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{self, CertificateFiles, ClientCertificates, LoginFrom};
use by_name::ByName;

/// The key of the certificates beside the first.
const FURTHER: &str = "certificates";

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
#[derive(Debug)]
pub struct Certificates {
    settings: config::Tls,
    current: ArcSwap<Loaded>,
}

/// What the files held when they were read.
#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    own: Arc<ByName>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Certificates {
    /// Reads the files that `settings` names.
    ///
    /// # Errors
    /// The key whose file cannot be used.
    pub fn read(settings: &config::Tls) -> Result<Self, TlsError> {
        Ok(Self {
            settings: settings.clone(),
            current: ArcSwap::from_pointee(Loaded::read(settings)?),
        })
    }

    /// Reads the files again; new connections use what they hold now, and if they cannot be used, what was there.
    ///
    /// # Errors
    /// The key whose file cannot be used.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(Loaded::read(&self.settings)?));
        Ok(())
    }

    /// For a connection that comes now.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// For a listener that asks but once: it looks what is current at each connection.
    ///
    /// # Errors
    /// The library has no safe versions.
    pub fn following(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let follower = || Arc::new(Follower(Arc::clone(self)));
        let builder = builder()?.with_client_cert_verifier(follower());
        Ok(builder.with_cert_resolver(follower()))
    }

    /// What in a client's certificate is its user's name.
    pub fn login_from(&self) -> LoginFrom {
        self.settings.login_from
    }
}

impl Loaded {
    fn read(settings: &config::Tls) -> Result<Self, TlsError> {
        let verifier = verifier(settings)?;
        let own = pair(
            ["certificate_file", "key_file"],
            &settings.certificate_file,
            &settings.key_file,
        )?;
        let mut own = ByName::new(own);
        for CertificateFiles {
            certificate_file,
            key_file,
        } in &settings.certificates
        {
            let further = pair([FURTHER; 2], certificate_file, key_file)?;
            own.add(further)
                .map_err(|problem| TlsError::new(FURTHER, describe(certificate_file, problem)))?;
        }
        let own = Arc::new(own);
        let config = builder()?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_cert_resolver(Arc::<ByName>::clone(&own));
        Ok(Self {
            config: Arc::new(config),
            own,
            verifier,
        })
    }
}

/// A certificate with its key, which are at these keys of the configuration.
fn pair(keys: [&'static str; 2], chain: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let [of_chain, of_key] = keys;
    let chain = certificates(of_chain, chain)?;
    let wrong = |error: &dyn std::fmt::Display| TlsError::new(of_key, describe(key, error));
    let der = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(&error))?;
    CertifiedKey::from_der(chain, der, &default_provider()).map_err(|error| wrong(&error))
}

fn builder() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, TlsError> {
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::new("certificate_file", error))
}

/// Who looks at clients' certificates.
fn verifier(settings: &config::Tls) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let wrong = |error: &dyn std::fmt::Display| TlsError::new("client_ca_file", error);
    if settings.client_certificates == ClientCertificates::None {
        return Ok(Arc::new(NoClientAuth));
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates("client_ca_file", &settings.client_ca_file)? {
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
    let verifier = match settings.client_certificates {
        ClientCertificates::Required => verifier,
        _ => verifier.allow_unauthenticated(),
    };
    let verifier = verifier.build();
    verifier.map_err(|error| wrong(&error))
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
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
pub fn certificate_expiry_s(settings: &config::Tls) -> Result<u64, TlsError> {
    let further = settings.certificates.iter();
    let further = further.map(|it| (FURTHER, &it.certificate_file));
    let mut first = u64::MAX;
    for (key, file) in further.chain([("certificate_file", &settings.certificate_file)]) {
        for certificate in certificates(key, file)? {
            let parsed = X509Certificate::from_der(&certificate);
            let (_, parsed) = parsed.map_err(|error| TlsError::new(key, describe(file, error)))?;
            let end = parsed.validity().not_after.timestamp();
            first = first.min(u64::try_from(end).unwrap_or(0));
        }
    }
    Ok(first)
}

fn describe(file: &Path, problem: impl std::fmt::Display) -> String {
    format!("{}: {problem}", file.display())
}

/// Asks what is current each time.
#[derive(Debug)]
struct Follower(Arc<Certificates>);

impl Follower {
    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.0.current.load().verifier)
    }
}

impl ResolvesServerCert for Follower {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.current.load().own.resolve(hello)
    }
}

impl ClientCertVerifier for Follower {
    fn offer_client_auth(&self) -> bool {
        self.verifier().offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier().client_auth_mandatory()
    }

    /// A hint for clients with several certificates; without it they choose themselves.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verifier = self.verifier();
        verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier().supported_verify_schemes()
    }
}
