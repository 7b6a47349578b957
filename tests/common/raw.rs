//! An AMQP connection frame by frame, for what client libraries hide. Blocking, with time-outs.

#![allow(dead_code, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use backbone_wire::frame::{self, FrameKind};
use backbone_wire::method::{Method, basic, channel, confirm, connection, queue};
use backbone_wire::table::{Table, TableBuf, Value};
use backbone_wire::{PROTOCOL_HEADER, ShortStr, content, properties};

const PATIENCE: Duration = Duration::from_secs(20);
pub const FRAME_MAX: u32 = 131_072;

/// A connection with channel 1 open.
pub struct Raw {
    pub stream: TcpStream,
    input: Vec<u8>,
}

/// A frame: kind, channel, payload.
pub type Owned = (FrameKind, u16, Vec<u8>);

/// A short string.
pub fn short(text: &str) -> ShortStr<'_> {
    ShortStr::new(text.as_bytes()).unwrap()
}

impl Raw {
    /// Logs in as guest and opens channel 1. `heartbeat_s` 0: none.
    pub fn open(address: SocketAddr, heartbeat_s: u16) -> Self {
        Self::login(address, "guest", "guest", heartbeat_s).expect("a connection")
    }

    /// The same as anybody. If the server closes, the code and the text of that.
    pub fn login(
        address: SocketAddr,
        user: &str,
        password: &str,
        heartbeat_s: u16,
    ) -> Result<Self, (u16, String)> {
        Self::enter(address, user, password, "/", heartbeat_s)
    }

    /// The same into another vhost.
    pub fn enter(
        address: SocketAddr,
        user: &str,
        password: &str,
        vhost: &str,
        heartbeat_s: u16,
    ) -> Result<Self, (u16, String)> {
        Self::silent(address).log_in_to(user, password, vhost, heartbeat_s)
    }

    /// The same on a connection on which no AMQP was spoken yet.
    pub fn log_in(
        self,
        user: &str,
        password: &str,
        heartbeat_s: u16,
    ) -> Result<Self, (u16, String)> {
        self.log_in_to(user, password, "/", heartbeat_s)
    }

    fn log_in_to(
        mut self,
        user: &str,
        password: &str,
        vhost: &str,
        heartbeat_s: u16,
    ) -> Result<Self, (u16, String)> {
        let raw = &mut self;
        raw.send(&PROTOCOL_HEADER);
        raw.expect("connection.start");
        let mut capabilities = TableBuf::new();
        for name in [
            "authentication_failure_close",
            "connection.blocked",
            "consumer_cancel_notify",
        ] {
            capabilities.put(name, &Value::Bool(true));
        }
        let mut client = TableBuf::new();
        client.put("capabilities", &Value::Table(capabilities.as_table()));
        let response = format!("\0{user}\0{password}");
        let start_ok = connection::StartOk {
            client_properties: client.as_table(),
            mechanism: short("PLAIN"),
            response: response.as_bytes(),
            locale: short("en_US"),
        };
        raw.method(0, &Method::ConnectionStartOk(start_ok));
        raw.expect_or_close("connection.tune")?;
        let tune_ok = connection::TuneOk {
            channel_max: 100,
            frame_max: FRAME_MAX,
            heartbeat: heartbeat_s,
        };
        raw.method(0, &Method::ConnectionTuneOk(tune_ok));
        let open = connection::Open {
            virtual_host: short(vhost),
        };
        raw.method(0, &Method::ConnectionOpen(open));
        raw.expect_or_close("connection.open-ok")?;
        raw.method(1, &Method::ChannelOpen(channel::Open));
        raw.expect_or_close("channel.open-ok")?;
        Ok(self)
    }

    /// The next method must be a close of the channel or the connection; its code and text. A channel is
    /// opened anew.
    pub fn refusal(&mut self) -> (u16, String) {
        loop {
            let (_, number, payload) = self.frame().expect("the connection ended");
            let text = |text: ShortStr<'_>| text.as_str().unwrap().to_owned();
            match Method::decode(&payload) {
                Ok(Method::ChannelClose(close)) => {
                    let refusal = (close.reply_code, text(close.reply_text));
                    self.method(number, &Method::ChannelCloseOk(channel::CloseOk));
                    self.method(number, &Method::ChannelOpen(channel::Open));
                    self.expect("channel.open-ok");
                    return refusal;
                }
                Ok(Method::ConnectionClose(close)) => {
                    return (close.reply_code, text(close.reply_text));
                }
                // A cancel that goes before.
                Ok(Method::BasicCancel(_)) => {}
                other => panic!("no refusal: {other:?}"),
            }
        }
    }

    /// Messages that wait in a queue, whatever that is declared with.
    pub fn waiting(&mut self, name: &str) -> u32 {
        let passive = queue::Declare {
            queue: short(name),
            passive: true,
            ..queue::Declare::default()
        };
        let payload = self.ask(&Method::QueueDeclare(passive), "queue.declare-ok");
        match Method::decode(&payload).unwrap() {
            Method::QueueDeclareOk(ok) => ok.message_count,
            other => panic!("not a declare-ok: {other:?}"),
        }
    }

    /// Publishes frames on channel 1, which gets confirms from now on, and waits for the confirm.
    pub fn publish_confirmed(&mut self, frames: &[u8]) {
        let select = confirm::Select { no_wait: false };
        self.ask(&Method::ConfirmSelect(select), "confirm.select-ok");
        self.send(frames);
        self.expect("basic.ack");
    }

    /// Asks, and expects the answer.
    pub fn ask(&mut self, method: &Method<'_>, answer: &str) -> Vec<u8> {
        self.method(1, method);
        self.expect(answer)
    }

    /// Asks, and expects to be refused.
    pub fn ask_in_vain(&mut self, method: &Method<'_>) -> (u16, String) {
        self.method(1, method);
        self.refusal()
    }

    /// A connection on which nothing was said yet.
    pub fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            input: Vec::new(),
        }
    }

    /// Reads to the end of the stream; the code of the `connection.close` on the way, if there is one.
    pub fn read_to_end(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some((kind, _, payload)) = self.frame() {
            if kind == FrameKind::Method
                && let Ok(Method::ConnectionClose(close)) = Method::decode(&payload)
            {
                code = Some(close.reply_code);
                let ok = Method::ConnectionCloseOk(connection::CloseOk);
                let mut out = Vec::new();
                ok.write(0, &mut out);
                // The server may have gone ahead.
                drop(self.stream.write_all(&out));
            }
        }
        code
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn method(&mut self, channel: u16, method: &Method<'_>) {
        let mut out = Vec::new();
        method.write(channel, &mut out);
        self.send(&out);
    }

    pub fn declare(&mut self, name: &str) {
        let declare = queue::Declare {
            queue: short(name),
            ..queue::Declare::default()
        };
        self.method(1, &Method::QueueDeclare(declare));
        self.expect("queue.declare-ok");
    }

    /// Messages that wait in a queue, as a passive declare tells.
    pub fn ready(&mut self, name: &str) -> u32 {
        let declare = queue::Declare {
            queue: short(name),
            passive: true,
            ..queue::Declare::default()
        };
        self.method(1, &Method::QueueDeclare(declare));
        let payload = self.expect("queue.declare-ok");
        match Method::decode(&payload).unwrap() {
            Method::QueueDeclareOk(ok) => ok.message_count,
            other => panic!("not a declare-ok: {other:?}"),
        }
    }

    pub fn consume(&mut self, name: &str, no_ack: bool) {
        let consume = basic::Consume {
            queue: short(name),
            no_ack,
            arguments: Table::EMPTY,
            ..basic::Consume::default()
        };
        self.method(1, &Method::BasicConsume(consume));
        self.expect("basic.consume-ok");
    }

    /// Fills `out` with what comes next, whatever it is.
    pub fn read_exact(&mut self, out: &mut [u8]) {
        let here = out.len().min(self.input.len());
        let (first, rest) = out.split_at_mut(here);
        first.copy_from_slice(&self.input[..here]);
        self.input.drain(..here);
        self.stream.read_exact(rest).unwrap();
    }

    /// The next frame: kind, channel, payload. `None` at the end of the stream.
    pub fn frame(&mut self) -> Option<Owned> {
        let (owned, used) = self.next_frame()?;
        self.input.drain(..used);
        Some(owned)
    }

    /// Whether the next frame is the method `name`; it stays.
    pub fn peek_is(&mut self, name: &str) -> bool {
        let ((kind, _, payload), _) = self.next_frame().expect("the connection ended");
        kind == FrameKind::Method && Method::decode(&payload).unwrap().name() == name
    }

    /// The next frame, which stays, and its length.
    fn next_frame(&mut self) -> Option<(Owned, usize)> {
        loop {
            let parsed = frame::parse(&self.input, FRAME_MAX as usize).unwrap();
            if let Some((frame, used)) = parsed {
                let owned = (frame.kind, frame.channel, frame.payload.to_vec());
                return Some((owned, used));
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    /// The payload of the next method, which must be `name`; heartbeats are passed over.
    pub fn expect(&mut self, name: &str) -> Vec<u8> {
        loop {
            let (kind, _, payload) = self.frame().expect("the connection ended");
            if kind == FrameKind::Heartbeat {
                continue;
            }
            assert_eq!(kind, FrameKind::Method);
            assert_eq!(Method::decode(&payload).unwrap().name(), name);
            return payload;
        }
    }

    /// Whether the next frame is the method `name`; it is gone in any case.
    pub fn next_is(&mut self, name: &str) -> bool {
        let (kind, _, payload) = self.frame().expect("the connection ended");
        kind == FrameKind::Method && Method::decode(&payload).unwrap().name() == name
    }

    /// The next method must be `name`, or `connection.close`, whose code and text are the error.
    fn expect_or_close(&mut self, name: &str) -> Result<(), (u16, String)> {
        let (_, _, payload) = self.frame().expect("the connection ended");
        match Method::decode(&payload).unwrap() {
            Method::ConnectionClose(close) => {
                let text = close.reply_text.as_str().unwrap().to_owned();
                Err((close.reply_code, text))
            }
            method => {
                assert_eq!(method.name(), name);
                Ok(())
            }
        }
    }

    /// The body of the next delivery.
    pub fn delivery(&mut self) -> (bool, Vec<u8>) {
        let method = self.expect("basic.deliver");
        let Method::BasicDeliver(deliver) = Method::decode(&method).unwrap() else {
            unreachable!("the name was checked");
        };
        let redelivered = deliver.redelivered;
        let (_, _, header) = self.frame().unwrap();
        let size = properties::ContentHeader::decode(&header)
            .unwrap()
            .body_size as usize;
        let mut body = Vec::new();
        while body.len() < size {
            body.extend_from_slice(&self.frame().unwrap().2);
        }
        (redelivered, body)
    }
}

/// A publish through the default exchange, as frames.
pub fn publish(key: &str, body: &[u8]) -> Vec<u8> {
    publish_with("", key, &[0, 0], body)
}

/// The property list that makes a message persistent.
pub const PERSISTENT: &[u8] = &[0x10, 0, 2];

/// A publish with a property list, as frames.
pub fn publish_with(exchange: &str, key: &str, list: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let publish = basic::Publish {
        exchange: short(exchange),
        routing_key: short(key),
        ..basic::Publish::default()
    };
    publish.write(1, &mut out);
    let header = properties::ContentHeader {
        class_id: 60,
        weight: 0,
        body_size: body.len() as u64,
        properties: properties::Properties::from_bytes(list).unwrap(),
    };
    header.write(1, &mut out);
    content::write_body(1, body, FRAME_MAX, &mut out);
    out
}

/// Resident memory of process `id`, bytes.
pub fn resident_bytes(id: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Processor time that process `id` has used, in clock ticks.
pub fn cpu_ticks(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
