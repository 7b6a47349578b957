"""Fixtures: the server under test, connections to it, and names that are taken back at the end."""

import os
import uuid

import pika.exceptions
import pytest

pytest.register_assert_rewrite("support.rows")

from support import pika_client
from support.bus import Bus
from support.management import Management
from support.server import running_server, start_server, stop_server


def pytest_collection_modifyitems(config, items):
    if os.environ.get("AMQP_URL") and not os.environ.get("HTTP_URL"):
        skip = pytest.mark.skip(reason="only AMQP_URL is given: no bus to test (set HTTP_URL too)")
        for item in items:
            if "bus" in item.keywords:
                item.add_marker(skip)
    if os.environ.get("AMQP_URL") is None:
        for item in items:
            later = item.get_closest_marker("later")
            if later:
                item.add_marker(pytest.mark.skip(reason=f"Backbone has no {later.args[0]} yet (docs/AMQP.md)"))


@pytest.fixture(scope="session")
def broker():
    """The broker that AMQP_URL names, else the binary in BACKBONE_BIN on ports of its own."""
    server = running_server()
    if server is None:
        binary = os.environ.get("BACKBONE_BIN")
        if not binary:
            pytest.exit("set BACKBONE_BIN to the server's binary, or AMQP_URL to a running broker", returncode=2)
        server = start_server(binary)
    yield server
    alive = server.process is None or server.process.poll() is None
    tail = "" if alive else server.log_tail()
    stop_server(server)
    assert alive, f"the server ended while the tests ran:\n{tail}"


@pytest.fixture
def connection(broker):
    with_close = pika_client.connect(broker)
    yield with_close
    if with_close.is_open:
        with_close.close()


@pytest.fixture
def channel(connection):
    return connection.channel()


class Names:
    """Names of queues and exchanges that nobody else uses; what was declared under them goes at the end."""

    def __init__(self, server):
        self.server = server
        self.run = uuid.uuid4().hex[:8]
        self.taken = []

    def new(self, what="q"):
        """A name. Whatever queue or exchange carries it is deleted after the test."""
        name = f"test-{self.run}-{what}-{len(self.taken)}"
        self.taken.append(name)
        return name

    def queue(self, channel, **declare):
        """Declare a queue with a new name."""
        name = self.new()
        channel.queue_declare(name, **declare)
        return name

    def exchange(self, channel, kind, **declare):
        """Declare an exchange with a new name."""
        name = self.new(kind)
        channel.exchange_declare(name, kind, **declare)
        return name

    def delete_all(self):
        """Delete by name, both kinds: deleting what is missing is no error."""
        with pika_client.connect(self.server) as connection:
            channel = connection.channel()
            for name in self.taken:
                try:
                    channel.queue_delete(name)
                except pika.exceptions.ChannelClosedByBroker:
                    channel = connection.channel()
                channel.exchange_delete(name)


@pytest.fixture
def names(broker):
    each = Names(broker)
    yield each
    if each.taken:
        each.delete_all()


@pytest.fixture
def management(broker):
    """The management API as the broker's own user; what is made through it goes after the test."""
    if broker.http_url is None and not os.environ.get("MANAGEMENT_URL"):
        pytest.skip("only AMQP_URL is given: no management API (set MANAGEMENT_URL too)")
    each = Management(broker)
    yield each
    each.undo()


@pytest.fixture
def bus(broker):
    """The bus over REST as its administrator; the clients that a test creates are removed after it."""
    each = Bus(broker)
    yield each
    each.delete_clients()
