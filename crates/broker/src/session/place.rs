//! Places for large bodies: a body that finds no room waits in front of its header, and with it all that the connection sends.

use backbone_wire::error::ReplyCode;
use backbone_wire::frame::Frame;

use super::content::{RESERVE_BYTES_MAX, Stage};
use super::{Core, Session, State};
use crate::durable::{Level, Promise};
use crate::error::Error;
use crate::out::OutBuf;

/// Largest bodies that one connection may have on their way at a time, on several channels.
const LARGEST_BODIES_MAX: u64 = 2;
/// While the log has more to write, no large body is let in: most of them would have to wait for it.
const LOG_WAITING_BYTES_MAX: usize = 8 << 20;

impl Session {
    /// Whether input waits for room for a large body.
    pub fn waits_for_place(&self) -> bool {
        self.core.waits_for_place
    }

    /// Whether the content header in `frame` may be handled now. If not, the bell rings when it may be.
    pub(super) fn has_place(&mut self, frame: Frame<'_>, out: &mut OutBuf) -> bool {
        let Some(size) = self.announced(frame) else {
            return true;
        };
        let held: u64 = self.held_by_bodies();
        if held == 0 {
            return self.core.take_place(size);
        }
        // It must not wait: who has a place has to get on. Its other bodies may be between the octets of this one.
        if held + size > LARGEST_BODIES_MAX * self.core.settings.message_bytes_max {
            let text = format!("bodies of {held} bytes are unfinished on other channels");
            let error = Error::new(ReplyCode::ResourceError, text);
            self.fail(&error, 60, 40, out);
            return false;
        }
        self.core.place = Some(self.core.publisher.vhost().bodies().take_more(size));
        true
    }

    /// The size of the body that the header announces, if that needs a place.
    fn announced(&mut self, frame: Frame<'_>) -> Option<u64> {
        let size = frame.payload.get(4..12)?.try_into().ok();
        let size = u64::from_be_bytes(size?);
        let needed = RESERVE_BYTES_MAX + 1..=self.core.settings.message_bytes_max;
        let incoming = self.channels.get_mut(frame.channel)?.incoming.as_ref()?;
        let is_due = matches!(incoming.stage, Stage::Header(_)) && self.state == State::Open;
        (is_due && needed.contains(&size)).then_some(size)
    }

    /// What places this connection has.
    fn held_by_bodies(&mut self) -> u64 {
        let mut held = 0;
        for id in self.channels.numbers().to_vec() {
            let incoming = self
                .channels
                .get_mut(id)
                .and_then(|it| it.incoming.as_ref());
            if let Some(Stage::Body {
                place: Some(place), ..
            }) = incoming.map(|it| &it.stage)
            {
                held += place.bytes();
            }
        }
        held
    }
}

impl Core {
    fn take_place(&mut self, size: u64) -> bool {
        let place = match self.is_log_behind() {
            true => None,
            false => {
                let bodies = self.publisher.vhost().bodies();
                let place = bodies.take(size, self.conn, &self.bell);
                self.waits_for_place = place.is_none();
                place
            }
        };
        self.place = place;
        self.place.is_some()
    }

    /// Whether the log should write before there is another large body. The bell rings when it has.
    fn is_log_behind(&mut self) -> bool {
        let Some(durable) = self.publisher.vhost().durable() else {
            return false;
        };
        let log = durable.log();
        if self.place_after == Promise::KEPT {
            if log.waiting_bytes() <= LOG_WAITING_BYTES_MAX {
                return false;
            }
            self.place_after = Promise::new(log.appended(), Level::Written);
            self.place_told = false;
        }
        let kept = match std::mem::replace(&mut self.place_told, true) {
            true => durable.is_kept(self.place_after),
            false => durable.wait(self.place_after, &self.bell),
        };
        self.waits_for_place = !kept;
        if kept {
            // Once: what others have appended since is waited for by whoever comes next.
            self.place_after = Promise::KEPT;
        }
        !kept
    }

    /// Nothing more is taken from the peer.
    pub(super) fn give_up_place(&mut self) {
        self.place = None;
        if std::mem::take(&mut self.waits_for_place) {
            self.publisher.vhost().bodies().leave(self.conn);
        }
    }
}
