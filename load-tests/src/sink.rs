//! A stand-in broker that does the least one can do: parse, look up the route, copy once, write.
//!
//! Its figures are the limit of the machine, and the generator's tests run against it. It has one
//! thread for each connection; a publisher's thread reads a large piece, appends each message to the
//! buffer of its queue and writes all buffers to their consumers at the end of the piece. A queue
//! without a consumer only counts. Nothing is checked, kept or limited: it serves this generator on
//! loopback and nobody else. Lock order: registry, queue, writer.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use crate::amqp::{
    self, BODY, CHANNEL, FRAME_HEADER, FRAME_MAX, FRAME_OVERHEAD, METHOD, MethodId, id,
};
use crate::group_log::GroupLog;

/// Octets asked for in one read.
const READ_SIZE: usize = 256 * 1024;
/// Octets of a queue's buffer that are written without waiting for the end of the piece.
const FLUSH_SIZE: usize = 1024 * 1024;
/// The delivery that a fault happens to.
const FAULTY: u64 = 1000;

/// What goes wrong on purpose, with delivery 1000 of each queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is not delivered.
    Drop,
    /// It is delivered twice.
    Double,
    /// It is delivered after the next one.
    Swap,
    /// An octet of its body is changed.
    Damage,
    /// The connection of its publisher is closed.
    Close,
}

/// Serves connections until the listener fails; with a log, confirms wait for it.
pub fn serve(listener: &TcpListener, fault: Fault, log: Option<Arc<GroupLog>>) {
    let hub = Arc::new(Hub {
        fault,
        log,
        registry: Mutex::default(),
    });
    for stream in listener.incoming().map_while(Result::ok) {
        let hub = Arc::clone(&hub);
        thread::spawn(move || {
            // A connection that breaks off takes nothing with it.
            if let Ok(mut session) = Session::new(hub, stream) {
                let _ = session.run();
                session.forget_consumers();
            }
        });
    }
}

struct Hub {
    fault: Fault,
    log: Option<Arc<GroupLog>>,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    queues: HashMap<Vec<u8>, Arc<Mutex<Queue>>>,
    /// By the name of the exchange.
    bindings: HashMap<Vec<u8>, Vec<Binding>>,
    fanouts: Vec<Vec<u8>>,
}

/// The key as bound and the queue's name.
type Binding = (Vec<u8>, Vec<u8>);
type Writer = Arc<Mutex<TcpStream>>;
type Route = Arc<[Arc<Mutex<Queue>>]>;

#[derive(Default)]
struct Queue {
    consumers: Vec<Consumer>,
    turn: usize,
    /// Messages that found no consumer.
    kept: u32,
    delivered: u64,
    /// Encoded deliveries for the consumer whose turn it is.
    out: Vec<u8>,
    /// A message that waits for the next one to go first.
    held_back: Option<(Vec<u8>, Vec<u8>)>,
}

struct Consumer {
    writer: Writer,
    tag: Vec<u8>,
    next_delivery: u64,
}

struct Session {
    hub: Arc<Hub>,
    stream: TcpStream,
    writer: Writer,
    buf: Vec<u8>,
    end: usize,
    confirms: bool,
    published: u64,
    /// Publishes whose confirm is sent, or left to the log.
    confirmed: u64,
    routes: HashMap<Vec<u8>, Route>,
    last_route: Option<(Vec<u8>, Route)>,
    touched: Vec<Arc<Mutex<Queue>>>,
}

/// A publish with its content, as positions in the buffer.
struct Publish {
    /// Exchange and key as they stand in the method, both short strings.
    address: std::ops::Range<usize>,
    content: std::ops::Range<usize>,
}

enum Step {
    Incomplete,
    Publish(Publish),
    Method {
        id: MethodId,
        args: std::ops::Range<usize>,
    },
    Skip(usize),
}

impl Session {
    fn new(hub: Arc<Hub>, stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Session {
            hub,
            writer: Arc::new(Mutex::new(stream.try_clone()?)),
            stream,
            buf: vec![0; READ_SIZE],
            end: 0,
            confirms: false,
            published: 0,
            confirmed: 0,
            routes: HashMap::new(),
            last_route: None,
            touched: Vec::new(),
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut header = [0; 8];
        self.stream.read_exact(&mut header)?;
        let mut out = Vec::new();
        amqp::method(&mut out, 0, id::CONNECTION_START, |out| {
            out.extend_from_slice(&[0, 9]);
            amqp::long_bytes(out, |out| {
                amqp::string_field(out, "product", "sink");
                amqp::string_field(out, "version", env!("CARGO_PKG_VERSION"));
            });
            out.extend_from_slice(b"\x00\x00\x00\x05PLAIN\x00\x00\x00\x05en_US");
        });
        self.reply(&out)?;
        loop {
            if self.end == self.buf.len() {
                self.buf.resize(self.end * 2, 0);
            }
            let n = self.stream.read(&mut self.buf[self.end..])?;
            if n == 0 {
                return Ok(());
            }
            self.end += n;
            let used = self.take_all()?;
            self.buf.copy_within(used..self.end, 0);
            self.end -= used;
            self.end_of_piece()?;
        }
    }

    /// Handles all that is complete; gives how many octets that was.
    fn take_all(&mut self) -> io::Result<usize> {
        let mut at = 0;
        loop {
            match step(&self.buf[at..self.end]) {
                Step::Incomplete => return Ok(at),
                Step::Skip(n) => at += n,
                Step::Publish(publish) => {
                    let next = at + publish.content.end;
                    self.publish(at, &publish)?;
                    at = next;
                }
                Step::Method { id, args } => {
                    let bytes = self.buf[at + args.start..at + args.end].to_vec();
                    at += args.end + 1;
                    self.answer(id, &bytes)?;
                }
            }
        }
    }

    fn end_of_piece(&mut self) -> io::Result<()> {
        for queue in self.touched.drain(..) {
            queue.lock().flush()?;
        }
        if self.confirms && self.published > self.confirmed {
            self.confirmed = self.published;
            if let Some(log) = &self.hub.log {
                log.promise(&self.writer, self.published);
                return Ok(());
            }
            let mut out = Vec::new();
            amqp::ack(&mut out, self.published, true);
            self.reply(&out)?;
        }
        Ok(())
    }

    fn publish(&mut self, at: usize, publish: &Publish) -> io::Result<()> {
        let address = at + publish.address.start..at + publish.address.end;
        let content = at + publish.content.start..at + publish.content.end;
        if !matches!(&self.last_route, Some((last, _)) if *last == self.buf[address.clone()]) {
            let key = self.buf[address.clone()].to_vec();
            let hub = &self.hub;
            let route = self.routes.entry(key.clone());
            let route = route.or_insert_with(|| hub.registry.lock().route(&key));
            self.last_route = Some((key, Arc::clone(route)));
        }
        self.published += 1;
        if let Some(log) = &self.hub.log {
            log.append(&self.buf[address.clone()], &self.buf[content.clone()]);
        }
        let Some((_, route)) = &self.last_route else {
            return Ok(());
        };
        for queue in route.iter() {
            let mut locked = queue.lock();
            if locked.out.is_empty() {
                self.touched.push(Arc::clone(queue));
            }
            locked.deliver(
                &self.buf[address.clone()],
                &self.buf[content.clone()],
                self.hub.fault,
            )?;
        }
        Ok(())
    }

    fn answer(&mut self, id: MethodId, args: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        match id {
            id::CONNECTION_START_OK => amqp::method(&mut out, 0, id::CONNECTION_TUNE, |out| {
                out.extend_from_slice(&2047u16.to_be_bytes());
                out.extend_from_slice(&(FRAME_MAX as u32).to_be_bytes());
                out.extend_from_slice(&[0, 0]);
            }),
            id::CONNECTION_OPEN => {
                amqp::method(&mut out, 0, id::CONNECTION_OPEN_OK, |out| out.push(0));
            }
            id::CONNECTION_CLOSE => amqp::method(&mut out, 0, id::CONNECTION_CLOSE_OK, |_| {}),
            id::CHANNEL_OPEN => amqp::method(&mut out, CHANNEL, id::CHANNEL_OPEN_OK, |out| {
                out.extend_from_slice(&[0; 4]);
            }),
            id::CONFIRM_SELECT => {
                self.confirms = true;
                amqp::method(&mut out, CHANNEL, id::CONFIRM_SELECT_OK, |_| {});
            }
            id::BASIC_QOS => amqp::method(&mut out, CHANNEL, id::BASIC_QOS_OK, |_| {}),
            id::BASIC_CONSUME | id::BASIC_CANCEL => return self.change_consumer(id, args),
            _ => self.hub.registry.lock().answer(id, args, &mut out),
        }
        self.reply(&out)
    }

    fn change_consumer(&mut self, id: MethodId, args: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        if id == id::BASIC_CANCEL {
            self.forget_consumers();
            let tag = short(args).0;
            amqp::method(&mut out, CHANNEL, id::BASIC_CANCEL_OK, |out| {
                push_short(out, tag)
            });
            return self.reply(&out);
        }
        let (queue, rest) = short(args.get(2..).unwrap_or_default());
        let tag = short(rest).0;
        amqp::method(&mut out, CHANNEL, id::BASIC_CONSUME_OK, |out| {
            push_short(out, tag)
        });
        let queue = self.hub.registry.lock().queues.get(queue).cloned();
        if let Some(queue) = queue {
            let mut queue = queue.lock();
            // The answer goes out under the queue's lock, so that it precedes the first delivery.
            self.reply(&out)?;
            queue.consumers.push(Consumer {
                writer: Arc::clone(&self.writer),
                tag: tag.to_vec(),
                next_delivery: 1,
            });
        }
        Ok(())
    }

    fn forget_consumers(&self) {
        let queues: Vec<_> = self.hub.registry.lock().queues.values().cloned().collect();
        for queue in queues {
            let mut queue = queue.lock();
            queue
                .consumers
                .retain(|c| !Arc::ptr_eq(&c.writer, &self.writer));
        }
    }

    fn reply(&self, out: &[u8]) -> io::Result<()> {
        self.writer.lock().write_all(out)
    }
}

impl Registry {
    /// Answers what declares, binds or deletes; anything else is ignored.
    fn answer(&mut self, id: MethodId, args: &[u8], out: &mut Vec<u8>) {
        let (name, rest) = short(args.get(2..).unwrap_or_default());
        match id {
            id::EXCHANGE_DECLARE => {
                if short(rest).0 == b"fanout" {
                    self.fanouts.push(name.to_vec());
                }
                amqp::method(out, CHANNEL, id::EXCHANGE_DECLARE_OK, |_| {});
            }
            id::EXCHANGE_DELETE => {
                self.bindings.remove(name);
                amqp::method(out, CHANNEL, id::EXCHANGE_DELETE_OK, |_| {});
            }
            id::QUEUE_DECLARE => {
                let queue = self.queues.entry(name.to_vec()).or_default();
                let kept = queue.lock().kept;
                amqp::method(out, CHANNEL, id::QUEUE_DECLARE_OK, |out| {
                    push_short(out, name);
                    out.extend_from_slice(&kept.to_be_bytes());
                    out.extend_from_slice(&[0; 4]);
                });
            }
            id::QUEUE_BIND => {
                let (exchange, rest) = short(rest);
                let bindings = self.bindings.entry(exchange.to_vec()).or_default();
                bindings.push((short(rest).0.to_vec(), name.to_vec()));
                amqp::method(out, CHANNEL, id::QUEUE_BIND_OK, |_| {});
            }
            id::QUEUE_DELETE => {
                self.queues.remove(name);
                amqp::method(out, CHANNEL, id::QUEUE_DELETE_OK, |out| {
                    out.extend_from_slice(&[0; 4]);
                });
            }
            _ => {}
        }
    }

    /// The queues for an exchange and a key, both as short strings behind each other.
    fn route(&self, address: &[u8]) -> Route {
        let (exchange, rest) = short(address);
        let key = short(rest).0;
        let queue = |name: &Vec<u8>| self.queues.get(name).cloned();
        if exchange.is_empty() {
            return queue(&key.to_vec()).into_iter().collect();
        }
        let fanout = self.fanouts.iter().any(|f| f == exchange);
        let bindings = self.bindings.get(exchange).map_or(&[][..], Vec::as_slice);
        bindings
            .iter()
            .filter(|(bound, _)| fanout || matches_topic(bound, key))
            .filter_map(|(_, name)| queue(name))
            .collect()
    }
}

impl Queue {
    fn deliver(&mut self, address: &[u8], content: &[u8], fault: Fault) -> io::Result<()> {
        if self.consumers.is_empty() {
            self.kept += 1;
            return Ok(());
        }
        self.delivered += 1;
        if fault != Fault::None && self.delivered >= FAULTY {
            return self.deliver_badly(address, content, fault);
        }
        self.append(address, content);
        self.flush_if_large()
    }

    fn deliver_badly(&mut self, address: &[u8], content: &[u8], fault: Fault) -> io::Result<()> {
        match (fault, self.delivered) {
            (Fault::Drop, FAULTY) => {}
            (Fault::Double, FAULTY) => {
                self.append(address, content);
                self.append(address, content);
            }
            (Fault::Swap, FAULTY) => self.held_back = Some((address.to_vec(), content.to_vec())),
            (Fault::Damage, FAULTY..) => {
                self.append(address, content);
                // The last octet of the body, in front of the end octet.
                if let Some(octet) = self.out.iter_mut().nth_back(1) {
                    *octet ^= 0xFF;
                }
            }
            (Fault::Close, FAULTY..) => return Err(io::ErrorKind::ConnectionAborted.into()),
            _ => {
                self.append(address, content);
                if let Some((address, content)) = self.held_back.take() {
                    self.append(&address, &content);
                }
            }
        }
        self.flush_if_large()
    }

    fn append(&mut self, address: &[u8], content: &[u8]) {
        let turn = self.turn % self.consumers.len();
        let consumer = &mut self.consumers[turn];
        let out = &mut self.out;
        let size = 4 + 1 + consumer.tag.len() + 8 + 1 + address.len();
        out.extend_from_slice(&[METHOD, 0, CHANNEL as u8]);
        out.extend_from_slice(&(size as u32).to_be_bytes());
        out.extend_from_slice(&[0, 60, 0, 60, consumer.tag.len() as u8]);
        out.extend_from_slice(&consumer.tag);
        out.extend_from_slice(&consumer.next_delivery.to_be_bytes());
        out.push(0);
        out.extend_from_slice(address);
        out.push(amqp::FRAME_END);
        out.extend_from_slice(content);
        consumer.next_delivery += 1;
    }

    fn flush_if_large(&mut self) -> io::Result<()> {
        if self.out.len() < FLUSH_SIZE {
            return Ok(());
        }
        self.flush()
    }

    /// Writes to the consumer whose turn it is, and gives the turn to the next.
    fn flush(&mut self) -> io::Result<()> {
        let turn = self.turn;
        self.turn += 1;
        let out = &mut self.out;
        let Some(consumer) = self.consumers.get(turn % self.consumers.len().max(1)) else {
            out.clear();
            return Ok(());
        };
        let written = consumer.writer.lock().write_all(out);
        out.clear();
        written
    }
}

/// What lies at the front of `buf`; a publish only when its content is complete.
fn step(buf: &[u8]) -> Step {
    let Some((kind, size)) = frame_at(buf, 0) else {
        return Step::Incomplete;
    };
    let end = size + FRAME_OVERHEAD;
    if kind != METHOD || size < 4 {
        return Step::Skip(end);
    }
    let word = |at: usize| u16::from_be_bytes([buf[at], buf[at + 1]]);
    let id = (word(FRAME_HEADER), word(FRAME_HEADER + 2));
    match id {
        id::BASIC_ACK => Step::Skip(end),
        id::BASIC_PUBLISH => match content_end(buf, end) {
            // The arguments: a reserved short, exchange, key and an octet of bits.
            Some(content_end) => Step::Publish(Publish {
                address: FRAME_HEADER + 6..end - 2,
                content: end..content_end,
            }),
            None => Step::Incomplete,
        },
        _ => Step::Method {
            id,
            args: FRAME_HEADER + 4..end - 1,
        },
    }
}

/// Where the header and the body frames that start at `start` end, once they are complete.
fn content_end(buf: &[u8], start: usize) -> Option<usize> {
    let (_, header_size) = frame_at(buf, start)?;
    let size = buf.get(start + FRAME_HEADER + 4..start + FRAME_HEADER + 12)?;
    let size = u64::from_be_bytes(size.try_into().ok()?);
    let mut at = start + header_size + FRAME_OVERHEAD;
    let mut have = 0;
    while have < size {
        let (kind, chunk) = frame_at(buf, at)?;
        have += if kind == BODY { chunk as u64 } else { 0 };
        at += chunk + FRAME_OVERHEAD;
    }
    Some(at)
}

/// Type and payload size of the complete frame at `at`.
fn frame_at(buf: &[u8], at: usize) -> Option<(u8, usize)> {
    let head = buf.get(at..at + FRAME_HEADER)?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    buf.get(at + FRAME_HEADER + size)?;
    Some((head[0], size))
}

/// Whether a topic pattern matches; a key without wildcards matches itself.
fn matches_topic(pattern: &[u8], key: &[u8]) -> bool {
    let pattern: Vec<&[u8]> = pattern.split(|b| *b == b'.').collect();
    let key: Vec<&[u8]> = key.split(|b| *b == b'.').collect();
    matches_words(&pattern, &key)
}

fn matches_words(pattern: &[&[u8]], key: &[&[u8]]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&b"#", rest)), _) => {
            matches_words(rest, key) || (!key.is_empty() && matches_words(pattern, &key[1..]))
        }
        (Some((word, rest)), Some((first, others))) => {
            (*word == b"*" || word == first) && matches_words(rest, others)
        }
        _ => false,
    }
}

fn short(bytes: &[u8]) -> (&[u8], &[u8]) {
    amqp::take_short_str(bytes).unwrap_or_default()
}

fn push_short(out: &mut Vec<u8>, text: &[u8]) {
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_topics_do() {
        assert!(matches_topic(b"perf.1.*", b"perf.1.x"));
        assert!(matches_topic(b"perf.1.#", b"perf.1.x"));
        assert!(matches_topic(b"#", b"a.b"));
        assert!(!matches_topic(b"*.2.x", b"perf.1.x"));
        assert!(!matches_topic(b"perf.1", b"perf.1.x"));
    }
}
