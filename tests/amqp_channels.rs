//! Channels and transactions: what may come when, how both sides close, and what a commit does at once or not at all.

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use backbone_wire::method::{
    Method, access, basic, channel, confirm, connection, exchange, queue, tx,
};
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{Table, Value};
use common::Server;
use common::dialog::{declare, plain, table};
use common::raw::{FRAME_MAX, Raw, short};

const CLOSE: Method<'static> = Method::ChannelClose(channel::Close {
    reply_code: 200,
    reply_text: backbone_wire::ShortStr::lit(""),
    class_id: 0,
    method_id: 0,
});
const CLOSE_OK: Method<'static> = Method::ChannelCloseOk(channel::CloseOk);
const OPEN: Method<'static> = Method::ChannelOpen(channel::Open);

fn passive(name: &str) -> Method<'_> {
    Method::QueueDeclare(queue::Declare {
        passive: true,
        ..declare(name, false, Table::EMPTY)
    })
}

fn get(name: &str) -> Method<'_> {
    Method::BasicGet(basic::Get {
        queue: short(name),
        no_ack: false,
    })
}

fn nack(delivery_tag: u64, multiple: bool, requeue: bool) -> Method<'static> {
    Method::BasicNack(basic::Nack {
        delivery_tag,
        multiple,
        requeue,
    })
}

fn publish(peer: &mut Raw, key: &str, body: &str) {
    peer.publish_with(1, ("", key, false), &plain(), body.as_bytes());
}

/// Takes a message, to be acknowledged: its body.
fn held(peer: &mut Raw, name: &str) -> String {
    peer.method(1, &get(name));
    peer.message().text().to_owned()
}

fn commit(peer: &mut Raw) {
    peer.ask(&Method::TxCommit(tx::Commit), "tx.commit-ok");
}

fn rollback(peer: &mut Raw) {
    peer.ask(&Method::TxRollback(tx::Rollback), "tx.rollback-ok");
}

/// A connection with a queue `q`, and a transactional channel.
fn transactional(server: &Server) -> Raw {
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare("q");
    peer.ask(&Method::TxSelect(tx::Select), "tx.select-ok");
    peer
}

#[actix_web::test]
async fn both_sides_may_close_a_channel_at_once() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    for answers in [true, false, true] {
        peer.method(1, &passive("nowhere"));
        peer.method(1, &CLOSE);
        // Until it is answered, everything else is dropped.
        peer.method(1, &passive("nowhere"));
        peer.expect("channel.close");
        peer.expect("channel.close-ok");
        if answers {
            peer.method(1, &CLOSE_OK);
        }
        peer.method(1, &OPEN);
        peer.expect("channel.open-ok");
    }
    peer.declare("q");
}

#[actix_web::test]
async fn a_closed_channel_takes_nothing_until_that_is_answered() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.open_channel(2);
    peer.declare("q");
    peer.method(1, &passive("nowhere"));
    publish(&mut peer, "q", "dropped");
    peer.method(1, &OPEN);
    peer.publish_with(2, ("", "q", false), &plain(), b"of another channel");
    assert_eq!(peer.closed(1).0, 404);
    assert_eq!(peer.take_all("q"), ["of another channel"]);
}

#[actix_web::test]
async fn methods_that_have_no_business_where_they_come_end_the_connection() {
    let server = Server::start().await;
    let running = "CHANNEL_ERROR - unexpected method in connection state running";
    let closed = "CHANNEL_ERROR - expected 'channel.open'";
    let unknown = "COMMAND_INVALID - unimplemented method";
    let blocked = Method::ConnectionBlocked(connection::Blocked {
        reason: short("no"),
    });
    let end = Method::ConnectionClose(connection::Close::default());
    let cases = [
        (0, OPEN, 504, running),
        (0, Method::TxSelect(tx::Select), 504, running),
        (0, blocked, 504, running),
        (
            0,
            Method::ConnectionCloseOk(connection::CloseOk),
            504,
            running,
        ),
        (
            0,
            Method::ConnectionOpen(connection::Open::default()),
            504,
            running,
        ),
        (1, OPEN, 504, "CHANNEL_ERROR - second 'channel.open' seen"),
        (1, end, 503, unknown),
        (1, blocked, 503, unknown),
        (1, CLOSE_OK, 503, unknown),
        (
            1,
            Method::ChannelFlowOk(channel::FlowOk { active: true }),
            503,
            unknown,
        ),
        (1, Method::TxSelectOk(tx::SelectOk), 503, unknown),
        (
            1,
            Method::QueueDeclareOk(queue::DeclareOk::default()),
            503,
            unknown,
        ),
        (9, passive("q"), 504, closed),
        (9, CLOSE, 504, closed),
        (9, CLOSE_OK, 504, closed),
        (9, end, 504, closed),
        (9, blocked, 504, closed),
    ];
    for (id, method, code, text) in cases {
        let mut peer = Raw::open(server.amqp[0], 0);
        peer.method(id, &method);
        assert_eq!(peer.ended(), (code, text.to_owned()), "{method:?} on {id}");
    }
}

#[actix_web::test]
async fn channels_are_counted_and_not_their_numbers() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    // The connection agreed on 100, and has one.
    for id in (1..100).map(|n| u16::MAX - n) {
        peer.open_channel(id);
    }
    peer.close_channel(1);
    peer.open_channel(u16::MAX);
    peer.method(2, &OPEN);
    let text = "NOT_ALLOWED - number of channels opened (100) has reached the negotiated channel_max (100)";
    assert_eq!(peer.ended(), (530, text.to_owned()));
}

#[actix_web::test]
async fn texts_that_are_too_long_say_that_they_are_cut() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let name = "z".repeat(255);
    let (code, text) = peer.refused(1, &passive(&name));
    let whole = format!("NOT_FOUND - no queue '{name}");
    assert_eq!((code, text), (404, format!("{}...", &whole[..252])));
    let name = format!("x{}", "é".repeat(127));
    let (code, text) = peer.refused(1, &passive(&name));
    assert_eq!(code, 404);
    assert!(text.ends_with("éé...") && text.len() <= 255, "{text}");
}

#[actix_web::test]
async fn confirms_and_transactions_exclude_each_other() {
    let server = Server::start().await;
    let mut peer = transactional(&server);
    peer.ask(&Method::TxSelect(tx::Select), "tx.select-ok");
    let confirms = Method::ConfirmSelect(confirm::Select { no_wait: true });
    let text = "PRECONDITION_FAILED - cannot switch from tx to confirm mode";
    assert_eq!(peer.refused(1, &confirms), (406, text.to_owned()));
    let text = "PRECONDITION_FAILED - channel is not transactional".to_owned();
    for method in [
        Method::TxCommit(tx::Commit),
        Method::TxRollback(tx::Rollback),
    ] {
        assert_eq!(peer.refused(1, &method), (406, text.clone()));
    }
    peer.confirms(1);
    peer.confirms(1);
    let text = "PRECONDITION_FAILED - cannot switch from confirm to tx mode";
    let refused = peer.refused(1, &Method::TxSelect(tx::Select));
    assert_eq!(refused, (406, text.to_owned()));
}

#[actix_web::test]
async fn a_commit_publishes_in_order_and_returns_what_nobody_takes_before_its_answer() {
    let server = Server::start().await;
    let mut peer = transactional(&server);
    peer.publish_with(1, ("", "nowhere", true), &plain(), b"first");
    publish(&mut peer, "q", "a");
    publish(&mut peer, "nowhere", "dropped");
    publish(&mut peer, "q", "b");
    peer.publish_with(1, ("", "nowhere", true), &plain(), b"second");
    assert_eq!(peer.ready("q"), 0, "nothing is seen before");
    peer.method(1, &Method::TxCommit(tx::Commit));
    assert_eq!(peer.message().text(), "first");
    assert_eq!(peer.message().text(), "second");
    peer.expect("tx.commit-ok");
    commit(&mut peer);
    assert_eq!(peer.take_all("q"), ["a", "b"]);
}

#[actix_web::test]
async fn a_rollback_forgets_what_was_published_and_settled_and_messages_stay_held() {
    let server = Server::start().await;
    let mut peer = transactional(&server);
    for body in ["a", "b", "c"] {
        publish(&mut peer, "q", body);
    }
    commit(&mut peer);
    assert_eq!([held(&mut peer, "q"), held(&mut peer, "q")], ["a", "b"]);
    peer.ack(1, 1);
    peer.method(1, &nack(2, false, true));
    publish(&mut peer, "q", "forgotten");
    rollback(&mut peer);
    assert_eq!(held(&mut peer, "q"), "c", "nothing came back");
    // All are settled again, and anew: what a tag means is not forgotten.
    peer.method(1, &nack(0, true, true));
    assert_eq!(peer.ready("q"), 0, "not before the commit");
    commit(&mut peer);
    assert_eq!(peer.take_all("q"), ["a", "b", "c"]);
    let text = "PRECONDITION_FAILED - unknown delivery tag 1".to_owned();
    peer.ack(1, 1);
    assert_eq!(peer.closed(1), (406, text));
}

#[actix_web::test]
async fn a_transaction_that_is_not_committed_ends_with_its_channel() {
    let server = Server::start().await;
    let mut peer = transactional(&server);
    publish(&mut peer, "q", "a");
    commit(&mut peer);
    // Closed by the client, by an error, and with the connection.
    for round in 0..3 {
        assert_eq!(held(&mut peer, "q"), "a");
        peer.ack(1, 1);
        publish(&mut peer, "q", "forgotten");
        match round {
            0 => {
                peer.close_channel(1);
                peer.open_channel(1);
            }
            1 => {
                peer.method(1, &passive("nowhere"));
                assert_eq!(peer.closed(1).0, 404);
            }
            _ => break,
        }
        peer.ask(&Method::TxSelect(tx::Select), "tx.select-ok");
    }
    peer.method(0, &Method::ConnectionClose(connection::Close::default()));
    peer.expect("connection.close-ok");
    let mut peer = Raw::open(server.amqp[0], 0);
    assert_eq!(peer.take_all("q"), ["a"]);
}

#[actix_web::test]
async fn dead_letters_and_prefetch_of_a_transaction_wait_for_its_commit() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let grave = [
        ("x-dead-letter-exchange", Value::from("")),
        ("x-dead-letter-routing-key", Value::from("grave")),
    ];
    peer.declare_with("q", false, &grave);
    peer.declare("grave");
    for body in ["a", "b"] {
        publish(&mut peer, "q", body);
    }
    peer.ask(&Method::TxSelect(tx::Select), "tx.select-ok");
    peer.prefetch(1, 1, false);
    peer.consume_with(1, "q", "c", false, &[]);
    assert_eq!(peer.message().text(), "a");
    peer.method(1, &nack(1, false, false));
    assert_eq!(peer.ready("grave"), 0);
    assert_eq!(peer.ready("q"), 1, "it still takes the room");
    rollback(&mut peer);
    assert_eq!(peer.ready("grave"), 0);
    peer.method(1, &nack(1, false, false));
    peer.method(1, &Method::TxCommit(tx::Commit));
    // The next delivery may come before the answer.
    let mut answered = 0;
    while answered < 2 {
        match peer.peek_is("tx.commit-ok") {
            true => drop(peer.expect("tx.commit-ok")),
            false => assert_eq!(peer.message().text(), "b"),
        }
        answered += 1;
    }
    assert_eq!(peer.take_all("grave"), ["a"]);
}

#[actix_web::test]
async fn a_commit_that_cannot_be_does_nothing() {
    let server = Server::start().await;
    let mut peer = transactional(&server);
    let kept = exchange::Declare {
        exchange: short("x"),
        type_: short("fanout"),
        ..exchange::Declare::default()
    };
    peer.ask(&Method::ExchangeDeclare(kept), "exchange.declare-ok");
    publish(&mut peer, "q", "held");
    commit(&mut peer);
    assert_eq!(held(&mut peer, "q"), "held");
    publish(&mut peer, "q", "before");
    peer.publish_with(1, ("x", "", false), &plain(), b"to what is gone");
    publish(&mut peer, "q", "after");
    peer.ack(1, 1);
    let gone = exchange::Delete {
        exchange: short("x"),
        ..exchange::Delete::default()
    };
    peer.ask(&Method::ExchangeDelete(gone), "exchange.delete-ok");
    peer.method(1, &Method::TxCommit(tx::Commit));
    let text = "NOT_FOUND - no exchange 'x' in vhost '/'".to_owned();
    assert_eq!(peer.closed(1), (404, text));
    assert_eq!(peer.take_all("q"), ["held"]);
}

#[actix_web::test]
async fn what_a_transaction_publishes_is_checked_at_once() {
    let server = Server::start().await;
    let mut peer = transactional(&server);
    let arguments = table(&[("CC", Value::from("no list"))]);
    let bad = [
        PropertiesBuilder {
            expiration: Some(short("abc")),
            ..plain()
        },
        PropertiesBuilder {
            user_id: Some(short("bob")),
            ..plain()
        },
        PropertiesBuilder {
            headers: Some(arguments.as_table()),
            ..plain()
        },
    ];
    for properties in &bad {
        publish(&mut peer, "q", "forgotten");
        peer.publish_with(1, ("", "q", false), properties, b"bad");
        assert_eq!(peer.closed(1).0, 406);
        peer.ask(&Method::TxSelect(tx::Select), "tx.select-ok");
    }
    publish(&mut peer, "q", "forgotten");
    peer.publish_with(1, ("nowhere", "", false), &plain(), b"bad");
    assert_eq!(peer.closed(1).0, 404);
    assert_eq!(peer.take_all("q"), Vec::<String>::new());
}

#[actix_web::test]
async fn bodies_at_the_edges_of_a_frame_come_whole() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare("q");
    let room = FRAME_MAX as usize - 8;
    for size in [0, 1, room - 1, room, room + 1, 2 * room, 2 * room + 1] {
        let body: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        peer.publish_with(1, ("", "q", false), &plain(), &body);
        let message = peer.take("q").unwrap();
        assert!(message.body == body, "{size} bytes");
    }
}

#[actix_web::test]
async fn a_transaction_meets_the_bindings_of_its_commit() {
    let server = Server::start().await;
    let mut peer = transactional(&server);
    peer.publish_with(1, ("amq.direct", "k", true), &plain(), b"x");
    let bind = queue::Bind {
        queue: short("q"),
        exchange: short("amq.direct"),
        routing_key: short("k"),
        ..queue::Bind::default()
    };
    peer.ask(&Method::QueueBind(bind), "queue.bind-ok");
    commit(&mut peer);
    assert_eq!(peer.take_all("q"), ["x"]);
}

/// Everything that can be asked for without an answer, as it makes sense one after the other.
fn without_answers() -> Vec<Method<'static>> {
    let no_wait = true;
    vec![
        Method::ExchangeDeclare(exchange::Declare {
            exchange: short("x"),
            type_: short("fanout"),
            no_wait,
            ..exchange::Declare::default()
        }),
        Method::ExchangeBind(exchange::Bind {
            destination: short("x"),
            source: short("amq.fanout"),
            no_wait,
            ..exchange::Bind::default()
        }),
        Method::QueueDeclare(queue::Declare {
            queue: short("q"),
            no_wait,
            ..queue::Declare::default()
        }),
        Method::QueueBind(queue::Bind {
            queue: short("q"),
            exchange: short("x"),
            no_wait,
            ..queue::Bind::default()
        }),
        Method::BasicConsume(basic::Consume {
            queue: short("q"),
            consumer_tag: short("c"),
            no_wait,
            ..basic::Consume::default()
        }),
        Method::BasicCancel(basic::Cancel {
            consumer_tag: short("c"),
            no_wait,
        }),
        Method::ExchangeUnbind(exchange::Unbind {
            destination: short("x"),
            source: short("amq.fanout"),
            no_wait,
            ..exchange::Unbind::default()
        }),
        Method::QueuePurge(queue::Purge {
            queue: short("q"),
            no_wait,
        }),
        Method::QueueDelete(queue::Delete {
            queue: short("q"),
            no_wait,
            ..queue::Delete::default()
        }),
        Method::ExchangeDelete(exchange::Delete {
            exchange: short("x"),
            no_wait,
            ..exchange::Delete::default()
        }),
        Method::ConfirmSelect(confirm::Select { no_wait }),
    ]
}

#[actix_web::test]
async fn who_wants_no_answers_gets_none_but_errors() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    for method in without_answers() {
        peer.method(1, &method);
    }
    // All took effect: the queue is gone again, and publishes are confirmed.
    publish(&mut peer, "q", "x");
    peer.expect("basic.ack");
    let bad = exchange::Declare {
        exchange: short("amq.mine"),
        type_: short("fanout"),
        no_wait: true,
        ..exchange::Declare::default()
    };
    let text = "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'";
    let refused = peer.refused(1, &Method::ExchangeDeclare(bad));
    assert_eq!(refused, (403, text.to_owned()));
}

#[actix_web::test]
async fn old_and_rare_methods_are_answered() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let request = Method::AccessRequest(access::Request {
        realm: short("/data"),
        active: true,
        ..access::Request::default()
    });
    let payload = peer.ask(&request, "access.request-ok");
    let ok = access::RequestOk { ticket: 1 };
    assert_eq!(Method::decode(&payload), Ok(Method::AccessRequestOk(ok)));
    let flow = Method::ChannelFlow(channel::Flow { active: true });
    let payload = peer.ask(&flow, "channel.flow-ok");
    let ok = channel::FlowOk { active: true };
    assert_eq!(Method::decode(&payload), Ok(Method::ChannelFlowOk(ok)));
    peer.declare("q");
    for body in ["a", "b"] {
        publish(&mut peer, "q", body);
        held(&mut peer, "q");
    }
    let recover = basic::RecoverAsync { requeue: true };
    peer.method(1, &Method::BasicRecoverAsync(recover));
    assert_eq!(peer.take_all("q"), ["a", "b"]);
}

#[actix_web::test]
async fn tags_are_counted_over_deliveries_and_gets_and_from_1_on_each_channel() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    peer.declare("q");
    peer.declare("r");
    publish(&mut peer, "q", "a");
    peer.method(1, &get("q"));
    assert_eq!(peer.message().tag, 1);
    peer.consume_with(1, "r", "c", true, &[]);
    publish(&mut peer, "r", "b");
    assert_eq!(peer.message().tag, 2);
    publish(&mut peer, "q", "c");
    peer.method(1, &get("q"));
    assert_eq!(peer.message().tag, 3);
    publish(&mut peer, "q", "d");
    peer.open_channel(2);
    peer.method(2, &get("q"));
    assert_eq!(peer.message().tag, 1);
    // That of a delivery without acknowledgements is none to be settled.
    peer.ack(1, 2);
    let text = "PRECONDITION_FAILED - unknown delivery tag 2".to_owned();
    assert_eq!(peer.closed(1), (406, text));
}

#[actix_web::test]
async fn a_number_is_the_same_argument_in_any_width() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    for ttl in [
        Value::I32(100),
        Value::I8(100),
        Value::U8(100),
        Value::I16(100),
        Value::U16(100),
        Value::U32(100),
        Value::I64(100),
    ] {
        peer.declare_with("q", false, &[("x-message-ttl", ttl)]);
    }
    let arguments = table(&[("x-message-ttl", Value::I64(101))]);
    let other = Method::QueueDeclare(declare("q", false, arguments.as_table()));
    let text = "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': \
                received '101' but current is '100'";
    assert_eq!(peer.refused(1, &other), (406, text.to_owned()));
}
