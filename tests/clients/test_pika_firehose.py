"""The firehose: copies of what is published and got in a traced vhost."""

import uuid

import pika
import pytest

from support.pika_client import connect, get_all
from support.wait import eventually

EXCHANGE = "amq.rabbitmq.trace"


class Watched:
    """A vhost of its own that is traced, and a queue of what is told."""

    def __init__(self, server, management):
        self.management = management
        self.vhost = f"v-{uuid.uuid4().hex[:8]}"
        management.put(f"vhosts/{self.vhost}", {})
        management.put(f"permissions/{self.vhost}/{server.user}", {"configure": ".*", "write": ".*", "read": ".*"})
        self.connections = [connect(server, vhost=self.vhost) for _ in range(2)]
        self.channel, self.watcher = (connection.channel() for connection in self.connections)
        self.channel.queue_declare("q")
        self.watcher.queue_declare("told")
        self.watcher.queue_bind("told", EXCHANGE, "#")
        self.trace(True)

    def trace(self, on):
        self.management.call("PUT", f"vhosts/{self.vhost}", {"tracing": on})

    def told(self):
        """The next copy: key, headers, body."""

        def look():
            method, properties, body = self.watcher.basic_get("told", auto_ack=True)
            return method and (method.exchange, method.routing_key, properties.headers, body)

        exchange, key, headers, body = eventually(look)
        assert exchange == EXCHANGE
        return key, headers, body


@pytest.fixture
def watched(broker, management):
    each = Watched(broker, management)
    yield each
    for connection in each.connections:
        if connection.is_open:
            connection.close()


def test_publish_is_told_with_all_that_it_was(broker, watched):
    properties = pika.BasicProperties(
        content_type="text/plain", content_encoding="none", headers={"h": 1}, delivery_mode=2, priority=3, correlation_id="c",
        reply_to="r", expiration="60000", message_id="m", timestamp=7, type="t", user_id=broker.user, app_id="a",
    )
    watched.channel.basic_publish("", "q", b"body", properties)
    key, headers, body = watched.told()
    assert (key, body) == ("publish.", b"body")
    assert headers.pop("node")
    ours, theirs = headers.pop("connection").split(" -> ")
    assert ours.rpartition(":")[0] and theirs == f"{broker.host}:{broker.amqp_port}"
    told = headers.pop("properties")
    # RabbitMQ tells a timestamp as a number.
    told["timestamp"] = int(told["timestamp"])
    assert told == {
        "content_type": "text/plain", "content_encoding": "none", "headers": {"h": 1}, "delivery_mode": 2, "priority": 3,
        "correlation_id": "c", "reply_to": "r", "expiration": "60000", "message_id": "m", "timestamp": 7, "type": "t",
        "user_id": broker.user, "app_id": "a",
    }
    assert headers == {
        "exchange_name": "", "routing_keys": ["q"], "routed_queues": ["q"], "vhost": watched.vhost,
        "channel": watched.channel.channel_number, "user": broker.user,
    }


def test_publish_that_no_queue_takes_is_told(watched):
    watched.channel.basic_publish("amq.fanout", "nowhere", b"x")
    key, headers, _ = watched.told()
    assert (key, headers["exchange_name"], headers["routed_queues"]) == ("publish.amq.fanout", "amq.fanout", [])
    assert headers["properties"] == {}


def test_all_keys_of_a_publish_are_told(watched):
    for name in ("copy", "blind"):
        watched.channel.queue_declare(name)
    headers = {"CC": ["copy"], "BCC": ["blind"]}
    watched.channel.basic_publish("", "q", b"x", pika.BasicProperties(headers=headers))
    _, headers, _ = watched.told()
    assert headers["routing_keys"] == ["q", "copy", "blind"]
    assert sorted(headers["routed_queues"]) == ["blind", "copy", "q"]
    assert headers["properties"] == {"headers": {"CC": ["copy"]}}


def test_refused_publish_is_not_told(watched):
    channel = watched.connections[0].channel()
    channel.basic_publish("none", "x", b"x")
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        channel.queue_declare("other")
    watched.channel.basic_publish("", "q", b"next")
    assert watched.told()[2] == b"next"


def test_deliveries_are_told_each_time(watched):
    watched.channel.basic_publish("", "q", b"x", pika.BasicProperties(headers={"h": 1}))
    assert watched.told()[0] == "publish."
    method, _, _ = watched.channel.basic_get("q")
    key, headers, body = watched.told()
    assert (key, body, headers["redelivered"], headers["routing_keys"]) == ("deliver.q", b"x", 0, ["q"])
    assert headers["properties"] == {"headers": {"h": 1}}
    assert "routed_queues" not in headers
    watched.channel.basic_nack(method.delivery_tag)
    seen = []
    watched.channel.basic_consume("q", lambda *message: seen.append(message), auto_ack=True)
    eventually(lambda: watched.connections[0].process_data_events(0.05) or seen)
    key, headers, _ = watched.told()
    assert (key, headers["redelivered"], headers["channel"]) == ("deliver.q", 1, watched.channel.channel_number)


def test_dead_letter_is_told_when_it_is_delivered(watched):
    arguments = {"x-message-ttl": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"}
    watched.channel.queue_declare("grave", arguments=arguments)
    watched.channel.basic_publish("", "grave", b"x")
    eventually(lambda: watched.channel.basic_get("q", auto_ack=True)[0])
    assert [watched.told()[0] for _ in range(2)] == ["publish.", "deliver.q"]


def test_what_is_told_is_not_told_again_and_nothing_is_once_it_is_off(watched):
    watched.channel.basic_publish("", "q", b"x")
    assert watched.told()[0] == "publish."
    watched.trace(False)
    watched.channel.basic_publish("", "q", b"y")
    watched.channel.queue_declare("q", passive=True)
    assert get_all(watched.watcher, "told") == []


def test_nobody_but_the_broker_publishes_there(watched):
    watched.channel.basic_publish(EXCHANGE, "x", b"x")
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
        watched.channel.queue_declare("q")
    assert closed.value.reply_text == f"ACCESS_REFUSED - cannot publish to internal exchange '{EXCHANGE}' in vhost '{watched.vhost}'"
