"""Declaring, deleting and inspecting queues with pika."""

import pytest
from pika.exceptions import ChannelClosedByBroker

from support.pika_client import collect, connect, get, get_all, lose, publish, ready
from support.wait import eventually


def refused(code, call, *arguments, **named):
    """The channel is closed with `code`; returns the text."""
    with pytest.raises(ChannelClosedByBroker) as closed:
        call(*arguments, **named)
    assert closed.value.reply_code == code, closed.value
    return closed.value.reply_text


def exists(connection, queue):
    """Whether a queue of that name can be found."""
    channel = connection.channel()
    try:
        channel.queue_declare(queue, passive=True)
    except ChannelClosedByBroker as closed:
        assert closed.reply_code == 404
        return False
    channel.close()
    return True


def test_declare_answers_name_messages_and_consumers(channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"a", b"b")
    # A publish is asynchronous: the count may lag behind it.
    eventually(lambda: ready(channel, queue) == 2)
    answer = channel.queue_declare(queue, passive=True).method
    assert (answer.queue, answer.message_count, answer.consumer_count) == (queue, 2, 0)
    channel.basic_consume(queue, lambda *_: None)
    answer = channel.queue_declare(queue).method
    assert (answer.message_count, answer.consumer_count) == (0, 1)


def test_queue_without_a_name_is_given_one(channel):
    first = channel.queue_declare("", exclusive=True).method.queue
    second = channel.queue_declare("", exclusive=True).method.queue
    assert first.startswith("amq.gen-") and second.startswith("amq.gen-")
    assert first != second
    publish(channel, first, b"x")
    assert get(channel, first) == b"x"


def test_empty_name_stands_for_the_last_queue_declared(connection, channel, names):
    queue = names.queue(channel)
    exchange = names.exchange(channel, "fanout")
    channel.queue_bind("", exchange)
    channel.basic_publish(exchange, "", b"x")
    assert get(channel, "") == b"x"
    other = connection.channel()
    assert "no previously declared queue" in refused(404, other.basic_get, "")
    assert ready(channel, queue) == 0


def test_reserved_queue_names_are_refused(channel):
    text = refused(403, channel.queue_declare, "amq.mine")
    assert text == "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"


def test_passive_declare_of_a_missing_queue_is_not_found(connection, channel, names):
    missing = names.new()
    text = refused(404, channel.queue_declare, missing, passive=True)
    assert text == f"NOT_FOUND - no queue '{missing}' in vhost '/'"
    assert connection.channel().is_open


@pytest.mark.parametrize("change, argument", [({"durable": False}, "durable"), ({"auto_delete": True}, "auto_delete")])
def test_redeclaring_a_queue_differently_is_refused(channel, names, change, argument):
    queue = names.queue(channel, durable=True)
    channel.queue_declare(queue, durable=True)
    text = refused(406, channel.queue_declare, queue, **{"durable": True, **change})
    assert f"inequivalent arg '{argument}' for queue '{queue}' in vhost '/': received" in text


def test_redeclaring_as_exclusive_is_locked(channel, names):
    queue = names.queue(channel)
    refused(405, channel.queue_declare, queue, exclusive=True)


def test_unknown_arguments_do_not_count_in_a_redeclare(channel, names):
    queue = names.queue(channel, arguments={"x-mine": 1})
    channel.queue_declare(queue, arguments={"x-other": "y"})


def test_exclusive_queue_is_locked_to_its_connection_and_goes_with_it(broker, connection, names):
    queue = names.new()
    owner = connect(broker)
    own = owner.channel()
    own.queue_declare(queue, exclusive=True)
    publish(connection.channel(), queue, b"others may publish")
    eventually(lambda: ready(own, queue) == 1)
    for call in ("queue_declare", "basic_get", "queue_purge", "queue_delete"):
        text = refused(405, getattr(connection.channel(), call), queue)
        assert text.startswith(f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}'")
    refused(405, connection.channel().queue_bind, queue, "amq.direct", "k")
    refused(405, connection.channel().basic_consume, queue, lambda *_: None)
    assert get(owner.channel(), queue) == b"others may publish"
    owner.close()
    eventually(lambda: not exists(connection, queue))


def test_auto_delete_queue_goes_with_its_last_consumer(connection, channel, names):
    queue = names.queue(channel, auto_delete=True)
    publish(channel, queue, b"x")
    assert get(channel, queue) == b"x"
    first = channel.basic_consume(queue, lambda *_: None)
    second = channel.basic_consume(queue, lambda *_: None)
    channel.basic_cancel(first)
    assert exists(connection, queue)
    channel.basic_cancel(second)
    assert not exists(connection, queue)


def test_auto_delete_queue_goes_when_its_consumer_s_connection_is_lost(broker, connection, names):
    queue = names.new()
    lost = connect(broker)
    channel = lost.channel()
    channel.queue_declare(queue, auto_delete=True)
    channel.basic_consume(queue, lambda *_: None)
    lose(lost)
    eventually(lambda: not exists(connection, queue))


def test_delete_if_unused_and_if_empty(connection, channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"x")
    text = refused(406, connection.channel().queue_delete, queue, if_empty=True)
    assert text == f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty"
    tag = channel.basic_consume(queue, lambda *_: None, auto_ack=True)
    text = refused(406, connection.channel().queue_delete, queue, if_unused=True)
    assert text == f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use"
    channel.basic_cancel(tag)
    channel.queue_delete(queue, if_unused=True, if_empty=True)
    assert not exists(connection, queue)


def test_delete_says_how_many_messages_went(channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"a", b"b", b"c")
    assert channel.queue_delete(queue).method.message_count == 3
    assert channel.queue_delete(queue).method.message_count == 0


def test_purge_takes_the_ready_and_leaves_the_unacknowledged(channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"a", b"b", b"c")
    method, _, _ = channel.basic_get(queue)
    assert channel.queue_purge(queue).method.message_count == 2
    channel.basic_nack(method.delivery_tag, requeue=True)
    assert get_all(channel, queue) == [b"a"]


def test_purge_of_a_missing_queue_is_not_found(channel, names):
    refused(404, channel.queue_purge, names.new())


def test_two_hundred_channels_on_one_connection(connection, channel, names):
    queue = names.queue(channel)
    channels = [connection.channel() for _ in range(200)]
    for number, each in enumerate(channels):
        publish(each, queue, b"%d" % number)
    for each in channels:
        # A synchronous call, so that each channel's publish has been taken.
        each.queue_declare(queue, passive=True)
    assert sorted(get_all(channel, queue), key=int) == [b"%d" % number for number in range(200)]
    for each in channels:
        each.close()
    assert connection.is_open


def test_many_queues_each_keep_their_own(channel, names):
    queues = [names.queue(channel) for _ in range(300)]
    for queue in queues:
        publish(channel, queue, queue.encode())
    for queue in queues:
        assert get_all(channel, queue) == [queue.encode()]


def test_queue_names_up_to_255_bytes_of_utf8(channel, names):
    queue = names.new()
    queue += "é" * ((255 - len(queue)) // 2)
    names.taken.append(queue)
    assert channel.queue_declare(queue).method.queue == queue
    publish(channel, queue, b"x")
    assert collect(channel, queue, 1, auto_ack=True)[0][2] == b"x"
