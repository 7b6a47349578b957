"""Deduplication as LavinMQ has it, and as RabbitMQ's plugin where that is alike."""

import time

import pika
import pika.exceptions
import pytest

from support.pika_client import get_all, ready

YES = {"x-message-deduplication": True}
HEADER = "x-deduplication-header"


@pytest.fixture
def channel(broker, connection):
    if broker.process is None:
        pytest.skip("RabbitMQ has deduplication in a plugin alone")
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def publish(channel, queue, body, exchange="", mandatory=True, **headers):
    """Publish with headers; it is confirmed, and not returned."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    channel.basic_publish(exchange, queue, body, pika.BasicProperties(headers=headers), mandatory=mandatory)


def keyed(channel, queue, body, key, **more):
    publish(channel, queue, body, **{HEADER: key}, **more)


def test_a_repeat_is_confirmed_and_dropped_and_no_header_passes(channel, names):
    queue = names.queue(channel, arguments=YES)
    for body in (b"1", b"2"):
        keyed(channel, queue, body, "a")
        publish(channel, queue, b"other", other="a")
    channel.basic_publish("", queue, b"bare")
    assert get_all(channel, queue) == [b"1", b"other", b"other", b"bare"]


@pytest.mark.parametrize("key", ["text", b"bytes", 7, 1 << 40, True, ["a", 1], {"a": {"b": 1}}, ""])
def test_any_value_is_a_key(channel, names, key):
    queue = names.queue(channel, arguments=YES)
    for body in (b"1", b"2"):
        keyed(channel, queue, body, key)
    keyed(channel, queue, b"nothing", None)
    keyed(channel, queue, b"nothing", None)
    assert get_all(channel, queue) == [b"1", b"nothing", b"nothing"]


def test_the_header_is_of_choice(channel, names):
    queue = names.queue(channel, arguments={**YES, HEADER: "id"})
    for body in (b"1", b"2"):
        publish(channel, queue, body, id="a")
        keyed(channel, queue, b"other", "a")
    assert get_all(channel, queue) == [b"1", b"other", b"other"]


def test_the_oldest_key_goes_where_there_are_too_many(channel, names):
    queue = names.queue(channel, arguments={**YES, "x-cache-size": 2})
    for key in ("a", "b", "a", "c", "b", "a"):
        keyed(channel, queue, key.encode(), key)
    assert get_all(channel, queue) == [b"a", b"b", b"c", b"a"]


def test_128_keys_are_remembered_unless_said_otherwise(channel, names):
    queue = names.queue(channel, arguments=YES)
    for key in range(129):
        keyed(channel, queue, b"", key)
    assert ready(channel, queue) == 129
    keyed(channel, queue, b"", 1)
    assert ready(channel, queue) == 129
    keyed(channel, queue, b"", 0)
    assert ready(channel, queue) == 130


def test_a_key_has_its_time_and_a_message_may_say_another(channel, names):
    queue = names.queue(channel, arguments={**YES, "x-cache-ttl": 60_000})
    keyed(channel, queue, b"long", "long")
    keyed(channel, queue, b"short", "short", x_cache_ttl=50)
    time.sleep(0.2)
    for key in ("long", "short"):
        keyed(channel, queue, b"again", key)
    assert get_all(channel, queue) == [b"long", b"short", b"again"]


def test_the_time_of_a_key_ends_by_itself(channel, names):
    queue = names.queue(channel, arguments={**YES, "x-cache-ttl": 50})
    keyed(channel, queue, b"1", "a")
    time.sleep(0.2)
    keyed(channel, queue, b"2", "a")
    assert get_all(channel, queue) == [b"1", b"2"]


def test_a_queue_alone_drops_repeats_that_an_exchange_brings(channel, names):
    exchange = names.exchange(channel, "fanout")
    once, all_of_it = names.queue(channel, arguments=YES), names.queue(channel)
    for queue in (once, all_of_it):
        channel.queue_bind(queue, exchange)
    for body in (b"1", b"2"):
        keyed(channel, "", body, "a", exchange=exchange)
    assert get_all(channel, once) == [b"1"]
    assert get_all(channel, all_of_it) == [b"1", b"2"]


@pytest.mark.parametrize("kind", ["direct", "fanout", "topic", "headers", "x-message-deduplication"])
def test_an_exchange_of_any_type_drops_repeats_and_returns_none(channel, names, kind):
    exchange = names.new("x")
    channel.exchange_declare(exchange, kind, arguments={**YES, "x-cache-size": 100})
    queue = names.queue(channel)
    channel.queue_bind(queue, exchange, "k", arguments={"x-match": "all"} if kind == "headers" else None)
    for body in (b"1", b"2"):
        keyed(channel, "k", body, "a", exchange=exchange)
    assert get_all(channel, queue) == [b"1"]


def test_the_plugins_exchange_needs_a_size(channel, names):
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
        channel.exchange_declare(names.new("x"), "x-message-deduplication")
    assert closed.value.reply_code == 406
    assert "'x-cache-size' must be an integer greater than 0" in closed.value.reply_text


def test_dead_letters_are_dropped_by_a_queue_that_had_them(channel, names):
    dead = names.queue(channel, arguments=YES)
    source = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    queue = names.queue(channel, arguments=source)
    for body in (b"1", b"2"):
        keyed(channel, queue, body, "a")
        method, _, _ = channel.basic_get(queue)
        channel.basic_reject(method.delivery_tag, requeue=False)
    assert get_all(channel, dead) == [b"1"]


def test_what_comes_back_is_no_repeat(channel, names):
    queue = names.queue(channel, arguments=YES)
    keyed(channel, queue, b"1", "a")
    method, _, _ = channel.basic_get(queue)
    channel.basic_nack(method.delivery_tag, requeue=True)
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (body, method.redelivered) == (b"1", True)


def test_a_transaction_drops_repeats_at_its_commit(broker, connection, channel, names):
    queue = names.queue(channel, arguments=YES)
    tx = connection.channel()
    tx.tx_select()
    for body in (b"1", b"2"):
        keyed(tx, queue, body, "a", mandatory=False)
    tx.tx_commit()
    keyed(tx, queue, b"3", "b", mandatory=False)
    tx.tx_rollback()
    keyed(channel, queue, b"4", "b")
    assert get_all(channel, queue) == [b"1", b"4"]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("x-message-deduplication", "yes", "{unacceptable_type,longstr}"),
        ("x-cache-size", 0, "{value_zero,0}"),
        ("x-cache-size", -1, "{value_negative,-1}"),
        ("x-cache-ttl", "5", '"expected integer, got longstr"'),
        ("x-cache-ttl", -1, "{value_negative,-1}"),
        ("x-deduplication-header", 1, "{unacceptable_type,"),
    ],
)
@pytest.mark.parametrize("what", ["queue", "exchange"])
def test_bad_arguments_are_refused(channel, names, what, name, value, why):
    thing = names.new()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
        if what == "queue":
            channel.queue_declare(thing, arguments={name: value})
        else:
            channel.exchange_declare(thing, "fanout", arguments={name: value})
    assert closed.value.reply_code == 406
    text = f"PRECONDITION_FAILED - invalid arg '{name}' for {what} '{thing}' in vhost '/': {why}"
    assert closed.value.reply_text.startswith(text)


@pytest.mark.parametrize("what", ["queue", "exchange"])
def test_a_second_declaration_has_to_be_alike(connection, channel, names, what):
    thing = names.new()

    def declare(on, **arguments):
        arguments = {**YES, **{name.replace("_", "-"): value for name, value in arguments.items()}}
        if what == "queue":
            on.queue_declare(thing, arguments=arguments)
        else:
            on.exchange_declare(thing, "fanout", arguments=arguments)

    declare(channel, x_cache_size=5)
    declare(channel, x_cache_size=5)
    for different in ({"x_cache_size": 6}, {"x_cache_size": 5, "x_cache_ttl": 1}, {"x_message_deduplication": False}):
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
            declare(connection.channel(), **different)
        assert closed.value.reply_code == 406 and "inequivalent arg 'x-" in closed.value.reply_text
