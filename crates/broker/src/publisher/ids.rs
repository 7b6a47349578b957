//! Ids for messages that come without one.

use backbone_wire::ShortStr;

/// Ids with a first part that no other publisher has, and a number in hexadecimal digits that grows by one.
pub(super) struct MessageIds {
    /// The last id, behind its length octet.
    text: Vec<u8>,
    digits_at: usize,
}

impl MessageIds {
    /// The first id will be `prefix` and 1.
    pub fn new(prefix: &str) -> Self {
        let mut text = vec![0];
        text.extend_from_slice(prefix.as_bytes());
        Self {
            digits_at: text.len(),
            text,
        }
    }

    /// A new id, as a short string with its length octet. The text counts up where it is.
    #[inline]
    pub fn next_encoded(&mut self) -> &[u8] {
        self.count();
        &self.text
    }

    /// A new id.
    pub fn next(&mut self) -> ShortStr<'_> {
        self.count();
        ShortStr::new(&self.text[1..]).expect("prefix and number are short")
    }

    #[inline]
    fn count(&mut self) {
        for digit in self.text[self.digits_at..].iter_mut().rev() {
            match *digit {
                b'f' => *digit = b'0',
                b'9' => {
                    *digit = b'a';
                    return;
                }
                _ => {
                    *digit += 1;
                    return;
                }
            }
        }
        self.text.insert(self.digits_at, b'1');
        self.text[0] = u8::try_from(self.text.len() - 1).expect("prefix and number are short");
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
            if number % 2 == 0 {
                assert_eq!(ids.next().as_bytes(), expected.as_bytes());
            } else {
                let (len, id) = ids.next_encoded().split_first().unwrap();
                assert_eq!((usize::from(*len), id), (id.len(), expected.as_bytes()));
            }
        }
    }
}
