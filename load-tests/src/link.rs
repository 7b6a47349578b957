//! A connection to the broker: handshake, calls and answers before and after the measured part.

use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use std::{io, io::Write};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use serde::Serialize;

use crate::amqp::{self, FRAME_MAX, MethodId, id};
use crate::options::Scenario;
use crate::scan::{Fill, Incoming, Scanner};

/// Who the broker says it is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Broker {
    /// Its product name.
    pub product: String,
    /// Its version.
    pub version: String,
}

/// An open connection with one open channel.
#[derive(Debug)]
pub struct Link {
    /// The socket, blocking, with a write limit of `stall_s`.
    pub stream: TcpStream,
    /// The read buffer.
    pub scanner: Scanner,
    /// Who is on the other side.
    pub broker: Broker,
    /// The negotiated frame size in octets.
    pub frame_max: usize,
    patience: Duration,
}

impl Link {
    /// Connects, logs in as the scenario's user and opens channel 1.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub fn open(scenario: &Scenario) -> Result<Link> {
        Self::open_as(scenario, &scenario.user, &scenario.password)
    }

    /// Connects, logs in as `user` and opens channel 1.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub fn open_as(scenario: &Scenario, user: &str, password: &str) -> Result<Link> {
        let address = format!("{}:{}", scenario.host, scenario.port);
        let stream =
            TcpStream::connect(&address).with_context(|| format!("connecting to {address}"))?;
        let patience = Duration::from_secs(scenario.stall_s.max(1));
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(patience))?;
        let mut link = Link {
            stream,
            scanner: Scanner::default(),
            broker: Broker::default(),
            frame_max: FRAME_MAX,
            patience,
        };
        link.handshake(&scenario.vhost, user, password)
            .with_context(|| format!("opening a connection to {address}"))?;
        Ok(link)
    }

    /// Sends what `fill` writes and waits for the method `answer`; gives its arguments.
    ///
    /// # Errors
    /// When the broker closes instead, or does not answer in time.
    pub fn call(&mut self, answer: MethodId, fill: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        fill(&mut out);
        self.stream.write_all(&out)?;
        self.expect(answer, |_| Ok(()))
    }

    /// Waits for the method `answer`, giving what else arrives to `other`.
    ///
    /// # Errors
    /// When the broker closes instead, or is silent for too long, or `other` fails.
    pub fn expect(
        &mut self,
        answer: MethodId,
        mut other: impl FnMut(&Incoming<'_>) -> Result<()>,
    ) -> Result<Vec<u8>> {
        let mut deadline = Instant::now() + self.patience;
        loop {
            while let Some(item) = self.scanner.next()? {
                match item {
                    Incoming::Method { id, args } if id == answer => return Ok(args.to_vec()),
                    Incoming::Method { id, args } => fail_if_closed(id, args)?,
                    item => other(&item)?,
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !readable(self.stream.as_fd(), left)? {
                bail!("no {answer:?} from the broker within {:?}", self.patience);
            }
            if self.scanner.fill(&self.stream, RecvFlags::empty())? == Fill::Closed {
                bail!("the broker closed the connection where {answer:?} was due");
            }
            deadline = Instant::now() + self.patience;
        }
    }

    /// Closes in order, so that the broker has seen everything that was sent.
    ///
    /// # Errors
    /// When the broker closes with an error, or does not answer in time.
    pub fn close(mut self, other: impl FnMut(&Incoming<'_>) -> Result<()>) -> Result<()> {
        let mut out = Vec::new();
        amqp::connection_close(&mut out);
        self.stream.write_all(&out)?;
        self.expect(id::CONNECTION_CLOSE_OK, other)?;
        Ok(())
    }

    /// The broker's reason for closing, if it has sent one; else `error` itself.
    pub fn why_closed(&mut self, error: anyhow::Error) -> anyhow::Error {
        let read = self.scanner.fill(&self.stream, RecvFlags::DONTWAIT);
        while let (Ok(Fill::Some), Ok(Some(item))) = (&read, self.scanner.next()) {
            if let Incoming::Method { id, args } = item
                && let Err(reason) = fail_if_closed(id, args)
            {
                return reason;
            }
        }
        error
    }

    fn handshake(&mut self, vhost: &str, user: &str, password: &str) -> Result<()> {
        self.stream.write_all(&amqp::PROTOCOL_HEADER)?;
        let start = self.expect(id::CONNECTION_START, |_| Ok(()))?;
        let properties = start.get(6..).unwrap_or_default();
        let text = |name| amqp::table_string(properties, name).unwrap_or_else(|| "unknown".into());
        self.broker = Broker {
            product: text("product"),
            version: text("version"),
        };
        let tune = self.call(id::CONNECTION_TUNE, |out| {
            amqp::start_ok(out, user, password);
        })?;
        let tune: [u8; 8] = tune.try_into().ok().context("a tune of the wrong size")?;
        let [c0, c1, f0, f1, f2, f3, _, _] = tune;
        let offered = u32::from_be_bytes([f0, f1, f2, f3]) as usize;
        if offered != 0 {
            self.frame_max = offered.min(FRAME_MAX);
        }
        let frame_max = self.frame_max as u32;
        self.call(id::CONNECTION_OPEN_OK, |out| {
            amqp::tune_ok(out, u16::from_be_bytes([c0, c1]), frame_max);
            amqp::connection_open(out, vhost);
        })?;
        self.call(id::CHANNEL_OPEN_OK, amqp::channel_open)?;
        Ok(())
    }
}

/// Waits until the socket has something to read, or has ended.
///
/// # Errors
/// When polling fails.
pub fn readable(socket: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let limit = Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    match poll(&mut fds, Some(&limit)) {
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// An error that repeats the broker's words, if the method closes the channel or the connection.
///
/// # Errors
/// When it does.
pub fn fail_if_closed(id: MethodId, args: &[u8]) -> Result<()> {
    let what = match id {
        id::CONNECTION_CLOSE => "connection",
        id::CHANNEL_CLOSE => "channel",
        id::BASIC_CANCEL => bail!("the broker cancelled the consumer"),
        _ => return Ok(()),
    };
    let code = args
        .first_chunk::<2>()
        .map_or(0, |b| u16::from_be_bytes(*b));
    let text = args
        .get(2..)
        .and_then(amqp::take_short_str)
        .map_or_else(String::new, |(text, _)| {
            String::from_utf8_lossy(text).into_owned()
        });
    bail!("the broker closed the {what}: {code} {text}")
}
