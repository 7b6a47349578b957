//! A connection for tests in which the server may end at any moment: what is read and written gives an
//! `io::Result`, and confirms, deliveries and blocks are events in the order in which they came.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use backbone_wire::frame::{self, FrameKind};
use backbone_wire::method::{Method, basic, confirm, queue};
use backbone_wire::properties::{ContentHeader, Properties};
use backbone_wire::{ShortStr, content};

use super::raw::{FRAME_MAX, Raw, short};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
const READ_SIZE: usize = 256 * 1024;
/// Property flags and delivery mode of a persistent message, and of one that is not.
const PERSISTENT: [u8; 3] = [0x10, 0, 2];
const TRANSIENT: [u8; 3] = [0x10, 0, 1];

/// Something that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A message, whole.
    Delivery {
        tag: u64,
        redelivered: bool,
        body: Vec<u8>,
    },
    /// A publisher confirm; `ack` is false for a refusal.
    Confirm { tag: u64, multiple: bool, ack: bool },
    /// Publishers are asked to pause, with the reason.
    Blocked(String),
    /// They may go on.
    Unblocked,
    /// Any other method: its name and its payload.
    Method(&'static str, Vec<u8>),
}

/// A connection with channel 1 open.
pub struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    start: usize,
    content: Option<Content>,
    /// Came while an answer was waited for.
    aside: VecDeque<Event>,
}

/// A delivery of which frames are still to come.
struct Content {
    tag: u64,
    redelivered: bool,
    size: Option<usize>,
    body: Vec<u8>,
}

impl Peer {
    /// Logs in as guest and opens channel 1.
    pub fn open(address: SocketAddr) -> Self {
        let stream = Raw::open(address, 0).stream;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            input: Vec::new(),
            start: 0,
            content: None,
            aside: VecDeque::new(),
        }
    }

    /// The same with confirms on.
    pub fn publisher(address: SocketAddr) -> Self {
        let mut peer = Self::open(address);
        let select = Method::ConfirmSelect(confirm::Select { no_wait: false });
        peer.call(&select, "confirm.select-ok").unwrap();
        peer
    }

    /// The client's port.
    pub fn local_port(&self) -> u16 {
        self.stream.local_addr().unwrap().port()
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn method(&mut self, method: &Method<'_>) -> io::Result<()> {
        let mut out = Vec::new();
        method.write(1, &mut out);
        self.send(&out)
    }

    /// Sends a method and waits for its answer; other events are kept for `next`. A channel or connection that is
    /// closed instead is an error of kind `Other` with the server's words.
    pub fn call(&mut self, method: &Method<'_>, answer: &str) -> io::Result<Vec<u8>> {
        self.method(method)?;
        loop {
            match self.read_event()? {
                Event::Method(name, payload) if name == answer => return Ok(payload),
                event => self.aside.push_back(event),
            }
        }
    }

    /// The next event; waits for it.
    pub fn next(&mut self) -> io::Result<Event> {
        match self.aside.pop_front() {
            Some(event) => Ok(event),
            None => self.read_event(),
        }
    }

    /// The next event if it has come already.
    pub fn next_now(&mut self) -> io::Result<Option<Event>> {
        if let Some(event) = self.aside.pop_front() {
            return Ok(Some(event));
        }
        if let Some(event) = self.parse()? {
            return Ok(Some(event));
        }
        self.stream.set_nonblocking(true)?;
        let read = self.fill();
        self.stream.set_nonblocking(false)?;
        match read {
            Ok(()) => self.parse(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn declare(&mut self, name: &str, durable: bool) -> io::Result<()> {
        let declare = queue::Declare {
            queue: short(name),
            durable,
            ..queue::Declare::default()
        };
        self.call(&Method::QueueDeclare(declare), "queue.declare-ok")?;
        Ok(())
    }

    /// Messages ready in a queue.
    pub fn ready(&mut self, name: &str) -> io::Result<u32> {
        let declare = queue::Declare {
            queue: short(name),
            passive: true,
            ..queue::Declare::default()
        };
        let answer = self.call(&Method::QueueDeclare(declare), "queue.declare-ok")?;
        match Method::decode(&answer).unwrap() {
            Method::QueueDeclareOk(ok) => Ok(ok.message_count),
            other => panic!("not a declare-ok: {other:?}"),
        }
    }

    pub fn delete(&mut self, name: &str) -> io::Result<()> {
        let delete = queue::Delete {
            queue: short(name),
            ..queue::Delete::default()
        };
        self.call(&Method::QueueDelete(delete), "queue.delete-ok")?;
        Ok(())
    }

    pub fn purge(&mut self, name: &str) -> io::Result<()> {
        let purge = queue::Purge {
            queue: short(name),
            ..queue::Purge::default()
        };
        self.call(&Method::QueuePurge(purge), "queue.purge-ok")?;
        Ok(())
    }

    pub fn qos(&mut self, prefetch_count: u16) -> io::Result<()> {
        self.call(&qos(prefetch_count), "basic.qos-ok")?;
        Ok(())
    }

    /// Consumes with manual acknowledgement.
    pub fn consume(&mut self, name: &str) -> io::Result<()> {
        let consume = basic::Consume {
            queue: short(name),
            ..basic::Consume::default()
        };
        self.call(&Method::BasicConsume(consume), "basic.consume-ok")?;
        Ok(())
    }

    pub fn ack(&mut self, delivery_tag: u64, multiple: bool) -> io::Result<()> {
        self.method(&Method::BasicAck(basic::Ack {
            delivery_tag,
            multiple,
        }))
    }

    /// Waits until the publishes `first..=last` are confirmed; a refusal is an error. Those before have been.
    pub fn confirmed(&mut self, first: u64, last: u64) -> io::Result<()> {
        let mut open: BTreeSet<u64> = (first..=last).collect();
        while !open.is_empty() {
            if let Event::Confirm { tag, multiple, ack } = self.next()? {
                if !ack {
                    return Err(io::Error::other(format!("publish {tag} was refused")));
                }
                match multiple {
                    true => open = open.split_off(&(tag + 1)),
                    false => {
                        open.remove(&tag);
                    }
                }
            }
        }
        Ok(())
    }

    fn read_event(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.parse()? {
                return Ok(event);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.input.drain(..self.start);
        self.start = 0;
        let end = self.input.len();
        self.input.resize(end + READ_SIZE, 0);
        let read = self.stream.read(&mut self.input[end..]);
        self.input.truncate(end + *read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn parse(&mut self) -> io::Result<Option<Event>> {
        loop {
            let parsed = frame::parse(&self.input[self.start..], FRAME_MAX as usize).unwrap();
            let Some((frame, used)) = parsed else {
                return Ok(None);
            };
            self.start += used;
            match frame.kind {
                FrameKind::Heartbeat => {}
                FrameKind::Method => {
                    if let Some(event) = event(frame.payload, &mut self.content)? {
                        return Ok(Some(event));
                    }
                }
                FrameKind::Header => {
                    let content = self.content.as_mut().expect("a header after a method");
                    let header = ContentHeader::decode(frame.payload).unwrap();
                    content.size = Some(header.body_size as usize);
                }
                FrameKind::Body => {
                    let content = self.content.as_mut().expect("a body after a header");
                    content.body.extend_from_slice(frame.payload);
                }
            }
            let whole = |content: &mut Content| content.size == Some(content.body.len());
            if let Some(content) = self.content.take_if(whole) {
                return Ok(Some(Event::Delivery {
                    tag: content.tag,
                    redelivered: content.redelivered,
                    body: content.body,
                }));
            }
        }
    }
}

/// What a method says; a delivery becomes an event with its last frame.
fn event(payload: &[u8], content: &mut Option<Content>) -> io::Result<Option<Event>> {
    let method = Method::decode(payload).unwrap();
    Ok(Some(match method {
        Method::BasicDeliver(deliver) => {
            *content = Some(Content {
                tag: deliver.delivery_tag,
                redelivered: deliver.redelivered,
                size: None,
                body: Vec::new(),
            });
            return Ok(None);
        }
        Method::BasicAck(ack) => Event::Confirm {
            tag: ack.delivery_tag,
            multiple: ack.multiple,
            ack: true,
        },
        Method::BasicNack(nack) => Event::Confirm {
            tag: nack.delivery_tag,
            multiple: nack.multiple,
            ack: false,
        },
        Method::ConnectionBlocked(blocked) => Event::Blocked(text(blocked.reason)),
        Method::ConnectionUnblocked(_) => Event::Unblocked,
        Method::ChannelClose(close) => return Err(closed(close.reply_code, close.reply_text)),
        Method::ConnectionClose(close) => return Err(closed(close.reply_code, close.reply_text)),
        other => Event::Method(other.name(), payload.to_vec()),
    }))
}

fn closed(code: u16, reason: ShortStr<'_>) -> io::Error {
    io::Error::other(format!("closed: {code} {}", text(reason)))
}

fn text(text: ShortStr<'_>) -> String {
    text.as_str().unwrap().to_owned()
}

/// A `basic.qos`; its answer tells that all before it was handled.
pub fn qos(prefetch_count: u16) -> Method<'static> {
    Method::BasicQos(basic::Qos {
        prefetch_count,
        ..basic::Qos::default()
    })
}

/// Appends a persistent publish to `out`.
pub fn publish_persistent(exchange: &str, key: &str, body: &[u8], out: &mut Vec<u8>) {
    publish(exchange, key, body, &PERSISTENT, out);
}

/// Appends a publish that is not persistent.
pub fn publish_transient(exchange: &str, key: &str, body: &[u8], out: &mut Vec<u8>) {
    publish(exchange, key, body, &TRANSIENT, out);
}

fn publish(exchange: &str, key: &str, body: &[u8], properties: &[u8], out: &mut Vec<u8>) {
    let publish = basic::Publish {
        exchange: short(exchange),
        routing_key: short(key),
        ..basic::Publish::default()
    };
    publish.write(1, out);
    let header = ContentHeader {
        class_id: 60,
        weight: 0,
        body_size: body.len() as u64,
        properties: Properties::from_bytes(properties).unwrap(),
    };
    header.write(1, out);
    content::write_body(1, body, FRAME_MAX, out);
}
