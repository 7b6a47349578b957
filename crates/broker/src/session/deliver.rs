//! Deliveries, gets and returns: from queues into the out-buffer.
//!
//! A body below [`SPLICE_FROM_BYTES`] is copied into the buffer; a larger one stays where it is
//! and is spliced in when the socket takes it.

use std::cell::Cell;
use std::sync::Arc;

use backbone_log::{Reason, Segment};
use backbone_wire::ShortStr;
use backbone_wire::content::{Delivery, body_pieces};
use backbone_wire::frame::{self, END, FrameKind};
use backbone_wire::method::basic;

use super::channel::Channel;
use super::unacked::Unacked;
use super::{Core, Session, State, counted};
use crate::counters::add;
use crate::out::{OutBuf, SPLICE_FROM_BYTES};
use crate::publisher::shown;
use crate::queue::{ALARM_KEY, Fetch, Queue};
use crate::record::{Content, Entry, Record};

/// Messages that one consumer gets before the next one of the connection has its turn.
const TURN_MESSAGES_MAX: usize = 1024;

thread_local! {
    /// Room for the entries of one turn, at most [`TURN_MESSAGES_MAX`]; empty between calls. One a
    /// thread, because an idle connection should hold none.
    static FETCHED: Cell<Vec<Entry>> = const { Cell::new(Vec::new()) };
}

impl Session {
    /// Takes note that the bell rang with `key`.
    pub fn rung(&mut self, key: u64) {
        match self.core.sources.find(key) {
            Some(index) => self.core.ready.push_back(index),
            None if key == ALARM_KEY => self.core.look_at_alarms(),
            None => {}
        }
    }

    /// Takes note that the queue of the consumer `key` is gone, and tells the peer if it wants to know.
    pub fn cancelled(&mut self, key: u64, out: &mut OutBuf) {
        let Some(index) = self.core.sources.find(key) else {
            return;
        };
        let source = self.core.sources.get(index);
        if source.consumer.take().is_none() {
            return;
        }
        let (id, tag) = (source.channel, source.tag.clone());
        if let Some(channel) = self.channels.get_mut(id) {
            channel.sources.retain(|other| *other != index);
            channel.stalled.retain(|other| *other != index);
        }
        // What it was assigned and did not fetch takes no room any more.
        self.core.poke_siblings(index);
        self.core.wakes.ring();
        if self.core.settings.cancel_notify && self.state == State::Open {
            let consumer_tag = ShortStr::new(&tag).expect("the tag came from a short string");
            let cancel = basic::Cancel {
                consumer_tag,
                no_wait: true,
            };
            cancel.write(id, &mut out.bytes);
        }
        self.core.sources.retire(index);
    }

    /// Moves messages for the consumers that were rung into `out`, up to its bound, and answers behind them the channels that were
    /// closed. True when it stopped at the bound: call again once some of it is written.
    pub fn deliver(&mut self, out: &mut OutBuf) -> bool {
        self.core.look_for_traces();
        let mut batch = FETCHED.take();
        let more = self.deliver_ready(&mut batch, out);
        self.core.end_round();
        batch.clear();
        FETCHED.set(batch);
        if !self.closed.is_empty() {
            self.write_close_oks(out);
        }
        more
    }

    fn deliver_ready(&mut self, batch: &mut Vec<Entry>, out: &mut OutBuf) -> bool {
        while let Some(index) = self.core.ready.pop_front() {
            if self.core.sources.is_timed(index) {
                self.take_overdue(index, out);
            }
            if out.pending() >= self.core.settings.out_bytes_max {
                self.core.ready.push_front(index);
                return true;
            }
            let Some(source) = self.core.sources.try_get(index) else {
                continue;
            };
            let id = source.channel;
            let Some(channel) = self.channels.get_mut(id) else {
                continue;
            };
            if self.core.deliver_turn(channel, index, batch, out) == Fetch::More {
                self.core.ready.push_back(index);
            }
        }
        false
    }

    /// Takes from a source what nobody acknowledged in time, or closes its channel for that.
    #[cold]
    fn take_overdue(&mut self, index: u32, out: &mut OutBuf) {
        // What is overdue may be among the messages of this round.
        self.core.end_round();
        let id = self.core.sources.get(index).channel;
        let Some(channel) = self.channels.get_mut(id) else {
            return;
        };
        if let Err(error) = self.core.look_for_overdue(channel, index) {
            self.channel_error(id, &error, (0, 0), out);
        }
    }
}

impl Core {
    fn deliver_turn(
        &mut self,
        channel: &mut Channel,
        index: u32,
        batch: &mut Vec<Entry>,
        out: &mut OutBuf,
    ) -> Fetch {
        let source = self.sources.get(index);
        let Some(id) = source.consumer else {
            return Fetch::Armed;
        };
        let mut count_max = TURN_MESSAGES_MAX;
        if !source.no_ack {
            let room = self
                .settings
                .unacked_max
                .saturating_sub(channel.unacked.len());
            if room == 0 {
                channel.stalled.push(index);
                return Fetch::Armed;
            }
            count_max = count_max.min(room);
        }
        let bytes_max = self.settings.out_bytes_max - out.pending();
        batch.clear();
        let queue = &source.queue;
        let end = queue.fetch(id, count_max, bytes_max, batch, &mut self.wakes);
        match queue.minds_deliveries() || self.traced {
            false => self.write_batch::<false>(channel, index, batch, &[], out),
            true => self.write_by_rules(channel, index, batch, out),
        }
        if batch.is_empty() {
            self.found_nothing(index);
        }
        self.wakes.ring();
        end
    }

    /// It was rung for nothing. If that is because its queue was paused, there is room again that it shares.
    #[cold]
    fn found_nothing(&mut self, index: u32) {
        self.poke_siblings(index);
    }

    /// Gives back and counts what the deliveries so far left to be done at once.
    fn end_round(&mut self) {
        let vhost = self.publisher.vhost();
        self.round.end(vhost.arena(), vhost.counters());
    }

    /// As [`Core::write_batch`], where messages may have expired meanwhile, returns are counted, or the vhost is traced.
    #[cold]
    fn write_by_rules(
        &mut self,
        channel: &mut Channel,
        index: u32,
        batch: &mut Vec<Entry>,
        out: &mut OutBuf,
    ) {
        let queue = Arc::clone(&self.sources.get(index).queue);
        if queue.may_expire() {
            self.sort_out(channel, index, batch);
        }
        if self.traced {
            self.trace_deliveries(channel.id, &queue, batch);
        }
        let before = channel.last_tag;
        match queue.returns_of(batch) {
            None => self.write_batch::<false>(channel, index, batch, &[], out),
            Some(returns) => self.write_batch::<true>(channel, index, batch, &returns, out),
        }
        if channel.last_tag > before && !self.sources.get(index).no_ack {
            self.note_delivered(index, before + 1);
        }
    }

    /// Takes out of fetched messages what has expired meanwhile.
    fn sort_out(&mut self, channel: &Channel, index: u32, batch: &mut Vec<Entry>) {
        let source = self.sources.get(index);
        let (queue, consumer) = (Arc::clone(&source.queue), source.consumer);
        let (counted, is_shared) = (!source.no_ack, source.shared);
        let vhost = Arc::clone(self.publisher.vhost());
        let before = batch.len();
        let dead = vhost.sort_out(&queue, consumer, counted, batch, 0, self.now_ms);
        if let (true, Some(shared)) = (is_shared, &channel.shared) {
            shared.give((before - batch.len()) as u32);
        }
        self.dead.extend(dead);
        self.bury();
    }

    /// Writes fetched messages as deliveries, and takes account of them. If they are `COUNTED`, `returns` says how often each
    /// came back.
    fn write_batch<const COUNTED: bool>(
        &mut self,
        channel: &mut Channel,
        index: u32,
        batch: &[Entry],
        returns: &[u64],
        out: &mut OutBuf,
    ) {
        let vhost = self.publisher.vhost();
        let frame_max = self.settings.frame_max as u32;
        let source = self.sources.get(index);
        let consumer_tag = ShortStr::new(&source.tag).expect("the tag came from a short string");
        let (mut redelivered, mut flags, before) = (0, 0, channel.last_tag);
        let round = &mut self.round;
        for run in batch.chunk_by(|a, b| a.segment == b.segment) {
            let segment = round.segment(vhost.arena(), run[0].segment);
            for entry in run {
                channel.last_tag += 1;
                let mut message = Record::read(segment, entry.offset);
                let header;
                if COUNTED {
                    let at = (channel.last_tag - before - 1) as usize;
                    header = counted::header(&message, returns[at]);
                    message.header = &header;
                }
                redelivered += u64::from(entry.redelivered());
                flags |= entry.flags;
                let delivery = Delivery {
                    channel: channel.id,
                    consumer_tag,
                    delivery_tag: channel.last_tag,
                    redelivered: entry.redelivered(),
                    names: message.names,
                    header: message.header,
                    body: message.body,
                };
                if message.body.len() < SPLICE_FROM_BYTES {
                    delivery.write(frame_max, &mut out.bytes);
                } else {
                    delivery.write_head(frame::OVERHEAD, &mut out.bytes);
                    write_body(channel.id, segment, &message, frame_max, out);
                }
                if !source.no_ack {
                    channel
                        .unacked
                        .push(Unacked::new(channel.last_tag, index, entry));
                }
            }
            if source.no_ack {
                round.done(run.len() as u64);
            }
        }
        let count = batch.len() as u64;
        if source.no_ack && flags & Entry::LOGGED != 0 {
            vhost.settle_entries(&source.queue, batch, Reason::Ack);
        }
        if source.no_ack {
            round.auto_ack += count;
        } else {
            source.held += count as u32;
            round.manual_ack += count;
        }
        round.redelivered += redelivered;
        let is_held_in_log = !source.no_ack && flags & Entry::LOGGED != 0;
        if is_held_in_log && vhost.pager().is_some_and(|pager| pager.is_tight()) {
            let queue = Arc::clone(&source.queue);
            self.let_go(channel, &queue, before);
        }
    }

    /// Writes the answer to a get that found `entry`.
    pub(super) fn write_got(
        &mut self,
        channel: &mut Channel,
        queue: &Arc<Queue>,
        entry: &Entry,
        left: u32,
        no_ack: bool,
        out: &mut OutBuf,
    ) {
        if self.traced {
            self.trace_deliveries(channel.id, queue, std::slice::from_ref(entry));
        }
        let vhost = Arc::clone(self.publisher.vhost());
        let segment = vhost.arena().segment(entry.segment);
        let mut message = Record::read(&segment, entry.offset);
        let counted;
        if queue.counts_returns() {
            let returns = queue.returns_of(std::slice::from_ref(entry));
            counted = counted::header_with(&message, returns.map_or(0, |all| all[0]));
            message.header = &counted;
        }
        channel.last_tag += 1;
        let got = basic::GetOk {
            delivery_tag: channel.last_tag,
            redelivered: entry.redelivered(),
            exchange: ShortStr::new(message.exchange()).expect("stored names fit"),
            routing_key: ShortStr::new(message.routing_key()).expect("stored names fit"),
            message_count: left,
        };
        got.write(channel.id, &mut out.bytes);
        write_content(
            channel.id,
            &segment,
            &message,
            self.settings.frame_max as u32,
            out,
        );
        let counters = vhost.counters();
        if no_ack {
            queue.settle(None, 1, &mut self.wakes);
            self.wakes.ring();
            vhost.settle_entries(queue, std::slice::from_ref(entry), Reason::Ack);
            vhost.arena().release_held(segment, 1);
            add(&counters.messages_delivered_get_auto_ack, 1);
        } else {
            let index = self.hold_got(channel, queue);
            channel
                .unacked
                .push(Unacked::new(channel.last_tag, index, entry));
            add(&counters.messages_delivered_get_manual_ack, 1);
            if entry.is_logged() && vhost.pager().is_some_and(|pager| pager.is_tight()) {
                self.let_go(channel, queue, channel.last_tag - 1);
            }
            self.note_delivered(index, channel.last_tag);
            self.wakes.ring();
        }
        self.count_redelivered(u64::from(entry.redelivered()));
    }

    pub(super) fn write_get_empty(&self, channel: u16, out: &mut OutBuf) {
        basic::GetEmpty {}.write(channel, &mut out.bytes);
        add(&self.publisher.vhost().counters().messages_get_empty, 1);
    }

    /// A message that no queue took: returned if it is mandatory, else only counted.
    pub(super) fn unroutable(
        &mut self,
        channel: u16,
        mandatory: Option<Content<'_>>,
        out: &mut OutBuf,
    ) {
        let counters = self.publisher.vhost().counters();
        let Some(content) = mandatory else {
            return add(&counters.messages_unroutable_dropped, 1);
        };
        add(&counters.messages_unroutable_returned, 1);
        let exchange_len = usize::from(content.names[0]);
        let (exchange, key) = (
            &content.names[1..=exchange_len],
            &content.names[exchange_len + 2..],
        );
        let returned = basic::Return {
            reply_code: 312,
            reply_text: ShortStr::lit("NO_ROUTE"),
            exchange: ShortStr::new(exchange).expect("names fit"),
            routing_key: ShortStr::new(key).expect("names fit"),
        };
        returned.write(channel, &mut out.bytes);
        let shown = shown(&content);
        let header = shown.as_deref().unwrap_or(content.header);
        write_frame(FrameKind::Header, channel, header, &mut out.bytes);
        for piece in body_pieces(content.body, self.settings.frame_max as u32) {
            write_frame(FrameKind::Body, channel, piece, &mut out.bytes);
        }
    }
}

/// Header and body frames of a stored message.
#[inline]
fn write_content(
    channel: u16,
    segment: &Arc<Segment>,
    message: &Record<'_>,
    frame_max: u32,
    out: &mut OutBuf,
) {
    write_frame(FrameKind::Header, channel, message.header, &mut out.bytes);
    write_body(channel, segment, message, frame_max, out);
}

/// Body frames of a stored message; large ones stay where they are.
fn write_body(
    channel: u16,
    segment: &Arc<Segment>,
    message: &Record<'_>,
    frame_max: u32,
    out: &mut OutBuf,
) {
    let mut at = message.body_offset;
    for piece in body_pieces(message.body, frame_max) {
        if piece.len() < SPLICE_FROM_BYTES {
            write_frame(FrameKind::Body, channel, piece, &mut out.bytes);
        } else {
            let header = frame::header(FrameKind::Body, channel, piece.len() as u32);
            out.bytes.extend_from_slice(&header);
            out.splice(Arc::clone(segment), at, at + piece.len());
            out.bytes.push(END);
        }
        at += piece.len();
    }
}

#[inline]
fn write_frame(kind: FrameKind, channel: u16, payload: &[u8], bytes: &mut Vec<u8>) {
    bytes.reserve(payload.len() + frame::OVERHEAD);
    bytes.extend_from_slice(&frame::header(kind, channel, payload.len() as u32));
    bytes.extend_from_slice(payload);
    bytes.push(END);
}
