//! Frames that nobody should send: a session must not panic, must not let its out-buffer grow
//! without bound, and must end in order or stay usable.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::sync::Arc;

use backbone_broker::session::{Settings, State};
use backbone_broker::vhost::Vhost;
use backbone_log::Arena;
use backbone_wire::ShortStr;
use backbone_wire::frame::{self, FrameKind};
use backbone_wire::method::{Method, basic, channel, confirm, connection, exchange, queue, tx};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use support::{Peer, Rng};

const OUT_BYTES_MAX: usize = 3000;
const BODY_BYTES_MAX: usize = 5000;

/// A frame that makes sense somewhere.
fn sensible(rng: &mut Rng, out: &mut Vec<u8>) {
    let ch = if rng.once_in(200) {
        0
    } else {
        1 + rng.below(2) as u16
    };
    let names: [&str; 4] = ["", "q", "q", "r"];
    let name = ShortStr::new(rng.pick(&names).as_bytes()).unwrap();
    let key = ShortStr::new(rng.pick(&["t", "q", "r", "q"]).as_bytes()).unwrap();
    let exchange = ShortStr::new(rng.pick(&["", "", "amq.topic"]).as_bytes()).unwrap();
    let bit = rng.once_in(2);
    let tag = rng.below(6) as u64;
    match rng.below(24) {
        0 if rng.once_in(8) => channel::Open {}.write(ch, out),
        1 if rng.once_in(4) => channel::CloseOk {}.write(ch, out),
        2 if rng.once_in(4) => channel::Close::default().write(ch, out),
        3 => queue::Declare {
            queue: name,
            no_wait: bit,
            ..queue::Declare::default()
        }
        .write(ch, out),
        4 => queue::Bind {
            queue: key,
            exchange,
            routing_key: key,
            no_wait: bit,
            ..queue::Bind::default()
        }
        .write(ch, out),
        5 | 6 => basic::Consume {
            queue: name,
            consumer_tag: key,
            no_ack: bit,
            ..basic::Consume::default()
        }
        .write(ch, out),
        7 => basic::Ack {
            delivery_tag: tag,
            multiple: bit,
        }
        .write(ch, out),
        8 => basic::Nack {
            delivery_tag: tag,
            multiple: bit,
            requeue: true,
        }
        .write(ch, out),
        9 => basic::Get {
            queue: name,
            no_ack: bit,
        }
        .write(ch, out),
        10 => basic::Recover { requeue: true }.write(ch, out),
        11 => confirm::Select { no_wait: bit }.write(ch, out),
        12 => match rng.below(3) {
            0 => tx::Select {}.write(ch, out),
            1 => tx::Commit {}.write(ch, out),
            _ => tx::Rollback {}.write(ch, out),
        },
        13 => basic::Qos {
            prefetch_size: 0,
            prefetch_count: tag as u16,
            global: bit,
        }
        .write(ch, out),
        14 => exchange::Bind {
            destination: name,
            source: key,
            routing_key: key,
            ..exchange::Bind::default()
        }
        .write(ch, out),
        15 if rng.once_in(4) => connection::CloseOk {}.write(0, out),
        _ => publish(ch.max(1), exchange, key, bit, rng, out),
    }
}

fn publish(
    ch: u16,
    exchange: ShortStr<'_>,
    routing_key: ShortStr<'_>,
    mandatory: bool,
    rng: &mut Rng,
    out: &mut Vec<u8>,
) {
    basic::Publish {
        exchange,
        routing_key,
        mandatory,
        immediate: false,
    }
    .write(ch, out);
    let size = rng.pick(&[0, 1, 100, BODY_BYTES_MAX]);
    let mark = frame::begin(out, FrameKind::Header, ch);
    out.extend_from_slice(&[0, 60, 0, 0]);
    out.extend_from_slice(&(size as u64).to_be_bytes());
    // Content type, headers `{"a": true}`, user id.
    match rng.below(3) {
        0 => out.extend_from_slice(&[0, 0]),
        1 => out.extend_from_slice(b"\xA0\x00\x01x\x00\x00\x00\x04\x01at\x01"),
        _ => out.extend_from_slice(b"\x00\x10\x05guest"),
    }
    frame::finish(out, mark);
    let max = 4096 - frame::OVERHEAD;
    for piece in vec![7; size].chunks(max) {
        let mark = frame::begin(out, FrameKind::Body, ch);
        out.extend_from_slice(piece);
        frame::finish(out, mark);
    }
}

/// Changes some octets, most often so that the frames stay frames.
fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.below(bytes.len());
    match rng.below(6) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes[at] = rng.next() as u8,
        2 => bytes.truncate(at),
        3 => {
            let until = (at + rng.below(20)).min(bytes.len());
            bytes.drain(at..until);
        }
        4 => {
            let junk: Vec<u8> = (0..rng.below(20)).map(|_| rng.next() as u8).collect();
            bytes.splice(at..at, junk);
        }
        _ => {
            // A method with other arguments: the frame is whole, its inside is not.
            let mark = frame::begin(bytes, FrameKind::Method, 1);
            let class = rng.pick(&[10, 20, 40, 50, 60, 85, 90]);
            bytes.extend_from_slice(&[0, class, 0, rng.below(12) as u8 * 10 + rng.below(2) as u8]);
            for _ in 0..rng.below(30) {
                bytes.push(rng.pick(&[0, 0, 1, 2, 5, b'q', 255]));
            }
            frame::finish(bytes, mark);
        }
    }
}

fn peer(vhost: &Arc<Vhost>, conn: u64) -> Peer {
    let settings = Settings {
        frame_max: 4096,
        channel_max: 2,
        message_bytes_max: BODY_BYTES_MAX as u64,
        unacked_max: 5,
        out_bytes_max: OUT_BYTES_MAX,
        cancel_notify: true,
        timeout_closes_channel: false,
    };
    let mut peer = Peer::new(vhost, conn, settings);
    let mut bytes = Vec::new();
    for ch in [1, 2] {
        channel::Open {}.write(ch, &mut bytes);
    }
    for name in ["q", "r"] {
        let queue = ShortStr::new(name.as_bytes()).unwrap();
        let declare = queue::Declare {
            queue,
            ..queue::Declare::default()
        };
        declare.write(1, &mut bytes);
    }
    peer.feed(&bytes, &mut Rng(1));
    assert!(peer.is_open());
    peer
}

fn run(steps: &[u64]) {
    let vhost = Arc::new(Vhost::new("/", 1, Arc::new(Arena::new())));
    let mut conn = 1;
    let mut peer_ = peer(&vhost, conn);
    for step in steps {
        let rng = &mut Rng(*step);
        let mut bytes = Vec::new();
        for _ in 0..=rng.below(12) {
            sensible(rng, &mut bytes);
        }
        if rng.once_in(5) {
            mutate(&mut bytes, rng);
        }
        peer_.feed(&bytes, rng);
        peer_.cancellations();
        peer_.deliver();
        peer_.events();
        if peer_.session.state() == State::Closing {
            // The close-ok may be taken for the rest of a broken frame: the owner drops it then.
            let mut ok = Vec::new();
            connection::CloseOk {}.write(0, &mut ok);
            peer_.feed(&ok, rng);
        }
        if peer_.session.state() != State::Open {
            conn += 1;
            peer_ = peer(&vhost, conn);
        }
        // What one frame brings may come on top: a message got or returned, and a few deliveries.
        let bound = OUT_BYTES_MAX + 2 * BODY_BYTES_MAX + 20_000;
        assert!(
            peer_.pending_max <= bound,
            "{} bytes wait",
            peer_.pending_max
        );
    }
    still_works(&vhost);
    drop(peer_);
    for queue in vhost.topology().queues() {
        vhost.purge(&queue);
        assert_eq!(queue.stats().unsettled, 0);
    }
    assert_eq!((vhost.arena().segments(), vhost.arena().bytes()), (0, 0));
}

/// Another connection declares, publishes and gets.
fn still_works(vhost: &Arc<Vhost>) {
    let mut other = peer(vhost, u64::MAX);
    let mut bytes = Vec::new();
    queue::Declare {
        queue: ShortStr::lit("fresh"),
        ..queue::Declare::default()
    }
    .write(1, &mut bytes);
    let fresh = ShortStr::lit("fresh");
    publish(1, ShortStr::lit(""), fresh, false, &mut Rng(3), &mut bytes);
    basic::Get {
        queue: fresh,
        no_ack: true,
    }
    .write(1, &mut bytes);
    other.feed(&bytes, &mut Rng(1));
    let events = other.events();
    let last = Method::decode(&events.last().unwrap().method).unwrap();
    assert!(matches!(last, Method::BasicGetOk(_)), "{last:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn bad_frames_do_no_harm(steps in proptest::collection::vec(any::<u64>(), 1..40)) {
        run(&steps);
    }
}
