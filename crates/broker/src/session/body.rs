//! Large body frames on their way from the socket into the record that they are part of.
//!
//! A frame is mostly handled when all of it is in the receive buffer. A body frame that misses much is begun
//! with what is there, and the rest of its payload may be read straight into the record
//! ([`Session::body_sink`]), which saves a copy of each large message.

use backbone_wire::error::FrameError;
use backbone_wire::frame::{self, END, FrameKind, HEADER_LEN};

use super::content::{Incoming, Stage, make_room};
use super::{Session, State};
use crate::error::Error;
use crate::out::OutBuf;

/// A frame that misses less than this is waited for: a read more costs as much as the copy.
const BEGIN_FROM_BYTES: usize = 64 * 1024;

/// A body frame that is not complete.
pub(super) struct BodyFrame {
    channel: u16,
    /// Bytes of its payload that did not come yet; the end octet follows them.
    missing: usize,
}

impl Session {
    /// Where the next bytes of the peer belong, and how many of them at most: the record of a large message whose
    /// body is coming. Append them there, then tell [`Session::body_received`]. `None`: they belong into
    /// the receive buffer. To be asked only while that is empty.
    pub fn body_sink(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        let BodyFrame { channel, missing } = *self.body.as_ref()?;
        if missing == 0 || self.state != State::Open {
            return None;
        }
        let incoming = self.channels.get_mut(channel)?.incoming.as_mut()?;
        match &mut incoming.stage {
            Stage::Body { stored, .. } => Some((stored, missing)),
            _ => None,
        }
    }

    /// Takes note of `count` bytes that were appended to [`Session::body_sink`].
    pub fn body_received(&mut self, count: usize) {
        let body = self.body.as_mut().expect("there is a sink");
        body.missing -= count;
    }

    /// Begins the frame in `input`, which is not complete, if it is a large piece of a body that is due. Returns
    /// the bytes used: all or none.
    pub(super) fn begin_body(&mut self, input: &[u8]) -> usize {
        let Some((&[kind, c0, c1, s0, s1, s2, s3], payload)) = input.split_first_chunk() else {
            return 0;
        };
        const _: () = assert!(HEADER_LEN == 7);
        let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
        let missing = size.saturating_sub(payload.len());
        let channel = u16::from_be_bytes([c0, c1]);
        if kind != FrameKind::Body as u8 || missing < BEGIN_FROM_BYTES {
            return 0;
        }
        let incoming = self.channels.get_mut(channel);
        let incoming = incoming.and_then(|channel| channel.incoming.as_mut());
        let Some(Incoming {
            stage: Stage::Body { stored, left, .. },
            ..
        }) = incoming
        else {
            return 0;
        };
        // More than was announced is an error, for which the whole frame is waited.
        if size as u64 > *left {
            return 0;
        }
        let arena = self.core.publisher.vhost().arena();
        make_room(arena, stored, size, *left as usize);
        stored.extend_from_slice(payload);
        *left -= size as u64;
        self.body = Some(BodyFrame { channel, missing });
        input.len()
    }

    /// Takes more of the frame that was begun from the receive buffer, and ends it with its end octet.
    /// Returns the bytes used, at least one.
    pub(super) fn continue_body(&mut self, input: &[u8], out: &mut OutBuf) -> usize {
        if let Some((record, missing)) = self.body_sink() {
            let count = missing.min(input.len());
            record.extend_from_slice(&input[..count]);
            self.body_received(count);
            return count;
        }
        let body = self.body.take().expect("a frame was begun");
        if input[0] != END {
            let error = FrameError::BadEnd(input[0]);
            let (code, text) = (error.reply_code(), error.to_string());
            self.fail(&Error { code, text }, 0, 0, out);
            return input.len();
        }
        self.end_body(body.channel, out);
        1
    }

    fn end_body(&mut self, id: u16, out: &mut OutBuf) {
        let Self { core, channels, .. } = self;
        let channel = channels.get_mut(id);
        let channel = channel.expect("nothing of a peer is handled in the middle of its frame");
        let incoming = channel.incoming.take();
        let Incoming { mandatory, stage } = incoming.expect("the frame was begun for it");
        if let Err(error) = core.advance(channel, mandatory, stage, out) {
            self.channel_error(id, &error, (60, 40), out);
        }
    }

    /// After our close: drops what is left of the frame that was begun. Returns the bytes used.
    pub(super) fn drop_body(&mut self, input: &[u8]) -> usize {
        let Some(body) = &mut self.body else { return 0 };
        let left = body.missing + frame::OVERHEAD - HEADER_LEN;
        if input.len() < left {
            body.missing = body.missing.saturating_sub(input.len());
            return input.len();
        }
        self.body = None;
        left
    }
}
