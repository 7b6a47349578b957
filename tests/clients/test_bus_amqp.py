"""The bus over AMQP, alone and mixed with REST: outbox, notify, inbox, and what a client may not do."""

import json

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, ProbableAuthenticationError

from support.pika_client import collect, connect, get, get_all, publish, ready
from support.wait import eventually

pytestmark = pytest.mark.bus

DEAD_LETTERS = "soar-dead-letter"


@pytest.fixture
def login(broker):
    """Connections as bus clients, closed after the test."""
    connections = []

    def open_as(client):
        connection = connect(broker, client.id, client.secret)
        connections.append(connection)
        return connection.channel()

    yield open_as
    for connection in connections:
        if connection.is_open:
            connection.close()


@pytest.fixture
def dead_letters(channel):
    """The dead letters of this test: what lay there before is gone."""
    channel.queue_purge(DEAD_LETTERS)
    return lambda count: collect(channel, DEAD_LETTERS, count, auto_ack=True)


def envelope(topic, message):
    return json.dumps({"topic": topic, "message": message}).encode()


def payload_of(body):
    """What an envelope holds, under whichever of its names."""
    (payload,) = [value for key, value in json.loads(body).items() if key in ("message", "body", "payload", "data")]
    return payload


def refused(client, login, code, call):
    """A channel of the client's own is closed with `code`."""
    channel = login(client)
    with pytest.raises(ChannelClosedByBroker) as closed:
        call(channel)
        # What failed asynchronously shows at the next synchronous call.
        channel.basic_get(client.inbox)
    assert closed.value.reply_code == code, closed.value
    return closed.value.reply_text


def test_sent_over_rest_and_read_over_amqp(bus, login):
    sender, reader = bus.pair()
    accepted = sender.send(bus.topic("status"), {"battery": 64})
    channel = login(reader)
    method, properties, body = channel.basic_get(reader.inbox)
    assert json.loads(body)["topic"] == bus.topic("status")
    assert payload_of(body) == {"battery": 64}
    assert properties.headers["topic"] == bus.topic("status")
    assert properties.headers["sender"] == sender.id
    assert properties.message_id == accepted["id"]
    assert properties.timestamp
    channel.basic_ack(method.delivery_tag)
    assert reader.receive() == []


def test_published_to_the_outbox_and_received_over_rest(bus, login):
    sender, reader = bus.pair()
    publish(login(sender), sender.outbox, envelope(bus.topic("x"), "from amqp"))
    (item,) = eventually(reader.receive)
    assert item["topic"] == bus.topic("x")
    assert item["message"] == item["body"] == "from amqp"
    assert item["sender"] == sender.id
    assert item["id"] and item["timestamp"]
    assert item["delivery_type"] == "publish"


def test_topic_in_a_header_leaves_the_body_free(bus, login):
    sender, reader = bus.pair()
    channel = login(sender)
    for header in ("topic", "x-topic"):
        publish(channel, sender.outbox, b"any bytes \x00\xff", headers={header: bus.topic(header), "mine": 7})
    deliveries = collect(login(reader), reader.inbox, 2)
    assert [body for _, _, body in deliveries] == [b"any bytes \x00\xff"] * 2
    assert [properties.headers["topic"] for _, properties, _ in deliveries] == [
        bus.topic("topic"),
        bus.topic("x-topic"),
    ]
    assert all(properties.headers["mine"] == 7 for _, properties, _ in deliveries)
    assert all(properties.headers["sender"] == sender.id for _, properties, _ in deliveries)


def test_amqp_reader_sees_the_bytes_that_the_sender_wrote(bus, login):
    sender, reader = bus.pair()
    body = b'{ "message" :  {"b":1,"a":1.50},\n"topic": "%s" }' % bus.topic("x").encode()
    publish(login(sender), sender.outbox, body, content_type="application/json", correlation_id="c", type="t")
    ((_, properties, received),) = collect(login(reader), reader.inbox, 1)
    assert received == body
    assert (properties.content_type, properties.correlation_id, properties.type) == ("application/json", "c", "t")
    assert properties.message_id and properties.timestamp


def test_message_id_and_time_of_the_sender_are_kept(bus, login):
    sender, reader = bus.pair()
    publish(login(sender), sender.outbox, envelope(bus.topic("x"), 1), message_id="mine", timestamp=1234567890)
    (item,) = eventually(reader.receive)
    assert item["id"] == "mine"
    assert "2009-02-13" in str(item["timestamp"]) or "1234567890" in str(item["timestamp"])


def test_sender_cannot_pass_for_somebody_else(bus, login):
    sender, reader = bus.pair()
    publish(login(sender), sender.outbox, envelope(bus.topic("x"), 1), headers={"sender": "the-boss"})
    (item,) = eventually(reader.receive)
    assert item["sender"] == sender.id


@pytest.mark.parametrize("wrap", ["bare", "message", "body", "payload", "text"])
def test_domain_message_goes_to_its_destination(bus, login, wrap):
    sender, reader = bus.pair()
    domain = {
        "header": {"message_ID": "7f0c", "source": "noc", "destination": bus.topic("autosub.ah1.from_platform")},
        "payload": {"message_type": "platform_status", "battery_percentage": 64},
    }
    body = {"bare": domain, "text": {"message": json.dumps(domain)}}.get(wrap, {wrap: domain})
    publish(login(sender), sender.outbox, json.dumps(body).encode())
    (item,) = eventually(reader.receive)
    assert item["topic"] == bus.topic("autosub.ah1.from_platform")


def test_message_is_an_envelope_only_if_it_has_nothing_unknown(bus, login):
    sender, reader = bus.pair()
    channel = login(sender)
    bodies = [
        {"topic": bus.topic("x"), "message": 1},
        {"topic": bus.topic("x"), "message": 1, "priority": "high"},
        {"topic": bus.topic("x"), "message": 1, "body": 2},
        {"topic": bus.topic("x")},
    ]
    for body in bodies:
        publish(channel, sender.outbox, json.dumps(body).encode())
    received = []
    eventually(lambda: received.extend(reader.receive()) or len(received) == 4)
    assert [item["message"] for item in received] == [1, *bodies[1:]]


def test_message_without_a_topic_becomes_a_dead_letter_with_a_reason(bus, login, dead_letters):
    sender, reader = bus.pair()
    channel = login(sender)
    bodies = [b"not json", b'{"message": "no topic"}', b'{"topic": 7, "message": 1}', b"", b"\xff\xfe", b"[1, 2]"]
    for body in bodies:
        publish(channel, sender.outbox, body)
    publish(channel, sender.outbox, envelope(bus.topic("x"), "after"))
    letters = dead_letters(len(bodies))
    assert [body for _, _, body in letters] == bodies
    for _, properties, _ in letters:
        assert properties.headers["client"] == sender.id
        assert isinstance(properties.headers["reason"], str) and properties.headers["reason"]
    (item,) = eventually(reader.receive)
    assert item["message"] == "after"


@pytest.mark.parametrize("queue", ["notify_queue", "broadcast_queue"])
def test_notify_and_broadcast_queues_reach_every_inbox(bus, login, queue):
    sender, reader, silent = bus.create("sender"), bus.create("reader", bus.topic("#")), bus.create("silent")
    body = json.dumps({"message": "all hands"}).encode()
    publish(login(sender), getattr(sender, queue), body)
    for client in (sender, reader, silent):
        item = eventually(lambda client=client: [each for each in client.receive() if each["sender"] == sender.id])[0]
        assert item["delivery_type"] == "broadcast"


def test_notify_over_rest_is_read_over_amqp(bus, login):
    sender, reader = bus.create("sender"), bus.create("reader")
    channel = login(reader)
    channel.queue_purge(reader.inbox)
    sender.notify("wake up")
    ((_, properties, body),) = collect(channel, reader.inbox, 1, auto_ack=True)
    assert b"wake up" in body
    assert properties.headers["sender"] == sender.id


def test_order_of_one_sender_is_kept_over_rest_and_amqp(bus, login):
    sender, reader = bus.pair()
    channel = login(sender)
    channel.confirm_delivery()
    for number in range(0, 200, 2):
        channel.basic_publish("", sender.outbox, envelope(bus.topic("n"), number))
        sender.send(bus.topic("n"), number + 1)
    received = []
    eventually(lambda: received.extend(reader.receive()) or len(received) == 200)
    assert [item["message"] for item in received] == list(range(200))


def test_thousand_outbox_messages_arrive_in_order(bus, login):
    sender, reader = bus.pair()
    publish(login(sender), sender.outbox, *(envelope(bus.topic("n"), number) for number in range(1000)))
    deliveries = collect(login(reader), reader.inbox, 1000, auto_ack=True)
    assert [json.loads(body)["message"] for _, _, body in deliveries] == list(range(1000))


def test_confirmed_publish_to_the_outbox_is_in_the_inbox(bus, login):
    sender, reader = bus.pair()
    channel = login(sender)
    channel.confirm_delivery()
    for number in range(50):
        channel.basic_publish("", sender.outbox, envelope(bus.topic("n"), number), mandatory=True)
    received = []
    eventually(lambda: received.extend(reader.receive()) or len(received) == 50)


def test_consumer_on_an_outbox_takes_nothing_away_for_good(bus, broker, login):
    """The operator looks into an outbox and leaves: everything still arrives, each once."""
    sender, reader = bus.pair()
    operator = connect(broker)
    spy = operator.channel()
    spy.basic_qos(prefetch_count=1)
    spy.basic_consume(sender.outbox, lambda *_: None)
    publish(login(sender), sender.outbox, *(envelope(bus.topic("n"), number) for number in range(100)))
    operator.process_data_events(0.3)
    operator.close()
    received = []
    eventually(lambda: received.extend(reader.receive()) or len(received) >= 100)
    assert sorted(item["message"] for item in received) == list(range(100))


def test_operator_publishes_to_the_exchange_and_to_any_outbox(bus, channel):
    sender, reader = bus.pair()
    channel.basic_publish("soar-publish", bus.topic("direct"), envelope(bus.topic("direct"), "by exchange"))
    publish(channel, sender.outbox, envelope(bus.topic("x"), "by outbox"))
    received = []
    eventually(lambda: received.extend(reader.receive()) or len(received) == 2)
    assert {item["message"] for item in received} == {"by exchange", "by outbox"}


def test_wrong_secret_is_no_login(bus, broker):
    client = bus.create()
    with pytest.raises(ProbableAuthenticationError):
        connect(broker, client.id, "wrong")


def test_deleted_client_cannot_log_in_and_its_queues_are_gone(bus, broker, channel, connection):
    client = bus.create()
    assert ready(channel, client.inbox) == 0
    bus.call("DELETE", f"/clients/{client.id}")
    with pytest.raises(ProbableAuthenticationError):
        connect(broker, client.id, client.secret)
    for queue in (client.outbox, client.notify_queue, client.inbox):
        with pytest.raises(ChannelClosedByBroker) as missing:
            connection.channel().queue_declare(queue, passive=True)
        assert missing.value.reply_code == 404


def test_changed_secret_ends_the_old_login(bus, broker):
    client = bus.create()
    answer = bus.call("POST", f"/clients/{client.id}/secret")
    with pytest.raises(ProbableAuthenticationError):
        connect(broker, client.id, client.secret)
    connect(broker, client.id, answer.json()["secret"]).close()


NOT_ALLOWED = {
    "read its outbox": lambda channel, client, other: channel.basic_get(client.outbox),
    "consume its outbox": lambda channel, client, other: channel.basic_consume(client.outbox, lambda *_: None),
    "read another inbox": lambda channel, client, other: channel.basic_get(other.inbox),
    "consume another inbox": lambda channel, client, other: channel.basic_consume(other.inbox, lambda *_: None),
    "purge another inbox": lambda channel, client, other: channel.queue_purge(other.inbox),
    "delete another inbox": lambda channel, client, other: channel.queue_delete(other.inbox),
    "write its inbox": lambda channel, client, other: publish(channel, client.inbox, b"x"),
    "write another outbox": lambda channel, client, other: publish(channel, other.outbox, b"x"),
    "write another inbox": lambda channel, client, other: publish(channel, other.inbox, b"x"),
    "write another inbox by CC": lambda channel, client, other: publish(
        channel, client.outbox, b"x", headers={"CC": [other.inbox]}
    ),
    "write another inbox by BCC": lambda channel, client, other: publish(
        channel, client.outbox, b"x", headers={"BCC": [other.inbox]}
    ),
    "write the bus": lambda channel, client, other: publish(channel, "soar-publish", b"x"),
    "publish to the bus's exchange": lambda channel, client, other: channel.basic_publish("soar-publish", "a", b"x"),
    "publish to its fanout": lambda channel, client, other: channel.basic_publish("soar-broadcast", "", b"x"),
    "publish to a standard exchange": lambda channel, client, other: channel.basic_publish("amq.topic", "a", b"x"),
    "read dead letters": lambda channel, client, other: channel.basic_get(DEAD_LETTERS),
    "declare a queue": lambda channel, client, other: channel.queue_declare(f"{client.id}-mine"),
    "declare an exchange": lambda channel, client, other: channel.exchange_declare(f"{client.id}-mine", "fanout"),
    "bind its inbox": lambda channel, client, other: channel.queue_bind(client.inbox, "soar-publish", "#"),
    "delete its outbox": lambda channel, client, other: channel.queue_delete(client.outbox),
}


@pytest.mark.parametrize("deed", sorted(NOT_ALLOWED))
def test_client_may_not(bus, login, deed):
    client, other = bus.create("client"), bus.create("other", bus.topic("#"))
    text = refused(client, login, 403, lambda channel: NOT_ALLOWED[deed](channel, client, other))
    assert text.startswith("ACCESS_REFUSED"), text
    # Notifications of tests before this one aside, nothing came.
    assert [item for item in other.receive() if item["sender"] == client.id] == []


@pytest.mark.parametrize(
    "flags", [{"durable": False}, {"durable": True}, {"auto_delete": True}, {"arguments": {"x-max-length": 5}}]
)
def test_client_may_declare_its_own_queues_with_any_flags(bus, login, flags):
    """How the original's scripts declare is not known, so no flags are held against them."""
    client = bus.create("client", bus.topic("#"))
    channel = login(client)
    for queue in (client.outbox, client.notify_queue, client.inbox):
        assert channel.queue_declare(queue, **flags).method.queue == queue
        channel.queue_declare(queue, passive=True)
    publish(channel, client.outbox, envelope(bus.topic("x"), 1))
    assert eventually(client.receive)[0]["message"] == 1
    tag = channel.basic_consume(client.inbox, lambda *_: None)
    channel.basic_cancel(tag)
    channel.queue_declare(client.inbox, passive=True)


def test_inbox_keeps_messages_until_they_are_acknowledged(bus, login):
    sender, reader = bus.pair()
    sender.send(bus.topic("x"), "keep me")
    channel = login(reader)
    assert b"keep me" in get(channel, reader.inbox, auto_ack=False)
    assert reader.receive() == []
    channel.close()
    assert [item["message"] for item in eventually(reader.receive)] == ["keep me"]


def test_inbox_is_read_by_amqp_and_rest_together_each_message_once(bus, login):
    sender, reader = bus.pair()
    channel = login(reader)
    seen = []
    for number in range(100):
        sender.send(bus.topic("n"), number)
        if number % 10 == 3:
            seen += [item["message"] for item in reader.receive(limit=3)]
        elif number % 10 == 7:
            seen += [payload_of(body) for body in get_all(channel, reader.inbox)]
    seen += [item["message"] for item in reader.receive()]
    assert seen == list(range(100))


def test_transient_messages_are_kept_like_persistent_ones(bus, login):
    sender, reader = bus.pair()
    channel = login(sender)
    channel.confirm_delivery()
    for mode in (1, 2, None):
        properties = pika.BasicProperties(delivery_mode=mode)
        channel.basic_publish("", sender.outbox, envelope(bus.topic("x"), mode), properties)
    received = []
    eventually(lambda: received.extend(reader.receive()) or len(received) == 3)
    assert [item["message"] for item in received] == [1, 2, None]
