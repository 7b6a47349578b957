"""Login, tuning, heartbeats and errors with pika."""

import time

import pika
import pytest
from pika.exceptions import (
    AMQPConnectionError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from support.pika_client import connect, get, publish


def test_server_introduces_itself(broker, connection):
    properties = connection._impl.server_properties
    assert set(properties) >= {"capabilities", "cluster_name", "product", "version", "platform", "information"}
    assert all(part.isdigit() for part in properties["version"].split("+")[0].split("."))
    expected = {
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    }
    assert {name for name, value in properties["capabilities"].items() if value is True} >= expected


@pytest.mark.parametrize("user, password", [("guest", "wrong"), ("nobody", "guest"), ("guest", "guestguest")])
def test_wrong_credentials_are_an_authentication_error(broker, user, password):
    with pytest.raises(ProbableAuthenticationError) as refused:
        connect(broker, user, password)
    assert "403" in str(refused.value) and "ACCESS_REFUSED" in str(refused.value)


def test_missing_vhost_is_not_allowed(broker):
    with pytest.raises((ConnectionClosedByBroker, ProbableAccessDeniedError)) as refused:
        connect(broker, vhost="nope")
    assert "530" in str(refused.value)
    assert "vhost nope not found" in str(refused.value)


def test_tuning_takes_the_lower_of_both_sides(broker):
    with connect(broker, frame_max=8192, channel_max=10, heartbeat=7) as own:
        parameters = own._impl.params
        assert (parameters.frame_max, parameters.channel_max, parameters.heartbeat) == (8192, 10, 7)
        channel = own.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        body = bytes(range(256)) * 200
        publish(channel, queue, body)
        assert get(channel, queue) == body


def test_heartbeats_keep_an_idle_connection_open(broker):
    """Six seconds with nothing but heartbeats of two seconds: neither side takes the other for dead."""
    with connect(broker, heartbeat=2) as own:
        channel = own.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        own.sleep(6)
        publish(channel, queue, b"still here")
        assert get(channel, queue) == b"still here"


def test_channel_error_leaves_the_connection_and_its_other_channels_usable(connection, channel, names):
    queue = names.queue(channel)
    for _ in range(20):
        failing = connection.channel()
        with pytest.raises(ChannelClosedByBroker):
            failing.queue_declare(names.new(), passive=True)
        assert failing.is_closed
    publish(channel, queue, b"x")
    assert get(channel, queue) == b"x"


def test_closed_channel_number_can_be_used_again(connection, names):
    first = connection.channel(channel_number=7)
    with pytest.raises(ChannelClosedByBroker):
        first.queue_declare(names.new(), passive=True)
    again = connection.channel(channel_number=7)
    assert again.queue_declare("", exclusive=True).method.queue


def test_errors_that_close_the_connection_name_their_method(broker):
    own = connect(broker)
    channel = own.channel()
    with pytest.raises(ConnectionClosedByBroker) as closed:
        channel.basic_qos(prefetch_size=10)
    assert closed.value.reply_code == 540
    assert closed.value.reply_text.startswith("NOT_IMPLEMENTED - prefetch_size!=0 (10)")
    assert own.is_closed


def test_recover_without_requeue_is_not_implemented(broker):
    own = connect(broker)
    with pytest.raises(ConnectionClosedByBroker) as closed:
        own.channel().basic_recover(requeue=False)
    assert closed.value.reply_code == 540


def test_flow_on_is_answered_and_flow_off_is_not_implemented(broker):
    own = connect(broker)
    assert own.channel().flow(True) is True
    with pytest.raises(ConnectionClosedByBroker) as closed:
        own.channel().flow(False)
    assert closed.value.reply_code == 540


def test_channels_beyond_the_negotiated_maximum_are_refused(broker):
    with connect(broker, channel_max=3) as own:
        for _ in range(3):
            own.channel()
        with pytest.raises((pika.exceptions.NoFreeChannels, AMQPConnectionError)):
            own.channel()


def test_hundreds_of_connections_come_and_go(broker, channel, names):
    queue = names.queue(channel)
    started = time.monotonic()
    for number in range(200):
        with connect(broker) as own:
            publish(own.channel(), queue, b"%d" % number)
    assert time.monotonic() - started < 30
    bodies = [get(channel, queue) for _ in range(200)]
    assert bodies == [b"%d" % number for number in range(200)]


def test_secret_can_be_updated_on_an_open_connection(connection):
    connection.update_secret("guest", "rotation")
    assert connection.channel().is_open
