"""What is legal but rare: one byte at a time, interleaved contents, every field type, silence, and peers that stall."""

import resource
import select
import socket
import struct
import threading
import time

import pytest
from pamqp import body, commands, frame, header

from support.pika_client import connect, get, ready
from support.pika_client import publish as pika_publish
from support.raw import BODY, HEADER, HEARTBEAT, PROTOCOL_HEADER, Closed, RawConnection, publish, raw_frame, start_ok
from support.wait import eventually

HANDSHAKE_TIMEOUT_S = 10


def declare(raw, channel=1):
    raw.method(commands.Queue.Declare(queue="", exclusive=True), channel)
    return raw.expect(commands.Queue.DeclareOk).queue


def test_one_byte_at_a_time_works_from_handshake_to_get(broker):
    with RawConnection(broker) as own:
        own.handshake(send=own.send_bytewise)
        own.send_bytewise(frame.marshal(commands.Channel.Open(), 1))
        own.expect(commands.Channel.OpenOk)
        queue = declare(own)
        own.send_bytewise(publish(queue, b"slowly but surely"))
        own.send_bytewise(frame.marshal(commands.Basic.Get(queue=queue, no_ack=True), 1))
        own.expect(commands.Basic.GetOk)
        assert own.read_content()[1] == b"slowly but surely"
        own.close()


def test_everything_in_one_segment_works_too(broker):
    with RawConnection(broker) as own:
        own.handshake()
        frames = [frame.marshal(commands.Channel.Open(), 1)]
        frames.append(frame.marshal(commands.Queue.Declare(queue="", exclusive=True), 1))
        own.send(b"".join(frames))
        own.expect(commands.Channel.OpenOk)
        queue = own.expect(commands.Queue.DeclareOk).queue
        own.send(b"".join(publish(queue, b"%d" % number) for number in range(1000)))
        own.method(commands.Basic.Consume(queue=queue, no_ack=True))
        own.expect(commands.Basic.ConsumeOk)
        for number in range(1000):
            assert own.expect(commands.Basic.Deliver).delivery_tag == number + 1
            assert own.read_content()[1] == b"%d" % number


def test_contents_of_different_channels_interleave(broker):
    with RawConnection(broker) as own:
        own.handshake().open_channel(1).open_channel(2)
        queue = declare(own)
        parts = {1: [b"a" * 10, b"b" * 10], 2: [b"c" * 10, b"d" * 10]}
        for channel in parts:
            own.method(commands.Basic.Publish(routing_key=queue), channel)
        for channel in parts:
            own.send(frame.marshal(header.ContentHeader(body_size=20, properties=commands.Basic.Properties()), channel))
        for index in range(2):
            for channel, pieces in parts.items():
                own.send(frame.marshal(body.ContentBody(pieces[index]), channel))
        bodies = []
        for _ in range(2):
            own.method(commands.Basic.Get(queue=queue, no_ack=True))
            own.expect(commands.Basic.GetOk)
            bodies.append(own.read_content()[1])
        assert sorted(bodies) == [b"".join(parts[1]), b"".join(parts[2])]


def test_empty_body_frames_are_ignored(broker):
    with RawConnection(broker) as own:
        own.handshake().open_channel()
        queue = declare(own)
        own.method(commands.Basic.Publish(routing_key=queue))
        own.send(raw_frame(HEADER, 1, struct.pack(">HHQH", 60, 0, 4, 0)))
        for piece in (b"", b"ab", b"", b"cd"):
            own.send(raw_frame(BODY, 1, piece))
        own.method(commands.Basic.Get(queue=queue, no_ack=True))
        own.expect(commands.Basic.GetOk)
        assert own.read_content()[1] == b"abcd"


def test_deliveries_are_cut_to_the_receivers_frame_size(broker, channel, names):
    queue = names.queue(channel)
    pika_publish(channel, queue, b"x" * 10_000)
    with RawConnection(broker) as own:
        own.handshake(frame_max=4096).open_channel()
        own.method(commands.Basic.Get(queue=queue, no_ack=True))
        own.expect(commands.Basic.GetOk)
        own.read_frame()
        sizes = []
        while sum(sizes) < 10_000:
            kind, _, payload = own.read_frame()
            assert kind == BODY
            sizes.append(len(payload))
        assert sizes == [4088, 4088, 1824]


FIELDS = {
    b"bool": b"t\x01",
    b"int8": b"b\x80",
    b"uint8": b"B\xff",
    b"int16": b"s\x80\x00",
    b"uint16": b"u\xff\xff",
    b"int32": b"I\x80\x00\x00\x00",
    b"uint32": b"i\xff\xff\xff\xff",
    b"int64": b"l\x80" + b"\x00" * 7,
    b"float": b"f" + struct.pack(">f", 1.5),
    b"double": b"d" + struct.pack(">d", -2.25),
    b"decimal": b"D\x02\x00\x00\x01\x3a",
    b"string": b"S\x00\x00\x00\x03abc",
    b"not utf-8": b"S\x00\x00\x00\x02\xff\xfe",
    b"bytes": b"x\x00\x00\x00\x02\x00\xff",
    b"array": b"A\x00\x00\x00\x09" + b"t\x00" + b"V" + b"S\x00\x00\x00\x01z",
    b"time": b"T" + struct.pack(">Q", 1234567890),
    b"table": b"F\x00\x00\x00\x04" + b"\x01aB\x07",
    b"void": b"V",
}


def table_of(fields):
    entries = b"".join(bytes([len(name)]) + name + value for name, value in fields.items())
    return struct.pack(">I", len(entries)) + entries


ONE_BY_ONE = [{name: value} for name, value in FIELDS.items()]


@pytest.mark.parametrize("fields", [*ONE_BY_ONE, FIELDS], ids=[*(name.decode() for name in FIELDS), "all"])
def test_headers_keep_the_type_and_the_bytes_of_every_field(broker, fields):
    with RawConnection(broker) as own:
        own.handshake().open_channel()
        queue = declare(own)
        payload = struct.pack(">HHQH", 60, 0, 1, 1 << 13) + table_of(fields)
        own.method(commands.Basic.Publish(routing_key=queue))
        own.send(raw_frame(HEADER, 1, payload) + raw_frame(BODY, 1, b"x"))
        own.method(commands.Basic.Get(queue=queue, no_ack=True))
        own.expect(commands.Basic.GetOk)
        assert own.read_frame()[2] == payload


def test_routing_key_need_not_be_utf8(broker):
    with RawConnection(broker) as own:
        own.handshake().open_channel()
        queue = declare(own)
        own.method(commands.Queue.Bind(queue=queue, exchange="amq.fanout"))
        own.expect(commands.Queue.BindOk)
        key = b"\xff\xfe\x00key"
        own.send(raw_frame(1, 1, struct.pack(">HHH", 60, 40, 0) + b"\x0aamq.fanout" + bytes([len(key)]) + key + b"\0"))
        own.send(raw_frame(HEADER, 1, struct.pack(">HHQH", 60, 0, 0, 0)))
        own.method(commands.Basic.Get(queue=queue, no_ack=True))
        payload = own.read_frame()[2]
        assert payload[:4] == struct.pack(">HH", 60, 71)
        assert key in payload


def test_consumer_without_a_tag_is_given_one(broker):
    with RawConnection(broker) as own:
        own.handshake().open_channel()
        queue = declare(own)
        own.method(commands.Basic.Consume(queue=queue))
        assert own.expect(commands.Basic.ConsumeOk).consumer_tag.startswith("amq.ctag-")


def test_the_header_of_0_9_begins_what_0_9_1_is(broker):
    with RawConnection(broker) as own:
        own.send_bytewise(b"AMQP\x01\x01\x00\x09")
        start = own.expect(commands.Connection.Start)
        assert (start.version_major, start.version_minor) == (0, 9)
        assert start.server_properties["capabilities"]["publisher_confirms"] is True
        own.method(start_ok(broker.user, broker.password), 0)
        own.expect(commands.Connection.Tune)
        own.method(commands.Connection.TuneOk(2047, 131072, 0), 0)
        own.method(commands.Connection.Open("/"), 0)
        own.expect(commands.Connection.OpenOk)
        own.open_channel()
        queue = declare(own)
        own.method(commands.Queue.Declare(queue=queue + "-missing", passive=True))
        assert own.expect(commands.Channel.Close).reply_code == 404


@pytest.mark.parametrize("header", [b"AMQP\x01\x01\x08\x00", b"AMQP\x01\x01\x09\x01"])
def test_the_headers_of_0_8_are_answered_with_what_we_speak(broker, header):
    with RawConnection(broker) as own:
        own.send(header)
        assert own.socket.recv(64) == PROTOCOL_HEADER


def amqplain(broker, password):
    """A start-ok by AMQPLAIN: its response is a table without its length."""
    entries = {b"LOGIN": broker.user.encode(), b"PASSWORD": password.encode()}
    response = b"".join(bytes([len(key)]) + key + b"S" + struct.pack(">I", len(text)) + text for key, text in entries.items())
    answer = start_ok(broker.user, "")
    answer.mechanism, answer.response, answer.locale = "AMQPLAIN", "?", "xx_YY"
    payload = frame.marshal(answer, 0)[7:-1]
    return raw_frame(1, 0, payload.replace(b"\0\0\0\x01?", struct.pack(">I", len(response)) + response))


def test_login_by_amqplain_in_whatever_locale(broker):
    for password in (broker.password, "wrong"):
        with RawConnection(broker) as own:
            own.send(PROTOCOL_HEADER)
            assert own.expect(commands.Connection.Start).mechanisms.split()[:2] == ["PLAIN", "AMQPLAIN"]
            own.send(amqplain(broker, password))
            if password != "wrong":
                own.expect(commands.Connection.Tune)
                continue
            text = "ACCESS_REFUSED - Login was refused using authentication mechanism AMQPLAIN. For details see the broker logfile."
            closed = own.end()
            assert (closed.code, closed.text, closed.method) == (403, text, (0, 0))


def test_client_that_does_not_know_cancels_is_sent_none(broker):
    with RawConnection(broker) as own:
        own.send(PROTOCOL_HEADER)
        own.expect(commands.Connection.Start)
        own.method(start_ok(broker.user, broker.password, capabilities={}), 0)
        own.expect(commands.Connection.Tune)
        own.method(commands.Connection.TuneOk(2047, 131072, 0), 0)
        own.method(commands.Connection.Open("/"), 0)
        own.expect(commands.Connection.OpenOk)
        own.open_channel()
        queue = declare(own)
        own.method(commands.Basic.Consume(queue=queue, consumer_tag="t"))
        own.expect(commands.Basic.ConsumeOk)
        own.method(commands.Queue.Delete(queue=queue))
        own.expect(commands.Queue.DeleteOk)
        declare(own)


# What matches a header of a headers binding: numbers and times by their value, text and bytes by their bytes.
ONES = {
    "number": [b"b\x01", b"B\x01", b"s\0\x01", b"u\0\x01", b"I\0\0\0\x01", b"i\0\0\0\x01", b"l" + b"\0" * 7 + b"\x01"]
    + [b"f" + struct.pack(">f", 1), b"d" + struct.pack(">d", 1), b"T" + b"\0" * 7 + b"\x01"],
    "bytes": [b"S\0\0\0\x011", b"x\0\0\0\x011"],
    "bool": [b"t\x01"],
    "decimal": [b"D\0\0\0\0\x01"],
    "half": [b"d" + struct.pack(">d", 1.5)],
    "other number": [b"b\x02", b"d" + struct.pack(">d", 2)],
    "void": [b"V"],
}


def test_headers_bindings_compare_values_whatever_their_type(broker):
    with RawConnection(broker) as own:
        own.handshake().open_channel()
        queues = {value: declare(own) for values in ONES.values() for value in values}
        # The exchange goes with its bindings, they with the connection.
        exchange = "headers-" + queues[b"t\x01"][8:]
        own.method(commands.Exchange.Declare(exchange=exchange, exchange_type="headers", auto_delete=True))
        own.expect(commands.Exchange.DeclareOk)
        names = b"".join(bytes([len(name)]) + name for name in (exchange.encode(), b""))
        for value, queue in queues.items():
            bound = bytes([len(queue)]) + queue.encode() + names + b"\0" + table_of({b"h": value})
            own.send(raw_frame(1, 1, struct.pack(">HHH", 50, 20, 0) + bound))
            own.expect(commands.Queue.BindOk)
        for value in queues:
            own.send(frame.marshal(commands.Basic.Publish(exchange=exchange), 1))
            own.send(raw_frame(HEADER, 1, struct.pack(">HHQH", 60, 0, len(value), 1 << 13) + table_of({b"h": value})))
            own.send(raw_frame(BODY, 1, value))
        for values in ONES.values():
            for value in values:
                expected = list(queues) if value == b"V" else values
                own.method(commands.Queue.Declare(queue=queues[value], passive=True))
                assert own.expect(commands.Queue.DeclareOk).message_count == len(expected), value
                for other in expected:
                    own.method(commands.Basic.Get(queue=queues[value], no_ack=True))
                    own.expect(commands.Basic.GetOk)
                    size = struct.unpack_from(">Q", own.read_frame()[2], 4)[0]
                    assert own.read_body(size) == other


def test_both_may_close_a_channel_at_once(broker):
    """The client's close crosses the server's: each is answered, and the number can be opened again."""
    with RawConnection(broker) as own:
        own.handshake().open_channel()
        for _ in range(3):
            own.method(commands.Queue.Declare(queue="nowhere", passive=True))
            own.method(commands.Channel.Close(200, "", 0, 0))
            assert own.expect(commands.Channel.Close).reply_code == 404
            own.expect(commands.Channel.CloseOk)
            own.method(commands.Channel.CloseOk())
            own.open_channel()
        declare(own)


def test_blind_copies_are_not_shown_in_what_comes_back(broker):
    properties = commands.Basic.Properties(headers={"CC": ["no"], "BCC": ["nowhere"], "h": 1})
    with RawConnection(broker) as own:
        own.handshake().open_channel()
        own.send(publish("none", b"x", mandatory=True, properties=properties))
        own.expect(commands.Basic.Return)
        returned, _ = own.read_content()
        assert returned.headers == {"CC": ["no"], "h": 1}


def test_no_wait_methods_are_not_answered(broker):
    with RawConnection(broker) as own:
        own.handshake().open_channel()
        queue = declare(own)
        own.method(commands.Queue.Bind(queue=queue, exchange="amq.direct", routing_key="k", nowait=True))
        own.method(commands.Basic.Consume(queue=queue, consumer_tag="t", no_ack=True, nowait=True))
        own.send(publish(queue, b"x"))
        assert own.expect(commands.Basic.Deliver).consumer_tag == "t"
        own.read_content()
        own.method(commands.Basic.Cancel("t", nowait=True))
        own.method(commands.Queue.Declare(queue=queue + "-missing", passive=True, nowait=True))
        assert own.expect(commands.Channel.Close).reply_code == 404


def test_direct_reply_to_answers_without_a_queue(broker):
    with RawConnection(broker) as asker, RawConnection(broker) as worker:
        worker.handshake().open_channel()
        queue = declare(worker)
        worker.method(commands.Basic.Consume(queue=queue, no_ack=True))
        worker.expect(commands.Basic.ConsumeOk)
        asker.handshake().open_channel()
        asker.method(commands.Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True))
        asker.expect(commands.Basic.ConsumeOk)
        properties = commands.Basic.Properties(reply_to="amq.rabbitmq.reply-to", correlation_id="7")
        asker.send(publish(queue, b"question", properties=properties))
        worker.expect(commands.Basic.Deliver)
        request, _ = worker.read_content()
        assert request.reply_to.startswith("amq.rabbitmq.reply-to.")
        answer = commands.Basic.Properties(correlation_id=request.correlation_id)
        worker.send(publish(request.reply_to, b"answer", properties=answer))
        delivery = asker.expect(commands.Basic.Deliver)
        assert (delivery.exchange, delivery.redelivered) == ("", False)
        properties, data = asker.read_content()
        assert (properties.correlation_id, data) == ("7", b"answer")


def test_broker_sends_heartbeats_and_drops_a_silent_peer(broker, channel, names):
    """With an interval of one second: a heartbeat about every half second, the end within a few, the message back."""
    queue = names.queue(channel)
    pika_publish(channel, queue, b"held")
    with RawConnection(broker) as own:
        own.handshake(heartbeat=1).open_channel()
        own.method(commands.Basic.Get(queue=queue))
        own.expect(commands.Basic.GetOk)
        own.read_content()
        beats, started = 0, time.monotonic()
        with pytest.raises(Closed):
            while True:
                kind, number, payload = own.read_frame(8)
                assert (kind, number, payload) == (HEARTBEAT, 0, b"")
                beats += 1
        assert beats >= 1
        assert 0.9 < time.monotonic() - started < 7
    eventually(lambda: ready(channel, queue) == 1)
    method, _, _ = channel.basic_get(queue, auto_ack=True)
    assert method.redelivered


def test_any_traffic_counts_as_a_sign_of_life(broker):
    with RawConnection(broker) as own:
        own.handshake(heartbeat=1).open_channel()
        for _ in range(16):
            time.sleep(0.25)
            own.send(publish("nowhere", b"x"))
        declare(own)


def test_half_a_frame_then_silence_ends_with_the_heartbeat(broker):
    with RawConnection(broker) as own:
        own.handshake(heartbeat=1).open_channel()
        own.send(publish("nowhere", b"x" * 1000)[:-500])
        started = time.monotonic()
        assert own.end(10).code is None
        assert time.monotonic() - started < 7


def test_half_frames_then_silence_disturb_nobody(broker, channel, names):
    queue = names.queue(channel)
    stalled = []
    try:
        for number in range(50):
            own = RawConnection(broker)
            stalled.append(own)
            own.handshake().open_channel()
            data = publish(queue, b"x" * 100)
            own.send(data[: 1 + number * (len(data) - 1) // 50])
        pika_publish(channel, queue, *[b"y"] * 100)
        assert [get(channel, queue) for _ in range(101)] == [b"y"] * 100 + [None]
    finally:
        for own in stalled:
            own.socket.close()


def test_consumer_that_stops_reading_holds_up_nobody(broker, channel, names):
    """64 MiB wait for a consumer that does not read; others go on meanwhile, and in the end it gets everything."""
    count, size = 1024, 65536
    slow, fast = names.queue(channel), names.queue(channel)
    with RawConnection(broker, timeout_s=30, receive_buffer=65536) as own:
        own.handshake().open_channel()
        own.method(commands.Basic.Consume(queue=slow, no_ack=True))
        own.expect(commands.Basic.ConsumeOk)
        channel.confirm_delivery()
        for number in range(count):
            pika_publish(channel, slow, struct.pack(">I", number) * (size // 4))
        slowest = 0
        for number in range(200):
            started = time.monotonic()
            pika_publish(channel, fast, b"%d" % number)
            assert get(channel, fast) == b"%d" % number
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 2
        for number in range(count):
            assert own.expect(commands.Basic.Deliver).delivery_tag == number + 1
            data = own.read_content()[1]
            assert data == struct.pack(">I", number) * (size // 4)


def test_publisher_that_never_reads_its_confirms_holds_up_nobody(broker, channel, names):
    """The client's receive window fills with confirms; the broker must neither block nor grow without bound for it."""
    queue = names.queue(channel)
    with RawConnection(broker, receive_buffer=4096) as own:
        own.handshake().open_channel()
        own.method(commands.Confirm.Select())
        own.expect(commands.Confirm.SelectOk)
        own.socket.settimeout(3)
        data = b"".join(publish("nowhere", b"x", mandatory=True) for _ in range(500))
        try:
            for _ in range(100):
                own.send(data)
        except TimeoutError:
            # Back-pressure on the one who does not read is right.
            pass
        for number in range(100):
            pika_publish(channel, queue, b"%d" % number)
            assert get(channel, queue) == b"%d" % number


def raise_file_limit(count):
    """Each silent connection is a file of ours."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def test_thousand_connections_that_say_nothing_are_closed_while_others_work(broker, channel, names):
    raise_file_limit(4096)
    queue = names.queue(channel)
    silent, openings = [], [b"", b"AMQP", PROTOCOL_HEADER]
    try:
        for number in range(1000):
            each = socket.create_connection((broker.host, broker.amqp_port), timeout=10)
            each.sendall(openings[number % 3])
            silent.append(each)
        started = time.monotonic()
        slowest, rounds = 0, 0
        poller = select.poll()
        open_ones = {each.fileno(): each for each in silent}
        for each in silent:
            each.setblocking(False)
            poller.register(each, select.POLLIN)
        while open_ones and time.monotonic() - started < HANDSHAKE_TIMEOUT_S + 10:
            for descriptor, _ in poller.poll(20):
                try:
                    data = open_ones[descriptor].recv(65536)
                except ConnectionError:
                    data = b""
                if not data:
                    poller.unregister(descriptor)
                    del open_ones[descriptor]
            before = time.monotonic()
            pika_publish(channel, queue, b"%d" % rounds)
            assert get(channel, queue) == b"%d" % rounds
            slowest = max(slowest, time.monotonic() - before)
            rounds += 1
        assert not open_ones, f"{len(open_ones)} are still open"
        assert time.monotonic() - started > HANDSHAKE_TIMEOUT_S / 2
        assert slowest < 2
        connect(broker).close()
    finally:
        for each in silent:
            each.close()


def test_many_connections_publish_and_consume_at_once(broker, channel, names):
    """200 raw connections, each with its own queue, at the same time."""
    failures = []
    barrier = threading.Barrier(20)

    def run():
        barrier.wait(20)
        try:
            for _ in range(10):
                with RawConnection(broker) as own:
                    own.handshake().open_channel()
                    queue = declare(own)
                    own.send(b"".join(publish(queue, b"%d" % number) for number in range(20)))
                    own.method(commands.Basic.Consume(queue=queue, no_ack=True))
                    own.expect(commands.Basic.ConsumeOk)
                    for number in range(20):
                        own.expect(commands.Basic.Deliver)
                        assert own.read_content()[1] == b"%d" % number
                    own.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert failures == []
