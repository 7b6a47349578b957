"""Exchanges, bindings and routing with pika."""

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

from support.pika_client import connect, get, get_all, publish, ready


def refused(code, call, *arguments, **named):
    """The channel is closed with `code`; returns the text."""
    with pytest.raises(ChannelClosedByBroker) as closed:
        call(*arguments, **named)
    assert closed.value.reply_code == code, closed.value
    return closed.value.reply_text


def test_default_exchange_routes_by_queue_name(channel, names):
    first, second = names.queue(channel), names.queue(channel)
    publish(channel, first, b"x")
    assert get_all(channel, first) == [b"x"]
    assert get_all(channel, second) == []


def test_direct_exchange_routes_by_equal_key(channel, names):
    exchange = names.exchange(channel, "direct")
    red, blue, both = (names.queue(channel) for _ in range(3))
    channel.queue_bind(red, exchange, "red")
    channel.queue_bind(blue, exchange, "blue")
    channel.queue_bind(both, exchange, "red")
    channel.queue_bind(both, exchange, "blue")
    for key in ("red", "blue", "green", "re", "red."):
        channel.basic_publish(exchange, key, key.encode())
    assert get_all(channel, red) == [b"red"]
    assert get_all(channel, blue) == [b"blue"]
    assert get_all(channel, both) == [b"red", b"blue"]


def test_fanout_exchange_routes_to_every_queue_once(channel, names):
    exchange = names.exchange(channel, "fanout")
    queues = [names.queue(channel) for _ in range(5)]
    for queue in queues:
        channel.queue_bind(queue, exchange, "any")
        channel.queue_bind(queue, exchange, "other")
    channel.basic_publish(exchange, "whatever", b"x")
    assert [get_all(channel, queue) for queue in queues] == [[b"x"]] * 5


TOPICS = [
    ("#", ["", "a", "a.b", "a.b.c", "a..b", "b"]),
    ("*", ["a", "b"]),
    ("a.*", ["a.b"]),
    ("a.#", ["a", "a.b", "a.b.c", "a..b"]),
    ("*.b", ["a.b"]),
    ("#.b", ["a.b", "a..b", "b"]),
    ("a.#.b", ["a.b", "a..b"]),
    ("a.*.b", ["a..b"]),
    ("#.#", ["", "a", "a.b", "a.b.c", "a..b", "b"]),
    ("a.b.c", ["a.b.c"]),
    ("a*", []),
    ("#b", []),
    ("", [""]),
    ("*.*", ["a.b"]),
    ("*.#", ["a", "a.b", "a.b.c", "a..b", "b"]),
    ("#.b.#", ["a.b", "a.b.c", "a..b", "b"]),
    ("*..*", ["a..b"]),
    ("#.*", ["a", "a.b", "a.b.c", "a..b", "b"]),
]


def test_topic_exchange_routes_by_words(channel, names):
    exchange = names.exchange(channel, "topic")
    queues = {}
    for pattern, _ in TOPICS:
        queues[pattern] = names.queue(channel)
        channel.queue_bind(queues[pattern], exchange, pattern)
    for key in ("", "a", "a.b", "a.b.c", "a..b", "b"):
        channel.basic_publish(exchange, key, key.encode())
    routed = {pattern: [body.decode() for body in get_all(channel, queues[pattern])] for pattern, _ in TOPICS}
    assert routed == dict(TOPICS)


def test_headers_exchange_routes_by_arguments(channel, names):
    exchange = names.exchange(channel, "headers")
    bindings = {
        "all": {"x-match": "all", "kind": "report", "level": 3},
        "any": {"x-match": "any", "kind": "report", "level": 3},
        "default": {"kind": "report"},
        "present": {"level": None},
        "x-ignored": {"kind": "report", "x-secret": "no"},
        "x-counts": {"x-match": "all-with-x", "kind": "report", "x-secret": "yes"},
    }
    queues = {}
    for name, arguments in bindings.items():
        queues[name] = names.queue(channel)
        channel.queue_bind(queues[name], exchange, arguments=arguments)

    def publish_with(body, headers):
        channel.basic_publish(exchange, "ignored", body, pika.BasicProperties(headers=headers))

    publish_with(b"1", {"kind": "report", "level": 3, "extra": True})
    publish_with(b"2", {"kind": "report"})
    publish_with(b"3", {"level": 4})
    publish_with(b"4", {"level": "3"})
    publish_with(b"5", {"kind": "report", "x-secret": "yes"})
    publish_with(b"6", {})
    publish_with(b"7", {"level": 3})
    assert {name: b"".join(get_all(channel, queue)) for name, queue in queues.items()} == {
        "all": b"1",
        "any": b"1257",
        "default": b"125",
        "present": b"1347",
        "x-ignored": b"125",
        "x-counts": b"5",
    }


def test_headers_binding_compares_integers_of_any_width(channel, names):
    exchange = names.exchange(channel, "headers")
    queue = names.queue(channel)
    channel.queue_bind(queue, exchange, arguments={"number": 7})

    # pika encodes its own `long` as 64 bits and other integers as 32.
    channel.basic_publish(exchange, "", b"int", pika.BasicProperties(headers={"number": 7}))
    wide = pika.compat.long(7)
    channel.basic_publish(exchange, "", b"long", pika.BasicProperties(headers={"number": wide}))
    assert get_all(channel, queue) == [b"int", b"long"]


@pytest.mark.parametrize("name", ["amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match"])
def test_standard_exchanges_exist(channel, names, name):
    channel.exchange_declare(name, passive=True)
    queue = names.queue(channel)
    channel.queue_bind(queue, name, "k")
    channel.basic_publish(name, "k", b"x")
    assert get(channel, queue) == b"x"


def test_unbinding_ends_the_routing(channel, names):
    exchange = names.exchange(channel, "topic")
    queue = names.queue(channel)
    channel.queue_bind(queue, exchange, "a.*")
    channel.queue_bind(queue, exchange, "b")
    channel.queue_unbind(queue, exchange, "a.*")
    channel.queue_unbind(queue, exchange, "never.bound")
    channel.basic_publish(exchange, "a.x", b"a")
    channel.basic_publish(exchange, "b", b"b")
    assert get_all(channel, queue) == [b"b"]


def test_exchange_bound_to_exchange_passes_on_once_with_exchange_and_key_kept(channel, names):
    source = names.exchange(channel, "topic")
    middle = names.exchange(channel, "fanout")
    queue = names.queue(channel)
    channel.exchange_bind(middle, source, "a.#")
    channel.exchange_bind(middle, source, "#.b")
    channel.queue_bind(queue, middle)
    channel.queue_bind(queue, source, "a.b")
    channel.basic_publish(source, "a.b", b"x")
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (method.exchange, method.routing_key, body) == (source, "a.b", b"x")
    assert get(channel, queue) is None
    channel.exchange_unbind(middle, source, "a.#")
    channel.basic_publish(source, "a.c", b"gone")
    channel.basic_publish(source, "c.b", b"stays")
    assert get_all(channel, queue) == [b"stays"]


def test_cycle_of_exchanges_ends(channel, names):
    first, second = names.exchange(channel, "fanout"), names.exchange(channel, "fanout")
    queue = names.queue(channel)
    channel.exchange_bind(first, second)
    channel.exchange_bind(second, first)
    channel.queue_bind(queue, second)
    channel.basic_publish(first, "", b"x")
    assert get_all(channel, queue) == [b"x"]


def test_alternate_exchange_takes_what_is_not_routed(channel, names):
    spare = names.exchange(channel, "fanout")
    exchange = names.exchange(channel, "direct", arguments={"alternate-exchange": spare})
    caught, queue = names.queue(channel), names.queue(channel)
    channel.queue_bind(caught, spare)
    channel.queue_bind(queue, exchange, "known")
    channel.confirm_delivery()
    channel.basic_publish(exchange, "known", b"1", mandatory=True)
    channel.basic_publish(exchange, "unknown", b"2", mandatory=True)
    assert (get_all(channel, queue), get_all(channel, caught)) == ([b"1"], [b"2"])


def test_alternate_exchange_takes_only_what_none_of_the_keys_routes(channel, names):
    other, routed, unrouted = names.exchange(channel, "fanout"), names.queue(channel), names.queue(channel)
    channel.queue_bind(unrouted, other)
    direct = names.exchange(channel, "direct", arguments={"alternate-exchange": other})
    channel.queue_bind(routed, direct, "a")
    for copies in (["a"], ["b", "a"], ["b"]):
        channel.basic_publish(direct, "c", str(copies), pika.BasicProperties(headers={"CC": copies}))
    assert get_all(channel, routed) == [b"['a']", b"['b', 'a']"]
    assert get_all(channel, unrouted) == [b"['b']"]


@pytest.mark.parametrize("kind", ["x-consistent-hash", "x-modulus-hash", "x-random"])
def test_exchange_that_picks_a_queue_picks_one_however_many_keys(channel, names, kind):
    exchange = names.exchange(channel, kind)
    queues = [names.queue(channel) for _ in range(4)]
    for queue in queues:
        channel.queue_bind(queue, exchange, "1")
    for number in range(20):
        copies = [f"{number}-{copy}" for copy in range(8)]
        channel.basic_publish(exchange, str(number), b"x", pika.BasicProperties(headers={"CC": copies}))
    assert sum(len(get_all(channel, queue)) for queue in queues) == 20


def test_passive_declare_finds_what_exists_and_404_what_does_not(connection, channel, names):
    exchange = names.exchange(channel, "fanout", durable=True)
    channel.exchange_declare(exchange, "direct", passive=True)
    missing = names.new()
    text = refused(404, channel.exchange_declare, missing, passive=True)
    assert text == f"NOT_FOUND - no exchange '{missing}' in vhost '/'"
    assert connection.is_open


@pytest.mark.parametrize(
    "change, argument",
    [
        ({"exchange_type": "fanout"}, "type"),
        ({"durable": True}, "durable"),
        ({"auto_delete": True}, "auto_delete"),
        ({"internal": True}, "internal"),
        ({"arguments": {"alternate-exchange": "q"}}, "alternate-exchange"),
    ],
)
def test_redeclaring_an_exchange_differently_is_refused(channel, names, change, argument):
    exchange = names.exchange(channel, "direct")
    channel.exchange_declare(exchange, "direct")
    text = refused(406, channel.exchange_declare, exchange, **{"exchange_type": "direct", **change})
    assert f"inequivalent arg '{argument}' for exchange '{exchange}' in vhost '/'" in text


def test_reserved_exchange_names_are_refused(connection):
    text = refused(403, connection.channel().exchange_declare, "amq.mine", "direct")
    assert "contains reserved prefix 'amq.*'" in text
    refused(403, connection.channel().exchange_delete, "amq.direct")
    refused(403, connection.channel().exchange_declare, "", "direct")
    refused(403, connection.channel().exchange_delete, "")


def test_default_exchange_takes_no_bindings(connection, channel, names):
    queue = names.queue(channel)
    refused(403, connection.channel().queue_bind, queue, "", "k")
    refused(403, connection.channel().queue_unbind, queue, "", "k")


def test_binding_needs_both_ends(connection, channel, names):
    queue, exchange = names.queue(channel), names.exchange(channel, "direct")
    refused(404, connection.channel().queue_bind, queue, names.new(), "k")
    refused(404, connection.channel().queue_bind, names.new(), exchange, "k")
    refused(404, connection.channel().exchange_bind, exchange, names.new(), "k")


def test_unknown_exchange_type_is_refused_and_others_go_on(broker, channel, names):
    own = connect(broker)
    with pytest.raises((ConnectionClosedByBroker, ChannelClosedByBroker)) as closed:
        own.channel().exchange_declare(names.new(), "zzz")
    assert closed.value.reply_code in (503, 406)
    assert names.queue(channel)


def test_publishing_to_a_missing_exchange_closes_the_channel_only(connection, channel, names):
    missing = names.new()
    channel.basic_publish(missing, "k", b"x")
    assert f"no exchange '{missing}'" in refused(404, channel.queue_declare, "", exclusive=True)
    assert connection.channel().is_open


def test_internal_exchange_takes_no_publishes_but_bindings(connection, channel, names):
    internal = names.exchange(channel, "fanout", internal=True)
    source = names.exchange(channel, "fanout")
    queue = names.queue(channel)
    channel.exchange_bind(internal, source)
    channel.queue_bind(queue, internal)
    channel.basic_publish(source, "", b"x")
    assert get(channel, queue) == b"x"
    other = connection.channel()
    other.basic_publish(internal, "", b"y")
    text = refused(403, other.queue_declare, queue, passive=True)
    assert f"cannot publish to internal exchange '{internal}' in vhost '/'" in text


def test_deleting_a_used_exchange_if_unused_is_refused(connection, channel, names):
    exchange, queue = names.exchange(channel, "fanout"), names.queue(channel)
    channel.queue_bind(queue, exchange)
    text = refused(406, connection.channel().exchange_delete, exchange, if_unused=True)
    assert f"exchange '{exchange}' in vhost '/' in use" in text
    channel.queue_unbind(queue, exchange)
    channel.exchange_delete(exchange, if_unused=True)
    channel.exchange_delete(exchange)
    refused(404, channel.exchange_declare, exchange, passive=True)


def test_auto_delete_exchange_goes_with_its_last_binding(connection, channel, names):
    exchange = names.exchange(channel, "direct", auto_delete=True)
    first, second = names.queue(channel), names.queue(channel)
    channel.exchange_declare(exchange, passive=True)
    channel.queue_bind(first, exchange, "k")
    channel.queue_bind(second, exchange, "k")
    channel.queue_unbind(first, exchange, "k")
    channel.exchange_declare(exchange, passive=True)
    channel.queue_delete(second)
    refused(404, channel.exchange_declare, exchange, passive=True)


def test_deleting_a_queue_takes_its_bindings(channel, names):
    exchange, queue = names.exchange(channel, "fanout"), names.queue(channel)
    channel.queue_bind(queue, exchange)
    channel.queue_delete(queue)
    channel.queue_declare(queue)
    channel.basic_publish(exchange, "", b"x")
    assert ready(channel, queue) == 0


def test_cc_and_bcc_headers_route_to_more_keys(channel, names):
    main, copy, blind = (names.queue(channel) for _ in range(3))
    headers = {"CC": [copy], "BCC": [blind]}
    channel.basic_publish("", main, b"x", pika.BasicProperties(headers=headers))
    for queue in (main, copy, blind):
        _, properties, body = channel.basic_get(queue, auto_ack=True)
        assert body == b"x"
        assert properties.headers == {"CC": [copy]}


def test_a_thousand_topic_bindings_route_exactly(channel, names):
    exchange = names.exchange(channel, "topic")
    queue, other = names.queue(channel), names.queue(channel)
    for number in range(1000):
        channel.queue_bind(queue if number % 2 else other, exchange, f"site.{number}.*.#")
    for number in (0, 1, 500, 999):
        channel.basic_publish(exchange, f"site.{number}.x.y", b"%d" % number)
    channel.basic_publish(exchange, "site.1000.x", b"none")
    assert get_all(channel, queue) == [b"1", b"999"]
    assert get_all(channel, other) == [b"0", b"500"]


def history(channel, names, **declare):
    return names.exchange(channel, "x-recent-history", **declare)


def joined(channel, names, exchange):
    """What a new queue gets."""
    queue = names.queue(channel)
    channel.queue_bind(queue, exchange, "joins")
    return get_all(channel, queue)


def test_recent_history_goes_to_each_new_binding_of_a_queue(channel, names):
    exchange = history(channel, names, arguments={"x-recent-history-length": 3})
    for number in range(5):
        channel.basic_publish(exchange, "key", b"%d" % number, pika.BasicProperties(message_id=str(number), delivery_mode=2))
    queue = names.queue(channel)
    channel.queue_bind(queue, exchange, "a")
    method, properties, body = channel.basic_get(queue, auto_ack=True)
    assert (method.exchange, method.routing_key, method.redelivered) == (exchange, "key", False)
    assert (properties.message_id, properties.delivery_mode, body) == ("2", 2, b"2")
    assert get_all(channel, queue) == [b"3", b"4"]
    channel.queue_bind(queue, exchange, "a")
    assert get_all(channel, queue) == []
    channel.queue_bind(queue, exchange, "b")
    assert get_all(channel, queue) == [b"2", b"3", b"4"]
    channel.basic_publish(exchange, "key", b"5")
    assert get_all(channel, queue) == [b"5"]
    channel.queue_unbind(queue, exchange, "a")
    channel.queue_bind(queue, exchange, "a")
    assert get_all(channel, queue) == [b"3", b"4", b"5"]


def test_recent_history_is_twenty_messages(channel, names):
    exchange = history(channel, names)
    for number in range(25):
        channel.basic_publish(exchange, "", b"%d" % number)
    assert joined(channel, names, exchange) == [b"%d" % number for number in range(5, 25)]


def test_recent_history_leaves_out_what_is_not_to_be_stored(channel, names):
    exchange = history(channel, names)
    for value in (True, False, 1, "true"):
        headers = {"x-recent-history-no-store": value}
        channel.basic_publish(exchange, "", str(value).encode(), pika.BasicProperties(headers=headers))
    assert joined(channel, names, exchange) == [b"False", b"1", b"true"]


def test_recent_history_has_what_comes_from_other_exchanges(channel, names):
    source, exchange = names.exchange(channel, "direct"), history(channel, names)
    channel.exchange_bind(exchange, source, "key")
    channel.basic_publish(source, "key", b"x")
    channel.basic_publish(source, "other", b"y")
    queue = names.queue(channel)
    channel.queue_bind(queue, exchange, "")
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (method.exchange, method.routing_key, body) == (source, "key", b"x")
    assert get_all(channel, queue) == []


def test_recent_history_is_routed_on_by_an_exchange_that_is_bound(channel, names):
    exchange, topic = history(channel, names), names.exchange(channel, "topic")
    queue = names.queue(channel)
    channel.queue_bind(queue, topic, "a.*")
    channel.basic_publish(exchange, "a.b", b"x")
    channel.exchange_bind(topic, exchange, "any")
    assert get_all(channel, queue) == [b"x"]


def test_recent_history_comes_in_order_to_an_exchange_that_is_bound(channel, names):
    exchange, fanout = history(channel, names), names.exchange(channel, "fanout")
    queue = names.queue(channel)
    channel.queue_bind(queue, fanout)
    for number in range(3):
        channel.basic_publish(exchange, "", b"%d" % number)
    channel.exchange_bind(fanout, exchange)
    assert get_all(channel, queue) == [b"0", b"1", b"2"]


def test_message_that_is_only_stored_by_an_exchange_is_returned(channel, names):
    exchange = history(channel, names)
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(exchange, "", b"x", mandatory=True)
    assert joined(channel, names, exchange) == [b"x"]


def test_alternate_exchange_of_a_recent_history_gets_what_nobody_is_bound_for(channel, names):
    fanout, queue = names.exchange(channel, "fanout"), names.queue(channel)
    channel.queue_bind(queue, fanout)
    exchange = history(channel, names, arguments={"alternate-exchange": fanout})
    channel.basic_publish(exchange, "", b"x")
    assert get_all(channel, queue) == [b"x"]


@pytest.mark.parametrize(("length", "shown"), [(0, "0"), (-1, "-1"), ("x", '<<"x">>'), (True, "true"), (None, "undefined")])
def test_recent_history_has_a_positive_length(channel, names, length, shown):
    arguments = {"x-recent-history-length": length}
    text = refused(406, channel.exchange_declare, names.new(), "x-recent-history", arguments=arguments)
    assert text == f"PRECONDITION_FAILED - Invalid argument {shown}, 'x-recent-history-length' must be a positive integer"


def test_length_of_a_recent_history_is_not_compared(channel, names):
    exchange = history(channel, names, arguments={"x-recent-history-length": 3})
    channel.exchange_declare(exchange, "x-recent-history", arguments={"x-recent-history-length": 4})
    refused(406, channel.exchange_declare, exchange, "fanout")
