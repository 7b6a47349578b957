"""Confirms, returns, transactions, properties and body sizes with pika."""

import datetime
import decimal
import hashlib

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, UnroutableError

from support.pika_client import connect, get, get_all, publish, ready
from support.wait import eventually

FRAME_MAX = 131072


def test_confirmed_publish_returns_when_the_broker_has_it(broker, channel, names):
    queue = names.queue(channel, durable=True)
    channel.confirm_delivery()
    for number in range(100):
        channel.basic_publish("", queue, b"%d" % number, pika.BasicProperties(delivery_mode=2), mandatory=True)
    with connect(broker) as other:
        assert ready(other.channel(), queue) == 100


def test_unroutable_mandatory_publish_raises_with_confirms(channel, names):
    channel.confirm_delivery()
    missing = names.new()
    with pytest.raises(UnroutableError) as returned:
        channel.basic_publish("", missing, b"body", pika.BasicProperties(message_id="m"), mandatory=True)
    (message,) = returned.value.messages
    assert (message.method.reply_code, message.method.reply_text) == (312, "NO_ROUTE")
    assert (message.method.exchange, message.method.routing_key) == ("", missing)
    assert (message.properties.message_id, message.body) == ("m", b"body")
    channel.basic_publish("", missing, b"not mandatory: dropped and confirmed")


def test_unroutable_mandatory_publish_is_returned_without_confirms(connection, channel, names):
    returned = []
    channel.add_on_return_callback(lambda _, method, properties, body: returned.append((method, properties, body)))
    exchange = names.exchange(channel, "direct")
    queue = names.queue(channel)
    channel.queue_bind(queue, exchange, "known")
    channel.basic_publish(exchange, "known", b"routed", mandatory=True)
    channel.basic_publish(exchange, "unknown", b"lost")
    headers = {"number": 1}
    channel.basic_publish(exchange, "unknown", b"back", pika.BasicProperties(headers=headers), mandatory=True)
    eventually(lambda: connection.process_data_events(0.05) or returned)
    ((method, properties, body),) = returned
    assert (method.reply_code, method.exchange, method.routing_key) == (312, exchange, "unknown")
    assert (properties.headers, body) == (headers, b"back")
    assert get_all(channel, queue) == [b"routed"]


def test_empty_unroutable_body_is_returned(channel, names):
    channel.confirm_delivery()
    with pytest.raises(UnroutableError) as returned:
        channel.basic_publish("", names.new(), b"", mandatory=True)
    assert returned.value.messages[0].body == b""


def test_every_publish_is_confirmed_once_when_pipelined(connection, names):
    """A window of 1,000 open publishes; tags arrive in any grouping but cover each number exactly once."""
    channel = connection.channel()
    queue = names.queue(channel)
    settled = []

    def on_confirm(frame):
        assert isinstance(frame.method, pika.spec.Basic.Ack)
        first = len(settled) + 1
        if frame.method.multiple:
            settled.extend(tag for tag in range(1, frame.method.delivery_tag + 1) if tag not in known)
            known.update(range(1, frame.method.delivery_tag + 1))
        else:
            assert frame.method.delivery_tag not in known, first
            known.add(frame.method.delivery_tag)
            settled.append(frame.method.delivery_tag)

    known = set()
    impl = channel._impl
    selected = []
    impl.confirm_delivery(on_confirm, callback=selected.append)
    eventually(lambda: connection.process_data_events(0.05) or selected)
    for number in range(1000):
        impl.basic_publish("", queue, b"%d" % number)
    eventually(lambda: connection.process_data_events(0.05) or len(settled) == 1000)
    assert sorted(settled) == list(range(1, 1001))
    assert ready(channel, queue) == 1000


def test_committed_transaction_publishes_in_order_and_settles(broker, channel, names):
    queue, source = names.queue(channel), names.queue(channel)
    publish(channel, source, b"work")
    with connect(broker) as other:
        watcher = other.channel()
        channel.tx_select()
        method, _, _ = channel.basic_get(source)
        publish(channel, queue, b"a", b"b", b"c")
        channel.basic_ack(method.delivery_tag)
        assert ready(watcher, queue) == 0
        channel.tx_commit()
        assert get_all(watcher, queue) == [b"a", b"b", b"c"]
        channel.close()
        assert ready(watcher, source) == 0


def test_rolled_back_transaction_publishes_nothing_and_keeps_deliveries_open(broker, channel, names):
    queue, source = names.queue(channel), names.queue(channel)
    publish(channel, source, b"work")
    channel.tx_select()
    method, _, _ = channel.basic_get(source)
    publish(channel, queue, b"a")
    channel.basic_ack(method.delivery_tag)
    channel.tx_rollback()
    with connect(broker) as other:
        watcher = other.channel()
        assert (ready(watcher, queue), ready(watcher, source)) == (0, 0)
        # The acknowledgement is forgotten with the rest: the message is still open and can be settled again.
        channel.basic_ack(method.delivery_tag)
        channel.tx_commit()
        channel.close()
        assert ready(watcher, source) == 0


def test_closing_a_transactional_channel_rolls_back(connection, channel, names):
    queue, source = names.queue(channel), names.queue(channel)
    publish(channel, source, b"work")
    other = connection.channel()
    other.tx_select()
    method, _, _ = other.basic_get(source)
    publish(other, queue, b"a")
    other.basic_ack(method.delivery_tag)
    other.close()
    assert get_all(channel, queue) == []
    method, _, body = channel.basic_get(source, auto_ack=True)
    assert (body, method.redelivered) == (b"work", True)


def test_return_of_a_transactional_publish_comes_with_the_commit(connection, channel, names):
    returned = []
    channel.add_on_return_callback(lambda _, __, ___, body: returned.append(body))
    channel.tx_select()
    channel.basic_publish("", names.new(), b"back", mandatory=True)
    connection.sleep(0.3)
    assert returned == []
    channel.tx_commit()
    eventually(lambda: connection.process_data_events(0.05) or returned)
    assert returned == [b"back"]


def test_confirms_and_transactions_exclude_each_other(connection):
    first = connection.channel()
    first.confirm_delivery()
    with pytest.raises(ChannelClosedByBroker, match="cannot switch from confirm to tx mode"):
        first.tx_select()
    second = connection.channel()
    second.tx_select()
    with pytest.raises(ChannelClosedByBroker, match="cannot switch from tx to confirm mode"):
        second.confirm_delivery()
    third = connection.channel()
    with pytest.raises(ChannelClosedByBroker, match="channel is not transactional"):
        third.tx_commit()


def test_headers_of_every_type_that_pika_knows_come_back(channel, names):
    queue = names.queue(channel)
    headers = {
        "text": "Grüße",
        "empty": "",
        "bytes": b"\x00\xff",
        "yes": True,
        "no": False,
        "small": 1,
        "negative": -(2**31),
        "wide": 2**40,
        "decimal": decimal.Decimal("3.14159"),
        "time": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        "nothing": None,
        "table": {"inner": {"deep": [1, "two", {"three": 3}]}},
        "array": [1, "two", None, [True, []], {}],
        "": "empty key",
        "k" * 255: "long key",
    }
    publish(channel, queue, b"x", headers=headers)
    _, properties, _ = channel.basic_get(queue, auto_ack=True)
    received = dict(properties.headers)
    # pika reads times back without a zone; they mean UTC.
    received["time"] = received["time"].replace(tzinfo=datetime.timezone.utc)
    assert received == headers


PROPERTIES = {
    "content_type": "application/json",
    "content_encoding": "gzip",
    "headers": {"a": 1},
    "delivery_mode": 2,
    "priority": 5,
    "correlation_id": "c",
    "reply_to": "r",
    "expiration": "60000",
    "message_id": "m",
    "timestamp": 1234567890,
    "type": "t",
    "user_id": "guest",
    "app_id": "a",
    "cluster_id": "cl",
}

ZEROS = {
    "content_type": "",
    "headers": {},
    "priority": 0,
    "correlation_id": "",
    "timestamp": 0,
    "type": "",
}


def as_dict(properties):
    """The properties that are set."""
    return {name: value for name in PROPERTIES if (value := getattr(properties, name)) is not None}


@pytest.mark.parametrize("single", sorted(PROPERTIES))
def test_each_property_alone_is_kept_and_no_other_is_set(broker, channel, names, single):
    properties = {single: broker.user if single == "user_id" else PROPERTIES[single]}
    queue = names.queue(channel)
    publish(channel, queue, b"x", **properties)
    _, received, _ = channel.basic_get(queue, auto_ack=True)
    assert as_dict(received) == properties


@pytest.mark.parametrize("properties", [PROPERTIES, ZEROS, {}], ids=["all", "zeros", "none"])
def test_properties_are_kept_flag_by_flag(broker, channel, names, properties):
    if "user_id" in properties:
        properties = {**properties, "user_id": broker.user}
    queue = names.queue(channel)
    publish(channel, queue, b"x", **properties)
    _, received, _ = channel.basic_get(queue, auto_ack=True)
    assert as_dict(received) == properties


def test_foreign_user_id_is_refused(channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"x", user_id="somebody-else")
    with pytest.raises(ChannelClosedByBroker) as closed:
        channel.basic_get(queue)
    assert closed.value.reply_code == 406
    assert "user_id property set to 'somebody-else'" in closed.value.reply_text


SIZES = [0, 1, FRAME_MAX - 9, FRAME_MAX - 8, FRAME_MAX - 7, 2 * (FRAME_MAX - 8), 1 << 20, 20 << 20]


@pytest.mark.parametrize("size", SIZES)
def test_bodies_of_any_size_come_back_unchanged(channel, names, size):
    queue = names.queue(channel)
    pattern = hashlib.sha256(b"%d" % size).digest()
    body = (pattern * (size // 32 + 1))[:size]
    publish(channel, queue, body, b"after")
    received = get(channel, queue)
    assert len(received) == size
    assert received == body
    assert get(channel, queue) == b"after"


def test_large_body_reaches_many_consumers(broker, channel, names):
    exchange = names.exchange(channel, "fanout")
    queues = [names.queue(channel) for _ in range(4)]
    for queue in queues:
        channel.queue_bind(queue, exchange)
    body = bytes(range(256)) * 4096 * 4
    channel.basic_publish(exchange, "", body)
    with connect(broker, frame_max=4096) as small:
        reader = small.channel()
        assert all(get(reader, queue) == body for queue in queues)
