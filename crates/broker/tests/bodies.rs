//! Large bodies, which may be read straight into their records.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod support;

use std::sync::Arc;

use backbone_broker::session::{Settings, State};
use backbone_broker::vhost::Vhost;
use backbone_log::Arena;
use backbone_wire::ShortStr;
use backbone_wire::content::write_body;
use backbone_wire::error::ReplyCode;
use backbone_wire::frame::{END, FrameKind, header};
use backbone_wire::method::{Method, basic, channel, connection, queue};
use backbone_wire::properties::{ContentHeader, Properties};
use support::{Peer, Rng};

const FRAME_MAX: u32 = 131_072;
const SETTINGS: Settings = Settings {
    frame_max: FRAME_MAX as usize,
    channel_max: 16,
    message_bytes_max: 1 << 20,
    unacked_max: 1 << 20,
    out_bytes_max: 64 * 1024,
    cancel_notify: false,
    timeout_closes_channel: false,
};

fn peer() -> Peer {
    let vhost = Arc::new(Vhost::new("/", 7, Arc::new(Arena::new())));
    let mut peer = Peer::new(&vhost, 1, SETTINGS);
    let mut bytes = Vec::new();
    channel::Open {}.write(1, &mut bytes);
    channel::Open {}.write(2, &mut bytes);
    let queue = ShortStr::lit("q");
    queue::Declare {
        queue,
        no_wait: true,
        ..queue::Declare::default()
    }
    .write(1, &mut bytes);
    basic::Consume {
        queue,
        no_ack: true,
        no_wait: true,
        ..basic::Consume::default()
    }
    .write(2, &mut bytes);
    peer.feed(&bytes, &mut Rng(1));
    peer.events();
    peer
}

/// Method and header of a publish whose body has `size` bytes.
fn head(size: usize, out: &mut Vec<u8>) {
    basic::Publish {
        routing_key: ShortStr::lit("q"),
        ..basic::Publish::default()
    }
    .write(1, out);
    ContentHeader {
        class_id: 60,
        weight: 0,
        body_size: size as u64,
        properties: Properties::EMPTY,
    }
    .write(1, out);
}

fn body(rng: &mut Rng) -> Vec<u8> {
    let size = match rng.below(3) {
        0 => rng.below(1000),
        1 => 60_000 + rng.below(80_000),
        _ => rng.below(600_000),
    };
    let salt = rng.next();
    (0..size as u64).map(|n| (n ^ salt) as u8).collect()
}

fn delivered(peer: &mut Peer) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    while peer.deliver() {}
    for event in peer.events() {
        bodies.extend(event.content.map(|(_, body)| body));
    }
    bodies
}

#[test]
fn bodies_arrive_whole_however_they_are_cut() {
    let mut straight = 0;
    for seed in 0..60 {
        let rng = &mut Rng(seed);
        let mut peer = peer();
        let sent: Vec<Vec<u8>> = (0..6).map(|_| body(rng)).collect();
        let mut bytes = Vec::new();
        for body in &sent {
            head(body.len(), &mut bytes);
            write_body(1, body, FRAME_MAX, &mut bytes);
        }
        peer.feed(&bytes, rng);
        assert!(peer.is_open());
        assert!(delivered(&mut peer) == sent, "seed {seed}");
        straight += peer.straight;
    }
    assert!(straight > 1_000_000, "{straight} bytes were read straight");
}

/// Feeds the beginning of a body frame of 100,000 bytes, with `announced` for the whole body.
fn begun(announced: usize) -> Peer {
    let mut peer = peer();
    let mut bytes = Vec::new();
    head(announced, &mut bytes);
    bytes.extend_from_slice(&header(FrameKind::Body, 1, 100_000));
    bytes.extend_from_slice(&[7; 10]);
    // In one piece: what is fed in pieces is also handled in pieces.
    feed_whole(&mut peer, &bytes);
    peer
}

fn feed_whole(peer: &mut Peer, bytes: &[u8]) {
    let used = peer.session.receive(bytes, 0, &mut peer.out);
    assert_eq!(used, bytes.len());
}

fn close_code(peer: &mut Peer) -> u16 {
    peer.feed(&[], &mut Rng(1));
    let events = peer.events();
    let last = events.last().expect("the session says why");
    match Method::decode(&last.method).unwrap() {
        Method::ConnectionClose(close) => close.reply_code,
        other => panic!("not a close: {other:?}"),
    }
}

#[test]
fn a_frame_without_its_end_octet_closes_the_connection() {
    let mut peer = begun(100_000);
    assert_eq!(peer.session.body_sink().unwrap().1, 99_990);
    let mut rest = vec![7; 99_990];
    rest.push(END - 1);
    feed_whole(&mut peer, &rest);
    assert_eq!(peer.session.state(), State::Closing);
    assert_eq!(close_code(&mut peer), ReplyCode::FrameError.code());
}

#[test]
fn more_than_was_announced_is_refused_as_in_small_frames() {
    let mut peer = begun_unused(99_999);
    let mut rest = vec![7; 99_990];
    rest.push(END);
    peer.feed(&rest, &mut Rng(1));
    assert_eq!(close_code(&mut peer), ReplyCode::FrameError.code());
}

/// As [`begun`], where the session waits for the whole frame.
fn begun_unused(announced: usize) -> Peer {
    let mut peer = peer();
    let mut bytes = Vec::new();
    head(announced, &mut bytes);
    bytes.extend_from_slice(&header(FrameKind::Body, 1, 100_000));
    bytes.extend_from_slice(&[7; 10]);
    peer.feed(&bytes, &mut Rng(1));
    assert!(peer.session.body_sink().is_none());
    peer
}

#[test]
fn a_close_in_the_middle_of_a_body_finds_the_answer_behind_it() {
    for cut in [0, 1, 50_000, 99_990] {
        let mut peer = begun(100_000);
        let reason = "the operator said so".to_owned();
        peer.session
            .close(ReplyCode::ConnectionForced, reason, &mut peer.out);
        assert!(peer.session.body_sink().is_none());
        let mut rest = vec![0xCE; 99_990];
        rest.push(END);
        connection::CloseOk {}.write(0, &mut rest);
        peer.feed(&rest[..cut], &mut Rng(1));
        assert_eq!(peer.session.state(), State::Closing, "cut at {cut}");
        peer.feed(&rest[cut..], &mut Rng(2));
        assert_eq!(peer.session.state(), State::Closed, "cut at {cut}");
    }
}
