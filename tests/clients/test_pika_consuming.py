"""Publishing, consuming, fetching and settling with pika."""

import threading
import time

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, ConsumerCancelled

from support.pika_client import collect, connect, get, get_all, lose, publish, ready
from support.wait import eventually


def settle(connection, seen, count):
    """`count` deliveries come, and no more."""
    eventually(lambda: connection.process_data_events(0.05) or len(seen) >= count)
    connection.sleep(0.3)
    assert len(seen) == count


def test_messages_are_consumed_in_the_order_they_were_published(channel, names):
    queue = names.queue(channel)
    bodies = [b"%d" % number for number in range(500)]
    publish(channel, queue, *bodies)
    deliveries = collect(channel, queue, 500, auto_ack=True)
    assert [body for _, _, body in deliveries] == bodies
    assert [method.delivery_tag for method, _, _ in deliveries] == list(range(1, 501))


def test_delivery_names_its_consumer_exchange_and_key(channel, names):
    queue = names.queue(channel)
    exchange = names.exchange(channel, "direct")
    channel.queue_bind(queue, exchange, "the.key")
    channel.basic_publish(exchange, "the.key", b"x")
    seen = []

    def on_message(_, method, properties, body):
        seen.append((method, properties, body))
        channel.stop_consuming()

    tag = channel.basic_consume(queue, on_message, auto_ack=True, consumer_tag="my-tag")
    channel.start_consuming()
    method, _, body = seen[0]
    assert tag == "my-tag"
    assert (method.consumer_tag, method.exchange, method.routing_key) == ("my-tag", exchange, "the.key")
    assert (method.redelivered, body) == (False, b"x")


def test_get_says_how_many_are_left_and_when_the_queue_is_empty(channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"one", b"two", b"three")
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (body, method.message_count, method.exchange, method.routing_key) == (b"one", 2, "", queue)
    assert get_all(channel, queue) == [b"two", b"three"]
    assert channel.basic_get(queue) == (None, None, None)


def test_acknowledged_messages_are_gone(connection, channel, names):
    queue = names.queue(channel)
    publish(channel, queue, *(b"%d" % number for number in range(10)))
    deliveries = collect(channel, queue, 10)
    channel.basic_ack(deliveries[4][0].delivery_tag, multiple=True)
    channel.basic_ack(deliveries[7][0].delivery_tag)
    channel.close()
    left = [b"5", b"6", b"8", b"9"]
    assert get_all(connection.channel(), queue) == left


def test_a_closed_channel_gives_back_what_it_did_not_settle_in_order_and_marked(connection, channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"a", b"b", b"c", b"d")
    other = connection.channel()
    assert [get(other, queue, auto_ack=False) for _ in range(3)] == [b"a", b"b", b"c"]
    other.close()
    seen = []
    for _ in range(4):
        method, _, body = channel.basic_get(queue, auto_ack=True)
        seen.append((body, method.redelivered))
    assert seen == [(b"a", True), (b"b", True), (b"c", True), (b"d", False)]


def test_a_lost_connection_gives_back_what_it_did_not_settle(broker, channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"a", b"b")
    lost = connect(broker)
    assert get(lost.channel(), queue, auto_ack=False) == b"a"
    lose(lost)
    eventually(lambda: ready(channel, queue) == 2)
    assert get_all(channel, queue) == [b"a", b"b"]


@pytest.mark.parametrize("refuse", ["nack", "reject"])
def test_a_refused_message_comes_back_to_its_place_when_requeued(channel, names, refuse):
    queue = names.queue(channel)
    publish(channel, queue, b"a", b"b", b"c")
    method, _, _ = channel.basic_get(queue)
    getattr(channel, f"basic_{refuse}")(method.delivery_tag, requeue=True)
    method, _, body = channel.basic_get(queue, auto_ack=True)
    assert (body, method.redelivered) == (b"a", True)
    assert get_all(channel, queue) == [b"b", b"c"]


@pytest.mark.parametrize("refuse", ["nack", "reject"])
def test_a_refused_message_is_dropped_when_not_requeued(channel, names, refuse):
    queue = names.queue(channel)
    publish(channel, queue, b"a", b"b")
    method, _, _ = channel.basic_get(queue)
    getattr(channel, f"basic_{refuse}")(method.delivery_tag, requeue=False)
    assert get_all(channel, queue) == [b"b"]


def test_nack_multiple_requeues_all_up_to_the_tag_in_order(channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"a", b"b", b"c", b"d")
    tags = [channel.basic_get(queue)[0].delivery_tag for _ in range(4)]
    channel.basic_nack(tags[2], multiple=True, requeue=True)
    channel.basic_ack(tags[3])
    assert get_all(channel, queue) == [b"a", b"b", b"c"]


def test_ack_of_tag_zero_with_multiple_settles_everything(connection, channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"a", b"b", b"c")
    for _ in range(3):
        channel.basic_get(queue)
    channel.basic_ack(0, multiple=True)
    channel.close()
    assert ready(connection.channel(), queue) == 0


@pytest.mark.parametrize("tag", [1, 99])
def test_an_unknown_delivery_tag_closes_the_channel(connection, channel, names, tag):
    queue = names.queue(channel)
    publish(channel, queue, b"a")
    channel.basic_get(queue, auto_ack=True)
    channel.basic_ack(tag)
    with pytest.raises(ChannelClosedByBroker) as closed:
        channel.basic_get(queue)
    assert closed.value.reply_code == 406
    assert f"unknown delivery tag {tag}" in closed.value.reply_text
    assert connection.is_open


def test_acknowledging_twice_closes_the_channel(connection, channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"a", b"b")
    method, _, _ = channel.basic_get(queue)
    channel.basic_ack(method.delivery_tag)
    channel.basic_ack(method.delivery_tag)
    with pytest.raises(ChannelClosedByBroker, match="unknown delivery tag 1"):
        channel.basic_get(queue)
    assert get_all(connection.channel(), queue) == [b"b"]


def test_prefetch_bounds_what_is_outstanding(connection, channel, names):
    queue = names.queue(channel)
    publish(channel, queue, *(b"%d" % number for number in range(20)))
    seen = []
    channel.basic_qos(prefetch_count=5)
    channel.basic_consume(queue, lambda _, method, __, body: seen.append((method.delivery_tag, body)))
    settle(connection, seen, 5)
    assert [body for _, body in seen] == [b"%d" % number for number in range(5)]
    channel.basic_ack(seen[1][0], multiple=True)
    settle(connection, seen, 7)
    channel.basic_ack(0, multiple=True)
    eventually(lambda: connection.process_data_events(0.05) or len(seen) == 12)


def test_global_prefetch_is_shared_by_the_consumers_of_a_channel(connection, channel, names):
    queues = [names.queue(channel), names.queue(channel)]
    for queue in queues:
        publish(channel, queue, *[b"x"] * 10)
    seen = []
    channel.basic_qos(prefetch_count=4, global_qos=True)
    for queue in queues:
        channel.basic_consume(queue, lambda _, method, __, ___: seen.append(method.delivery_tag))
    settle(connection, seen, 4)
    channel.basic_ack(seen[-1], multiple=True)
    settle(connection, seen, 8)


def test_prefetch_does_not_bound_a_consumer_without_acknowledgements(channel, names):
    queue = names.queue(channel)
    publish(channel, queue, *[b"x"] * 50)
    channel.basic_qos(prefetch_count=2)
    assert len(collect(channel, queue, 50, auto_ack=True)) == 50


def test_messages_go_round_the_consumers_of_a_queue(connection, channel, names):
    queue = names.queue(channel)
    seen = {"a": [], "b": [], "c": []}
    for tag, bodies in seen.items():
        channel.basic_consume(
            queue, lambda _, __, ___, body, bodies=bodies: bodies.append(body), auto_ack=True, consumer_tag=tag
        )
    publish(channel, queue, *(b"%d" % number for number in range(30)))
    eventually(lambda: connection.process_data_events(0.05) or sum(map(len, seen.values())) == 30)
    assert [len(bodies) for bodies in seen.values()] == [10, 10, 10]


def test_a_busy_consumer_leaves_messages_to_one_that_has_room(broker, channel, names):
    queue = names.queue(channel)
    seen = []
    with connect(broker) as busy, connect(broker) as free:
        held = busy.channel()
        held.basic_qos(prefetch_count=1)
        held.basic_consume(queue, lambda *_: None)
        taker = free.channel()
        taker.basic_qos(prefetch_count=1)

        def on_message(ch, method, _, body):
            seen.append(body)
            ch.basic_ack(method.delivery_tag)

        taker.basic_consume(queue, on_message)
        publish(channel, queue, *[b"x"] * 20)
        eventually(lambda: free.process_data_events(0.05) or len(seen) == 19)


def test_cancelled_consumer_gets_no_more_but_may_still_settle(connection, channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"a", b"b")
    seen = []
    channel.basic_qos(prefetch_count=1)
    tag = channel.basic_consume(queue, lambda _, method, __, ___: seen.append(method.delivery_tag))
    eventually(lambda: connection.process_data_events(0.05) or seen)
    # pika's own cancel would reject what it holds undelivered; here nothing is held.
    channel.basic_cancel(tag)
    channel.basic_ack(seen[0])
    connection.sleep(0.2)
    assert len(seen) == 1
    assert get_all(channel, queue) == [b"b"]


def test_cancel_of_an_unknown_consumer_is_answered(connection, channel):
    frames = []
    channel._impl._rpc(pika.spec.Basic.Cancel("nobody"), frames.append, [pika.spec.Basic.CancelOk])
    eventually(lambda: connection.process_data_events(0.05) or frames)
    assert frames[0].method.consumer_tag == "nobody"


def test_consumer_is_told_when_its_queue_is_deleted(broker, connection, channel, names):
    queue = names.queue(channel)
    cancelled = []
    channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    channel.basic_consume(queue, lambda *_: None, consumer_tag="victim")
    with connect(broker) as other:
        other.channel().queue_delete(queue)
    eventually(lambda: connection.process_data_events(0.05) or cancelled)
    assert cancelled == ["victim"]
    assert channel.is_open


def test_waiting_consumer_generator_ends_when_its_queue_is_deleted(broker, channel, names):
    queue = names.queue(channel)

    def delete():
        time.sleep(0.3)
        with connect(broker) as other:
            other.channel().queue_delete(queue)

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        assert list(channel.consume(queue)) == []
    except ConsumerCancelled:
        pass
    thread.join()


def test_exclusive_consumer_keeps_others_out(broker, channel, names):
    queue = names.queue(channel)
    channel.basic_consume(queue, lambda *_: None, exclusive=True)
    with connect(broker) as other:
        second = other.channel()
        with pytest.raises(ChannelClosedByBroker) as closed:
            second.basic_consume(queue, lambda *_: None)
        assert closed.value.reply_code == 403
        assert "in exclusive use" in closed.value.reply_text
        assert get(other.channel(), queue) is None


def test_consuming_a_missing_queue_is_not_found(channel, names):
    with pytest.raises(ChannelClosedByBroker) as closed:
        channel.basic_consume(names.new(), lambda *_: None)
    assert closed.value.reply_code == 404


def test_recover_redelivers_what_is_outstanding(connection, channel, names):
    queue = names.queue(channel)
    publish(channel, queue, b"a", b"b", b"c")
    seen = []
    channel.basic_consume(queue, lambda _, method, __, body: seen.append((body, method.redelivered)))
    eventually(lambda: connection.process_data_events(0.05) or len(seen) == 3)
    channel.basic_recover(requeue=True)
    eventually(lambda: connection.process_data_events(0.05) or len(seen) == 6)
    assert seen[3:] == [(b"a", True), (b"b", True), (b"c", True)]


def test_messages_may_be_published_and_consumed_from_many_threads(broker, channel, names):
    """Eight connections publish, four consume; every message arrives once and each publisher's order stays."""
    queue = names.queue(channel)
    publishers, consumers, count = 8, 4, 250
    seen, lock, done = [], threading.Lock(), threading.Event()

    def publisher(number):
        with connect(broker) as own:
            publish(own.channel(), queue, *(b"%d:%d" % (number, index) for index in range(count)))

    def consumer():
        with connect(broker) as own:
            own_channel = own.channel()
            own_channel.basic_qos(prefetch_count=20)
            mine = []
            for method, _, body in own_channel.consume(queue, inactivity_timeout=0.1):
                if method is not None:
                    mine.append(body)
                    own_channel.basic_ack(method.delivery_tag)
                    with lock:
                        seen.append(body)
                        if len(seen) == publishers * count:
                            done.set()
                elif done.is_set():
                    break
            own_channel.cancel()
            for number in range(publishers):
                order = [int(body.split(b":")[1]) for body in mine if body.startswith(b"%d:" % number)]
                if order != sorted(order):
                    failures.append((number, order))

    failures = []
    threads = [threading.Thread(target=publisher, args=(number,)) for number in range(publishers)]
    threads += [threading.Thread(target=consumer) for _ in range(consumers)]
    for thread in threads:
        thread.start()
    assert done.wait(30), len(seen)
    for thread in threads:
        thread.join(10)
    assert len(seen) == len(set(seen)) == publishers * count
    assert failures == []


def consumer(connection, queue, prefetch=0, auto_ack=False, **arguments):
    """A channel that consumes, and what it has got: tags, redelivered or not, bodies."""
    channel, seen = connection.channel(), []
    if prefetch:
        channel.basic_qos(prefetch_count=prefetch)

    def take(_, method, __, body):
        seen.append((method.delivery_tag, method.redelivered, body))

    arguments = {f"x-{name}": value for name, value in arguments.items()}
    channel.basic_consume(queue, take, auto_ack=auto_ack, consumer_tag="c", arguments=arguments)
    return channel, seen


def bodies(seen):
    return [body for _, _, body in seen]


def test_single_active_consumer_alone_gets_messages(connection, channel, names):
    queue = names.queue(channel, arguments={"x-single-active-consumer": True})
    (first, seen), (_, waiting) = (consumer(connection, queue, auto_ack=True) for _ in range(2))
    publish(channel, queue, b"1", b"2", b"3")
    settle(connection, seen, 3)
    assert not waiting
    first.basic_cancel("c")
    publish(channel, queue, b"4")
    settle(connection, waiting, 1)
    assert bodies(seen) == [b"1", b"2", b"3"]


def test_next_single_active_consumer_gets_what_the_last_one_held(broker, connection, channel, names):
    queue = names.queue(channel, arguments={"x-single-active-consumer": True})
    # pika cancels before it closes a channel, and what is ready then may come before what is held.
    other = connect(broker)
    _, seen = consumer(other, queue, prefetch=2)
    _, waiting = consumer(connection, queue)
    publish(channel, queue, b"1", b"2", b"3")
    settle(other, seen, 2)
    connection.sleep(0.3)
    # A full one stays the active one.
    assert not waiting
    lose(other)
    settle(connection, waiting, 3)
    assert [(redelivered, body) for _, redelivered, body in waiting] == [(True, b"1"), (True, b"2"), (False, b"3")]


def test_single_active_consumer_that_cancels_keeps_what_it_holds(connection, channel, names):
    queue = names.queue(channel, arguments={"x-single-active-consumer": True})
    first, seen = consumer(connection, queue)
    _, waiting = consumer(connection, queue)
    publish(channel, queue, b"1", b"2")
    settle(connection, seen, 2)
    first.basic_cancel("c")
    publish(channel, queue, b"3")
    settle(connection, waiting, 1)
    first.basic_ack(seen[0][0])
    first.close()
    settle(connection, waiting, 2)
    assert [(redelivered, body) for _, redelivered, body in waiting] == [(False, b"3"), (True, b"2")]


def test_highest_priority_is_the_next_single_active_consumer(connection, channel, names):
    queue = names.queue(channel, arguments={"x-single-active-consumer": True})
    first, seen = consumer(connection, queue, auto_ack=True)
    (_, low), (_, high) = (consumer(connection, queue, auto_ack=True, priority=number) for number in (1, 2))
    publish(channel, queue, b"1")
    # Whoever came first stays active, whatever the priorities of others.
    settle(connection, seen, 1)
    first.basic_cancel("c")
    publish(channel, queue, b"2")
    settle(connection, high, 1)
    assert not low


def test_single_active_queue_has_no_exclusive_consumers(channel, names):
    queue = names.queue(channel, arguments={"x-single-active-consumer": True})
    with pytest.raises(ChannelClosedByBroker) as closed:
        channel.basic_consume(queue, print, exclusive=True)
    assert closed.value.reply_code == 403


def test_highest_priority_gets_messages_while_it_has_room(connection, channel, names):
    queue = names.queue(channel)
    _, low = consumer(connection, queue, priority=-1)
    _, usual = consumer(connection, queue, prefetch=2)
    first, high = consumer(connection, queue, prefetch=3, priority=10)
    publish(channel, queue, *(b"%d" % number for number in range(6)))
    settle(connection, low, 1)
    assert (bodies(high), bodies(usual), bodies(low)) == ([b"0", b"1", b"2"], [b"3", b"4"], [b"5"])
    first.basic_ack(high[0][0])
    # No order is promised between channels: this one's acknowledgement is through.
    first.queue_declare(queue, passive=True)
    publish(channel, queue, b"6")
    settle(connection, high, 4)
    assert (high[3][2], len(usual), len(low)) == (b"6", 2, 1)


def test_consumers_of_one_priority_take_turns(connection, channel, names):
    queue = names.queue(channel)
    _, low = consumer(connection, queue, auto_ack=True)
    twins = [consumer(connection, queue, auto_ack=True, priority=3)[1] for _ in range(2)]
    for number in range(6):
        publish(channel, queue, b"%d" % number)
        eventually(lambda: connection.process_data_events(0.05) or sum(map(len, twins)) == number + 1)
    assert sorted(map(len, twins)) == [3, 3]
    assert [bodies(seen) for seen in sorted(twins)] == [[b"0", b"2", b"4"], [b"1", b"3", b"5"]]
    assert not low
