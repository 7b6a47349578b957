//! One AMQP connection after its handshake, without I/O: frames in, frames out.
//!
//! The owner feeds what it read to [`Session::receive`], ends each read with
//! [`Session::end_of_batch`], passes on what its bell said ([`Session::rung`],
//! [`Session::cancelled`]), and lets [`Session::deliver`] fill the out-buffer; then it writes.
//! Replies and confirms of a batch leave together.
//!
//! Invariants:
//! - Methods of a channel take effect in order: whatever may look at a queue first commits the
//!   publishes and settlements that came before it.
//! - A confirm is written after the commit that covers it, and after the log kept that commit's promise.
//! - What tells of a durable change leaves when that is as safe as its vhost wants it ([`Session::is_held`]).
//! - Input is not looked at while the out-buffer is over its bound, so that a peer that does not
//!   read cannot make it grow.
//! - What a channel holds unsettled goes back to its queues when channel or connection end,
//!   however they end.

mod barrier;
mod basic;
mod body;
mod channel;
mod channels;
mod confirm;
mod content;
mod counted;
mod deliver;
mod exchange;
mod methods;
mod overdue;
mod place;
mod queue;
mod reply;
pub mod report;
mod round;
mod settle;
mod source;
mod traced;
mod tx;
mod unacked;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use backbone_log::Source;
use backbone_wire::ShortStr;
use backbone_wire::content::parse_publish;
use backbone_wire::error::ReplyCode;
use backbone_wire::frame::{self, Frame, FrameKind};
use backbone_wire::method::{Method, channel as method, connection};

use crate::bodies::Place;
use crate::durable::Promise;
use crate::error::Error;
use crate::out::OutBuf;
use crate::publisher::{Dead, Publisher};
use crate::queue::{Bell, DeleteIf, Queue, Wakes};
use crate::record::Content;
use barrier::Barrier;
use body::BodyFrame;
use channels::Channels;
use confirm::Owed;
use round::Round;
use source::Sources;

/// What was agreed with the peer, and the limits of its connection.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Largest frame in bytes, the 8 of its frame included.
    pub frame_max: usize,
    /// Channels that may be open at a time.
    pub channel_max: u16,
    /// Largest body in bytes; larger ones are refused with the channel.
    pub message_bytes_max: u64,
    /// Messages that a channel may hold unsettled; delivery to it pauses there.
    pub unacked_max: usize,
    /// Bytes that may wait to be written before deliveries and input pause.
    pub out_bytes_max: usize,
    /// The peer wants to hear of consumers whose queue is gone.
    pub cancel_notify: bool,
    /// A delivery that is not acknowledged in time closes its channel, instead of going back to its queue alone.
    pub timeout_closes_channel: bool,
}

impl Settings {
    /// Largest payload that a peer may send. RabbitMQ takes 8 bytes more than was agreed, and there are clients that do not
    /// count the 8 around the payload.
    fn payload_max(&self) -> usize {
        self.frame_max
    }
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Open.
    Open,
    /// A close was sent: close-ok is waited for, everything else is dropped.
    Closing,
    /// Over: write what is left and close the socket.
    Closed,
}

/// A connection's state machine.
pub struct Session {
    core: Core,
    channels: Channels,
    /// Channels whose close-ok leaves behind what their end made ready for other channels.
    closed: Vec<u16>,
    state: State,
    /// A body frame of which only the beginning came.
    body: Option<BodyFrame>,
}

/// What all channels of a connection share.
struct Core {
    conn: u64,
    /// As others know it.
    name: Arc<str>,
    /// The vhost was traced when this was looked at last.
    traced: bool,
    publisher: Publisher,
    bell: Arc<dyn Bell>,
    settings: Settings,
    sources: Sources,
    /// Sources whose bell rang, to be served in turn.
    ready: VecDeque<u32>,
    /// Channels with publishes to confirm.
    unconfirmed: Vec<u16>,
    /// Confirms that wait for the log, in its order.
    owed: VecDeque<Owed>,
    /// The promise that the bell will ring for, if any.
    waits_for: Promise,
    /// The same, of what was written before there is more.
    paced_by: Promise,
    /// Sources with settlements that their queues do not know of yet.
    settled: Vec<u32>,
    /// Room for what they owe the log; empty between calls.
    owed_many: Vec<Source>,
    round: Round,
    /// A run of copies to be released: segment and count.
    release_run: (u32, u64),
    exclusive: Vec<Arc<Queue>>,
    /// What consumers rejected, and what died otherwise, to become dead letters with the settlements.
    dead: Vec<Dead>,
    /// Messages of this connection that a queue refused.
    refused: u64,
    wakes: Wakes,
    barrier: Barrier,
    /// For the body whose header is handled next.
    place: Option<Place>,
    /// A body waits for a place.
    waits_for_place: bool,
    /// What the log has to write before that is looked for.
    place_after: Promise,
    /// The bell will ring for it.
    place_told: bool,
    now_ms: u64,
}

impl Session {
    /// A session without channels. `conn` is unique in the process; `bell` is rung with keys that
    /// [`Session::rung`] and [`Session::cancelled`] take.
    pub fn new(publisher: Publisher, conn: u64, bell: Arc<dyn Bell>, settings: Settings) -> Self {
        Self {
            core: Core {
                conn,
                name: Arc::default(),
                traced: false,
                publisher,
                bell,
                settings,
                sources: Sources::default(),
                ready: VecDeque::new(),
                unconfirmed: Vec::new(),
                owed: VecDeque::new(),
                waits_for: Promise::KEPT,
                paced_by: Promise::KEPT,
                settled: Vec::new(),
                owed_many: Vec::new(),
                round: Round::default(),
                release_run: (0, 0),
                exclusive: Vec::new(),
                dead: Vec::new(),
                refused: 0,
                wakes: Wakes::default(),
                barrier: Barrier::default(),
                place: None,
                waits_for_place: false,
                place_after: Promise::KEPT,
                place_told: false,
                now_ms: 0,
            },
            channels: Channels::default(),
            closed: Vec::new(),
            state: State::Open,
            body: None,
        }
    }

    /// The same of a connection that others know by this name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.core.name = name.into();
        self
    }

    /// How the connection stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Tells the time, in ms of Unix time, when it is not told by what came.
    pub fn tell_time(&mut self, now_ms: u64) {
        self.core.now_ms = now_ms;
    }

    /// A number that grows with each batch of publishes.
    pub fn published_batches(&self) -> u64 {
        self.core.publisher.epoch()
    }

    /// Handles the frames in `input` and returns how many bytes of it are done with; the rest is
    /// the beginning of a frame, or waits for room in `out`. `now_ms` is Unix time.
    pub fn receive(&mut self, input: &[u8], now_ms: u64, out: &mut OutBuf) -> usize {
        self.core.now_ms = now_ms;
        let mut at = match self.core.look_for_traces() {
            false => self.receive_frames::<false>(input, out),
            true => self.receive_frames::<true>(input, out),
        };
        if self.state == State::Closing {
            at += self.drop_body(&input[at..]);
            at += self.await_close_ok(&input[at..], out);
        }
        if self.state == State::Closed {
            input.len()
        } else {
            at
        }
    }

    /// Handles frames while the connection is open; returns the bytes used. If they are `TRACED`, none takes the fast path.
    fn receive_frames<const TRACED: bool>(&mut self, input: &[u8], out: &mut OutBuf) -> usize {
        let mut at = 0;
        while at < input.len() && self.state == State::Open {
            if out.pending() >= self.core.settings.out_bytes_max || self.is_stalled() {
                break;
            }
            if self.body.is_some() {
                at += self.continue_body(&input[at..], out);
                continue;
            }
            let in_place = match TRACED {
                false => self.publish_in_place(&input[at..], out),
                true => None,
            };
            match in_place {
                Some(used) => at += used,
                None => match self.one_frame(&input[at..], out) {
                    0 => {
                        at += self.begin_body(&input[at..]);
                        break;
                    }
                    used => at += used,
                },
            }
        }
        at
    }

    /// Ends a batch: publishes reach their queues, confirms are written, settlements take effect.
    pub fn end_of_batch(&mut self, out: &mut OutBuf) {
        self.core.publisher.commit();
        self.confirm(out);
        self.core.flush_settled();
    }

    /// Closes the connection from this side, with `code` and an explanation.
    pub fn close(&mut self, code: ReplyCode, text: String, out: &mut OutBuf) {
        if self.state == State::Open {
            self.fail(&Error { code, text }, 0, 0, out);
        }
    }

    /// The fast path: a whole publish with its content at the beginning of `input`.
    #[inline]
    fn publish_in_place(&mut self, input: &[u8], out: &mut OutBuf) -> Option<usize> {
        let max_payload = self.core.settings.payload_max();
        let (publish, used) = parse_publish(input, max_payload)?;
        let channel = self.channels.get_mut(publish.channel)?;
        let too_large = publish.body.len() as u64 > self.core.settings.message_bytes_max;
        if !channel.takes_publish() || publish.immediate || too_large {
            return None;
        }
        let content = Content {
            names: publish.names,
            header: publish.header,
            body: publish.body,
        };
        if let Err(error) = self.core.publish(channel, content, publish.mandatory, out) {
            self.channel_error(publish.channel, &error, (60, 40), out);
        }
        Some(used)
    }

    /// The general path: one frame. Returns the bytes used, 0 when it is not complete.
    fn one_frame(&mut self, input: &[u8], out: &mut OutBuf) -> usize {
        let max_payload = self.core.settings.payload_max();
        let (frame, used) = match frame::parse(input, max_payload) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return 0,
            Err(error) => {
                let text = error.to_string();
                let code = error.reply_code();
                self.fail(&Error { code, text }, 0, 0, out);
                return input.len();
            }
        };
        if frame.kind == FrameKind::Header && !self.has_place(frame, out) {
            return 0;
        }
        self.on_frame(frame, out);
        used
    }

    fn on_frame(&mut self, frame: Frame<'_>, out: &mut OutBuf) {
        match frame.kind {
            FrameKind::Heartbeat => {
                if frame.channel != 0 {
                    self.unexpected("heartbeat on a channel", out);
                } else if !frame.payload.is_empty() {
                    let error = Error::new(ReplyCode::FrameError, "heartbeat with a payload");
                    self.fail(&error, 0, 0, out);
                }
            }
            FrameKind::Method => self.on_method_frame(frame, out),
            FrameKind::Header | FrameKind::Body => self.on_content_frame(frame, out),
        }
    }

    fn on_method_frame(&mut self, frame: Frame<'_>, out: &mut OutBuf) {
        if self
            .channels
            .get_mut(frame.channel)
            .is_some_and(|c| c.closing)
        {
            return self.on_closing_channel(frame, out);
        }
        match Method::decode(frame.payload) {
            Ok(method) => self.on_method(frame.channel, method, out),
            Err(error) => {
                let (class, id) = (error.class_id(), error.method_id());
                let code = error.reply_code();
                let text = error.to_string();
                self.fail(&Error { code, text }, class, id, out);
            }
        }
    }

    /// Ends the connection because of `error`, whose method was (`class`, `method`).
    fn fail(&mut self, error: &Error, class: u16, method: u16, out: &mut OutBuf) {
        self.end_of_batch(out);
        self.release_all();
        self.write_close_oks(out);
        let text = error.code.reply_text(&error.text);
        let close = connection::Close {
            reply_code: error.code.code(),
            reply_text: ShortStr::new(text.as_bytes()).expect("the text was cut to fit"),
            class_id: class,
            method_id: method,
        };
        close.write(0, &mut out.bytes);
        self.state = State::Closing;
    }

    /// Answers channels that were closed.
    #[cold]
    fn write_close_oks(&mut self, out: &mut OutBuf) {
        for id in self.closed.drain(..) {
            method::CloseOk {}.write(id, &mut out.bytes);
        }
    }

    fn unexpected(&mut self, what: &str, out: &mut OutBuf) {
        let error = Error::new(ReplyCode::UnexpectedFrame, what);
        self.fail(&error, 0, 0, out);
    }

    /// After our close: drops everything until close-ok, answers a close that crossed ours.
    fn await_close_ok(&mut self, input: &[u8], out: &mut OutBuf) -> usize {
        let max_payload = self.core.settings.payload_max();
        let mut at = 0;
        while let Ok(Some((frame, used))) = frame::parse(&input[at..], max_payload) {
            at += used;
            if frame.kind != FrameKind::Method || frame.channel != 0 {
                continue;
            }
            if frame.payload.starts_with(&[0, 10, 0, 51]) {
                self.state = State::Closed;
            } else if frame.payload.starts_with(&[0, 10, 0, 50]) {
                connection::CloseOk {}.write(0, &mut out.bytes);
            }
        }
        if frame::parse(&input[at..], max_payload).is_err() {
            // What follows garbage has no frames to be found in.
            return input.len();
        }
        at
    }

    /// Gives everything back that the connection holds.
    fn release_all(&mut self) {
        self.core.give_up_place();
        self.core.publisher.commit();
        for id in self.channels.numbers().to_vec() {
            self.end_channel(id);
        }
        self.core.flush_settled();
        for queue in std::mem::take(&mut self.core.exclusive) {
            let vhost = self.core.publisher.vhost();
            let deleted = vhost.remove_queue(&queue, DeleteIf::default());
            deleted.expect("an unconditional delete is never refused");
        }
    }
}

impl Drop for Session {
    /// Whatever ended the connection, others get back what it held. After a panic, which is a bug,
    /// a second one must not end the process and with it everybody's messages.
    fn drop(&mut self) {
        if self.state == State::Open {
            let released = catch_unwind(AssertUnwindSafe(|| self.release_all()));
            if let Err(panic) = released
                && !std::thread::panicking()
            {
                resume_unwind(panic);
            }
        }
    }
}
