//! What clients must see of a broker, as simply as it can be said: no batches, no credits, no
//! shared records. Each act takes effect at once and says what the session has to answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backbone_wire::ShortStr;
use backbone_wire::method::{basic, channel, confirm, queue, tx};

use super::acts::{Act, Publish};
use super::state::{Channel, Conn, Consumer, Expect, Queue, Stored, Uid, Unacked};

#[derive(Default)]
pub struct Model {
    pub conns: Vec<Conn>,
    pub queues: BTreeMap<Uid, Queue>,
    pub bindings: BTreeSet<(&'static str, String, Uid)>,
    /// The last identity given.
    pub next: Uid,
    /// Messages larger than this are refused.
    pub message_bytes_max: usize,
}

type Refusal = (u16, (u16, u16));

/// The payload of the frame that `write` writes.
pub fn payload(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out[7..out.len() - 1].to_vec()
}

fn short(text: &str) -> ShortStr<'_> {
    ShortStr::new(text.as_bytes()).unwrap()
}

impl Model {
    pub fn apply(&mut self, c: usize, ch: u16, act: &Act) {
        if self.conns[c].dead {
            return;
        }
        let ids = act.ids();
        let channel = self.conns[c].channels.get(&ch);
        if matches!(act, Act::Open) && channel.is_some_and(|it| it.crossed) {
            self.conns[c].channels.remove(&ch);
        }
        let Some(channel) = self.conns[c].channels.get_mut(&ch) else {
            if !matches!(act, Act::Open) {
                return self.end_conn_with(c, 504, ids);
            }
            self.answer_closed(c);
            self.conns[c].channels.insert(ch, Channel::default());
            return self.reply(c, ch, |out| channel::OpenOk {}.write(ch, out));
        };
        if channel.closing {
            if matches!(act, Act::CloseOk) {
                self.conns[c].channels.remove(&ch);
            } else if matches!(act, Act::Close) {
                channel.crossed = true;
                self.reply(c, ch, |out| channel::CloseOk {}.write(ch, out));
            }
            return;
        }
        match self.act(c, ch, act) {
            Ok(()) => {}
            Err((code, ids)) if code >= 500 => self.end_conn_with(c, code, ids),
            Err((code, ids)) => {
                self.conns[c].expect.push_back(Expect::Close(ch, code, ids));
                self.end_channel(c, ch);
                let closing = Channel {
                    closing: true,
                    ..Channel::default()
                };
                self.conns[c].channels.insert(ch, closing);
            }
        }
    }

    fn act(&mut self, c: usize, ch: u16, act: &Act) -> Result<(), Refusal> {
        let ids = act.ids();
        match act {
            Act::Open => return Err((504, ids)),
            Act::CloseOk => return Err((503, ids)),
            Act::Close => {
                self.end_channel(c, ch);
                self.conns[c].closed.push_back(ch);
            }
            Act::Publish(publish) => self.publish(c, ch, publish, ids)?,
            Act::Confirm => {
                let channel = self.channel(c, ch);
                if channel.tx.is_some() {
                    return Err((406, ids));
                }
                channel.confirm.get_or_insert_default();
                self.reply(c, ch, |out| confirm::SelectOk {}.write(ch, out));
            }
            Act::Consume {
                queue,
                tag,
                no_ack,
                exclusive,
            } => self.consume(c, ch, queue, tag, *no_ack, *exclusive, ids)?,
            Act::Cancel(tag) => {
                self.cancel(c, ch, tag);
                let consumer_tag = short(tag);
                self.reply(c, ch, |out| basic::CancelOk { consumer_tag }.write(ch, out));
            }
            Act::Settle {
                tag,
                multiple,
                requeue,
                ..
            } => self.settle(c, ch, *tag, *multiple, *requeue, ids)?,
            Act::Recover(requeue) => {
                if !requeue {
                    return Err((540, ids));
                }
                let open = |u: &Unacked| !u.in_tx;
                let all = std::mem::take(&mut self.channel(c, ch).unacked);
                let (back, kept) = all.into_iter().partition(|(_, u)| open(u));
                self.channel(c, ch).unacked = kept;
                self.requeue(back);
                self.reply(c, ch, |out| basic::RecoverOk {}.write(ch, out));
            }
            Act::Qos {
                count,
                global,
                size,
                quiet,
            } => {
                if *size != 0 {
                    return Err((540, ids));
                }
                self.qos(c, ch, u32::from(*count), *global, *quiet);
                self.reply(c, ch, |out| basic::QosOk {}.write(ch, out));
            }
            Act::Get { queue, no_ack } => self.get(c, ch, queue, *no_ack, ids)?,
            Act::Declare { queue, passive } => self.declare(c, ch, queue, *passive, ids)?,
            Act::Purge(queue) => {
                let uid = self.queue_for(c, queue, ids)?;
                let gone = std::mem::take(&mut self.queues.get_mut(&uid).unwrap().ready);
                let message_count = gone.len() as u32;
                self.reply(c, ch, |out| queue::PurgeOk { message_count }.write(ch, out));
            }
            Act::Delete {
                queue,
                unused,
                empty,
            } => self.delete(c, ch, queue, *unused, *empty, ids)?,
            Act::Bind(queue, exchange, key) => {
                let uid = self.queue_for(c, queue, ids)?;
                self.bindings.insert((exchange, (*key).to_owned(), uid));
                self.reply(c, ch, |out| queue::BindOk {}.write(ch, out));
            }
            Act::Unbind(queue, exchange, key) => {
                if self.named(queue).is_some() {
                    let uid = self.queue_for(c, queue, ids)?;
                    self.bindings.remove(&(*exchange, (*key).to_owned(), uid));
                }
                self.reply(c, ch, |out| queue::UnbindOk {}.write(ch, out));
            }
            Act::TxSelect => {
                let channel = self.channel(c, ch);
                if channel.confirm.is_some() {
                    return Err((406, ids));
                }
                channel.tx.get_or_insert_default();
                self.reply(c, ch, |out| tx::SelectOk {}.write(ch, out));
            }
            Act::TxCommit => {
                let tx = self.channel(c, ch).tx.as_mut().map(std::mem::take);
                let tx = tx.ok_or((406, ids))?;
                for publish in &tx.publishes {
                    self.enqueue(c, ch, publish);
                }
                for (tag, requeue) in tx.settles {
                    let unacked = self.channel(c, ch).unacked.remove(&tag).unwrap();
                    if requeue {
                        self.requeue(BTreeMap::from([(tag, unacked)]));
                    }
                }
                self.reply(c, ch, |out| tx::CommitOk {}.write(ch, out));
            }
            Act::TxRollback => {
                let tx = self.channel(c, ch).tx.as_mut().map(std::mem::take);
                for (tag, _) in tx.ok_or((406, ids))?.settles {
                    self.channel(c, ch).unacked.get_mut(&tag).unwrap().in_tx = false;
                }
                self.reply(c, ch, |out| tx::RollbackOk {}.write(ch, out));
            }
        }
        Ok(())
    }

    fn reply(&mut self, c: usize, ch: u16, write: impl FnOnce(&mut Vec<u8>)) {
        let method = Expect::Method(ch, payload(write));
        self.conns[c].expect.push_back(method);
    }

    fn channel(&mut self, c: usize, ch: u16) -> &mut Channel {
        self.conns[c].channels.get_mut(&ch).unwrap()
    }

    fn publish(
        &mut self,
        c: usize,
        ch: u16,
        publish: &Publish,
        ids: (u16, u16),
    ) -> Result<(), Refusal> {
        if publish.immediate {
            return Err((540, ids));
        }
        if publish.message.body.len() > self.message_bytes_max {
            return Err((406, ids));
        }
        if publish.message.exchange == "missing" {
            return Err((404, ids));
        }
        match &mut self.channel(c, ch).tx {
            Some(tx) => tx.publishes.push(publish.clone()),
            None => self.enqueue(c, ch, publish),
        }
        Ok(())
    }

    fn enqueue(&mut self, c: usize, ch: u16, publish: &Publish) {
        let mut uids = BTreeSet::new();
        let message = &publish.message;
        let keys = std::iter::once(&message.key).chain(&publish.carbon);
        for key in keys {
            match message.exchange {
                "" => uids.extend(self.named(key)),
                exchange => {
                    let bound = self.bindings.iter().filter(|b| b.0 == exchange);
                    let hit = bound.filter(|b| match exchange {
                        "amq.fanout" => true,
                        "amq.direct" => b.1 == *key,
                        _ => topic_matches(&words(&b.1), &words(key)),
                    });
                    uids.extend(hit.map(|b| b.2));
                }
            }
        }
        for uid in &uids {
            let queue = self.queues.get_mut(uid).unwrap();
            let stored = Stored {
                message: Arc::clone(message),
                redelivered: false,
            };
            queue.ready.insert(queue.published, stored);
            queue.published += 1;
        }
        let channel = self.channel(c, ch);
        let confirm = channel.confirm.as_mut().map(|(published, _)| {
            *published += 1;
            *published
        });
        if uids.is_empty() && publish.mandatory {
            let returned = Expect::Return(ch, Arc::clone(message), confirm);
            self.conns[c].expect.push_back(returned);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the arguments of the method")]
    fn consume(
        &mut self,
        c: usize,
        ch: u16,
        queue: &str,
        tag: &str,
        no_ack: bool,
        exclusive: bool,
        ids: (u16, u16),
    ) -> Result<(), Refusal> {
        let uid = self.queue_for(c, queue, ids)?;
        if self.channel(c, ch).consumers.contains_key(tag) {
            return Err((530, ids));
        }
        let others = self.consumers_of(uid);
        if (exclusive && !others.is_empty()) || others.iter().any(|o| o.exclusive) {
            return Err((403, ids));
        }
        if !others.is_empty() {
            self.queues.get_mut(&uid).unwrap().ordered = false;
        }
        self.next += 1;
        let consumer = self.next;
        let channel = self.channel(c, ch);
        let shared = channel.limit.is_some() && !no_ack;
        if shared {
            channel.sharers.insert(consumer);
        }
        let prefetch = if no_ack { 0 } else { channel.prefetch };
        let consumer = Consumer {
            uid: consumer,
            queue: uid,
            prefetch,
            no_ack,
            shared,
            exclusive,
            gone: false,
        };
        channel.consumers.insert(tag.to_owned(), consumer);
        let consumer_tag = short(tag);
        self.reply(c, ch, |out| {
            basic::ConsumeOk { consumer_tag }.write(ch, out)
        });
        Ok(())
    }

    fn cancel(&mut self, c: usize, ch: u16, tag: &str) {
        let there = self.channel(c, ch).consumers.remove(tag);
        self.conns[c].cancels.retain(|due| *due != (ch, tag.into()));
        if let Some(consumer) = there {
            self.delete_if_unused(consumer.queue);
        }
    }

    fn settle(
        &mut self,
        c: usize,
        ch: u16,
        tag: u64,
        multiple: bool,
        requeue: bool,
        ids: (u16, u16),
    ) -> Result<(), Refusal> {
        let channel = self.channel(c, ch);
        let there = channel.unacked.get(&tag).is_some_and(|u| !u.in_tx);
        let known = there || (multiple && tag == 0);
        if !known {
            return Err((406, ids));
        }
        let all = multiple && tag == 0;
        let hit = |t: u64| t == tag || (multiple && (all || t < tag));
        let open = channel.unacked.iter().filter(|(_, u)| !u.in_tx);
        let tags: Vec<u64> = open.map(|(t, _)| *t).filter(|t| hit(*t)).collect();
        if let Some(tx) = &mut channel.tx {
            for tag in &tags {
                channel.unacked.get_mut(tag).unwrap().in_tx = true;
            }
            tx.settles.extend(tags.into_iter().map(|t| (t, requeue)));
            return Ok(());
        }
        let gone: BTreeMap<u64, Unacked> = tags
            .into_iter()
            .map(|t| (t, channel.unacked.remove(&t).unwrap()))
            .collect();
        if requeue {
            self.requeue(gone);
        }
        Ok(())
    }

    fn requeue(&mut self, back: BTreeMap<u64, Unacked>) {
        for unacked in back.into_values() {
            if let Some(queue) = self.queues.get_mut(&unacked.queue) {
                let stored = Stored {
                    redelivered: true,
                    ..unacked.stored
                };
                assert!(queue.ready.insert(unacked.seq, stored).is_none());
            }
        }
    }

    fn qos(&mut self, c: usize, ch: u16, count: u32, global: bool, quiet: bool) {
        let channel = self.channel(c, ch);
        if !global {
            channel.prefetch = count;
            return;
        }
        channel.limit = Some(count);
        channel.loose |= !quiet;
        for consumer in channel.consumers.values_mut().filter(|o| !o.no_ack) {
            consumer.shared = true;
            channel.sharers.insert(consumer.uid);
        }
    }

    fn get(
        &mut self,
        c: usize,
        ch: u16,
        queue: &str,
        no_ack: bool,
        ids: (u16, u16),
    ) -> Result<(), Refusal> {
        let uid = self.queue_for(c, queue, ids)?;
        let queue = self.queues.get_mut(&uid).unwrap();
        let Some((seq, stored)) = queue.ready.pop_first() else {
            self.reply(c, ch, |out| basic::GetEmpty {}.write(ch, out));
            return Ok(());
        };
        let left = queue.ready.len();
        let channel = self.channel(c, ch);
        channel.last_tag += 1;
        let tag = channel.last_tag;
        if !no_ack {
            let unacked = Unacked {
                queue: uid,
                seq,
                stored: stored.clone(),
                consumer: None,
                in_tx: false,
            };
            channel.unacked.insert(tag, unacked);
        }
        self.conns[c].expect.push_back(Expect::Got {
            channel: ch,
            tag,
            left,
            stored,
        });
        Ok(())
    }

    fn declare(
        &mut self,
        c: usize,
        ch: u16,
        name: &str,
        passive: bool,
        ids: (u16, u16),
    ) -> Result<(), Refusal> {
        let uid = match self.named(name) {
            Some(_) => self.queue_for(c, name, ids)?,
            None if passive => return Err((404, ids)),
            None => {
                self.next += 1;
                let queue = Queue {
                    name: name.to_owned(),
                    ready: BTreeMap::new(),
                    published: 0,
                    auto_delete: name.starts_with("auto"),
                    owner: name.starts_with("own").then_some(c),
                    ordered: true,
                };
                self.queues.insert(self.next, queue);
                self.next
            }
        };
        self.channel(c, ch).last_queue = Some(name.to_owned());
        let ok = queue::DeclareOk {
            queue: short(name),
            message_count: self.queues[&uid].ready.len() as u32,
            consumer_count: self.consumers_of(uid).len() as u32,
        };
        self.reply(c, ch, |out| ok.write(ch, out));
        Ok(())
    }

    fn delete(
        &mut self,
        c: usize,
        ch: u16,
        name: &str,
        unused: bool,
        empty: bool,
        ids: (u16, u16),
    ) -> Result<(), Refusal> {
        let mut message_count = 0;
        if self.named(name).is_some() {
            let uid = self.queue_for(c, name, ids)?;
            let used = unused && !self.consumers_of(uid).is_empty();
            if used || (empty && !self.queues[&uid].ready.is_empty()) {
                return Err((406, ids));
            }
            message_count = self.queues[&uid].ready.len() as u32;
            self.remove_queue(uid);
        }
        self.reply(c, ch, |out| {
            queue::DeleteOk { message_count }.write(ch, out)
        });
        Ok(())
    }

    fn remove_queue(&mut self, uid: Uid) {
        self.queues.remove(&uid);
        self.bindings.retain(|b| b.2 != uid);
        for conn in &mut self.conns {
            for (ch, channel) in &mut conn.channels {
                for (tag, consumer) in &mut channel.consumers {
                    if consumer.queue == uid {
                        consumer.gone = true;
                        conn.cancels.push((*ch, tag.clone()));
                    }
                }
            }
        }
    }

    fn delete_if_unused(&mut self, uid: Uid) {
        let unused = self.consumers_of(uid).is_empty();
        if unused && self.queues.get(&uid).is_some_and(|q| q.auto_delete) {
            self.remove_queue(uid);
        }
    }

    /// The live consumers of a queue.
    pub fn consumers_of(&self, uid: Uid) -> Vec<&Consumer> {
        let channels = self.conns.iter().flat_map(|c| c.channels.values());
        let all = channels.flat_map(|ch| ch.consumers.values());
        all.filter(|o| o.queue == uid && !o.gone).collect()
    }

    pub fn named(&self, name: &str) -> Option<Uid> {
        let found = self.queues.iter().find(|(_, q)| q.name == name);
        found.map(|(uid, _)| *uid)
    }

    fn queue_for(&self, c: usize, name: &str, ids: (u16, u16)) -> Result<Uid, Refusal> {
        let uid = self.named(name).ok_or((404, ids))?;
        match self.queues[&uid].owner {
            Some(owner) if owner != c => Err((405, ids)),
            _ => Ok(uid),
        }
    }

    fn end_channel(&mut self, c: usize, ch: u16) {
        let Some(channel) = self.conns[c].channels.remove(&ch) else {
            return;
        };
        self.conns[c].cancels.retain(|due| due.0 != ch);
        let confirm = channel
            .confirm
            .filter(|(published, confirmed)| published > confirmed);
        self.conns[c]
            .late
            .extend(confirm.map(|confirm| (ch, confirm)));
        for consumer in channel.consumers.into_values() {
            self.delete_if_unused(consumer.queue);
        }
        self.requeue(channel.unacked);
    }

    /// The connection ends: everything goes back.
    pub fn end_conn(&mut self, c: usize) {
        let channels: Vec<u16> = self.conns[c].channels.keys().copied().collect();
        for ch in channels {
            self.end_channel(c, ch);
        }
        self.conns[c].dead = true;
        let own = self.queues.iter().filter(|(_, q)| q.owner == Some(c));
        for uid in own.map(|(uid, _)| *uid).collect::<Vec<_>>() {
            self.remove_queue(uid);
        }
    }

    /// What cannot wait for the next deliveries any more.
    fn answer_closed(&mut self, c: usize) {
        for ch in std::mem::take(&mut self.conns[c].closed) {
            self.reply(c, ch, |out| channel::CloseOk {}.write(ch, out));
        }
    }

    fn end_conn_with(&mut self, c: usize, code: u16, ids: (u16, u16)) {
        self.answer_closed(c);
        self.conns[c].expect.push_back(Expect::Close(0, code, ids));
        self.end_conn(c);
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split('.').collect()
}

fn topic_matches(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => {
            topic_matches(rest, key) || (!key.is_empty() && topic_matches(pattern, &key[1..]))
        }
        (Some((word, rest)), Some((first, key))) => {
            (*word == "*" || word == first) && topic_matches(rest, key)
        }
        _ => false,
    }
}
