"""The management interface with RabbitMQ's own rabbitmqadmin and with amqpstorm's client, both unmodified."""

import json

import pika.exceptions
import pytest
from amqpstorm.management import ApiError, ManagementApi

from support import pika_client
from support.management import Rabbitmqadmin, eventually, management_url, rabbitmqadmin_script


@pytest.fixture
def admin(broker, tmp_path):
    script = rabbitmqadmin_script(tmp_path)
    return Rabbitmqadmin(script, management_url(broker), broker.user, broker.password)


@pytest.fixture
def api(broker):
    client = ManagementApi(management_url(broker), broker.user, broker.password, timeout=15)
    with client:
        yield client


def test_rabbitmqadmin_declares_lists_and_deletes(admin, names):
    exchange, queue = names.new("x"), names.new("q")
    assert "exchange declared" in admin.run("declare", "exchange", f"name={exchange}", "type=topic")
    said = admin.run("declare", "queue", f"name={queue}", "durable=true", 'arguments={"x-max-length": 7}')
    assert "queue declared" in said
    binding = [f"source={exchange}", f"destination={queue}"]
    assert "binding declared" in admin.run("declare", "binding", *binding, "routing_key=a.*.c")

    rows = admin.rows("list", "exchanges", "name", "type", "durable", "auto_delete", "internal")
    assert {"name": exchange, "type": "topic", "durable": "True", "auto_delete": "False", "internal": "False"} in rows
    rows = admin.rows("list", "queues", "name", "durable", "arguments.x-max-length")
    assert {"name": queue, "durable": "True", "arguments.x-max-length": "7"} in rows
    rows = admin.rows("list", "bindings", "source", "destination", "routing_key", "properties_key")
    own = [row for row in rows if row["source"] == exchange]
    assert [(row["destination"], row["routing_key"]) for row in own] == [(queue, "a.*.c")]
    key = own[0]["properties_key"]

    said = admin.refused("declare", "queue", f"name={queue}", "durable=false")
    assert f"inequivalent arg 'durable' for queue '{queue}' in vhost '/'" in said
    assert "Not found" in admin.refused("delete", "queue", f"name={names.new()}")
    admin.run("delete", "binding", *binding, "destination_type=queue", f"properties_key={key}")
    assert admin.refused("delete", "binding", *binding, "destination_type=queue", f"properties_key={key}")
    assert "queue deleted" in admin.run("delete", "queue", f"name={queue}")
    assert "exchange deleted" in admin.run("delete", "exchange", f"name={exchange}")


def test_rabbitmqadmin_publishes_gets_and_purges(admin, names, channel):
    queue = names.queue(channel)
    said = admin.run("publish", f"routing_key={queue}", "payload=hello", 'properties={"content_type": "text/plain"}')
    assert "Message published" in said
    assert "NOT routed" in admin.run("publish", f"routing_key={names.new()}", "payload=x")
    admin.run("publish", f"routing_key={queue}", "payload=AP8=", "payload_encoding=base64")
    got = admin.rows("get", f"queue={queue}", "count=5", "ackmode=ack_requeue_true")
    assert [(row["payload"], row["payload_encoding"]) for row in got] == [("hello", "string"), ("AP8=", "base64")]
    (first,) = json.loads(admin.run("get", f"queue={queue}", flags=("-f", "raw_json")))
    assert first["properties"] == {"content_type": "text/plain"}
    _, properties, body = channel.basic_get(queue, auto_ack=True)
    assert (body, properties.content_type) == (b"hello", "text/plain")
    assert "queue purged" in admin.run("purge", "queue", f"name={queue}")
    assert channel.queue_declare(queue, passive=True).method.message_count == 0


def test_rabbitmqadmin_manages_vhosts_users_permissions_policies_and_limits(admin, names):
    vhost, user = names.new("v"), names.new("u")
    admin.run("declare", "vhost", f"name={vhost}")
    try:
        admin.run("declare", "user", f"name={user}", "password=p", "tags=management")
        admin.run("declare", "permission", f"vhost={vhost}", f"user={user}", "configure=^c", "write=.*", "read=")
        row = {"vhost": vhost, "user": user, "configure": "^c", "write": ".*", "read": ""}
        assert row in admin.rows("list", "permissions", "vhost", "user", "configure", "write", "read")
        flags = ("-V", vhost)
        admin.run("declare", "policy", "name=p", "pattern=^q", 'definition={"max-length": 3}', flags=flags)
        admin.run("declare", "operator_policy", "name=o", "pattern=^q", 'definition={"max-length": 2}', flags=flags)
        admin.run("declare", "queue", "name=q", flags=flags)
        columns = ("name", "policy", "operator_policy")
        row = {"name": "q", "policy": "p", "operator_policy": "o"}
        eventually(lambda: row in admin.rows("list", "queues", *columns, flags=flags))
        admin.run("declare", "vhost_limit", f"vhost={vhost}", "name=max-queues", "value=9")
        limits = json.loads(admin.run("list", "vhost_limits", flags=("-f", "raw_json")))
        assert {"vhost": vhost, "value": {"max-queues": 9}} in limits
        assert {"name": vhost} in admin.rows("list", "vhosts", "name")
    finally:
        admin.run("delete", "user", f"name={user}")
        admin.run("delete", "vhost", f"name={vhost}")


def test_rabbitmqadmin_shows_connections_and_closes_one(admin, broker):
    connection = pika_client.connect(broker)
    channel = connection.channel()
    assert channel.is_open
    own = str(connection._impl._transport._sock.getsockname()[1])  # noqa: SLF001: pika has no other way to tell it
    mine = eventually(lambda: [row for row in admin.rows("list", "connections", "name", "user", "channels") if f":{own} ->" in row["name"]])
    name = mine[0]["name"]
    assert mine[0]["user"] == broker.user
    eventually(lambda: {"name": f"{name} (1)", "user": broker.user} in admin.rows("list", "channels", "name", "user"))
    assert "connection closed" in admin.run("close", "connection", f"name={name}")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        connection.process_data_events(30)
    assert closed.value.reply_code == 320
    assert closed.value.reply_text == "CONNECTION_FORCED - Closed via management plugin"


def test_rabbitmqadmin_shows_the_server(admin):
    (row,) = admin.rows("show", "overview", "rabbitmq_version", "cluster_name", "object_totals.queues")
    assert row["rabbitmq_version"].startswith("3.") and row["cluster_name"]
    (node,) = admin.rows("list", "nodes", "name", "type", "running", "mem_used")
    assert (node["type"], node["running"]) == ("disc", "True") and int(node["mem_used"]) > 0


def test_amqpstorm_declares_and_finds(api, names):
    exchange, queue = names.new("x"), names.new("q")
    api.exchange.declare(exchange, exchange_type="topic", durable=True)
    api.queue.declare(queue, durable=True, arguments={"x-max-length": 7})
    assert api.exchange.declare(exchange, passive=True)["type"] == "topic"
    shown = api.queue.declare(queue, passive=True)
    assert (shown["arguments"], shown["durable"]) == ({"x-max-length": 7}, True)
    api.queue.bind(queue=queue, exchange=exchange, routing_key="a.b")
    (binding,) = [it for it in api.queue.bindings(queue) if it["source"] == exchange]
    assert (binding["routing_key"], binding["properties_key"]) == ("a.b", "a.b")
    assert [it["destination"] for it in api.exchange.bindings(exchange)] == [queue]
    assert [it["name"] for it in api.queue.list(name=queue)] == [queue]
    assert {exchange, queue} <= {it["name"] for it in api.exchange.list() + api.queue.list(show_all=True)}
    assert [it["name"] for it in api.queue.list(name=f"^{queue}$", use_regex=True, page_size=1)] == [queue]
    api.queue.unbind(queue=queue, exchange=exchange, routing_key="a.b")
    assert api.exchange.bindings(exchange) == []
    api.queue.delete(queue)
    api.exchange.delete(exchange)
    with pytest.raises(ApiError) as missing:
        api.queue.get(queue)
    assert missing.value.error_code == 404


def test_amqpstorm_publishes_and_gets(api, names, channel):
    queue = names.queue(channel)
    assert api.basic.publish("hello", routing_key=queue, properties={"content_type": "text/plain"}) == {"routed": True}
    (message,) = api.basic.get(queue, requeue=True)
    assert (message.body, message.properties["content_type"]) == ("hello", "text/plain")
    assert api.basic.get(queue, to_dict=True)[0]["redelivered"] is True
    assert api.basic.get(queue) == []
    api.basic.publish("gone", routing_key=queue)
    api.queue.purge(queue)
    assert channel.basic_get(queue)[0] is None


def test_amqpstorm_sees_connections_and_closes_one(api, broker):
    connection = pika_client.connect(broker)
    connection.channel()
    own = connection._impl._transport._sock.getsockname()[1]  # noqa: SLF001: pika has no other way to tell it
    mine = eventually(lambda: [it for it in api.connection.list() if it.get("peer_port") == own])
    name = mine[0]["name"]
    assert api.connection.get(name)["user"] == broker.user
    eventually(lambda: [it for it in api.channel.list() if it["name"] == f"{name} (1)"])
    api.connection.close(name, reason="enough")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        connection.process_data_events(30)
    assert closed.value.reply_text == "CONNECTION_FORCED - enough"


def test_amqpstorm_asks_how_the_server_is(api, broker):
    assert api.aliveness_test("/") == {"status": "ok"}
    assert api.healthchecks.get() == {"status": "ok"}
    assert api.whoami()["name"] == broker.user
    overview = api.overview()
    assert overview["object_totals"]["exchanges"] >= 7
    (node,) = api.nodes()
    assert api.node(node["name"])["running"] is True
    assert api.cluster_name()["name"] == overview["cluster_name"]
    wrong = ManagementApi(management_url(broker), broker.user, "wrong", timeout=15)
    with pytest.raises(ApiError) as refused:
        wrong.whoami()
    assert refused.value.error_code == 401
