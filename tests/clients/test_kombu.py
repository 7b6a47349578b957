"""kombu on py-amqp, as Celery and many services use them."""

import socket
import time

import amqp.exceptions
import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue, pools
from kombu.mixins import ConsumerProducerMixin


@pytest.fixture
def kombu_connection(broker):
    with Connection(broker.amqp_url, heartbeat=10, connect_timeout=5) as own:
        yield own
    pools.reset()


def test_simple_queue_puts_and_gets_any_json(kombu_connection, names):
    with kombu_connection.SimpleQueue(names.new()) as queue:
        payloads = [{"number": number, "text": "ü" * number} for number in range(100)]
        for payload in payloads:
            queue.put(payload)
        received = []
        for _ in payloads:
            message = queue.get(timeout=5)
            received.append(message.payload)
            message.ack()
        assert received == payloads
        with pytest.raises(queue.Empty):
            queue.get(block=False)


@pytest.mark.parametrize("compression", [None, "zlib", "bzip2"])
def test_producer_with_confirms_and_compression(broker, names, compression):
    with Connection(broker.amqp_url, transport_options={"confirm_publish": True}) as own:
        exchange = Exchange(names.new("x"), "topic", durable=True)
        queue = Queue(names.new(), exchange, routing_key="news.#", channel=own.default_channel)
        queue.declare()
        producer = Producer(own.default_channel, exchange)
        producer.publish({"x": "y" * 5000}, routing_key="news.today", compression=compression, retry=True)
        seen = []
        consumer = Consumer(own.default_channel, [queue], accept=["json"])
        consumer.register_callback(lambda body, message: (seen.append(body), message.ack()))
        with consumer:
            own.drain_events(timeout=5)
        assert seen == [{"x": "y" * 5000}]
        with pytest.raises(socket.timeout):
            own.drain_events(timeout=0.2)


def test_requeued_message_comes_again(kombu_connection, names):
    queue = Queue(names.new(), channel=kombu_connection.default_channel)
    queue.declare()
    Producer(kombu_connection.default_channel).publish("x", routing_key=queue.name)
    message = queue.get()
    assert not message.delivery_info["redelivered"]
    message.requeue()
    message = queue.get()
    assert message.delivery_info["redelivered"]
    message.reject()
    assert queue.get() is None


def test_consumer_mixin_answers_requests(broker, names):
    requests, replies = Queue(names.new()), Queue(names.new())

    class Worker(ConsumerProducerMixin):
        def __init__(self, connection):
            self.connection = connection

        def get_consumers(self, consumer, channel):
            return [consumer([requests], callbacks=[self.on_request], prefetch_count=10)]

        def on_request(self, body, message):
            self.producer.publish(body * 2, exchange="", routing_key=message.properties["reply_to"], retry=True)
            message.ack()
            self.should_stop = body == 49

    with Connection(broker.amqp_url) as own, Connection(broker.amqp_url) as worker_connection:
        channel = own.default_channel
        requests(channel).declare()
        bound = replies(channel)
        bound.declare()
        producer = Producer(channel)
        for number in range(50):
            producer.publish(number, routing_key=requests.name, reply_to=replies.name)
        Worker(worker_connection).run(timeout=10)
        answers = [bound.get(no_ack=True).payload for _ in range(50)]
        assert answers == [number * 2 for number in range(50)]


def test_heartbeat_check_finds_the_broker_alive(broker):
    with Connection(broker.amqp_url, heartbeat=2) as own:
        own.connect()
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            own.heartbeat_check(rate=2)
            try:
                own.drain_events(timeout=1)
            except socket.timeout:
                pass
        assert own.connected


def test_errors_have_py_amqp_s_types(kombu_connection, names):
    missing = names.new()
    with pytest.raises(amqp.exceptions.NotFound):
        kombu_connection.channel().queue_declare(missing, passive=True)
    with pytest.raises(amqp.exceptions.AccessRefused):
        kombu_connection.channel().queue_declare("amq.reserved")
    queue = names.new()
    kombu_connection.channel().queue_declare(queue, durable=True, auto_delete=False)
    with pytest.raises(amqp.exceptions.PreconditionFailed):
        kombu_connection.channel().queue_declare(queue, durable=False, auto_delete=False)
    assert kombu_connection.connected


def test_wrong_password_is_refused(broker):
    url = f"amqp://guest:wrong@{broker.host}:{broker.amqp_port}//"
    with Connection(url) as own, pytest.raises(amqp.exceptions.AccessRefused):
        own.connect()
