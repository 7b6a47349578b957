"""Time, length and priorities with unmodified pika: what goes, what stays, in which order."""

import pika
import pytest

from support.pika_client import collect, connect, get, get_all, publish, ready
from support.wait import eventually

TTL_MS = 50
# A good while longer than anything here lives.
LONG = {"expiration": "600000"}


@pytest.fixture
def channel(connection):
    """With confirms: RabbitMQ lets a look at a queue overtake what is on the way to it."""
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def limited(channel, names, **arguments):
    arguments = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
    return names.queue(channel, arguments=arguments)


def is_there(broker, queue):
    """Looked at without using it: a passive declare is a use."""
    with connect(broker) as connection:
        channel = connection.channel()
        try:
            channel.queue_delete(queue, if_empty=True)
        except pika.exceptions.ChannelClosedByBroker as closed:
            assert "not empty" in closed.reply_text
            return True
        return False


def test_messages_of_a_queue_with_a_time_go(channel, names):
    queue = limited(channel, names, message_ttl=TTL_MS)
    publish(channel, queue, b"1", b"2")
    eventually(lambda: ready(channel, queue) == 0)
    assert get(channel, queue) is None


def test_message_goes_by_its_own_time(channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"short", expiration=str(TTL_MS))
    publish(channel, queue, b"long", **LONG)
    publish(channel, queue, b"ever")
    eventually(lambda: ready(channel, queue) == 2)
    assert get_all(channel, queue) == [b"long", b"ever"]


@pytest.mark.parametrize(("own", "of_queue"), [(str(TTL_MS), 600000), ("600000", TTL_MS)])
def test_shorter_one_of_two_times_counts(channel, names, own, of_queue):
    queue = limited(channel, names, message_ttl=of_queue)
    publish(channel, queue, b"x", expiration=own)
    eventually(lambda: ready(channel, queue) == 0)


def test_message_without_time_left_is_for_who_waits(channel, names):
    queue = limited(channel, names, message_ttl=0)
    publish(channel, queue, b"nobody")
    assert get(channel, queue) is None
    came = []
    channel.basic_consume(queue, lambda *each: came.append(each[3]), auto_ack=True)
    publish(channel, queue, b"somebody")
    channel.connection.process_data_events(0)
    eventually(lambda: channel.connection.process_data_events(0.05) or came)
    assert came == [b"somebody"]


def test_unacknowledged_messages_do_not_expire(channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"held", b"free", expiration=str(TTL_MS))
    method, _, _ = channel.basic_get(queue)
    eventually(lambda: ready(channel, queue) == 0)
    channel.basic_ack(method.delivery_tag)
    assert channel.is_open
    assert get(channel, queue) is None


def test_returned_message_keeps_its_time(channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"x", expiration="300")
    method, _, _ = channel.basic_get(queue)
    channel.basic_reject(method.delivery_tag, requeue=True)
    eventually(lambda: ready(channel, queue) == 0)


def test_unused_queue_goes_with_its_messages(broker, channel, names):
    queue = limited(channel, names, expires=100)
    publish(channel, queue, b"x")
    eventually(lambda: not is_there(broker, queue), interval_s=0.3)


def test_queue_in_use_does_not_expire(broker, channel, names):
    queue, idle = (limited(channel, names, expires=200) for _ in range(2))
    publish(channel, idle, b"x")
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue, lambda *_: None)
    eventually(lambda: not is_there(broker, idle), interval_s=0.3)
    channel.connection.process_data_events(0.5)
    publish(channel, queue, b"1", b"2")
    eventually(lambda: ready(channel, queue) == 1)


def test_oldest_make_room(channel, names):
    queue = limited(channel, names, max_length=3)
    publish(channel, queue, *(str(number).encode() for number in range(10)))
    assert get_all(channel, queue) == [b"7", b"8", b"9"]


def test_bodies_make_room_by_their_size(channel, names):
    queue = limited(channel, names, max_length_bytes=10)
    publish(channel, queue, b"aaaa", b"bbbb", b"cccc")
    assert get_all(channel, queue) == [b"bbbb", b"cccc"]
    publish(channel, queue, b"x" * 11)
    assert get_all(channel, queue) == []


def test_unacknowledged_do_not_count_for_the_length(channel, names):
    queue = limited(channel, names, max_length=2)
    publish(channel, queue, b"1", b"2")
    for _ in range(2):
        channel.basic_get(queue)
    publish(channel, queue, b"3", b"4")
    assert ready(channel, queue) == 2
    channel.basic_nack(0, multiple=True, requeue=True)
    eventually(lambda: ready(channel, queue) == 2)
    assert get_all(channel, queue) == [b"3", b"4"]


def test_full_queue_refuses_with_a_nack_in_confirm_mode_and_silently_otherwise(connection, channel, names):
    queue = limited(channel, names, max_length=1, overflow="reject-publish")
    silent = connection.channel()
    publish(silent, queue, b"1", b"2")
    assert get_all(silent, queue) == [b"1"]
    publish(channel, queue, b"3")
    with pytest.raises(pika.exceptions.NackError):
        publish(channel, queue, b"4")
    assert get_all(channel, queue) == [b"3"]
    publish(channel, queue, b"5")
    assert get_all(channel, queue) == [b"5"]


def test_one_full_queue_of_several_makes_a_nack(channel, names):
    full = limited(channel, names, max_length=0, overflow="reject-publish")
    other = names.queue(channel)
    exchange = names.exchange(channel, "fanout")
    for queue in (full, other):
        channel.queue_bind(queue, exchange)
    with pytest.raises(pika.exceptions.NackError):
        channel.basic_publish(exchange, "", b"x")
    assert get_all(channel, other) == [b"x"]


def test_queue_of_length_0_delivers_to_who_waits(channel, names):
    queue = limited(channel, names, max_length=0)
    publish(channel, queue, b"nobody")
    assert get(channel, queue) is None
    came = []
    channel.basic_consume(queue, lambda *each: came.append(each[3]), auto_ack=True)
    publish(channel, queue, b"somebody")
    eventually(lambda: channel.connection.process_data_events(0.05) or came)
    assert came == [b"somebody"]


def test_higher_priorities_first_and_each_in_order(channel, names):
    queue = limited(channel, names, max_priority=5)
    for number, priority in enumerate([0, 5, None, 3, 5, 200, 3, 0]):
        publish(channel, queue, str(number).encode(), priority=priority)
    assert get_all(channel, queue) == [b"1", b"4", b"5", b"3", b"6", b"0", b"2", b"7"]


def test_priority_is_told_as_it_was_sent(channel, names):
    queue = limited(channel, names, max_priority=5)
    publish(channel, queue, b"x", priority=200)
    _, properties, _ = channel.basic_get(queue, auto_ack=True)
    assert properties.priority == 200


def test_returned_message_goes_to_its_place_among_its_priority(channel, names):
    queue = limited(channel, names, max_priority=5)
    for body, priority in ((b"1", 5), (b"2", 5), (b"3", 1)):
        publish(channel, queue, body, priority=priority)
    method, _, _ = channel.basic_get(queue)
    channel.basic_reject(method.delivery_tag, requeue=True)
    deliveries = collect(channel, queue, 3, auto_ack=True)
    assert [(body, method.redelivered) for method, _, body in deliveries] == [(b"1", True), (b"2", False), (b"3", False)]


def test_in_a_full_priority_queue_the_highest_oldest_goes(channel, names):
    queue = limited(channel, names, max_priority=5, max_length=2)
    for body, priority in ((b"1", 5), (b"2", 1), (b"3", 1)):
        publish(channel, queue, body, priority=priority)
    eventually(lambda: ready(channel, queue) == 2)
    assert get_all(channel, queue) == [b"2", b"3"]


def test_queue_without_priorities_ignores_them(channel, names):
    queue = names.queue(channel)
    for number, priority in enumerate([0, 5, 3]):
        publish(channel, queue, str(number).encode(), priority=priority)
    assert get_all(channel, queue) == [b"0", b"1", b"2"]
