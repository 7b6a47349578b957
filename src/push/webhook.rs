//! A webhook's address.

use hyper::Uri;
use hyper::http::uri::Scheme;

/// Where to call, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub(super) uri: Uri,
    /// A name or an address, without the brackets of IPv6, in small letters.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_secure: bool,
}

impl Webhook {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong with it, to be read after the field's name.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Err("must begin with http:// or https://");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("must hold visible ASCII characters only");
        }
        let uri: Uri = text.parse().map_err(|_| "must be a URL")?;
        let is_secure = uri.scheme() == Some(&Scheme::HTTPS);
        let authority = uri.authority().ok_or("must name a host")?.as_str();
        if authority.contains('@') {
            return Err("must hold no user or password: the signature says who calls");
        }
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("must name a host");
        }
        let port = match authority.rsplit_once(':') {
            // What is no number was no port but the end of an address.
            Some((_, port)) if !port.ends_with(']') => Some(port),
            _ => None,
        };
        let port = match (port, is_secure) {
            (None, true) => 443,
            (None, false) => 80,
            (Some(port), _) => port.parse().map_err(|_| "must have a port up to 65535")?,
        };
        if port == 0 {
            return Err("must not have the port 0");
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
            is_secure,
            uri,
        })
    }

    /// Host and port, which is what may be shown: paths and queries hold secrets.
    pub fn place(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_their_ports() {
        for (text, place, is_secure) in [
            ("http://Host/x?y=1", "host:80", false),
            ("https://host", "host:443", true),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080", false),
            ("https://[::1]:9/x", "[::1]:9", true),
            ("https://[::1]/x", "[::1]:443", true),
        ] {
            let webhook = Webhook::parse(text).unwrap();
            assert_eq!(webhook.place(), place);
            assert_eq!(webhook.is_secure, is_secure, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_called_is_refused() {
        for text in [
            "",
            "ftp://host/",
            "file:///etc/passwd",
            "http://",
            "http:///x",
            "http://user:password@host/",
            "http://host:0/",
            "http://host:99999/",
            "http://host:/",
            "http://a b/",
            "http://host/\r\nX-Y: z",
            "http://hä/",
        ] {
            assert!(Webhook::parse(text).is_err(), "{text}");
        }
    }
}
