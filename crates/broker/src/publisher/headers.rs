//! One look at a message's headers for all that routing and the bus want to know of them.

use backbone_wire::properties::Properties;
use backbone_wire::table::RawEntry;

use crate::error::Error;
use crate::queue::arguments;
use crate::record::HEADER_FIXED_LEN;

/// Flag of the property `headers` in the first octet of the property flags.
const HEADERS_FLAG: u8 = 1 << 5;
/// Flag of the property `expiration` in it.
const EXPIRATION_FLAG: u8 = 1;

/// What the headers of a message say.
pub(super) struct Headers<'a> {
    /// There is a `CC` or a `BCC`.
    pub carbon: bool,
    /// The first `topic`, and the first `x-topic`; empty if it is no long string.
    topic: Option<&'a [u8]>,
    x_topic: Option<&'a [u8]>,
    /// Something else than `topic` and `sender` is there.
    pub others: bool,
    /// The property `expiration`: how long the message may wait, in ms.
    pub expiration: Option<u64>,
}

impl<'a> Headers<'a> {
    /// Those of a message without any.
    pub const NONE: Headers<'static> = Headers {
        carbon: false,
        topic: None,
        x_topic: None,
        others: false,
        expiration: None,
    };

    /// Whether a content header that was checked has headers at all, or an expiration.
    #[inline]
    pub fn are_in(header: &[u8]) -> bool {
        header[HEADER_FIXED_LEN] & (HEADERS_FLAG | EXPIRATION_FLAG) != 0
    }

    /// Whether it has an expiration.
    #[inline]
    pub fn has_expiration(header: &[u8]) -> bool {
        header[HEADER_FIXED_LEN] & EXPIRATION_FLAG != 0
    }

    /// Looks at the headers in a content header that was checked, and at its expiration.
    ///
    /// # Errors
    /// 406 for an expiration that is no number, or too large.
    pub fn of(header: &'a [u8]) -> Result<Self, Error> {
        let mut seen = Self::without_expiration(header);
        let properties = Properties::assume_checked(&header[HEADER_FIXED_LEN..]);
        if let Some(text) = properties.expiration() {
            seen.expiration = Some(arguments::expiration(text.as_bytes())?);
        }
        Ok(seen)
    }

    /// The same but for the expiration.
    #[inline(never)]
    pub fn without_expiration(header: &'a [u8]) -> Self {
        let mut seen = Headers::NONE;
        let properties = Properties::assume_checked(&header[HEADER_FIXED_LEN..]);
        let Some(table) = properties.headers() else {
            return seen;
        };
        for entry in table.raw_entries() {
            match entry.name {
                b"topic" => {
                    seen.topic.get_or_insert(text(&entry));
                    continue;
                }
                b"sender" => continue,
                b"x-topic" => {
                    seen.x_topic.get_or_insert(text(&entry));
                }
                b"CC" | b"BCC" => seen.carbon = true,
                _ => {}
            }
            seen.others = true;
        }
        seen
    }

    /// The topic, if the headers name one: see [`crate::topic_rule`].
    #[inline]
    pub fn topic(&self) -> Option<&'a [u8]> {
        let named = |topic: &&[u8]| !topic.is_empty();
        self.topic.filter(named).or(self.x_topic.filter(named))
    }
}

#[inline]
fn text<'a>(entry: &RawEntry<'a>) -> &'a [u8] {
    if entry.tag == b'S' { entry.value } else { &[] }
}
