//! Direct reply-to: answers that reach a channel without a queue of its own (specification of behaviour, §8).

// What fails in a helper fails the test.
#![allow(clippy::unwrap_used)]

use crate::common;

use backbone_wire::method::{Method, basic, queue, tx};
use backbone_wire::properties::PropertiesBuilder;
use backbone_wire::table::{ArrayBuf, Table, Value};
use common::Server;
use common::dialog::{Message, consume, declare, plain, table};
use common::raw::{Raw, short};

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// A peer on `listener` that consumes answers on channel 1 with the tag `answers`.
fn client(server: &Server, listener: usize) -> Raw {
    let mut client = Raw::open(server.amqp[listener], 0);
    client.consume_with(1, REPLY_TO, "answers", true, &[]);
    client
}

/// Asks by way of the queue `requests`; what the server of it gets.
fn ask(client: &mut Raw, server: &mut Raw, body: &[u8]) -> Message {
    let properties = PropertiesBuilder {
        reply_to: Some(short(REPLY_TO)),
        correlation_id: Some(short("7")),
        ..plain()
    };
    client.publish_with(1, ("", "requests", false), &properties, body);
    client.ready("requests");
    let request = server.take("requests").expect("a request");
    assert_eq!(request.body, body);
    request
}

fn address(request: &Message) -> String {
    let address = request.properties().reply_to().expect("an address");
    address.as_str().unwrap().to_owned()
}

#[actix_web::test]
async fn answers_reach_the_channel_that_asked() {
    let server = Server::with(&[("BACKBONE_RUNTIME__ARBITERS", "2")]).await;
    let mut worker = Raw::open(server.amqp[0], 0);
    worker.declare("requests");
    let mut clients = [client(&server, 0), client(&server, 0), client(&server, 0)];
    let mut addresses = Vec::new();
    for (client, body) in clients.iter_mut().zip([&b"a"[..], b"b", b"c"]) {
        let request = ask(client, &mut worker, body);
        assert_eq!(
            request.properties().correlation_id().unwrap().as_bytes(),
            b"7"
        );
        addresses.push(address(&request));
        assert!(
            addresses
                .last()
                .unwrap()
                .starts_with("amq.rabbitmq.reply-to.")
        );
    }
    assert!(addresses[0] != addresses[1] && addresses[1] != addresses[2]);
    for round in 1..=3u64 {
        for (client, address) in clients.iter_mut().zip(&addresses) {
            let persistent = PropertiesBuilder {
                delivery_mode: Some(2),
                reply_to: Some(short("elsewhere")),
                ..plain()
            };
            worker.publish_with(1, ("", address, true), &persistent, address.as_bytes());
            let answer = client.message();
            assert_eq!(answer.body, address.as_bytes());
            assert_eq!((&*answer.exchange, &*answer.key), ("", &**address));
            assert_eq!((answer.tag, answer.redelivered), (round, false));
            assert_eq!(answer.consumer, "answers");
            let reply_to = answer.properties().reply_to().unwrap();
            assert_eq!(
                reply_to.as_bytes(),
                b"elsewhere",
                "only the name is replaced"
            );
        }
    }
    // There is nothing to acknowledge.
    let ack = basic::Ack {
        delivery_tag: 1,
        multiple: false,
    };
    let (code, _) = clients[0].refused(1, &Method::BasicAck(ack));
    assert_eq!(code, 406);
}

#[actix_web::test]
async fn an_address_is_unroutable_once_its_consumer_or_channel_is_gone() {
    let server = Server::start().await;
    let mut worker = Raw::open(server.amqp[0], 0);
    worker.declare("requests");
    worker.confirms(1);
    let mut client = client(&server, 0);
    let first = address(&ask(&mut client, &mut worker, b"1"));
    client.cancel(1, "answers");
    let unroutable = |worker: &mut Raw, address: &str, tag| {
        worker.publish_with(1, ("", address, true), &plain(), b"late");
        let returned = worker.message();
        assert_eq!((&*returned.key, returned.text()), (address, "late"));
        worker.confirmed(tag);
    };
    unroutable(&mut worker, &first, 1);
    // Asking is refused without the consumer, by publish and in a transaction.
    let asks = PropertiesBuilder {
        reply_to: Some(short(REPLY_TO)),
        ..plain()
    };
    let text = "PRECONDITION_FAILED - fast reply consumer does not exist";
    client.publish_with(1, ("", "requests", false), &asks, b"x");
    assert_eq!(client.closed(1), (406, text.to_owned()));
    client.method(1, &Method::TxSelect(tx::Select));
    client.expect("tx.select-ok");
    client.publish_with(1, ("", "requests", false), &asks, b"x");
    assert_eq!(client.closed(1), (406, text.to_owned()));
    // A missing exchange is told of first.
    client.publish_with(1, ("nowhere", "x", false), &asks, b"x");
    let missing = "NOT_FOUND - no exchange 'nowhere' in vhost '/'".to_owned();
    assert_eq!(client.closed(1), (404, missing));
    // Each consumer has an address of its own, and it goes with the channel.
    client.consume_with(1, REPLY_TO, "answers", true, &[]);
    let second = address(&ask(&mut client, &mut worker, b"2"));
    assert_ne!(first, second);
    client.close_channel(1);
    unroutable(&mut worker, &second, 2);
    client.open_channel(1);
    client.consume_with(1, REPLY_TO, "answers", true, &[]);
    let third = address(&ask(&mut client, &mut worker, b"3"));
    worker.publish_with(1, ("", &third, true), &plain(), b"in time");
    worker.confirmed(3);
    assert_eq!(client.message().text(), "in time");
    // Nothing of it is to be read from elsewhere: the address is no queue.
    drop(client);
    let mut other = Raw::open(server.amqp[0], 0);
    let passive = queue::Declare {
        passive: true,
        ..declare(&third, false, Table::EMPTY)
    };
    // The server notices by and by.
    let since = std::time::Instant::now();
    loop {
        other.method(1, &Method::QueueDeclare(passive));
        if other.peek_is("channel.close") {
            assert_eq!(other.closed(1).0, 404);
            break;
        }
        other.expect("queue.declare-ok");
        assert!(
            since.elapsed().as_secs() < 20,
            "the address outlives its connection"
        );
    }
    unroutable(&mut worker, &third, 4);
}

#[actix_web::test]
async fn requests_in_a_transaction_carry_the_address() {
    let server = Server::start().await;
    let mut worker = Raw::open(server.amqp[0], 0);
    worker.declare("requests");
    let mut client = client(&server, 0);
    client.method(1, &Method::TxSelect(tx::Select));
    client.expect("tx.select-ok");
    let asks = PropertiesBuilder {
        reply_to: Some(short(REPLY_TO)),
        ..plain()
    };
    client.publish_with(1, ("", "requests", false), &asks, b"x");
    client.method(1, &Method::TxCommit(tx::Commit));
    client.expect("tx.commit-ok");
    let request = worker.take("requests").unwrap();
    worker.publish_with(1, ("", &address(&request), false), &plain(), b"y");
    assert_eq!(client.message().text(), "y");
}

#[actix_web::test]
async fn the_rules_of_the_consumer_of_answers() {
    let server = Server::start().await;
    let mut peer = Raw::open(server.amqp[0], 0);
    let acknowledges = Method::BasicConsume(consume(REPLY_TO, "", false, Table::EMPTY));
    let again = Method::BasicConsume(consume(REPLY_TO, "answers", true, Table::EMPTY));
    let cannot = "PRECONDITION_FAILED - reply consumer cannot acknowledge".to_owned();
    assert_eq!(peer.refused(1, &acknowledges), (406, cannot.clone()));
    peer.consume_with(1, REPLY_TO, "answers", true, &[]);
    let already = "PRECONDITION_FAILED - reply consumer already set".to_owned();
    assert_eq!(peer.refused(1, &again), (406, already));
    peer.consume_with(1, REPLY_TO, "answers", true, &[]);
    assert_eq!(peer.refused(1, &acknowledges), (406, cannot));
    // Its tag is nobody else's business, and the tag of another cannot be taken.
    peer.declare("q");
    peer.consume_with(1, REPLY_TO, "t", true, &[]);
    peer.consume_with(1, "q", "t", true, &[]);
    peer.cancel(1, "t");
    peer.cancel(1, "t");
    peer.consume_with(1, "q", "t", true, &[]);
    let taken = Method::BasicConsume(consume(REPLY_TO, "t", true, Table::EMPTY));
    peer.method(1, &taken);
    let text = "NOT_ALLOWED - attempt to reuse consumer tag 't'".to_owned();
    assert_eq!(peer.ended(), (530, text));
}

#[actix_web::test]
async fn a_declare_tells_whether_an_address_lives_and_nothing_else_is_possible() {
    let server = Server::start().await;
    let mut worker = Raw::open(server.amqp[0], 0);
    worker.declare("requests");
    let mut client = client(&server, 0);
    let address = address(&ask(&mut client, &mut worker, b"1"));
    for (name, passive) in [
        (REPLY_TO, false),
        (REPLY_TO, true),
        (&address, false),
        (&address, true),
    ] {
        let declare = queue::Declare {
            passive,
            ..declare(name, false, Table::EMPTY)
        };
        worker.method(1, &Method::QueueDeclare(declare));
        let payload = worker.expect("queue.declare-ok");
        let Method::QueueDeclareOk(ok) = Method::decode(&payload).unwrap() else {
            unreachable!("the name was checked");
        };
        assert_eq!(ok.queue.as_str().unwrap(), name);
        assert_eq!((ok.message_count, ok.consumer_count), (0, 1));
    }
    let dead = "amq.rabbitmq.reply-to.nobody";
    let bind = |name| {
        Method::QueueBind(queue::Bind {
            queue: short(name),
            exchange: short("amq.direct"),
            routing_key: short("x"),
            ..queue::Bind::default()
        })
    };
    let get = |name| {
        Method::BasicGet(basic::Get {
            queue: short(name),
            no_ack: true,
        })
    };
    let refused = [
        (
            dead,
            Method::QueueDeclare(declare(dead, false, Table::EMPTY)),
        ),
        (
            "amq.rabbitmq.reply-toxx",
            Method::QueueDeclare(declare("amq.rabbitmq.reply-toxx", false, Table::EMPTY)),
        ),
        (
            &address,
            Method::BasicConsume(consume(&address, "", true, Table::EMPTY)),
        ),
        (&address, get(&address)),
        (&address, bind(&address)),
        (REPLY_TO, get(REPLY_TO)),
        (REPLY_TO, bind(REPLY_TO)),
    ];
    for (name, method) in &refused {
        let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");
        assert_eq!(worker.refused(1, method), (404, text));
    }
    let delete = queue::Delete {
        queue: short(&address),
        ..queue::Delete::default()
    };
    worker.method(1, &Method::QueueDelete(delete));
    worker.expect("queue.delete-ok");
    // It is there still.
    worker.publish_with(1, ("", &address, false), &plain(), b"y");
    assert_eq!(client.message().text(), "y");
}

#[actix_web::test]
async fn answers_come_by_way_of_the_default_exchange_alone_and_once() {
    let server = Server::start().await;
    let mut worker = Raw::open(server.amqp[0], 0);
    worker.declare("requests");
    let mut client = client(&server, 0);
    let address = address(&ask(&mut client, &mut worker, b"1"));
    worker.publish_with(1, ("amq.direct", &address, true), &plain(), b"astray");
    assert_eq!(worker.message().text(), "astray");
    let mut copies = ArrayBuf::new();
    copies
        .push(&Value::from(&*address))
        .push(&Value::from(&*address));
    let headers = table(&[("CC", Value::Array(copies.as_array()))]);
    let copied = PropertiesBuilder {
        headers: Some(headers.as_table()),
        ..plain()
    };
    worker.publish_with(1, ("", "nowhere", true), &copied, b"copy");
    worker.publish_with(1, ("", &address, true), &plain(), b"last");
    let copy = client.message();
    assert_eq!((&*copy.key, copy.text()), ("nowhere", "copy"));
    assert_eq!(client.message().text(), "last");
    // A large one goes the same way.
    let large = vec![7; 3 << 20];
    worker.publish_with(1, ("", &address, false), &plain(), &large);
    assert!(client.message().body == large);
    let request = ask(&mut client, &mut worker, &large);
    assert!(request.body == large);
}
