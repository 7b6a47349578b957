"""Vhosts, users and their limits with unmodified pika: who comes in, what is said to who does not, and who is sent away."""

import uuid

import pika
import pytest

from support.pika_client import connect
from support.wait import eventually

PASSWORD = "vhost-tests"


@pytest.fixture
def vhost(management):
    """A vhost of its own, in which `guest` may do everything."""
    name = f"v-{uuid.uuid4().hex[:8]}"
    management.put(f"vhosts/{name}", {})
    management.put(f"permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    return name


@pytest.fixture
def user(management):
    name = f"u-{uuid.uuid4().hex[:8]}"
    management.user(name, PASSWORD)
    management.permissions(name)
    return name


def assert_refused(text, server, **login):
    """The broker refuses a login with `text` once it knows the vhost."""
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError) as refused:
        connect(server, **login)
    assert f'(530) "NOT_ALLOWED - {text}"' in str(refused.value)


def end_of(connection):
    """Why the broker closes it."""
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        for _ in range(200):
            connection.process_data_events(0.1)
    return closed.value.reply_code, closed.value.reply_text


def test_queues_and_exchanges_of_vhosts_are_apart(broker, channel, vhost, names):
    name = names.queue(channel)
    with connect(broker, vhost=vhost) as other:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
            other.channel().queue_declare(name, passive=True)
    assert closed.value.reply_text == f"NOT_FOUND - no queue '{name}' in vhost '{vhost}'"


def test_deleted_vhost_closes_its_connections(broker, management, vhost):
    connection = connect(broker, vhost=vhost)
    management.delete(f"vhosts/{vhost}")
    assert end_of(connection) == (320, f"CONNECTION_FORCED - vhost '{vhost}' is deleted")


def test_deleted_user_is_sent_away(broker, management, user):
    connection = connect(broker, user, PASSWORD)
    management.delete(f"users/{user}")
    assert end_of(connection) == (320, f"CONNECTION_FORCED - user '{user}' is deleted")


def test_connections_of_a_vhost_are_limited(broker, management, vhost):
    management.put(f"vhost-limits/{vhost}/max-connections", {"value": 1})
    with connect(broker, vhost=vhost):
        text = f"access to vhost '{vhost}' refused for user 'guest': connection limit (1) is reached"
        assert_refused(text, broker, vhost=vhost)


def test_queues_of_a_vhost_are_limited(broker, management, vhost):
    management.put(f"vhost-limits/{vhost}/max-queues", {"value": 1})
    with connect(broker, vhost=vhost) as connection:
        connection.channel().queue_declare("first")
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as closed:
            connection.channel().queue_declare("second")
        text = f"PRECONDITION_FAILED - cannot declare queue 'second': queue limit in vhost '{vhost}' (1) is reached"
        assert closed.value.reply_text == text
        connection.channel().queue_declare("first")


def test_connections_of_a_user_are_limited(broker, management, user):
    management.put(f"user-limits/{user}/max-connections", {"value": 1})
    with connect(broker, user, PASSWORD):
        text = f"connection refused for user '{user}': user connection limit (1) is reached"
        assert_refused(text, broker, user=user, password=PASSWORD)


def test_channels_of_a_user_are_limited(broker, management, user):
    management.put(f"user-limits/{user}/max-channels", {"value": 1})
    connection = connect(broker, user, PASSWORD)
    connection.channel()
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        connection.channel()
    text = f"number of channels opened for user '{user}' has reached the maximum allowed user limit of (1)"
    assert (closed.value.reply_code, closed.value.reply_text) == (530, f"NOT_ALLOWED - {text}")


def test_new_permissions_reach_open_connections(broker, management, user):
    with connect(broker, user, PASSWORD) as connection:
        channel = connection.channel()
        channel.exchange_declare("amq.direct", "direct", durable=True)
        management.permissions(user, configure="^$")

        def refused():
            try:
                connection.channel().exchange_declare("amq.direct", "direct", durable=True)
            except pika.exceptions.ChannelClosedByBroker as closed:
                return closed.reply_code == 403
            return False

        eventually(refused)


def test_user_without_permissions_in_a_vhost_stays_out(broker, vhost, user):
    text = f"access to vhost '{vhost}' refused for user '{user}'"
    assert_refused(text, broker, user=user, password=PASSWORD, vhost=vhost)


def test_impersonator_may_send_another_s_user_id(broker, management, user):
    with connect(broker, user, PASSWORD) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="user_id property set to 'bob'"):
            channel.basic_publish("amq.direct", "k", b"x", pika.BasicProperties(user_id="bob"))
    management.put(f"users/{user}", {"password": PASSWORD, "tags": "impersonator"})
    with connect(broker, user, PASSWORD) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("amq.direct", "k", b"x", pika.BasicProperties(user_id="bob"))
