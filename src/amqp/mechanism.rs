//! What peers prove with who they are: names and passwords out of what the mechanisms of `connection.start-ok` carry.

use backbone_wire::table::{Table, Value};

/// What `RABBIT-CR-DEMO` asks for.
pub(super) const CHALLENGE: &[u8] = b"Please tell me your password";
/// What comes before the password in its answer.
const ANSWER: &[u8] = b"My password is ";

/// A user's name and a password.
pub(super) type Credentials = (String, Vec<u8>);

/// `PLAIN`: `\0user\0password`, with an empty identity to act for (RFC 4616).
pub(super) fn plain(response: &[u8]) -> Option<Credentials> {
    let mut parts = response.splitn(3, |b| *b == 0);
    let (authzid, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if !authzid.is_empty() {
        return None;
    }
    Some((String::from_utf8(user.to_vec()).ok()?, password.to_vec()))
}

/// `AMQPLAIN`: a field table without its length: `LOGIN` and `PASSWORD`.
pub(super) fn amqplain(response: &[u8]) -> Option<Credentials> {
    let table = Table::from_bytes(response).ok()?;
    let user = table.get("LOGIN")?.as_str()?.to_owned();
    match table.get("PASSWORD")? {
        Value::LongStr(password) => Some((user, password.to_vec())),
        _ => None,
    }
}

/// `RABBIT-CR-DEMO`: the name comes first, and the password with the answer to the challenge.
pub(super) fn answered(user: &[u8], answer: &[u8]) -> Option<Credentials> {
    let password = answer.strip_prefix(ANSWER)?;
    Some((String::from_utf8(user.to_vec()).ok()?, password.to_vec()))
}

#[cfg(test)]
mod tests {
    use backbone_wire::table::TableBuf;

    use super::*;

    fn pair(user: &str, password: &str) -> Option<Credentials> {
        Some((user.to_owned(), password.into()))
    }

    #[test]
    fn credentials_are_taken_from_all_mechanisms() {
        assert_eq!(plain(b"\0guest\0gu\0est"), pair("guest", "gu\0est"));
        assert_eq!(plain(b"\0\0"), pair("", ""));
        assert_eq!(plain(b"admin\0guest\0guest"), None);
        assert_eq!(plain(b"guest"), None);
        let mut table = TableBuf::new();
        table.put("LOGIN", &Value::LongStr(b"guest"));
        table.put("PASSWORD", &Value::LongStr(b"secret"));
        assert_eq!(
            amqplain(table.as_table().as_bytes()),
            pair("guest", "secret")
        );
        assert_eq!(amqplain(b"\x05LOGIN"), None);
        assert_eq!(
            answered(b"guest", b"My password is x y"),
            pair("guest", "x y")
        );
        assert_eq!(answered(b"guest", b"My password is "), pair("guest", ""));
        assert_eq!(answered(b"guest", b"my password is x"), None);
        assert_eq!(answered(b"\xff", b"My password is x"), None);
    }
}
