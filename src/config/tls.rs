//! `[tls]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[tls]`: certificates. The files are read at start and again at SIGHUP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The server's certificate, for who asks for no name or one that no certificate has, and those between it and its authority, PEM.
    pub certificate_file: PathBuf,
    /// The key of the server's certificate, PEM.
    pub key_file: PathBuf,
    /// Further certificates: which one a client is shown, the name that it asks for says (SNI).
    pub certificates: Vec<CertificateFiles>,
    /// The authorities that sign clients' certificates, PEM.
    pub client_ca_file: PathBuf,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
    /// What in a client's certificate is its user's name (mechanism `EXTERNAL`).
    pub login_from: LoginFrom,
}

/// A certificate for the hosts that it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate and those between it and its authority, PEM.
    pub certificate_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    None,
    /// Those who do may log in with them.
    Optional,
    /// Those who do not are refused.
    Required,
}

/// What in a client's certificate is its user's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginFrom {
    /// The subject's common name.
    #[default]
    CommonName,
    /// The whole subject.
    DistinguishedName,
}

impl Tls {
    /// Checks what a listener with TLS needs.
    pub(super) fn validate(&self) -> Result<(), (&'static str, String)> {
        let asked = self.client_certificates != ClientCertificates::None;
        for (key, file, needed) in [
            ("tls.certificate_file", &self.certificate_file, true),
            ("tls.key_file", &self.key_file, true),
            ("tls.client_ca_file", &self.client_ca_file, asked),
        ] {
            if needed && file.as_os_str().is_empty() {
                let why = "must name a file: amqp.tls_bind, http.tls_bind or tls.client_certificates needs it";
                return Err((key, why.into()));
            }
        }
        Ok(())
    }
}
