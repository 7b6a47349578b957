"""What no client should send: the right error, and nobody else notices.

Where RabbitMQ only drops the socket, and a reported error would be as good, both are accepted.
"""

import random
import struct
import time

import pytest
from pamqp import commands, frame, header

from support.pika_client import connect, get
from support.pika_client import publish as pika_publish
from support.raw import (
    BODY,
    HEADER,
    HEARTBEAT,
    METHOD,
    PROTOCOL_HEADER,
    RawConnection,
    publish,
    raw_frame,
    start_ok,
)

SILENT = {None}
REPORTED_OR_DROPPED = {None, 501, 502, 503, 505, 540, 541}


@pytest.fixture(autouse=True)
def others_go_on(broker):
    """Every test here ends with another connection at work as if nothing had happened."""
    with connect(broker) as bystander:
        channel = bystander.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        yield
        pika_publish(channel, queue, b"still here")
        assert get(channel, queue) == b"still here"
        connect(broker).close()


@pytest.fixture
def raw(broker):
    """A connection with channel 1 open."""
    with RawConnection(broker) as own:
        own.handshake()
        own.open_channel()
        yield own


def method_frame(method, channel=1):
    return frame.marshal(method, channel)


def header_frame(size, channel=1, class_id=60, weight=0):
    return raw_frame(HEADER, channel, struct.pack(">HHQH", class_id, weight, size, 0))


PUBLISH = method_frame(commands.Basic.Publish(routing_key="nowhere"))

# Protocol header


@pytest.mark.parametrize(
    "opening",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"AMQP\x01\x01\x00\x0a",
        b"AMQP\x00\x01\x00\x00",
        b"AMQP\x00\x00\x09\x02",
        b"AMQP\x00\x00\x09\x00",
        b"AMQP\x01\x01\x00\x08",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 8,
    ],
    ids=["http", "amqp-0-10", "amqp-1-0", "amqp-0-9-2", "amqp-0-9-0", "amqp-0-8-turned", "tls", "zeros"],
)
def test_wrong_protocol_header_is_answered_with_ours_and_the_end(broker, opening):
    with RawConnection(broker) as own:
        own.send(opening)
        assert own.read_all() == PROTOCOL_HEADER


def test_half_a_protocol_header_then_the_end_is_no_harm(broker):
    for length in range(1, 8):
        with RawConnection(broker) as own:
            own.send(PROTOCOL_HEADER[:length])


def test_frames_before_the_handshake_is_done_end_the_connection(broker):
    with RawConnection(broker) as own:
        own.send(PROTOCOL_HEADER)
        own.expect(commands.Connection.Start)
        own.send(method_frame(commands.Channel.Open()))
        assert own.end(15).code in REPORTED_OR_DROPPED | {504}


def test_unknown_mechanism_ends_the_connection(broker):
    with RawConnection(broker) as own:
        own.send(PROTOCOL_HEADER)
        own.expect(commands.Connection.Start)
        answer = start_ok("guest", "guest")
        answer.mechanism = "MAGIC"
        own.method(answer, 0)
        assert own.end(15).code in REPORTED_OR_DROPPED | {403, 504}


def test_wrong_password_of_a_client_that_cannot_be_told_ends_the_connection(broker):
    with RawConnection(broker) as own:
        own.send(PROTOCOL_HEADER)
        own.expect(commands.Connection.Start)
        own.method(start_ok(broker.user, "wrong", capabilities={}), 0)
        assert own.end(15).code in SILENT | {403}


@pytest.mark.parametrize("response", ["", "\0guest", "guest\0guest", "\0\0", "x" * 5000])
def test_malformed_credentials_end_the_connection(broker, response):
    with RawConnection(broker) as own:
        own.send(PROTOCOL_HEADER)
        own.expect(commands.Connection.Start)
        answer = start_ok("guest", "guest")
        answer.response = response
        own.method(answer, 0)
        assert own.end(15).code in SILENT | {403, 501, 502}


@pytest.mark.parametrize(
    "tune_ok",
    [
        commands.Connection.TuneOk(2047, 131073, 0),
        commands.Connection.TuneOk(2048, 131072, 0),
        commands.Connection.TuneOk(2047, 4095, 0),
        commands.Connection.TuneOk(2047, 0, 0),
        commands.Connection.TuneOk(0, 131072, 0),
    ],
    ids=["frame-max too high", "channel-max too high", "frame-max too low", "no frame-max", "no channel-max"],
)
def test_tuning_beyond_the_limits_is_refused(broker, tune_ok):
    with RawConnection(broker) as own:
        own.send(PROTOCOL_HEADER)
        own.expect(commands.Connection.Start)
        own.method(start_ok(broker.user, broker.password), 0)
        own.expect(commands.Connection.Tune)
        own.method(tune_ok, 0)
        own.method(commands.Connection.Open("/"), 0)
        assert own.end(15).code in SILENT | {501, 530}


# Frames


def test_wrong_end_octet_is_a_frame_error(raw):
    raw.send(raw_frame(METHOD, 1, struct.pack(">HH", 20, 10) + b"\0", end=b"\xcd"))
    assert raw.end().code == 501


@pytest.mark.parametrize("kind", [0, 4, 5, 9, 255])
def test_unknown_frame_type_is_a_frame_error(raw, kind):
    raw.send(raw_frame(kind, 1, b"abcd"))
    assert raw.end().code == 501


@pytest.mark.parametrize("size", [131073, 1 << 24, 0xFFFFFFFF])
def test_oversized_frame_is_refused_from_its_first_seven_bytes(raw, size):
    raw.send(struct.pack(">BHI", BODY, 1, size))
    assert raw.end().code == 501


def test_payload_as_large_as_the_whole_frame_may_be_is_taken(raw):
    """Some clients do not count the eight octets around a payload."""
    raw.method(commands.Queue.Declare(queue="", exclusive=True))
    queue = raw.expect(commands.Queue.DeclareOk).queue
    raw.method(commands.Basic.Publish(exchange="", routing_key=queue))
    raw.send(frame.marshal(header.ContentHeader(body_size=131072), 1))
    raw.send(raw_frame(BODY, 1, b"x" * 131072))
    raw.method(commands.Basic.Get(queue=queue, no_ack=True))
    raw.expect(commands.Basic.GetOk)
    assert raw.read_content()[1] == b"x" * 131072


@pytest.mark.parametrize("payload", [b"", b"\0", b"\0\x14\0"])
def test_method_frame_too_short_for_a_method_is_a_frame_error(raw, payload):
    raw.send(raw_frame(METHOD, 1, payload))
    assert raw.end().code == 501


QUEUE_DECLARE = struct.pack(">HHH", 50, 10, 0)


@pytest.mark.parametrize(
    "payload",
    [
        QUEUE_DECLARE,
        QUEUE_DECLARE + b"\x05ab",
        QUEUE_DECLARE + b"\x01q\0" + struct.pack(">I", 1000),
        QUEUE_DECLARE + b"\x01q\0" + struct.pack(">I", 5) + b"\x01aS\0\0",
        struct.pack(">HHI", 60, 80, 1),
    ],
    ids=["no arguments", "short string", "table length", "table value", "short integer"],
)
def test_arguments_past_the_end_of_the_frame_are_a_frame_error(raw, payload):
    raw.send(raw_frame(METHOD, 1, payload))
    assert raw.end().code in {501, None, 541}


@pytest.mark.parametrize("class_id, method_id", [(50, 99), (77, 10), (0, 0), (65535, 65535)])
def test_unknown_method_ends_the_connection(raw, class_id, method_id):
    raw.send(raw_frame(METHOD, 1, struct.pack(">HH", class_id, method_id) + b"\0" * 8))
    assert raw.end().code in REPORTED_OR_DROPPED


def test_unknown_field_type_ends_the_connection(raw):
    table = b"\x01a?\x00"
    raw.send(raw_frame(METHOD, 1, QUEUE_DECLARE + b"\x01q\0" + struct.pack(">I", len(table)) + table))
    assert raw.end().code in REPORTED_OR_DROPPED


NO_TEXT = b"\x03q\xff\xfe"


@pytest.mark.parametrize(
    "payload",
    [
        QUEUE_DECLARE + NO_TEXT + b"\0" + b"\0\0\0\0",
        struct.pack(">HHH", 40, 10, 0) + NO_TEXT + b"\x06direct\0" + b"\0\0\0\0",
        struct.pack(">HHH", 40, 10, 0) + b"\x01x" + NO_TEXT + b"\0" + b"\0\0\0\0",
        struct.pack(">HHH", 50, 20, 0) + b"\0\x0aamq.direct" + NO_TEXT + b"\0" + b"\0\0\0\0",
        struct.pack(">HHH", 40, 30, 0) + b"\x0aamq.fanout\x0aamq.direct" + NO_TEXT + b"\0" + b"\0\0\0\0",
        struct.pack(">HHH", 60, 20, 0) + b"\0" + NO_TEXT + b"\0" + b"\0\0\0\0",
        struct.pack(">HH", 60, 30) + NO_TEXT + b"\0",
    ],
    ids=["queue", "exchange", "exchange type", "binding key", "key between exchanges", "consumer tag", "cancelled tag"],
)
def test_invalid_utf8_in_a_name_is_a_frame_error(raw, payload):
    raw.method(commands.Queue.Declare(queue="", exclusive=True))
    raw.expect(commands.Queue.DeclareOk)
    raw.send(raw_frame(METHOD, 1, payload))
    closed = raw.end()
    assert (closed.code, closed.text) == (501, "FRAME_ERROR - Malformed UTF-8 in shortstr")


def test_deeply_nested_table_is_taken_or_refused_but_never_fatal(broker, raw):
    """A table of tables thousands deep must not exhaust anybody's stack."""
    table = b""
    for _ in range(5000):
        table = b"\x01tF" + struct.pack(">I", len(table)) + table
    payload = struct.pack(">HHQH", 60, 0, 1, 1 << 13) + struct.pack(">I", len(table)) + table
    raw.method(commands.Queue.Declare(queue="", exclusive=True))
    queue = raw.expect(commands.Queue.DeclareOk).queue
    raw.method(commands.Basic.Publish(routing_key=queue))
    raw.send(raw_frame(HEADER, 1, payload) + raw_frame(BODY, 1, b"x"))
    raw.method(commands.Basic.Get(queue=queue, no_ack=True))
    channel, answer = raw.read_method()
    if isinstance(answer, commands.Connection.Close):
        assert answer.reply_code in {501, 502, 506, 541}
    elif isinstance(answer, commands.Channel.Close):
        assert answer.reply_code in {406, 501, 502}
    else:
        assert isinstance(answer, commands.Basic.GetOk)
        assert raw.read_frame()[2] == payload


def test_table_a_hundred_levels_deep_comes_back_unchanged(raw):
    table = b"\x01xS\0\0\0\x01y"
    for _ in range(100):
        table = b"\x01tF" + struct.pack(">I", len(table)) + table
    payload = struct.pack(">HHQH", 60, 0, 0, 1 << 13) + struct.pack(">I", len(table)) + table
    raw.method(commands.Queue.Declare(queue="", exclusive=True))
    queue = raw.expect(commands.Queue.DeclareOk).queue
    raw.method(commands.Basic.Publish(routing_key=queue))
    raw.send(raw_frame(HEADER, 1, payload))
    raw.method(commands.Basic.Get(queue=queue, no_ack=True))
    raw.expect(commands.Basic.GetOk)
    assert raw.read_frame()[2] == payload


def test_heartbeat_on_a_channel_is_an_unexpected_frame(raw):
    raw.send(raw_frame(HEARTBEAT, 1, b""))
    assert raw.end().code in {505, 501}


def test_heartbeat_with_a_payload_is_a_frame_error(raw):
    raw.send(raw_frame(HEARTBEAT, 0, b"x"))
    assert raw.end().code == 501


# Content


@pytest.mark.parametrize(
    "sent",
    [
        header_frame(5),
        raw_frame(BODY, 1, b"hello"),
        header_frame(5, channel=9),
        PUBLISH + raw_frame(BODY, 1, b"hello"),
        PUBLISH + PUBLISH,
        PUBLISH + method_frame(commands.Queue.Declare(queue="", exclusive=True)),
        PUBLISH + header_frame(5, class_id=50),
        PUBLISH + header_frame(5) + PUBLISH,
        PUBLISH + header_frame(5) + header_frame(5),
        PUBLISH + header_frame(5, weight=1),
        PUBLISH + header_frame(0) + raw_frame(BODY, 1, b"hello"),
    ],
    ids=[
        "header without publish",
        "body without publish",
        "header on a closed channel",
        "body without header",
        "publish after publish",
        "method for header",
        "header of another class",
        "publish for body",
        "header for body",
        "weight",
        "body after an empty one",
    ],
)
def test_content_out_of_order_is_an_unexpected_frame(raw, sent):
    raw.send(sent)
    assert raw.end().code in {505, 504}


def test_header_frame_too_short_is_a_frame_error(raw):
    raw.send(PUBLISH + raw_frame(HEADER, 1, b"\0\x3c\0\0"))
    assert raw.end().code in {501, 502, None, 541}


def test_body_larger_than_announced_breaks_nothing_else(raw):
    """RabbitMQ takes it; a frame error is better."""
    raw.send(PUBLISH + header_frame(3) + raw_frame(BODY, 1, b"hello"))
    raw.method(commands.Queue.Declare(queue="", exclusive=True))
    channel, answer = raw.read_method()
    if isinstance(answer, commands.Connection.Close):
        assert answer.reply_code in {501, 505}
    else:
        assert isinstance(answer, commands.Queue.DeclareOk)


def test_unfinished_body_is_forgotten_with_its_connection(broker, channel, names):
    queue = names.queue(channel)
    with RawConnection(broker) as own:
        own.handshake().open_channel()
        own.send(method_frame(commands.Basic.Publish(routing_key=queue)))
        own.send(header_frame(1 << 20) + raw_frame(BODY, 1, b"x" * 100_000))
    time.sleep(0.2)
    assert get(channel, queue) is None


def test_announced_body_of_unbelievable_size_takes_no_memory_until_it_comes(raw):
    """Announcing is free: nothing may be reserved for it. The channel goes on to be closed in order."""
    raw.send(PUBLISH + header_frame(1 << 62) + raw_frame(BODY, 1, b"x" * 1000))
    raw.method(commands.Channel.Open(), 2)
    channel, answer = raw.read_method()
    if isinstance(answer, commands.Channel.Close):
        # Refusing from the announcement alone is as good.
        assert answer.reply_code in {406, 311}
    elif isinstance(answer, commands.Connection.Close):
        assert answer.reply_code in {501, 506}
    else:
        assert isinstance(answer, commands.Channel.OpenOk)


def test_announced_bodies_of_many_connections_take_no_memory(broker):
    before = broker.memory_bytes()
    connections = []
    try:
        for _ in range(100):
            own = RawConnection(broker)
            connections.append(own)
            own.handshake().open_channel()
            own.send(PUBLISH + header_frame(100 << 20) + raw_frame(BODY, 1, b"x" * 1000))
        time.sleep(0.5)
        if before is not None:
            assert broker.memory_bytes() - before < 64 << 20
    finally:
        for own in connections:
            own.socket.close()


def test_message_over_the_size_limit_is_refused_on_its_channel(raw):
    size = 134217728 + 1
    chunk = raw_frame(BODY, 1, b"x" * 131064)
    raw.send(PUBLISH + header_frame(size))
    sent = 0
    try:
        while sent + 131064 <= size:
            raw.send(chunk)
            sent += 131064
        raw.send(raw_frame(BODY, 1, b"x" * (size - sent)))
    except ConnectionError:
        pass
    answer = raw.read_method()[1]
    assert answer.reply_code in {406, 311, 501}, answer
    if isinstance(answer, commands.Channel.Close):
        raw.method(commands.Channel.CloseOk())
        raw.open_channel()


# Methods in the wrong place


@pytest.mark.parametrize(
    "method",
    [commands.Queue.Declare(queue="q"), commands.Channel.Close(200, "", 0, 0), commands.Basic.Ack(1)],
    ids=lambda method: method.name,
)
def test_method_on_a_channel_that_is_not_open_is_a_channel_error(raw, method):
    raw.method(method, 2)
    closed = raw.end()
    assert (closed.code, "expected 'channel.open'" in closed.text) == (504, True), closed


def test_opening_a_channel_twice_is_a_channel_error(raw):
    raw.method(commands.Channel.Open())
    closed = raw.end()
    assert (closed.code, "second 'channel.open' seen" in closed.text) == (504, True), closed


@pytest.mark.parametrize(
    "method",
    [
        commands.Basic.Qos(),
        commands.Queue.Declare(queue="q"),
        commands.Channel.Open(),
        commands.Channel.Close(200, "", 0, 0),
        commands.Connection.Open("/"),
        commands.Connection.TuneOk(1, 4096, 0),
        commands.Connection.SecureOk("no"),
        commands.Connection.Blocked("no"),
        commands.Connection.CloseOk(),
    ],
    ids=lambda each: each.name,
)
def test_methods_of_channels_and_of_the_handshake_are_an_error_on_channel_zero(raw, method):
    raw.method(method, 0)
    closed = raw.end()
    assert (closed.code, closed.text) == (504, "CHANNEL_ERROR - unexpected method in connection state running")
    assert closed.method[0] << 16 | closed.method[1] == method.index


def test_connection_method_on_a_channel_is_invalid(raw):
    raw.method(commands.Connection.Close(200, "", 0, 0), 1)
    assert raw.end().code in {503, 504}


@pytest.mark.parametrize(
    "method",
    [
        commands.Queue.DeclareOk("q", 0, 0),
        commands.Basic.Deliver("t", 1, False, "", "q"),
        commands.Channel.CloseOk(),
        commands.Basic.GetEmpty(),
    ],
    ids=lambda each: each.name,
)
def test_methods_that_only_the_server_sends_are_invalid(raw, method):
    raw.method(method)
    if isinstance(method, commands.Basic.Deliver):
        # RabbitMQ looks at a method that carries content when the content is there.
        raw.send(header_frame(0))
    assert raw.end().code in {503, 505}


def test_immediate_is_not_implemented(raw):
    raw.send(publish("nowhere", b"x", immediate=True))
    closed = raw.end()
    assert (closed.code, closed.method) == (540, (60, 40))


def test_reused_consumer_tag_is_not_allowed(raw):
    raw.method(commands.Queue.Declare(queue="", exclusive=True))
    queue = raw.expect(commands.Queue.DeclareOk).queue
    raw.method(commands.Basic.Consume(queue=queue, consumer_tag="t"))
    raw.expect(commands.Basic.ConsumeOk)
    raw.method(commands.Basic.Consume(queue=queue, consumer_tag="t"))
    closed = raw.end()
    assert (closed.code, closed.text) == (530, "NOT_ALLOWED - attempt to reuse consumer tag 't'")


def test_closed_channel_ignores_everything_until_close_ok(raw):
    raw.method(commands.Queue.Declare(queue="", exclusive=True))
    queue = raw.expect(commands.Queue.DeclareOk).queue
    raw.method(commands.Queue.Declare(queue="missing-" + queue, passive=True))
    raw.send(publish(queue, b"dropped"))
    raw.method(commands.Queue.Declare(queue="missing-" + queue, passive=True))
    assert raw.expect(commands.Channel.Close).reply_code == 404
    raw.method(commands.Channel.CloseOk())
    raw.open_channel()
    raw.method(commands.Basic.Get(queue=queue))
    raw.expect(commands.Basic.GetEmpty)


def test_everything_after_connection_close_is_dropped(broker, channel, names):
    queue = names.queue(channel)
    with RawConnection(broker) as own:
        own.handshake().open_channel()
        own.method(commands.Connection.Close(200, "", 0, 0), 0)
        own.send(publish(queue, b"too late"))
        own.expect(commands.Connection.CloseOk)
    time.sleep(0.2)
    assert get(channel, queue) is None


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_end_in_an_error_or_the_end(broker, seed):
    noise = random.Random(seed).randbytes(4000)
    with RawConnection(broker) as own:
        own.handshake().open_channel()
        try:
            own.send(noise)
            own.socket.shutdown(1)
        except ConnectionError:
            pass
        own.read_all()


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_never_hangs_the_connection(broker, seed):
    """Well-formed traffic with one bit wrong: an error, an answer, or the end when the client leaves; never a hang."""
    chance = random.Random(seed)
    traffic = bytearray(
        method_frame(commands.Queue.Declare(queue="", exclusive=True))
        + publish("", b"x" * 50, properties=commands.Basic.Properties(headers={"a": {"b": [1, "c"]}}))
        + method_frame(commands.Basic.Qos(prefetch_count=3))
        + method_frame(commands.Basic.Get(queue=""))
    )
    traffic[chance.randrange(len(traffic))] ^= 1 << chance.randrange(8)
    with RawConnection(broker) as own:
        own.handshake().open_channel()
        try:
            own.send(bytes(traffic))
            own.socket.shutdown(1)
        except OSError:
            pass
        own.read_all()
