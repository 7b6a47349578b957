//! Content frames: header and bodies of a publish that could not be taken in place.

use backbone_log::Arena;
use backbone_wire::error::ReplyCode;
use backbone_wire::frame::{Frame, FrameKind};
use backbone_wire::method::basic::Publish;
use backbone_wire::properties::{ContentHeader, Properties};

use super::channel::Channel;
use super::{Core, Session};
use crate::bodies::Place;
use crate::counters::add;
use crate::error::Error;
use crate::out::OutBuf;
use crate::publisher::Routed;
use crate::record::{self, Content, Record};

/// Flags of the properties that are looked at before a message is taken, `reply-to` and `user-id`.
const LOOKED_AT_FLAGS: u16 = 1 << 9 | 1 << 4;
/// Memory set aside for a body before any of it came. Larger ones need a place.
pub(super) const RESERVE_BYTES_MAX: u64 = 64 * 1024;

/// A publish that waits for the rest of its content.
pub(super) struct Incoming {
    pub mandatory: bool,
    pub stage: Stage,
}

pub(super) enum Stage {
    /// The header is due; these are the names, as they go into the record.
    Header(Vec<u8>),
    /// This much of the body is due.
    Body {
        stored: Vec<u8>,
        left: u64,
        /// Of a large one.
        place: Option<Place>,
    },
    /// Too large: read to its end, then refused.
    Discard { size: u64, left: u64 },
}

impl Session {
    pub(super) fn on_content_frame(&mut self, frame: Frame<'_>, out: &mut OutBuf) {
        let Self { core, channels, .. } = self;
        let Some(channel) = channels.get_mut(frame.channel) else {
            return self.unexpected("content on a channel that is not open", out);
        };
        if channel.closing {
            return;
        }
        let Some(incoming) = channel.incoming.take() else {
            return self.unexpected("content without a publish before it", out);
        };
        let is_header = frame.kind == FrameKind::Header;
        let advanced = match incoming.stage {
            Stage::Header(names) if is_header => core.content_header(&names, frame.payload),
            Stage::Body {
                mut stored,
                left,
                place,
            } if !is_header => {
                let arena = core.publisher.vhost().arena();
                content_body(arena, &mut stored, left, frame.payload).map(|left| Stage::Body {
                    stored,
                    left,
                    place,
                })
            }
            Stage::Discard { size, left } if !is_header => discard(size, left, frame.payload),
            _ => Err(Error::new(
                ReplyCode::UnexpectedFrame,
                "content out of order",
            )),
        };
        let mandatory = incoming.mandatory;
        let result = advanced.and_then(|stage| core.advance(channel, mandatory, stage, out));
        if let Err(error) = result {
            self.channel_error(frame.channel, &error, (60, 40), out);
        }
    }
}

impl Core {
    /// After a frame of content: publishes a message that is complete, else waits for more of it.
    pub(super) fn advance(
        &mut self,
        channel: &mut Channel,
        mandatory: bool,
        stage: Stage,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        match stage {
            // Its place is free once the message is stored, and counts as one.
            Stage::Body {
                stored,
                left: 0,
                place: _place,
            } => self.publish_complete(channel, stored, mandatory, out),
            Stage::Discard { size, left: 0 } => Err(Error::precondition_failed(format!(
                "message size {size} is larger than configured max size {}",
                self.settings.message_bytes_max
            ))),
            stage => {
                channel.incoming = Some(Incoming { mandatory, stage });
                Ok(())
            }
        }
    }

    /// A publish method: its content comes next.
    pub(super) fn begin_publish(
        &mut self,
        channel: &mut Channel,
        publish: &Publish<'_>,
    ) -> Result<(), Error> {
        if publish.immediate {
            return Err(Error::new(ReplyCode::NotImplemented, "immediate=true"));
        }
        let mut names = Vec::with_capacity(64);
        record::write_names(
            &mut names,
            publish.exchange.as_bytes(),
            publish.routing_key.as_bytes(),
        );
        channel.incoming = Some(Incoming {
            mandatory: publish.mandatory,
            stage: Stage::Header(names),
        });
        Ok(())
    }

    fn content_header(&mut self, names: &[u8], payload: &[u8]) -> Result<Stage, Error> {
        let header = ContentHeader::decode(payload)
            .map_err(|error| Error::new(error.reply_code(), error.to_string()))?;
        if header.class_id != 60 || header.weight != 0 {
            return Err(Error::new(
                ReplyCode::UnexpectedFrame,
                "content header of another class",
            ));
        }
        let size = header.body_size;
        if size > self.settings.message_bytes_max {
            return Ok(Stage::Discard { size, left: size });
        }
        let fixed = record::PREFIX_LEN + names.len() + payload.len();
        let reserve = size.min(RESERVE_BYTES_MAX) as usize;
        let recycled = self
            .publisher
            .vhost()
            .arena()
            .large_buffer(fixed + size as usize);
        let mut stored = recycled.unwrap_or_else(|| Vec::with_capacity(fixed + reserve));
        record::begin(&mut stored, 0, names, payload, size as usize);
        let place = self.place.take();
        Ok(Stage::Body {
            stored,
            left: size,
            place,
        })
    }

    fn publish_complete(
        &mut self,
        channel: &mut Channel,
        stored: Vec<u8>,
        mandatory: bool,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        if channel.tx.is_some() {
            return self.tx_publish(channel, stored, mandatory);
        }
        self.publish_stored(channel, stored, mandatory, out)
    }

    /// Publishes a record that was put together here.
    pub(super) fn publish_stored(
        &mut self,
        channel: &mut Channel,
        stored: Vec<u8>,
        mandatory: bool,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        if self.traced {
            return self.publish_traced(channel, &stored, mandatory, out);
        }
        if mandatory || is_looked_at(Record::read(&stored, 0).header) {
            // The content may have to be returned, or changed.
            let Record {
                names,
                header,
                body,
                ..
            } = Record::read(&stored, 0);
            let content = Content {
                names,
                header,
                body,
            };
            return self.publish(channel, content, mandatory, out);
        }
        let routed = self.publisher.publish_record(stored, self.now_ms)?;
        self.published(channel, routed, None, out);
        Ok(())
    }

    /// A `user-id` property, if there is one, must be the connection's user.
    pub(super) fn check_user(&self, header: &[u8]) -> Result<(), Error> {
        let properties = Properties::assume_checked(&header[record::HEADER_FIXED_LEN..]);
        let user = &self.publisher.origin().user;
        match properties.user_id() {
            Some(named)
                if named.as_bytes() != user.as_bytes()
                    && !self.publisher.origin().access.is_impersonator() =>
            {
                let named = String::from_utf8_lossy(named.as_bytes());
                Err(Error::precondition_failed(format!(
                    "user_id property set to '{named}' but authenticated user was '{user}'"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Publishes a message from where it is.
    #[inline]
    pub(super) fn publish(
        &mut self,
        channel: &mut Channel,
        content: Content<'_>,
        mandatory: bool,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        if is_looked_at(content.header) {
            return self.publish_looked_at(channel, content, mandatory, out);
        }
        let routed = self.publisher.publish(content, self.now_ms)?;
        self.published(channel, routed, mandatory.then_some(content), out);
        Ok(())
    }

    /// Publishes a message that names a user, or where its answers go.
    #[cold]
    fn publish_looked_at(
        &mut self,
        channel: &mut Channel,
        content: Content<'_>,
        mandatory: bool,
        out: &mut OutBuf,
    ) -> Result<(), Error> {
        self.publisher.check_exchange(content)?;
        self.check_user(content.header)?;
        let changed = self.with_address(channel, content.header, content.body.len())?;
        let content = Content {
            header: changed.as_deref().unwrap_or(content.header),
            ..content
        };
        let routed = self.publisher.publish(content, self.now_ms)?;
        self.published(channel, routed, mandatory.then_some(content), out);
        Ok(())
    }

    /// After a publish: what the publisher is told of it. `mandatory` is the content to return.
    #[inline]
    fn published(
        &mut self,
        channel: &mut Channel,
        routed: Routed,
        mandatory: Option<Content<'_>>,
        out: &mut OutBuf,
    ) {
        if routed == Routed::Nowhere {
            self.unroutable(channel.id, mandatory, out);
        }
        if let Some(confirm) = &mut channel.confirm {
            if confirm.published == confirm.noted {
                self.unconfirmed.push(channel.id);
            }
            confirm.published += 1;
            if routed == Routed::Refused {
                confirm.refused.push(confirm.published);
            }
        }
        if routed == Routed::Refused {
            self.refused += 1;
            add(&self.publisher.vhost().counters().messages_refused, 1);
        }
    }
}

/// Whether a content header has a property that is looked at before its message is taken.
#[inline]
pub(super) fn is_looked_at(header: &[u8]) -> bool {
    let flags = &header[record::HEADER_FIXED_LEN..];
    u16::from_be_bytes([flags[0], flags[1]]) & LOOKED_AT_FLAGS != 0
}

fn content_body(
    arena: &Arena,
    stored: &mut Vec<u8>,
    left: u64,
    payload: &[u8],
) -> Result<u64, Error> {
    let due = left as usize;
    let left = take_off(left, payload)?;
    make_room(arena, stored, payload.len(), due);
    stored.extend_from_slice(payload);
    Ok(left)
}

/// Makes room for `size` bytes in a record that misses `due`: twice as much as there is, but never more than
/// was announced. A large message takes its own size, and counts for no more. Memory that an earlier one left behind
/// is there at once; it is for those of whom an eighth has come, since announcing costs a peer nothing.
pub(super) fn make_room(arena: &Arena, stored: &mut Vec<u8>, size: usize, due: usize) {
    if stored.capacity() - stored.len() >= size {
        return;
    }
    let whole = stored.len() + due;
    let recycled = match stored.len() >= whole / 8 {
        true => arena.large_buffer(whole),
        false => None,
    };
    match recycled {
        Some(mut larger) => {
            larger.extend_from_slice(stored);
            *stored = larger;
        }
        None => stored.reserve_exact(due.min(stored.len().max(size))),
    }
}

fn discard(size: u64, left: u64, payload: &[u8]) -> Result<Stage, Error> {
    let left = take_off(left, payload)?;
    Ok(Stage::Discard { size, left })
}

fn take_off(left: u64, payload: &[u8]) -> Result<u64, Error> {
    left.checked_sub(payload.len() as u64)
        .ok_or_else(|| Error::new(ReplyCode::FrameError, "more body than the header announced"))
}
