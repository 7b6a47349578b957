//! One part of a form with files (RFC 7578), as browsers send it.

/// The content of the part `name` of a body of this type; none: there is no such part, or it is no such form.
pub(super) fn part<'a>(content_type: &str, body: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameter(parameters, "boundary")?;
    let delimiter = format!("\r\n--{boundary}");
    // The first one may stand at the very beginning.
    let mut rest = match body.strip_prefix(&delimiter.as_bytes()[2..]) {
        Some(rest) => rest,
        None => split(body, delimiter.as_bytes())?.1,
    };
    loop {
        let (head, content) = split(rest, b"\r\n\r\n")?;
        let (content, next) = split(content, delimiter.as_bytes())?;
        if std::str::from_utf8(head).is_ok_and(|head| names(head, name)) {
            return Some(content);
        }
        rest = next;
    }
}

fn names(head: &str, name: &str) -> bool {
    let is = |line: &&str| {
        line.to_ascii_lowercase()
            .starts_with("content-disposition:")
    };
    let line = head.lines().find(is);
    line.is_some_and(|line| parameter(line, "name").as_deref() == Some(name))
}

/// A parameter of a header, without its quotes.
fn parameter(header: &str, name: &str) -> Option<String> {
    header.split(';').find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        let same = key.trim().eq_ignore_ascii_case(name);
        same.then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// What stands before and behind the first `delimiter`.
fn split<'a>(bytes: &'a [u8], delimiter: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes
        .windows(delimiter.len())
        .position(|it| it == delimiter)?;
    Some((&bytes[..at], &bytes[at + delimiter.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &[u8] = b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.json\"\r\n\
        Content-Type: application/json\r\n\r\n{\"a\":\r\n\r\n1}\r\n--x\r\ncontent-disposition: form-data; name=redirect\r\n\r\n/#/\r\n--x--\r\n";

    #[test]
    fn parts_are_found_by_name() {
        for content_type in [
            "multipart/form-data; boundary=x",
            "Multipart/Form-Data; charset=utf-8; boundary=\"x\"",
        ] {
            assert_eq!(
                part(content_type, FORM, "file"),
                Some(&b"{\"a\":\r\n\r\n1}"[..])
            );
            assert_eq!(part(content_type, FORM, "redirect"), Some(&b"/#/"[..]));
            assert_eq!(part(content_type, FORM, "filename"), None);
        }
        let preamble = [b"for old readers\r\n", FORM].concat();
        assert!(part("multipart/form-data; boundary=x", &preamble, "file").is_some());
    }

    #[test]
    fn what_is_no_such_form_has_no_parts() {
        for (content_type, body) in [
            ("application/json", FORM),
            ("multipart/form-data", FORM),
            ("multipart/form-data; boundary=y", FORM),
            ("multipart/form-data; boundary=x", &FORM[..60]),
            ("multipart/form-data; boundary=x", b""),
            ("multipart/form-data; boundary=", b"--"),
        ] {
            assert_eq!(part(content_type, body, "file"), None, "{content_type}");
        }
    }
}
