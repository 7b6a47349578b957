//! Ids for messages that come without one.

/// Ids with a first part that no other publisher has, and a number in hexadecimal digits that grows by one.
pub(super) struct MessageIds {
    text: Vec<u8>,
    prefix_len: usize,
}

impl MessageIds {
    /// The first id will be `prefix` and 1.
    pub fn new(prefix: &str) -> Self {
        Self {
            text: prefix.into(),
            prefix_len: prefix.len(),
        }
    }

    /// A new id. The text counts up where it is.
    #[inline]
    pub fn next(&mut self) -> &[u8] {
        for digit in self.text[self.prefix_len..].iter_mut().rev() {
            match *digit {
                b'f' => *digit = b'0',
                b'9' => {
                    *digit = b'a';
                    return &self.text;
                }
                _ => {
                    *digit += 1;
                    return &self.text;
                }
            }
        }
        self.text.insert(self.prefix_len, b'1');
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_numbers_from_one_on() {
        let mut ids = MessageIds::new("p-");
        for number in 1..=0x1_1001 {
            let expected = format!("p-{number:x}");
            assert_eq!(ids.next(), expected.as_bytes());
        }
    }
}
