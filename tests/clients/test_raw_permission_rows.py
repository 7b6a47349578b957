"""Which permission each operation needs, and what is said without it (specification of behaviour, §12), as RabbitMQ 3.10 does."""

import uuid

import pytest
from pamqp import commands

from support.management import Management
from support.rows import (
    Publish,
    bind,
    check,
    consume,
    delete,
    delete_queue,
    exchange,
    get,
    link,
    purge,
    queue,
    unbind,
    unlink,
)

PASSWORD = "permission-rows"
Q = queue("{n}q", exclusive=False)
X = exchange("{n}x")
LETTERS = queue("{n}q", exclusive=False, x_dead_letter_exchange="{n}dlx")
ALTERNATE = exchange("{n}x", alternate_exchange="{n}ae")
# What is there before, the operation, the permission that it needs, and for what.
ROWS = [
    ("declare an exchange", [], X, "configure", "exchange '{n}x'"),
    ("delete an exchange", [X], delete("{n}x"), "configure", "exchange '{n}x'"),
    ("alternate exchange, read", [], ALTERNATE, "read", "exchange '{n}x'"),
    ("alternate exchange, write", [], ALTERNATE, "write", "exchange '{n}ae'"),
    ("declare a queue", [], Q, "configure", "queue '{n}q'"),
    ("declare an existing queue", [Q], Q, "configure", "queue '{n}q'"),
    ("delete a queue", [Q], delete_queue(), "configure", "queue '{n}q'"),
    ("dead letters, read", [], LETTERS, "read", "queue '{n}q'"),
    ("dead letters, write", [], LETTERS, "write", "exchange '{n}dlx'"),
    ("bind exchanges, destination", [X], link("{n}x", "amq.fanout"), "write", "exchange '{n}x'"),
    ("bind exchanges, source", [X], link("{n}x", "amq.fanout"), "read", "exchange 'amq.fanout'"),
    ("unbind exchanges, destination", [X], unlink("{n}x", "amq.fanout"), "write", "exchange '{n}x'"),
    ("unbind exchanges, source", [X], unlink("{n}x", "amq.fanout"), "read", "exchange 'amq.fanout'"),
    ("bind a queue, queue", [Q], bind("{n}q", "amq.direct"), "write", "queue '{n}q'"),
    ("bind a queue, exchange", [Q], bind("{n}q", "amq.direct"), "read", "exchange 'amq.direct'"),
    ("unbind a queue, queue", [Q], unbind("{n}q", "amq.direct"), "write", "queue '{n}q'"),
    ("unbind a queue, exchange", [Q], unbind("{n}q", "amq.direct"), "read", "exchange 'amq.direct'"),
    ("publish", [], Publish("amq.direct", "k"), "write", "exchange 'amq.direct'"),
    ("publish to the default exchange", [], Publish("", "k"), "write", "exchange 'amq.default'"),
    ("get", [Q], get("{n}q"), "read", "queue '{n}q'"),
    ("consume", [Q], consume("{n}q"), "read", "queue '{n}q'"),
    ("purge", [Q], purge(), "read", "queue '{n}q'"),
]
FREE = [
    ("look for an exchange", [X], exchange("{n}x", passive=True), commands.Exchange.DeclareOk),
    ("look for a queue", [Q], queue("{n}q", passive=True), commands.Queue.DeclareOk),
    ("confirms", [], commands.Confirm.Select(), commands.Confirm.SelectOk),
]


@pytest.fixture(scope="module")
def user(broker):
    """A user whose permissions each test sets; one for all, because passwords are slow on purpose."""
    name = f"rows-{uuid.uuid4().hex[:8]}"
    management = Management(broker)
    if management.url is None:
        pytest.skip("only AMQP_URL is given: no management API (set MANAGEMENT_URL too)")
    management.user(name, PASSWORD)
    yield name
    management.undo()


def ids(rows):
    return [row[0] for row in rows]


@pytest.mark.parametrize(("before", "what", "permission", "resource"), [row[1:] for row in ROWS], ids=ids(ROWS))
def test_without_permission_it_is_refused(broker, management, user, before, what, permission, resource):
    management.permissions(user, **{permission: "^nothing$"})
    text = f"ACCESS_REFUSED - access to {resource} in vhost '/' refused for user '{user}'"
    check(broker, before, what, (403, text), login=(user, PASSWORD))


@pytest.mark.parametrize(("before", "what", "expected"), [row[1:] for row in FREE], ids=ids(FREE))
def test_some_need_none(broker, management, user, before, what, expected):
    management.permissions(user, "^$", "^$", "^$")
    check(broker, before, what, expected, login=(user, PASSWORD))


def test_patterns_are_searched_for_anywhere_in_a_name(broker, management, user):
    management.permissions(user, write="direc")
    check(broker, [], Publish("amq.direct", "k"), commands.Confirm.SelectOk, login=(user, PASSWORD))


@pytest.mark.parametrize(
    ("what", "permission"),
    [(Publish("amq.topic", "b.b"), "write"), (bind("{n}q", "amq.topic", "b.b"), "read")],
    ids=["publish", "bind"],
)
def test_topic_permission_is_about_the_key(broker, management, user, what, permission):
    management.permissions(user)
    patterns = {"exchange": "amq.topic", "write": ".*", "read": ".*", permission: "^a"}
    management.put(f"topic-permissions/%2F/{user}", patterns)
    text = f"ACCESS_REFUSED - access to topic 'b.b' in exchange 'amq.topic' in vhost '/' refused for user '{user}'"
    check(broker, [Q], what, (403, text), login=(user, PASSWORD))
    management.put(f"topic-permissions/%2F/{user}", {**patterns, permission: r"^b\.{username}|^b"})
    expected = commands.Confirm.SelectOk if isinstance(what, Publish) else commands.Queue.BindOk
    check(broker, [Q], what, expected, login=(user, PASSWORD))


def test_without_any_the_vhost_is_closed(broker, management, user):
    management.permissions(user)
    management.delete(f"permissions/%2F/{user}")
    with pytest.raises(Exception, match=f"NOT_ALLOWED - access to vhost '/' refused for user '{user}'"):
        check(broker, [], Publish("", "k"), commands.Confirm.SelectOk, login=(user, PASSWORD))
