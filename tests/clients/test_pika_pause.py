"""Pausing a queue (LavinMQ has it too, RabbitMQ has not): deliveries stop, everything else goes on, order stays."""

import pytest

from support.pika_client import get, publish, ready
from support.wait import eventually

# Long enough for a delivery that should not come.
QUIET_S = 0.2


@pytest.fixture
def pause(broker, management):
    if broker.process is None:
        pytest.skip("RabbitMQ cannot pause a queue")

    def set_paused(queue, paused=True):
        management.call("PUT", f"queues/%2F/{queue}/{'pause' if paused else 'resume'}")

    return set_paused


class Consumer:
    """What one consumer got, as (body, redelivered)."""

    def __init__(self, channel, queue, prefetch=0, **arguments):
        self.channel, self.got, self.tags = channel, [], []
        channel.basic_qos(prefetch_count=prefetch)
        self.tag = channel.basic_consume(queue, self.took, arguments=arguments)

    def took(self, _channel, method, _properties, body):
        self.got.append((body, method.redelivered))
        self.tags.append(method.delivery_tag)

    @property
    def bodies(self):
        return [body for body, _ in self.got]


def settle_down(connection):
    connection.process_data_events(time_limit=QUIET_S)


def wait_for(connection, consumer, *bodies):
    def look():
        connection.process_data_events(time_limit=0.01)
        return consumer.bodies[-len(bodies):] == list(bodies)

    eventually(look)


def test_consumers_and_gets_get_nothing_until_it_is_resumed(connection, channel, names, pause):
    queue = names.queue(channel)
    consumer = Consumer(channel, queue)
    publish(channel, queue, b"before")
    wait_for(connection, consumer, b"before")
    pause(queue)
    publish(channel, queue, b"1", b"2")
    settle_down(connection)
    assert consumer.bodies == [b"before"]
    other = connection.channel()
    assert get(other, queue) is None and ready(other, queue) == 2
    pause(queue, False)
    wait_for(connection, consumer, b"before", b"1", b"2")


def test_what_is_out_is_acknowledged_and_returned_while_it_is_paused(connection, channel, names, pause):
    queue = names.queue(channel)
    consumer = Consumer(channel, queue, prefetch=3)
    publish(channel, queue, b"1", b"2", b"3", b"4")
    wait_for(connection, consumer, b"1", b"2", b"3")
    pause(queue)
    channel.basic_ack(consumer.tags[0])
    channel.basic_nack(consumer.tags[1], requeue=True)
    channel.basic_reject(consumer.tags[2], requeue=False)
    settle_down(connection)
    assert len(consumer.got) == 3 and ready(connection.channel(), queue) == 2
    pause(queue, False)
    wait_for(connection, consumer, b"1", b"2", b"3", b"2", b"4")
    assert consumer.got[3:] == [(b"2", True), (b"4", False)]


def test_several_consumers_take_turns_again(connection, channel, names, pause):
    queue = names.queue(channel)
    consumers = [Consumer(connection.channel(), queue, prefetch=2) for _ in range(2)]
    pause(queue)
    publish(channel, queue, b"1", b"2", b"3", b"4")
    settle_down(connection)
    assert [consumer.got for consumer in consumers] == [[], []]
    pause(queue, False)
    wait_for(connection, consumers[0], b"1", b"3")
    wait_for(connection, consumers[1], b"2", b"4")


def test_the_single_active_consumer_stays_so_and_the_next_one_follows(connection, channel, names, pause):
    queue = names.queue(channel, arguments={"x-single-active-consumer": True})
    first, second, third = (Consumer(connection.channel(), queue, prefetch=1) for _ in range(3))
    pause(queue)
    publish(channel, queue, b"1", b"2")
    first.channel.basic_cancel(first.tag)
    settle_down(connection)
    assert first.got + second.got + third.got == []
    pause(queue, False)
    wait_for(connection, second, b"1")
    second.channel.basic_ack(second.tags[0])
    wait_for(connection, second, b"1", b"2")
    assert first.got + third.got == []


def test_priorities_of_messages_and_consumers_count_afterwards(connection, channel, names, pause):
    queue = names.queue(channel, arguments={"x-max-priority": 5})
    pause(queue)
    low = Consumer(connection.channel(), queue)
    high = Consumer(connection.channel(), queue, prefetch=2, **{"x-priority": 9})
    for priority, body in [(1, b"1"), (5, b"5"), (3, b"3")]:
        publish(channel, queue, body, priority=priority)
    settle_down(connection)
    assert low.got + high.got == []
    pause(queue, False)
    wait_for(connection, high, b"5", b"3")
    wait_for(connection, low, b"1")


def test_a_limit_of_the_channel_lets_others_have_what_a_paused_queue_gives_back(connection, channel, names, pause):
    """Two queues share a limit; what was set aside for consumers of the one that pauses is room for the other."""
    paused, other = names.queue(channel), names.queue(channel)
    shared = connection.channel()
    shared.basic_qos(prefetch_count=2, global_qos=True)
    got = []
    for queue in (paused, paused, other):
        shared.basic_consume(queue, lambda _c, method, _p, body: got.append((method.delivery_tag, body)))
    publish(channel, paused, b"1", b"2", b"3", b"4")
    publish(channel, other, b"other")
    eventually(lambda: connection.process_data_events(time_limit=0.01) or len(got) == 2)
    pause(paused)
    shared.basic_ack(got[0][0])
    eventually(lambda: connection.process_data_events(time_limit=0.01) or len(got) == 3)
    assert got[2][1] == b"other"
