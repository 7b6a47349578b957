//! The task of one connection: read, handle, deliver, write, then wait.
//!
//! One read brings many messages; they are handled in place, their replies and the deliveries
//! that are due leave in one write, and only then does the task wait. It waits for input (unless
//! too much waits to be written, or the gate holds this publisher back), for room in the
//! socket, for its bell, and for its heartbeat. Nothing is written while a reply among it waits for the log.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backbone_broker::durable::Trouble;
use backbone_broker::out::OutBuf;
use backbone_broker::publisher::{Origin, Publisher};
use backbone_broker::session::{Session, Settings, State};
use backbone_wire::error::ReplyCode;
use backbone_wire::frame::HEARTBEAT;
use backbone_wire::method::connection;
use backbone_wire::{PROTOCOL_HEADER, ShortStr};
use bytes::BufMut;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::buffers::{self, ReadBuffer};
use super::connections::Report;
use super::doorbell::{Doorbell, News, Wishes};
use super::handshake::{self, Failed, Opened, Places};
use super::last_words;
use super::stream::Stream;
use super::{Registered, Shared};
use crate::runtime::arbiters::Stay;

/// Turns in a row before other connections of the arbiter have theirs.
const TURNS_IN_A_ROW_MAX: u32 = 8;
/// Times that a turn fills and writes the out-buffer.
const ROUNDS_MAX: u32 = 8;
/// How long close-ok is waited for.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Half heartbeat intervals of silence after which a peer is dead.
const SILENT_HALVES_MAX: u32 = 4;
/// Up to here, what a peer sends while it is not read surely fits into the system's buffer.
const UNREAD_BYTES_TELLING: u64 = 4096;
/// Bytes read after a piece of a large body: the next one is due, and should not come into the buffer.
const BETWEEN_BODIES_BYTES: usize = 4096;
/// How often a publisher that is held back looks whether the alarm is over.
const ALARM_POLL: Duration = Duration::from_millis(100);

/// Serves one accepted socket to its end.
pub(super) async fn serve(
    mut stream: Stream,
    shared: Arc<Shared>,
    registered: Registered,
    loopback: bool,
) {
    let mut input = ReadBuffer::default();
    let agreed = handshake::run(&mut stream, &registered, loopback, &mut input);
    let agreed = tokio::select! {
        agreed = timeout(shared.handshake_timeout, agreed) => agreed,
        // Whoever is told to go before it is open is dropped.
        () = poll_fn(|cx| registered.bell.poll(cx)) => return,
    };
    match agreed {
        Ok(Ok(opened)) => {
            let about = opened.about(&registered, &stream);
            let name = about.name();
            registered.opened(about);
            let connection = Connection::new(stream, shared, registered, opened, &name, input);
            connection.run().await;
        }
        Ok(Err(Failed::Refused {
            error,
            class,
            method,
        })) => {
            let close = handshake::close_frame(&error, class, method);
            last_words::refuse(&mut stream, &close, &mut input).await;
        }
        Ok(Err(Failed::OtherProtocol)) => {
            last_words::say(&mut stream, &PROTOCOL_HEADER, &mut input).await;
        }
        Ok(Err(Failed::Dropped)) | Err(_) => {}
    }
}

struct Connection {
    stream: Stream,
    shared: Arc<Shared>,
    bell: Arc<Doorbell>,
    session: Session,
    input: ReadBuffer,
    out: OutBuf,
    news: News,
    heartbeat: Heartbeat,
    blocked_notify: bool,
    /// What holds this publisher back.
    held_back: Option<Trouble>,
    /// What had been published when there was no trouble last.
    calm_batches: u64,
    /// The socket said that it takes no more.
    write_full: bool,
    /// Nothing more comes from the peer.
    ended: bool,
    /// The last read went straight into the record of a large message.
    in_body: bool,
    /// What the system had for us when we last looked without reading.
    unread_bytes: u64,
    closing_since: Option<Instant>,
    stay: Stay,
    received_bytes: u64,
    sent_bytes: u64,
    /// Given up as soon as the connection is over, though the peer may leave its socket open for a while.
    places: Places,
    /// Given up when everything that the connection held is given back.
    registered: Registered,
}

/// What a wait ended with.
#[derive(Default)]
struct Woken {
    readable: bool,
    writable: bool,
    tick: bool,
}

impl Connection {
    fn new(
        stream: Stream,
        shared: Arc<Shared>,
        registered: Registered,
        opened: Opened,
        name: &str,
        input: ReadBuffer,
    ) -> Self {
        let bell = Arc::clone(&registered.bell);
        let origin = Origin {
            user: opened.user,
            access: opened.access,
        };
        let settings = Settings {
            frame_max: opened.frame_max as usize,
            channel_max: opened.channel_max,
            message_bytes_max: shared.message_bytes_max,
            unacked_max: shared.unacked_max,
            out_bytes_max: shared.out_bytes_max,
            cancel_notify: opened.cancel_notify,
            timeout_closes_channel: shared.timeout_closes_channel,
        };
        let publisher = Publisher::new(opened.vhost, origin);
        let session = Session::new(
            publisher,
            registered.id,
            Arc::<Doorbell>::clone(&bell),
            settings,
        );
        let session = session.named(name);
        let calm_batches = session.published_batches();
        Self {
            stream,
            shared,
            bell,
            session,
            input,
            out: OutBuf::new(),
            news: News::default(),
            heartbeat: Heartbeat::new(opened.heartbeat_s),
            blocked_notify: opened.blocked_notify,
            held_back: None,
            calm_batches,
            write_full: false,
            ended: false,
            in_body: false,
            unread_bytes: 0,
            closing_since: None,
            stay: Stay::default(),
            received_bytes: 0,
            sent_bytes: 0,
            places: opened.places,
            registered,
        }
    }

    async fn run(mut self) {
        let mut timer = pin!(sleep(self.heartbeat.period()));
        let mut woken = Woken::default();
        let mut turns = 0;
        loop {
            let Ok(more) = self.turn(&woken) else { return };
            if self.is_over() {
                break;
            }
            if let Some(arbiter) = self.stay.turn() {
                return self.move_to(arbiter);
            }
            turns += 1;
            if more || turns >= TURNS_IN_A_ROW_MAX {
                turns = 0;
                tokio::task::yield_now().await;
            }
            woken = self.wait(timer.as_mut(), more).await;
            if woken.tick {
                if self.on_tick().is_err() {
                    return;
                }
                timer
                    .as_mut()
                    .reset(Instant::now() + self.heartbeat.period());
            }
        }
        self.registered.shared.connections.over(self.registered.id);
        self.places = Places::default();
        // What the peer sent behind its last frame would make the system reset the connection, and
        // with it our last words.
        if self.session.state() == State::Closed && self.out.is_empty() && !self.ended {
            last_words::say(&mut self.stream, &[], &mut self.input).await;
        }
    }

    /// Goes on on another arbiter. What rings meanwhile is found there.
    fn move_to(self, arbiter: usize) {
        let arbiter = self.shared.arbiters.handle(arbiter);
        arbiter.spawn_fn(move || {
            // The system refuses only when it is out of memory: the connection is closed then.
            if let Ok(stream) = self.stream.moved_here() {
                let stay = Stay::after_move();
                let connection = Self {
                    stream,
                    stay,
                    ..self
                };
                actix_rt::spawn(connection.run());
            }
        });
    }

    /// What can be done without waiting, up to a bound. True when there is more of it.
    fn turn(&mut self, woken: &Woken) -> std::io::Result<bool> {
        self.session.tell_time(now_ms());
        buffers::lend(&mut self.out.bytes);
        if woken.writable {
            self.write_full = false;
            self.flush()?;
        }
        self.hear();
        if woken.readable {
            self.read()?;
        }
        self.handle();
        for _ in 0..ROUNDS_MAX {
            // What was just published may be for consumers of this very connection.
            self.hear();
            let more = self.session.deliver(&mut self.out);
            let held = self.session.is_held(&mut self.out);
            if !held {
                self.write()?;
            }
            // Written: there may be room for what had to wait.
            if held || self.write_full || (!more && self.handle() == 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes what the bell brought.
    fn hear(&mut self) {
        let mut news = std::mem::take(&mut self.news);
        self.bell.take(&mut news);
        for key in news.rung.drain(..) {
            self.session.rung(key);
        }
        for key in news.cancelled.drain(..) {
            self.session.cancelled(key, &mut self.out);
        }
        match std::mem::take(&mut news.progressed) {
            true => self.session.progressed(&mut self.out),
            false => self.session.go_on(&mut self.out),
        }
        if let Some(wishes) = news.wishes.take() {
            self.fulfil(*wishes);
        }
        self.news = news;
    }

    #[cold]
    fn fulfil(&mut self, wishes: Wishes) {
        for asker in wishes.askers {
            // Who asked may not wait any more.
            let _ = asker.send(Report {
                blocked: self.held_back.is_some(),
                received_bytes: self.received_bytes,
                sent_bytes: self.sent_bytes,
                channels: self.session.report(),
            });
        }
        if let Some(text) = wishes.close {
            self.session
                .close(ReplyCode::ConnectionForced, text, &mut self.out);
        }
    }

    fn read(&mut self) -> std::io::Result<()> {
        let asked;
        let sink = match self.input.filled() {
            [] => self.session.body_sink(),
            _ => None,
        };
        let read = match sink {
            Some((record, missing)) => {
                asked = missing;
                let read = self.stream.try_read_buf(record.limit(missing));
                self.session.body_received(*read.as_ref().unwrap_or(&0));
                self.in_body = true;
                read
            }
            None => {
                let room = self.input.room(self.shared.read_bytes);
                let size = match std::mem::take(&mut self.in_body) {
                    true => room.len().min(BETWEEN_BODIES_BYTES),
                    false => room.len(),
                };
                asked = size;
                let read = self.stream.try_read(&mut room[..size]);
                self.input.grow(*read.as_ref().unwrap_or(&0));
                read
            }
        };
        match read {
            Ok(0) => self.ended = true,
            Ok(count) => {
                self.stay.carried(count);
                self.received_bytes += count as u64;
                self.heartbeat.received = true;
                if count < asked {
                    self.stream.nothing_left();
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Handles what was read; returns how many bytes of it.
    fn handle(&mut self) -> usize {
        if self.input.filled().is_empty() {
            return 0;
        }
        let handled = self
            .session
            .receive(self.input.filled(), now_ms(), &mut self.out);
        self.session.end_of_batch(&mut self.out);
        self.input.consume(handled);
        handled
    }

    /// Writes until nothing is left or the socket takes no more.
    fn write(&mut self) -> std::io::Result<()> {
        while !self.out.is_empty() && !self.write_full {
            let written = self.stream.try_write_vectored(&self.out.slices());
            match written {
                Ok(count) => {
                    self.stay.carried(count);
                    self.sent_bytes += count as u64;
                    self.out.advance(count);
                    self.heartbeat.sent = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.write_full = true,
                Err(error) => return Err(error),
            }
        }
        self.flush()
    }

    /// Hands what is enciphered to the socket, unless that said that it takes no more.
    fn flush(&mut self) -> std::io::Result<()> {
        if self.write_full {
            return Ok(());
        }
        match self.stream.flush() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.write_full = true,
            flushed => return flushed,
        }
        Ok(())
    }

    fn is_over(&mut self) -> bool {
        match self.session.state() {
            State::Closed if self.out.is_empty() && !self.stream.has_unsent() => return true,
            State::Closed | State::Closing if self.closed_too_long() => return true,
            _ => {}
        }
        self.ended
    }

    fn closed_too_long(&mut self) -> bool {
        let since = *self.closing_since.get_or_insert_with(Instant::now);
        since.elapsed() >= CLOSE_TIMEOUT
    }

    /// Whether input may be looked at now.
    fn may_read(&mut self) -> bool {
        // Without room, the read would look like the end of the stream.
        let input_full = self.input.filled().len() >= self.shared.read_bytes;
        if input_full || self.out.pending() >= self.shared.out_bytes_max {
            return false;
        }
        let mut trouble = self.shared.gate.trouble();
        // Who only consumes goes on, and is told with its next publish.
        let batches = self.session.published_batches();
        if trouble.is_none() {
            self.calm_batches = batches;
        }
        if batches == self.calm_batches || self.session.state() != State::Open {
            trouble = None;
        }
        if self.session.is_stalled() {
            // The log may have got over it since: it is asked again soon.
            trouble = trouble.or(Some(Trouble::Disk));
        }
        let told = self.held_back.is_some() != trouble.is_some();
        if told && self.blocked_notify && self.session.state() == State::Open {
            self.tell_trouble(trouble);
        }
        self.held_back = trouble;
        if trouble.is_none() && !self.session.is_ahead_of_log() {
            return true;
        }
        self.has_hung_up()
    }

    /// Whether the peer's last octet is there already: no more than a socket's buffer can come from
    /// it, and what it holds must not wait for the alarm to end, which may depend on it.
    fn has_hung_up(&self) -> bool {
        self.stream.has_hung_up()
    }

    /// Whether the peer shows life while it is not read: what it sends grows in the system's buffer.
    /// With a lot in there it may be waiting for us, and is given the benefit of the doubt.
    fn shows_life(&mut self) -> bool {
        let unread = rustix::io::ioctl_fionread(&self.stream).unwrap_or_default();
        let before = std::mem::replace(&mut self.unread_bytes, unread);
        unread != before || unread > UNREAD_BYTES_TELLING
    }

    /// Tells a peer that wants to know that it is blocked now, or not any more; not that the reason has changed.
    fn tell_trouble(&mut self, trouble: Option<Trouble>) {
        match trouble {
            Some(trouble) => {
                let reason = ShortStr::lit(trouble.reason());
                connection::Blocked { reason }.write(0, &mut self.out.bytes);
            }
            None => connection::Unblocked {}.write(0, &mut self.out.bytes),
        }
    }

    /// Waits until something can be done; with `more` it only looks what else there is.
    async fn wait(&mut self, mut timer: Pin<&mut Sleep>, more: bool) -> Woken {
        let may_read = self.may_read();
        if self.held_back.is_some() {
            timer.as_mut().reset(Instant::now() + ALARM_POLL);
        } else if let Some(since) = self.closing_since {
            timer.as_mut().reset(since + CLOSE_TIMEOUT);
        }
        self.input.rest();
        self.stream.rest();
        buffers::give_back(&mut self.out.bytes);
        let has_output = self.stream.has_unsent()
            || (!self.out.is_empty() && !self.session.is_held(&mut self.out));
        let look = poll_fn(
            |cx| match self.poll_woken(cx, timer.as_mut(), may_read, has_output) {
                Poll::Pending if more => Poll::Ready(Woken::default()),
                polled => polled,
            },
        );
        look.await
    }

    fn poll_woken(
        &self,
        cx: &mut Context<'_>,
        timer: Pin<&mut Sleep>,
        may_read: bool,
        has_output: bool,
    ) -> Poll<Woken> {
        let woken = Woken {
            readable: may_read && self.stream.poll_read_ready(cx).is_ready(),
            // A write is due at once where the socket has not refused one.
            writable: has_output
                && (!self.write_full || self.stream.poll_write_ready(cx).is_ready()),
            tick: timer.poll(cx).is_ready(),
        };
        let rung = self.bell.poll(cx).is_ready();
        if woken.readable || woken.writable || woken.tick || rung {
            Poll::Ready(woken)
        } else {
            Poll::Pending
        }
    }

    fn on_tick(&mut self) -> std::io::Result<()> {
        let unread = self.held_back.is_some() || self.session.waits_for_place();
        if unread || self.out.pending() >= self.shared.out_bytes_max {
            self.heartbeat.received |= self.shows_life();
        }
        if !self.heartbeat.tick() {
            return Err(ErrorKind::TimedOut.into());
        }
        if self.heartbeat.due() && self.session.state() == State::Open {
            self.out.bytes.extend_from_slice(&HEARTBEAT);
        }
        Ok(())
    }
}

/// Heartbeats both ways: one is sent when nothing else was for half the interval; the peer is
/// taken for dead after two whole intervals without an octet, since clients such as py-amqp send
/// theirs only once an interval.
struct Heartbeat {
    half: Option<Duration>,
    next: Instant,
    received: bool,
    sent: bool,
    silent_halves: u32,
    due: bool,
}

impl Heartbeat {
    fn new(interval_s: u16) -> Self {
        let half = (interval_s > 0).then(|| Duration::from_secs(interval_s.into()) / 2);
        Self {
            half,
            next: Instant::now() + half.unwrap_or_default(),
            received: true,
            sent: false,
            silent_halves: 0,
            due: false,
        }
    }

    /// How long until the next look; a day where heartbeats are off.
    fn period(&self) -> Duration {
        match self.half {
            Some(_) => self.next.saturating_duration_since(Instant::now()),
            None => Duration::from_secs(24 * 3600),
        }
    }

    /// Looks at the half interval that is over, if it is. False: the peer is dead.
    fn tick(&mut self) -> bool {
        self.due = false;
        let Some(half) = self.half else { return true };
        if Instant::now() < self.next {
            return true;
        }
        self.next = Instant::now() + half;
        self.due = !std::mem::take(&mut self.sent);
        if std::mem::take(&mut self.received) {
            self.silent_halves = 0;
        } else {
            self.silent_halves += 1;
        }
        self.silent_halves < SILENT_HALVES_MAX
    }

    fn due(&self) -> bool {
        self.due
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}
