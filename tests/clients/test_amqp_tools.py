"""The command line tools of rabbitmq-c, as Debian ships them (package amqp-tools)."""

import shutil
import subprocess

import pytest

from support.pika_client import get, get_all, publish
from support.wait import eventually

TOOLS = ("amqp-publish", "amqp-consume", "amqp-get", "amqp-declare-queue", "amqp-delete-queue")
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="amqp-tools are missing; on Debian: apt-get install amqp-tools"
)


@pytest.fixture
def tool(broker):
    """Runs a tool against the broker; its outcome has `returncode`, `stdout` and `stderr`."""

    def run(name, *arguments, data=b"", url=None, timeout=30):
        command = [name, "--url", url or broker.amqp_url.rstrip("/"), *arguments]
        return subprocess.run(command, input=data, capture_output=True, timeout=timeout, check=False)

    return run


def test_queue_is_declared_and_deleted(tool, channel, names):
    queue = names.new()
    declared = tool("amqp-declare-queue", "-d", "-q", queue)
    assert (declared.returncode, declared.stdout) == (0, queue.encode() + b"\n")
    channel.queue_declare(queue, durable=True)
    publish(channel, queue, b"1", b"2")
    eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count == 2)
    deleted = tool("amqp-delete-queue", "-q", queue)
    assert (deleted.returncode, deleted.stdout.strip()) == (0, b"2")


def test_declared_without_a_name_it_is_given_one(tool, channel):
    declared = tool("amqp-declare-queue", "-q", "")
    name = declared.stdout.decode().strip()
    assert name.startswith("amq.gen-")
    channel.queue_declare(name, passive=True)
    channel.queue_delete(name)


def test_published_message_has_its_properties(tool, channel, names):
    queue = names.queue(channel, durable=True)
    options = ["-p", "-C", "text/plain", "-E", "utf-8", "-t", "answers", "-H", "key: value", "-b", "hello"]
    assert tool("amqp-publish", "-r", queue, *options).returncode == 0
    _, properties, body = eventually(lambda: taken(channel, queue))
    assert body == b"hello" and properties.delivery_mode == 2 and properties.headers == {"key": "value"}
    kept = (properties.content_type, properties.content_encoding, properties.reply_to)
    assert kept == ("text/plain", "utf-8", "answers")


def taken(channel, queue):
    method, properties, body = channel.basic_get(queue, auto_ack=True)
    return method and (method, properties, body)


def test_lines_are_messages(tool, channel, names):
    queue = names.queue(channel)
    assert tool("amqp-publish", "-r", queue, "-l", data=b"one\ntwo\nthree\n").returncode == 0
    eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count == 3)
    assert [body.rstrip() for body in get_all(channel, queue)] == [b"one", b"two", b"three"]


def test_get_prints_a_message_or_fails_when_there_is_none(tool, channel, names):
    queue = names.queue(channel)
    channel.confirm_delivery()
    publish(channel, queue, b"x" * 200_000)
    got = tool("amqp-get", "-q", queue)
    assert (got.returncode, len(got.stdout)) == (0, 200_000)
    assert tool("amqp-get", "-q", queue).returncode == 2


def test_consumer_runs_a_command_for_each_and_acknowledges(tool, channel, names):
    queue = names.queue(channel)
    channel.confirm_delivery()
    publish(channel, queue, b"one\n", b"two\n", b"three\n")
    consumed = tool("amqp-consume", "-q", queue, "-c", "2", "-p", "1", "cat")
    assert (consumed.returncode, consumed.stdout) == (0, b"one\ntwo\n")
    assert eventually(lambda: get(channel, queue)) == b"three\n"


def test_consumer_that_fails_gives_the_message_back(tool, channel, names):
    queue = names.queue(channel)
    channel.confirm_delivery()
    publish(channel, queue, b"x")
    tool("amqp-consume", "-q", queue, "-c", "1", "-p", "1", "false")
    method, _, _ = eventually(lambda: taken(channel, queue))
    assert method.redelivered


def test_errors_are_told(tool, names):
    missing = names.new("missing")
    failed = tool("amqp-get", "-q", missing)
    assert failed.returncode != 0 and f"no queue '{missing}' in vhost '/'".encode() in failed.stderr


def test_wrong_password_is_refused(tool, broker):
    url = broker.amqp_url.rstrip("/").replace("guest@", "wrong@")
    failed = tool("amqp-get", "-q", "any", url=url)
    assert failed.returncode != 0 and b"ACCESS_REFUSED" in failed.stderr
