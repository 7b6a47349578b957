//! What the black-box tests share: random numbers that a seed decides, and a peer that talks to
//! a [`Session`] in frames.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backbone_broker::access::Access;
use backbone_broker::out::OutBuf;
use backbone_broker::publisher::{Origin, Publisher};
use backbone_broker::queue::Bell;
use backbone_broker::session::{Session, Settings, State};
use backbone_broker::vhost::Vhost;
use backbone_wire::frame::{self, FrameKind};
use backbone_wire::properties::ContentHeader;
use parking_lot::Mutex;

/// Numbers that depend on the seed alone (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Keeps what was rung, for the test to pass on when it likes.
#[derive(Default)]
pub struct TestBell {
    pub rung: Mutex<Vec<u64>>,
    pub cancelled: Mutex<Vec<u64>>,
    pub progressed: AtomicBool,
}

impl Bell for TestBell {
    fn ring(&self, key: u64) {
        self.rung.lock().push(key);
    }

    fn cancelled(&self, key: u64) {
        self.cancelled.lock().push(key);
    }

    fn progressed(&self) {
        self.progressed.store(true, Ordering::Release);
    }
}

/// A method from the session, with its content if it has one.
#[derive(Debug, Clone)]
pub struct Event {
    pub channel: u16,
    /// Class, method and arguments.
    pub method: Vec<u8>,
    /// Property list and body.
    pub content: Option<(Vec<u8>, Vec<u8>)>,
}

/// One connection, driven by hand.
pub struct Peer {
    pub session: Session,
    pub bell: Arc<TestBell>,
    pub settings: Settings,
    pub out: OutBuf,
    input: Vec<u8>,
    received: Vec<u8>,
    /// Bytes that were read straight into records.
    pub straight: usize,
    /// The most that ever waited in `out`.
    pub pending_max: usize,
    /// Its clock.
    pub now_ms: u64,
}

impl Peer {
    pub fn new(vhost: &Arc<Vhost>, conn: u64, settings: Settings) -> Self {
        Self::with_access(vhost, conn, settings, Access::Full)
    }

    /// A peer that may do no more than `access` says.
    pub fn with_access(vhost: &Arc<Vhost>, conn: u64, settings: Settings, access: Access) -> Self {
        let bell = Arc::<TestBell>::default();
        let user = "guest".into();
        let origin = Origin { user, access };
        let publisher = Publisher::new(Arc::clone(vhost), origin);
        let told = Arc::clone(&bell) as Arc<dyn Bell>;
        Self {
            session: Session::new(publisher, conn, told, settings),
            bell,
            settings,
            out: OutBuf::new(),
            input: Vec::new(),
            received: Vec::new(),
            straight: 0,
            pending_max: 0,
            now_ms: 1_700_000_000_123,
        }
    }

    /// Feeds `bytes` in random pieces, as a socket would, and ends the last batch. Input that
    /// waits for room in the out-buffer goes on once that is drained.
    pub fn feed(&mut self, bytes: &[u8], rng: &mut Rng) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let cut = match rng.below(4) {
                0 => rest.len(),
                1 => 1 + rng.below(rest.len().min(40)),
                _ => 1 + rng.below(rest.len()),
            };
            let cut = self.read(&rest[..cut]);
            rest = &rest[cut..];
            self.receive(rng.once_in(2));
        }
        self.session.end_of_batch(&mut self.out);
        self.drain();
    }

    /// One read of the socket: straight into a record where the session wants that. Returns the bytes read.
    fn read(&mut self, bytes: &[u8]) -> usize {
        let sink = match self.input[..] {
            [] => self.session.body_sink(),
            _ => None,
        };
        let Some((record, missing)) = sink else {
            self.input.extend_from_slice(bytes);
            return bytes.len();
        };
        let count = bytes.len().min(missing);
        record.extend_from_slice(&bytes[..count]);
        self.session.body_received(count);
        self.straight += count;
        count
    }

    fn receive(&mut self, end: bool) {
        loop {
            let used = self
                .session
                .receive(&self.input, self.now_ms, &mut self.out);
            self.input.drain(..used);
            if end {
                self.session.end_of_batch(&mut self.out);
            }
            let full = self.out.pending() >= self.settings.out_bytes_max;
            self.drain();
            if !full {
                return;
            }
        }
    }

    /// Passes on that the log has come further, if the bell said so, and goes on with what the log refused.
    pub fn progress(&mut self) {
        if self.bell.progressed.swap(false, Ordering::AcqRel) {
            self.session.progressed(&mut self.out);
        } else if self.session.is_stalled() {
            self.session.go_on(&mut self.out);
        }
        if !self.input.is_empty() {
            self.receive(true);
        }
        self.drain();
    }

    /// Passes on what the bell said of queues that are gone.
    pub fn cancellations(&mut self) {
        for key in std::mem::take(&mut *self.bell.cancelled.lock()) {
            self.session.cancelled(key, &mut self.out);
        }
        self.drain();
    }

    /// Passes on what the bell rang, and lets the session deliver once. True when there is more.
    pub fn deliver(&mut self) -> bool {
        self.session.tell_time(self.now_ms);
        for key in std::mem::take(&mut *self.bell.rung.lock()) {
            self.session.rung(key);
        }
        let more = self.session.deliver(&mut self.out);
        self.drain();
        more || !self.bell.rung.lock().is_empty()
    }

    /// Bytes of a frame that is not complete.
    pub fn unread(&self) -> usize {
        self.input.len()
    }

    pub fn is_open(&self) -> bool {
        self.session.state() == State::Open
    }

    /// Lets what waited for the log go, if it may.
    pub fn write(&mut self) {
        self.drain();
    }

    fn drain(&mut self) {
        self.pending_max = self.pending_max.max(self.out.pending());
        if self.session.is_held(&mut self.out) {
            return;
        }
        while !self.out.is_empty() {
            let mut written = 0;
            for piece in self.out.slices() {
                self.received.extend_from_slice(&piece);
                written += piece.len();
            }
            self.out.advance(written);
        }
    }

    /// Everything that the session has sent since the last time. Panics on what is no whole,
    /// well-formed frame within the agreed size.
    pub fn events(&mut self) -> Vec<Event> {
        let received = std::mem::take(&mut self.received);
        let mut events: Vec<Event> = Vec::new();
        let mut body_left = 0;
        let mut at = 0;
        while at < received.len() {
            let max = self.settings.frame_max - frame::OVERHEAD;
            let parsed = frame::parse(&received[at..], max).expect("a well-formed frame");
            let (frame, used) = parsed.expect("a whole frame");
            at += used;
            match frame.kind {
                FrameKind::Method => {
                    assert_eq!(body_left, 0, "a method inside a content");
                    events.push(Event {
                        channel: frame.channel,
                        method: frame.payload.to_vec(),
                        content: None,
                    });
                }
                FrameKind::Header => {
                    let header = ContentHeader::decode(frame.payload).expect("a good header");
                    let event = events.last_mut().expect("a method before the header");
                    assert_eq!((event.channel, body_left), (frame.channel, 0));
                    body_left = header.body_size as usize;
                    event.content = Some((header.properties.as_bytes().to_vec(), Vec::new()));
                }
                FrameKind::Body => {
                    let event = events.last_mut().expect("a method before the body");
                    assert_eq!(event.channel, frame.channel);
                    body_left -= frame.payload.len();
                    let content = event.content.as_mut().expect("a header before the body");
                    content.1.extend_from_slice(frame.payload);
                }
                FrameKind::Heartbeat => {}
            }
        }
        assert_eq!(body_left, 0, "the end of a body is missing");
        events
    }
}
