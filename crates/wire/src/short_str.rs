//! Short strings: at most 255 bytes behind a length octet.

use std::fmt;

use crate::error::{DecodeError, Malformed, TooLong};

/// At most 255 bytes, borrowed. Not necessarily UTF-8: RabbitMQ passes routing keys through byte for byte,
/// and only names have to be text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShortStr<'a>(&'a [u8]);

impl<'a> ShortStr<'a> {
    /// The string of no bytes.
    pub const EMPTY: Self = Self(b"");
    /// Most bytes that fit.
    pub const BYTES_MAX: usize = 255;

    /// Takes `bytes` as they are.
    ///
    /// # Errors
    /// More than 255 bytes.
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Result<Self, TooLong> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(TooLong {
                length: bytes.len(),
            });
        }
        Ok(Self(bytes))
    }

    /// A literal. In a `const` a literal that is too long fails to compile.
    ///
    /// # Panics
    /// More than 255 bytes.
    pub const fn lit(text: &'static str) -> ShortStr<'static> {
        assert!(
            text.len() <= Self::BYTES_MAX,
            "literal too long for a short string"
        );
        ShortStr(text.as_bytes())
    }

    /// The bytes.
    #[inline]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The text.
    ///
    /// # Errors
    /// [`Malformed::Utf8`] if the bytes are no text.
    #[inline]
    pub fn as_str(&self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.0).map_err(|_| Malformed::Utf8.into())
    }

    /// True if there are no bytes.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of bytes, 0 to 255.
    #[inline]
    pub const fn len(&self) -> usize {
        self.0.len()
    }
}

impl<'a> TryFrom<&'a str> for ShortStr<'a> {
    type Error = TooLong;

    fn try_from(text: &'a str) -> Result<Self, TooLong> {
        Self::new(text.as_bytes())
    }
}

impl PartialEq<str> for ShortStr<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for ShortStr<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Debug for ShortStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_limited_to_255_bytes() {
        let bytes = [b'x'; 256];
        assert_eq!(ShortStr::new(&bytes[..255]).unwrap().len(), 255);
        assert_eq!(ShortStr::new(&bytes), Err(TooLong { length: 256 }));
        assert!(ShortStr::new(b"").unwrap().is_empty());
    }

    #[test]
    fn bytes_pass_through_but_only_text_is_text() {
        let odd = ShortStr::new(b"\xFF\xFE").unwrap();
        assert_eq!(odd.as_bytes(), b"\xFF\xFE");
        assert_eq!(odd.as_str(), Err(DecodeError::Malformed(Malformed::Utf8)));
        assert_eq!(ShortStr::lit("grün").as_str(), Ok("grün"));
        assert_eq!(ShortStr::lit("a"), "a");
    }
}
