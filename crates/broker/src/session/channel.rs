//! A channel's state.

use std::sync::Arc;

use super::Session;
use super::content::Incoming;
use super::reply::Reply;
use super::tx::Tx;
use super::unacked::Ring;
use crate::counters::add;
use crate::error::Error;
use crate::out::OutBuf;
use crate::queue::SharedCredit;
use crate::quota::Place;
use backbone_wire::ShortStr;
use backbone_wire::frame::Frame;
use backbone_wire::method::channel as method;

#[derive(Default)]
pub(super) struct Channel {
    pub id: u16,
    /// A close was sent: everything is dropped until close-ok.
    pub closing: bool,
    /// The client's close crossed ours: it may answer ours still, or open the number again.
    pub crossed: bool,
    /// A publish whose content is not complete.
    pub incoming: Option<Incoming>,
    /// Tag of the last delivery.
    pub last_tag: u64,
    pub unacked: Ring,
    pub confirm: Option<Confirm>,
    pub tx: Option<Tx>,
    /// Prefetch of consumers that are started from now on; 0 = no limit.
    pub prefetch: u32,
    /// The limit of `basic.qos(global=true)`, once there was one.
    pub shared: Option<Arc<SharedCredit>>,
    /// Sources of its consumers.
    pub sources: Vec<u32>,
    /// Its consumer of answers to what it publishes.
    pub reply: Option<Reply>,
    /// Key of the source of its last get; it may be gone.
    pub got: u64,
    /// Sources that wait because the channel holds too many unsettled messages.
    pub stalled: Vec<u32>,
    /// The queue declared last: what an empty name means.
    pub last_queue: Option<String>,
    /// Its place among the user's channels, where these are counted.
    pub _place: Option<Place>,
}

/// Publisher confirms (RabbitMQ's confirm.select).
#[derive(Debug, Default)]
pub(super) struct Confirm {
    /// Number of the last publish.
    pub published: u64,
    /// All up to this one are confirmed, or wait for the log.
    pub noted: u64,
    /// Those behind it that a queue refused.
    pub refused: Vec<u64>,
}

impl Channel {
    pub fn new(id: u16) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    /// Whether a publish can be handled in place.
    #[inline]
    pub fn takes_publish(&self) -> bool {
        !self.closing && self.incoming.is_none() && self.tx.is_none()
    }
}

impl Session {
    /// Closes channel `id` because of `error` in method (`class`, `method`), or the connection if
    /// the error is of that kind.
    pub(super) fn channel_error(
        &mut self,
        id: u16,
        error: &Error,
        (class, method_id): (u16, u16),
        out: &mut OutBuf,
    ) {
        if !error.code.is_channel_error() {
            return self.fail(error, class, method_id, out);
        }
        self.end_of_batch(out);
        self.end_channel(id);
        let text = error.code.reply_text(&error.text);
        let close = method::Close {
            reply_code: error.code.code(),
            reply_text: ShortStr::new(text.as_bytes()).expect("the text was cut to fit"),
            class_id: class,
            method_id,
        };
        close.write(id, &mut out.bytes);
        let mut closing = Channel::new(id);
        closing.closing = true;
        self.channels.insert(closing);
    }

    /// Takes channel `id` away: its consumers end, what it holds unsettled goes back.
    pub(super) fn end_channel(&mut self, id: u16) {
        let Some(mut channel) = self.channels.remove(id) else {
            return;
        };
        if channel.closing {
            return;
        }
        self.core.flush_settled();
        self.core.forget_owed(id);
        self.core.free_overdue(&mut channel, 0..=u64::MAX);
        let sources = std::mem::take(&mut channel.sources);
        let mut held: Vec<_> = channel.unacked.take_all().collect();
        for source in &sources {
            let (own, others) = held.into_iter().partition(|it| it.source() == *source);
            self.core.end_consumer(&channel, *source, own);
            held = others;
        }
        self.core.requeue(&channel, held);
        for source in sources {
            self.core.sources.retire(source);
        }
        let counters = self.core.publisher.vhost().counters();
        add(&counters.channels_closed, 1);
    }

    /// A method on a channel that we closed: it is dropped, if it is not about the end of the channel. A close that crossed ours is
    /// answered, and both may be gone through in any order.
    pub(super) fn on_closing_channel(&mut self, frame: Frame<'_>, out: &mut OutBuf) {
        let channel = self.channels.get_mut(frame.channel);
        let channel = channel.expect("the channel was just seen");
        match frame.payload {
            [0, 20, 0, 40, ..] => {
                channel.crossed = true;
                method::CloseOk {}.write(frame.channel, &mut out.bytes);
            }
            [0, 20, 0, 41, ..] => {
                self.channels.remove(frame.channel);
            }
            [0, 20, 0, 10, ..] if channel.crossed => {
                self.channels.remove(frame.channel);
                self.on_method_frame(frame, out);
            }
            _ => {}
        }
    }
}
