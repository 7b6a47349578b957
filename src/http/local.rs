//! Whether a request comes from somebody on this machine: what `guest` needs.
//!
//! The peer's address alone does not prove it. A proxy on this machine speaks for others, and so does a
//! browser, whose pages come from anywhere and may send simple requests to any address.

use actix_web::HttpRequest;
use actix_web::http::Uri;
use actix_web::http::header::{self, HeaderName, HeaderValue};

use crate::auth::is_loopback;

/// What proxies add.
const PROXY_HEADERS: [HeaderName; 3] = [
    header::FORWARDED,
    header::VIA,
    HeaderName::from_static("x-real-ip"),
];
const PROXY_PREFIX: &str = "x-forwarded-";

/// Whether the peer is this machine, speaks for itself, calls us by a name of this machine, and is no page
/// from elsewhere.
pub(super) fn is_local(request: &HttpRequest) -> bool {
    let headers = request.headers();
    let forwarded = headers
        .keys()
        .any(|name| PROXY_HEADERS.contains(name) || name.as_str().starts_with(PROXY_PREFIX));
    let named_local = |name: HeaderName| headers.get_all(name).all(names_this_machine);
    !forwarded
        && named_local(header::ORIGIN)
        && named_local(header::HOST)
        && request
            .peer_addr()
            .is_some_and(|peer| is_loopback(peer.ip()))
}

/// Whether an origin or a host is this machine by name. (A page whose name was made to point here is not.)
fn names_this_machine(value: &HeaderValue) -> bool {
    let uri = value.to_str().ok().and_then(|text| text.parse().ok());
    uri.as_ref().and_then(Uri::host).is_some_and(|host| {
        let host = host.trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
    })
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn local(peer: &str, headers: &[(&'static str, &'static str)]) -> bool {
        let request = TestRequest::default().peer_addr(peer.parse().unwrap());
        let with = |request: TestRequest, header: &_| request.append_header(*header);
        is_local(&headers.iter().fold(request, with).to_http_request())
    }

    #[test]
    fn somebody_on_this_machine_is_local() {
        for host in [
            "127.0.0.1:3000",
            "localhost",
            "LocalHost:5000",
            "[::1]:3000",
            "127.0.0.2",
        ] {
            assert!(local("127.0.0.1:9", &[("host", host)]), "{host}");
        }
        assert!(local("[::1]:9", &[]));
        assert!(local("[::ffff:127.0.0.1]:9", &[]));
        assert!(local("127.0.0.1:9", &[("origin", "http://127.0.0.1:3000")]));
        assert!(local("127.0.0.1:9", &[("origin", "http://localhost:8080")]));
    }

    #[test]
    fn others_proxies_and_pages_from_elsewhere_are_not() {
        assert!(!local("192.0.2.1:9", &[("host", "127.0.0.1")]));
        for header in [
            ("forwarded", "for=192.0.2.1"),
            ("via", "1.1 proxy"),
            ("x-real-ip", "192.0.2.1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "c2.example.org"),
            ("host", "c2.example.org:3000"),
            ("host", "localhost.example.org"),
            ("host", ""),
            ("origin", "https://c2.example.org"),
            ("origin", "null"),
        ] {
            assert!(!local("127.0.0.1:9", &[header]), "{header:?}");
        }
    }
}
