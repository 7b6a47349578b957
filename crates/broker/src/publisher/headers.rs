//! One look at a message's headers for all that routing and the bus want to know of them.

use std::ops::Range;

use backbone_wire::properties::Properties;
use smallvec::SmallVec;

use crate::record::HEADER_FIXED_LEN;

/// Flag of the property `headers` in the first octet of the property flags.
const HEADERS_FLAG: u8 = 1 << 5;

/// What the headers of a message say.
#[derive(Default)]
pub(super) struct Headers<'a> {
    /// There is a `CC` or a `BCC`.
    pub carbon: bool,
    /// The first `topic`, and the first `x-topic`; empty if it is no long string.
    topic: Option<&'a [u8]>,
    x_topic: Option<&'a [u8]>,
    /// Where in the table's bytes `topic` and `sender` are.
    pub marks: SmallVec<[Range<usize>; 2]>,
}

impl<'a> Headers<'a> {
    /// Looks at the headers in a content header that was checked.
    #[inline]
    pub fn of(header: &'a [u8]) -> Self {
        let mut seen = Self::default();
        if header[HEADER_FIXED_LEN] & HEADERS_FLAG != 0 {
            seen.look(header);
        }
        seen
    }

    fn look(&mut self, header: &'a [u8]) {
        let properties = Properties::assume_checked(&header[HEADER_FIXED_LEN..]);
        let Some(table) = properties.headers() else {
            return;
        };
        let mut entries = table.raw_entries();
        let mut start = 0;
        while let Some(entry) = entries.next() {
            let text = || if entry.tag == b'S' { entry.value } else { &[] };
            match entry.name {
                b"topic" => {
                    self.topic.get_or_insert_with(text);
                    self.marks.push(start..entries.offset());
                }
                b"sender" => self.marks.push(start..entries.offset()),
                b"x-topic" => {
                    self.x_topic.get_or_insert_with(text);
                }
                b"CC" | b"BCC" => self.carbon = true,
                _ => {}
            }
            start = entries.offset();
        }
    }

    /// The topic, if the headers name one: see [`crate::topic_rule`].
    #[inline]
    pub fn topic(&self) -> Option<&'a [u8]> {
        let named = |topic: &&[u8]| !topic.is_empty();
        self.topic.filter(named).or(self.x_topic.filter(named))
    }
}
