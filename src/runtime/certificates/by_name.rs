//! Which of the server's certificates a client is shown: that for the host that it asks for (SNI, RFC 6066 §3).
//!
//! The names are those in the certificates (`subjectAltName`). `*.example.org` stands for one label before `example.org`
//! (RFC 9525 §6.3); a name as a whole goes before it, and of several certificates for one name the first that was added.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Certificates by the hosts that they name.
#[derive(Debug)]
pub(super) struct ByName {
    /// For who asks for no host, or for one that no certificate names.
    otherwise: Arc<CertifiedKey>,
    /// Names in lower case, with the star where there is one.
    names: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    /// One for all.
    pub fn new(otherwise: CertifiedKey) -> Self {
        let otherwise = Arc::new(otherwise);
        let mut names = HashMap::new();
        // It need not have a name: who asks for none is shown it.
        for name in host_names(&otherwise).unwrap_or_default() {
            names.insert(name, Arc::clone(&otherwise));
        }
        Self { otherwise, names }
    }

    /// One more, for the hosts that it names.
    ///
    /// # Errors
    /// It names none.
    pub fn add(&mut self, certificate: CertifiedKey) -> Result<(), String> {
        let certificate = Arc::new(certificate);
        let names = host_names(&certificate)?;
        if names.is_empty() {
            return Err("names no host (no DNS name in its subjectAltName)".into());
        }
        for name in names {
            let shown = self
                .names
                .entry(name)
                .or_insert_with(|| Arc::clone(&certificate));
            // What is for all others gives way.
            if Arc::ptr_eq(shown, &self.otherwise) {
                *shown = Arc::clone(&certificate);
            }
        }
        Ok(())
    }

    /// The certificate for `host`.
    fn find(&self, host: Option<&str>) -> &Arc<CertifiedKey> {
        let found = host.and_then(|host| {
            let host = host.to_ascii_lowercase();
            self.names.get(&host).or_else(|| {
                let (_, domain) = host.split_once('.')?;
                self.names.get(&format!("*.{domain}"))
            })
        });
        found.unwrap_or(&self.otherwise)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.find(hello.server_name())))
    }
}

/// The hosts that a certificate names, in lower case.
fn host_names(certificate: &CertifiedKey) -> Result<Vec<String>, String> {
    let own = certificate.end_entity_cert();
    let own = own.map_err(|error| error.to_string())?;
    let (_, own) = X509Certificate::from_der(own).map_err(|error| error.to_string())?;
    let names = own.subject_alternative_name();
    let Some(names) = names.map_err(|error| error.to_string())? else {
        return Ok(Vec::new());
    };
    let hosts = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(host) => Some(host.to_ascii_lowercase()),
            _ => None,
        });
    Ok(hosts.collect())
}
