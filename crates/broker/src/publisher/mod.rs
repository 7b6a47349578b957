//! The way of a message from its sender into queues.
//!
//! [`Publisher::publish`] routes a message (by its last routes, else by the topology's snapshot)
//! and encodes its record once into the batch; [`Publisher::commit`] hands the batch to the arena
//! and pushes the entries, one lock a queue and batch, then rings the consumers' bells. The
//! owner commits at the end of its read buffer; the publisher itself when a bound is reached.
//!
//! What has to be durable is appended to the log by the same commit, before it is pushed ([`plan`]). If the log takes
//! no messages, the batch stays here ([`Publisher::is_stalled`]) and the next commit tries again.
//!
//! Invariants: between two commits nothing of the batch is visible to anybody. Entries that wait
//! name [`THIS_BATCH`], or a segment of `large` in which the publisher owns one guard copy until
//! the commit is through. Messages of one publisher reach a queue in the order of `publish`.

mod accept;
mod bury;
mod by_rules;
mod carbon;
mod commit;
mod headers;
mod ids;
mod lists;
mod once;
mod plan;
mod routes;
mod stamp;
mod transfer;

use std::sync::Arc;

use backbone_log::{Position, Segment};
use backbone_wire::properties::Properties;
use smallvec::SmallVec;

use crate::access::Access;
use crate::durable::{Level, Promise};
use crate::error::Error;
use crate::queue::{Queue, Wakes};
use crate::record::{self, Content, Entry, HEADER_FIXED_LEN, Record};
use crate::topology::{ExchangeKind, Targets};
use crate::vhost::Vhost;
use accept::Fan;
pub(crate) use bury::note_lost;
pub use bury::{Dead, bury};
pub(crate) use by_rules::push;
use carbon::Carbon;
pub(crate) use carbon::shown;
use commit::place;
use headers::Headers;
use ids::MessageIds;
pub(crate) use lists::{List, Lists, Spare};
pub(crate) use plan::{Plan, add_number};
use routes::{Route, RouteCache, Target, TargetList};
pub(crate) use transfer::{Going, Transfer};

/// A batch is committed at this size; it leaves room for one more record below
/// [`LARGE_FROM_BYTES`] in a buffer of the arena.
const BATCH_BYTES_MAX: usize = 192 * 1024;
/// Messages after which a batch is committed.
const BATCH_MESSAGES_MAX: u64 = 16_384;
/// Records from this size on get a segment of their own.
pub const LARGE_FROM_BYTES: usize = 48 * 1024;
/// Entries with this segment are in the batch that is not committed yet.
const THIS_BATCH: u32 = u32::MAX;

/// What became of a published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    /// At least one queue takes it with the commit.
    Queues,
    /// No queue takes it.
    Nowhere,
    /// A queue has no room for it and refuses it; others may take it.
    Refused,
}

/// Where a publisher's messages come from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// User or client, for permissions and error texts.
    pub user: Arc<str>,
    /// What it may publish.
    pub access: Access,
}

/// A sender's batch under construction. One a connection.
pub struct Publisher {
    vhost: Arc<Vhost>,
    origin: Origin,
    ids: MessageIds,
    batch: Vec<u8>,
    messages: u64,
    /// Copies that entries in `pending` own in this batch.
    copies: u64,
    large: Vec<Arc<Segment>>,
    routes: RouteCache,
    topics: RouteCache,
    /// Raised by each commit: what routes remember of `pending` is void then.
    epoch: u64,
    /// What goes to queues.
    pending: Lists,
    /// What flows accepted. Until a queue gives one, a `seq` means nothing: it is the number of the topic's
    /// route in the batch.
    accepted: Lists,
    /// What of `pending` is to be logged.
    plan: Plan,
    /// The queues of the topics that messages in `accepted` have.
    topic_routes: Vec<Arc<TargetList>>,
    fan: Fan,
    spare: Spare,
    /// What was refused, or pushed out, and is to become dead letters.
    dead: Vec<Dead>,
    /// Unix time of the last message.
    now_ms: u64,
    wakes: Wakes,
    /// What whoever is told that everything so far is safe has to wait for.
    promise: Promise,
    /// The log refused the batch.
    stalled: bool,
    /// A batch that the log should have written before there is more.
    over: u64,
    /// The log has something of this commit, which nobody was told to write.
    logged: bool,
    /// [`Vhost::joins`] is held: dead letters wait.
    holds_joins: bool,
}

impl Publisher {
    /// An empty batch for messages from `origin`.
    pub fn new(vhost: Arc<Vhost>, origin: Origin) -> Self {
        Self {
            ids: MessageIds::new(&vhost.unique_prefix()),
            vhost,
            origin,
            batch: Vec::new(),
            messages: 0,
            copies: 0,
            large: Vec::new(),
            routes: RouteCache::new(),
            topics: RouteCache::new(),
            epoch: 1,
            pending: Lists::default(),
            accepted: Lists::default(),
            plan: Plan::default(),
            topic_routes: Vec::new(),
            fan: Fan::default(),
            spare: Spare::default(),
            dead: Vec::new(),
            now_ms: 0,
            wakes: Wakes::default(),
            promise: Promise::KEPT,
            stalled: false,
            over: 0,
            logged: false,
            holds_joins: false,
        }
    }

    /// What whoever is told that all committed messages are safe has to wait for.
    pub fn promise(&self) -> Promise {
        self.promise
    }

    /// Whether the log refused messages, which are here until a commit succeeds.
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// What to wait for before there is more, so that the log's backlog stays bounded.
    pub fn pace(&self) -> Promise {
        Promise::new(self.over, Level::Written)
    }

    /// The vhost that it publishes in.
    pub fn vhost(&self) -> &Arc<Vhost> {
        &self.vhost
    }

    /// Whose messages these are.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The queues that the message published last was routed to.
    pub(crate) fn routed_to(&self) -> impl Iterator<Item = &Arc<Queue>> {
        let targets = self.routes.last().map(|route| route.targets.iter());
        targets.into_iter().flatten().map(|target| &target.queue)
    }

    /// A number that grows with each batch: the same as before, and nothing was committed since.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes one message. `now_ms` (Unix time) dates messages on the bus that have no timestamp.
    /// An error is about the exchange or permissions: nothing was taken.
    #[inline]
    pub fn publish(&mut self, content: Content<'_>, now_ms: u64) -> Result<Routed, Error> {
        let seen;
        let mut headers = &Headers::NONE;
        if Headers::are_in(content.header) {
            seen = Headers::without_expiration(content.header);
            if seen.carbon || Headers::has_expiration(content.header) {
                return self.publish_special(content, now_ms);
            }
            headers = &seen;
        }
        let number = self.route(content)?;
        Ok(self.take(number, content, headers, now_ms))
    }

    /// Takes a message with further routing keys, or one that can expire.
    #[cold]
    fn publish_special(&mut self, content: Content<'_>, now_ms: u64) -> Result<Routed, Error> {
        let headers = Headers::of(content.header)?;
        if headers.carbon {
            return self.publish_copies(content, now_ms);
        }
        let number = self.route(content)?;
        self.messages += 1;
        Ok(self.take_by_rules(number, content, &headers, now_ms))
    }

    /// Takes a message whose route is that with `number`.
    #[inline(always)]
    fn take(
        &mut self,
        number: usize,
        content: Content<'_>,
        headers: &Headers<'_>,
        now_ms: u64,
    ) -> Routed {
        self.messages += 1;
        let route = self.current(number);
        if route.by_rules {
            return self.take_by_rules(number, content, headers, now_ms);
        }
        match route.targets[..] {
            [] => return Routed::Nowhere,
            [
                Target {
                    flow: None,
                    ranked: false,
                    logs,
                    ..
                },
            ] => {
                let pending = route.pending[0];
                let entry = stage(
                    &self.vhost,
                    &mut self.batch,
                    &mut self.large,
                    0,
                    None,
                    content,
                );
                self.own_copies(entry, 1);
                if logs && record::is_persistent(content.header) {
                    self.log_one(pending, entry);
                } else {
                    self.pending.push(pending, entry);
                }
            }
            [Target { flow: Some(_), .. }] => {
                let accepted = route.pending[0];
                self.accept(accepted, content, headers, now_ms);
            }
            _ => self.take_for_many(number, content, headers, now_ms),
        }
        self.commit_if_full();
        Routed::Queues
    }

    /// Adds an entry for one queue that is to be logged.
    #[inline]
    fn log_one(&mut self, pending: u32, entry: Entry) {
        self.plan.add(&entry, None);
        self.plan.enlist(&mut self.pending, pending, entry);
    }

    #[inline(never)]
    fn take_for_many(
        &mut self,
        number: usize,
        content: Content<'_>,
        headers: &Headers<'_>,
        now_ms: u64,
    ) {
        let route = self.routes.get(number);
        let mut flows = SmallVec::<[u32; 4]>::new();
        let mut staged = None;
        let (mut copies, mut planned) = (0, false);
        let persistent = record::is_persistent(content.header);
        for (target, index) in route.targets.iter().zip(&route.pending) {
            if target.flow.is_some() {
                flows.push(*index);
                continue;
            }
            let entry = *staged.get_or_insert_with(|| {
                stage(
                    &self.vhost,
                    &mut self.batch,
                    &mut self.large,
                    0,
                    None,
                    content,
                )
            });
            copies += 1;
            let index = match target.ranked {
                false => *index,
                true => {
                    let level = target.queue.home(content.header);
                    self.pending.of(&level, None, &mut self.spare)
                }
            };
            if !(persistent && target.logs) {
                self.pending.push(index, entry);
                continue;
            }
            if !planned {
                self.plan.add(&entry, None);
                planned = true;
            }
            self.plan.enlist(&mut self.pending, index, entry);
        }
        if let Some(entry) = staged {
            self.own_copies(entry, copies);
        }
        for accepted in flows {
            self.accept(accepted, content, headers, now_ms);
        }
    }

    /// As [`Publisher::publish`], for a record that was put together by [`record::begin`] in a
    /// buffer of its own: a large one is stored as it is, without another copy.
    pub fn publish_record(&mut self, stored: Vec<u8>, now_ms: u64) -> Result<Routed, Error> {
        let message = Record::read(&stored, 0);
        let content = message.content();
        let headers = Headers::of(content.header)?;
        let is_special = headers.carbon || headers.expiration.is_some();
        if stored.len() < LARGE_FROM_BYTES || is_special {
            return self.publish(content, now_ms);
        }
        let number = self.route(content)?;
        let route = self.current(number);
        let special = |target: &Target| target.flow.is_some() || target.ranked;
        if route.targets.is_empty() || route.by_rules || route.targets.iter().any(special) {
            return self.publish(content, now_ms);
        }
        let route = self.routes.get(number);
        let len = stored.len() as u32;
        let copies = route.targets.len() as u64;
        let segment = self.vhost.arena().adopt(stored, 1 + copies);
        let entry = own_entry(&segment, len);
        let persistent = record::is_persistent(Record::read(&segment, 0).header);
        let mut planned = false;
        for (target, index) in route.targets.iter().zip(&route.pending) {
            if !(persistent && target.logs) {
                self.pending.push(*index, entry);
                continue;
            }
            if !planned {
                self.plan.add(&entry, None);
                planned = true;
            }
            self.plan.enlist(&mut self.pending, *index, entry);
        }
        self.large.push(segment);
        self.messages += 1;
        self.commit_if_full();
        Ok(Routed::Queues)
    }

    /// Says what is wrong with a message's exchange, or the right to publish there.
    pub fn check_exchange(&mut self, content: Content<'_>) -> Result<(), Error> {
        self.route(content).map(drop)
    }

    /// Says what is wrong with a message's exchange, its keys or the right to publish with them,
    /// if anything.
    pub fn check(&mut self, content: Content<'_>) -> Result<(), Error> {
        let carbon = Carbon::of(content.header)?;
        Headers::of(content.header)?;
        self.route(content)?;
        carbon.map_or(Ok(()), |carbon| self.check_further(&carbon, content.names))
    }

    fn commit_if_full(&mut self) {
        if self.batch.len() >= BATCH_BYTES_MAX
            || self.messages >= BATCH_MESSAGES_MAX
            || !self.large.is_empty()
        {
            self.commit();
        }
    }

    #[inline(always)]
    fn route(&mut self, content: Content<'_>) -> Result<usize, Error> {
        let generation = self.vhost.topology().generation();
        match self.routes.find(content.names, generation) {
            Some(slot) => Ok(slot),
            None => self.resolve(content),
        }
    }

    #[cold]
    fn resolve(&mut self, content: Content<'_>) -> Result<usize, Error> {
        let exchange_len = usize::from(content.names[0]);
        let exchange = &content.names[1..=exchange_len];
        let key = &content.names[exchange_len + 2..];
        self.may_publish(exchange, key)?;
        let properties = Properties::assume_checked(&content.header[HEADER_FIXED_LEN..]);
        let mut targets = Targets::new();
        let keys = (key, &[][..]);
        let found = self.vhost.route(exchange, keys, properties, &mut targets)?;
        self.may_publish_topic(exchange, key)?;
        let (generation, keep) = (found.generation, found.cacheable);
        let number = self
            .routes
            .insert(exchange, key, generation, keep, &targets);
        if found.deduplicates {
            let dedup = self.vhost.topology().dedup(exchange);
            self.routes.get(number).drop_repeats(dedup);
        }
        Ok(number)
    }

    /// Whether the user may publish to `exchange`, as far as that can be said before it is found.
    fn may_publish(&self, exchange: &[u8], key: &[u8]) -> Result<(), Error> {
        let Origin { user, access } = &self.origin;
        access.publish(user, self.vhost.name(), exchange, key)
    }

    /// Whether the user may publish with `key`, if `exchange` is a topic exchange.
    fn may_publish_topic(&self, exchange: &[u8], key: &[u8]) -> Result<(), Error> {
        let Origin { user, access } = &self.origin;
        let is_topic = || self.vhost.topology().kind(exchange) == Some(ExchangeKind::Topic);
        match access.has_topic_rules() && is_topic() {
            true => access.publish_topic(user, self.vhost.name(), exchange, key),
            false => Ok(()),
        }
    }

    /// The route `number`, with the places of its targets in this batch.
    #[inline]
    fn current(&mut self, number: usize) -> &mut Route {
        if self.routes.get(number).epoch != self.epoch {
            self.assign_places(number);
        }
        self.routes.get(number)
    }

    /// Finds or makes the place for the messages of each target of a route.
    fn assign_places(&mut self, number: usize) {
        let route = self.routes.get(number);
        route.epoch = self.epoch;
        route.pending.clear();
        for Target { queue, flow, .. } in route.targets.iter() {
            let lists = match flow {
                Some(_) => &mut self.accepted,
                None => &mut self.pending,
            };
            let index = lists.of(queue, flow.as_ref(), &mut self.spare);
            route.pending.push(index);
        }
    }
}

/// Encodes the record, into the batch or, if it is large, into a segment of its own. With `accepted_ms` it says when it was
/// accepted.
// Once a message: a call more is measured (benches/instructions.txt).
#[inline(always)]
fn stage(
    vhost: &Vhost,
    batch: &mut Vec<u8>,
    large: &mut Vec<Arc<Segment>>,
    flags: u16,
    accepted_ms: Option<u64>,
    content: Content<'_>,
) -> Entry {
    let mut own = None;
    let out = room_for(content.sizes().record(), vhost, batch, &mut own);
    let (offset, mut len) = record::write(out, flags, content);
    if let Some(accepted_ms) = accepted_ms {
        record::stamp_time(out, offset, accepted_ms);
        len += record::TIME_LEN as u32;
    }
    staged(offset, len, own, vhost, large)
}

/// Where a record of at most `size` bytes goes: the batch, or `own` memory.
#[inline]
fn room_for<'a>(
    size: usize,
    vhost: &Vhost,
    batch: &'a mut Vec<u8>,
    own: &'a mut Option<Vec<u8>>,
) -> &'a mut Vec<u8> {
    if size >= LARGE_FROM_BYTES {
        return own.insert(Vec::with_capacity(size));
    }
    if batch.capacity() == 0 {
        *batch = vhost.arena().buffer();
    }
    batch
}

/// The entry of a record that was written to where [`room_for`] said.
#[inline]
fn staged(
    offset: u32,
    len: u32,
    own: Option<Vec<u8>>,
    vhost: &Vhost,
    large: &mut Vec<Arc<Segment>>,
) -> Entry {
    if let Some(stored) = own {
        let segment = vhost.arena().adopt(stored, 1);
        let entry = own_entry(&segment, len);
        large.push(segment);
        return entry;
    }
    let position = Position {
        segment: THIS_BATCH,
        offset,
    };
    Entry::unplaced(position, len)
}

fn own_entry(segment: &Segment, len: u32) -> Entry {
    let position = Position {
        segment: segment.id(),
        offset: 0,
    };
    Entry::unplaced(position, len)
}

impl Drop for Publisher {
    /// What was published before the sender went away is as good as any other message.
    fn drop(&mut self) {
        self.commit();
        if self.stalled {
            self.discard();
        }
    }
}
