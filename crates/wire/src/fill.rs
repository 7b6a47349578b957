//! Writing into room that was made for it, front to back.
//!
//! Whoever knows the length of what he writes makes the room once; each piece is then a copy and no question
//! whether there is room, as appending to a vector asks for every piece.

/// Room that is filled from the front.
pub struct Fill<'a> {
    rest: &'a mut [u8],
}

impl<'a> Fill<'a> {
    /// All of `room` is to be filled.
    #[inline]
    pub fn new(room: &'a mut [u8]) -> Self {
        Self { rest: room }
    }

    /// Writes the next `bytes`.
    ///
    /// # Panics
    /// If there is no room for them.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        let (here, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        self.rest = rest;
    }

    /// As [`Fill::put`], for what is empty most often.
    #[inline]
    pub fn put_rare(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.put(bytes);
        }
    }

    /// Whether all room is filled.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_each_other_until_the_room_is_full() {
        let mut room = [0; 5];
        let mut fill = Fill::new(&mut room);
        fill.put(b"ab");
        fill.put_rare(b"");
        assert!(!fill.is_full());
        fill.put_rare(b"cde");
        assert!(fill.is_full());
        assert_eq!(room, *b"abcde");
    }

    #[test]
    #[should_panic(expected = "mid > len")]
    fn more_than_the_room_is_a_bug() {
        Fill::new(&mut [0; 2]).put(b"abc");
    }
}
