"""What is refused, row by row (specification of behaviour, §5, §7, §8): reply code, text and method, as RabbitMQ 3.10 says them.

Each row is a name, what has to succeed before, and the method or publish that is answered; names of queues and exchanges begin with
`{n}`, which is new for each row.
"""

import uuid

import pytest
from pamqp import body, commands, frame, header

from support.raw import PROTOCOL_HEADER, RawConnection
from support.rows import (
    Publish,
    bind,
    check,
    consume,
    delete,
    differs,
    exchange,
    get,
    link,
    missing,
    precondition,
    queue,
    send,
    unbind,
    unknown,
    unlink,
)

DEFAULT = (403, "ACCESS_REFUSED - operation not permitted on the default exchange")

X, A = exchange("{n}x", auto_delete=True), exchange("{n}x", auto_delete=True, alternate_exchange="a")
ROWS = [
    # Exchanges.
    ("reserved name", [], exchange("amq.foo"), (403, "ACCESS_REFUSED - exchange name 'amq.foo' contains reserved prefix 'amq.*'")),
    ("reserved, alike", [], exchange("amq.direct", durable=True), commands.Exchange.DeclareOk),
    ("reserved, other", [], exchange("amq.direct", "fanout", durable=True), differs("type", "'fanout'", "'direct'", "amq.direct")),
    ("declare default", [], exchange(""), DEFAULT),
    ("look for default", [], exchange("", passive=True), DEFAULT),
    ("delete default", [], delete(""), DEFAULT),
    ("bind default", [queue()], bind("{n}q", ""), DEFAULT),
    ("unbind default", [queue()], unbind("{n}q", ""), DEFAULT),
    ("from default", [], link("amq.fanout", ""), DEFAULT),
    ("to default", [], link("", "amq.fanout"), DEFAULT),
    ("not from default", [], unlink("amq.fanout", ""), DEFAULT),
    ("not to default", [], unlink("", "amq.fanout"), DEFAULT),
    ("delete system", [], delete("amq.direct"), (403, "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed")),
    ("delete no system", [], delete("amq.no"), (403, "ACCESS_REFUSED - deletion of system exchange 'amq.no' in vhost '/' not allowed")),
    ("look, missing", [], exchange("{n}x", passive=True), missing("exchange", "{n}x")),
    ("look, unknown type", [], exchange("{n}x", "zzz", passive=True), missing("exchange", "{n}x")),
    ("look, other", [X], exchange("{n}x", "topic", passive=True, durable=True), commands.Exchange.DeclareOk),
    ("other type", [X], exchange("{n}x", "fanout", durable=True), differs("type", "'fanout'", "'direct'")),
    ("other durable", [X], exchange("{n}x", durable=True), differs("durable", "'true'", "'false'")),
    ("other auto_delete", [X], exchange("{n}x"), differs("auto_delete", "'false'", "'true'")),
    ("other internal", [X], exchange("{n}x", auto_delete=True, internal=True), differs("internal", "'true'", "'false'")),
    ("other everything", [X], exchange("{n}x", "fanout", durable=True, internal=True, alternate_exchange="a"), differs("type", "'fanout'", "'direct'")),
    ("other flags and alternate", [X], exchange("{n}x", durable=True, internal=True, alternate_exchange="a"), differs("durable", "'true'", "'false'")),
    ("other internal and alternate", [X], exchange("{n}x", auto_delete=True, internal=True, alternate_exchange="a"), differs("internal", "'true'", "'false'")),
    ("alternate now", [X], A, differs("alternate-exchange", "the value 'a' of type 'longstr'", "none")),
    ("no alternate now", [A], X, differs("alternate-exchange", "none", "the value 'a' of type 'longstr'")),
    ("other alternate", [A], exchange("{n}x", auto_delete=True, alternate_exchange="b"), differs("alternate-exchange", "'b'", "'a'")),
    ("other unknown argument", [X], exchange("{n}x", auto_delete=True, foo=1), commands.Exchange.DeclareOk),
    ("alternate, no string", [], exchange("{n}x", alternate_exchange=True), precondition("invalid type 'bool' for arg 'alternate-exchange' in exchange '{n}x' in vhost '/'")),
    ("unknown type", [], exchange("{n}x", "zzz"), (503, "COMMAND_INVALID - unknown exchange type 'zzz'")),
    ("unknown type of default", [], exchange("", "zzz"), (503, "COMMAND_INVALID - unknown exchange type 'zzz'")),
    ("delete missing", [], delete("{n}x"), commands.Exchange.DeleteOk),
    ("delete used", [X, queue(), bind("{n}q", "{n}x")], delete("{n}x", True), precondition("exchange '{n}x' in vhost '/' in use")),
    ("delete destination", [X, link("{n}x", "amq.fanout")], delete("{n}x", True), commands.Exchange.DeleteOk),
    ("bind, no queue", [], bind("{n}q", "amq.direct"), missing("queue", "{n}q")),
    ("bind, no exchange", [queue()], bind("{n}q", "{n}x"), missing("exchange", "{n}x")),
    ("bind, neither", [], bind("{n}q", "{n}x"), missing("exchange", "{n}x")),
    ("bind, none declared", [], bind("", "amq.direct"), (404, "NOT_FOUND - no previously declared queue")),
    ("link, no source", [], link("amq.fanout", "{n}x"), missing("exchange", "{n}x")),
    ("link, no destination", [], link("{n}x", "amq.fanout"), missing("exchange", "{n}x")),
    ("link, neither", [], link("{n}y", "{n}x"), missing("exchange", "{n}x")),
    ("unbind, not bound", [queue()], unbind("{n}q", "amq.direct"), commands.Queue.UnbindOk),
    ("unbind, no queue", [], unbind("{n}q", "amq.direct"), commands.Queue.UnbindOk),
    ("unbind, no exchange", [queue()], unbind("{n}q", "{n}x"), commands.Queue.UnbindOk),
    ("unlink, neither", [], unlink("{n}y", "{n}x"), commands.Exchange.UnbindOk),
    ("x-match, unknown", [queue()], bind("{n}q", "amq.headers", x_match="foo"), precondition('Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any-with-x')),
    ("x-match, no string", [queue()], bind("{n}q", "amq.headers", x_match=True), precondition("Invalid x-match field type bool (value true); expected longstr")),
    ("weight no integer", [exchange("{n}x", "x-consistent-hash", auto_delete=True), queue()], bind("{n}q", "{n}x", "abc"), precondition('The binding key must be an integer: <<"abc">>')),
    ("weight", [exchange("{n}x", "x-consistent-hash", auto_delete=True), queue()], bind("{n}q", "{n}x", "2"), commands.Queue.BindOk),
    ("random", [], exchange("{n}x", "x-random", auto_delete=True), commands.Exchange.DeclareOk),
    ("modulus", [], exchange("{n}x", "x-modulus-hash", auto_delete=True), commands.Exchange.DeclareOk),
    ("auto-delete, unbound", [X, queue(), bind("{n}q", "{n}x"), unbind("{n}q", "{n}x")], exchange("{n}x", passive=True), missing("exchange", "{n}x")),
    ("line breaks", [exchange("{n}\r\nx", auto_delete=True)], exchange("{n}x", passive=True), commands.Exchange.DeclareOk),
    ("line breaks, bind", [X, queue(), bind("{n}q", "{n}\nx"), Publish("{n}x", "k")], get("{n}q"), commands.Basic.GetOk),
    # Publishing.
    ("publish, no exchange", [], Publish("{n}x", "k"), missing("exchange", "{n}x")),
    ("publish, internal", [exchange("{n}x", auto_delete=True, internal=True)], Publish("{n}x", "k"), (403, "ACCESS_REFUSED - cannot publish to internal exchange '{n}x' in vhost '/'")),
    ("another's user-id", [], Publish("", "k", user_id="bob"), precondition("user_id property set to 'bob' but authenticated user was 'guest'")),
    ("CC, a number", [], Publish("", "k", headers={"CC": True}), precondition('invalid message: {unacceptable_type_in_header,"CC",bool}')),
    ("BCC, a string", [], Publish("", "k", headers={"BCC": "a"}), precondition('invalid message: {unacceptable_type_in_header,"BCC",longstr}')),
    ("confirm on tx", [commands.Tx.Select()], commands.Confirm.Select(), precondition("cannot switch from tx to confirm mode")),
    ("tx on confirm", [commands.Confirm.Select()], commands.Tx.Select(), precondition("cannot switch from confirm to tx mode")),
    ("confirm twice", [commands.Confirm.Select()], commands.Confirm.Select(), commands.Confirm.SelectOk),
    ("commit without tx", [], commands.Tx.Commit(), precondition("channel is not transactional")),
    ("rollback without tx", [], commands.Tx.Rollback(), precondition("channel is not transactional")),
    # Consuming.
    ("consume, no queue", [], consume("{n}q"), missing("queue", "{n}q")),
    ("consume, none declared", [], consume(""), (404, "NOT_FOUND - no previously declared queue")),
    ("tag in use", [queue(), consume("{n}q", "t")], consume("{n}q", "t"), (530, "NOT_ALLOWED - attempt to reuse consumer tag 't'")),
    ("exclusive, not alone", [queue(), consume("{n}q")], consume("{n}q", exclusive=True), (403, "ACCESS_REFUSED - queue '{n}q' in vhost '/' in exclusive use")),
    ("beside exclusive", [queue(), consume("{n}q", exclusive=True)], consume("{n}q"), (403, "ACCESS_REFUSED - queue '{n}q' in vhost '/' in exclusive use")),
    ("no-local", [queue()], consume("{n}q", no_local=True), commands.Basic.ConsumeOk),
    ("cancel unknown", [], commands.Basic.Cancel("nobody"), commands.Basic.CancelOk),
    ("get, no queue", [], get("{n}q"), missing("queue", "{n}q")),
    ("get, nothing", [queue()], get("{n}q"), commands.Basic.GetEmpty),
    ("ack unknown", [], commands.Basic.Ack(5), unknown(5)),
    ("ack unknown, multiple", [], commands.Basic.Ack(5, True), unknown(5)),
    ("ack 0", [], commands.Basic.Ack(0), unknown(0)),
    ("nack unknown", [], commands.Basic.Nack(5), unknown(5)),
    ("nack 0", [], commands.Basic.Nack(0), unknown(0)),
    ("reject unknown", [], commands.Basic.Reject(5), unknown(5)),
    ("reject 0", [], commands.Basic.Reject(0), unknown(0)),
    ("recover", [], commands.Basic.Recover(True), commands.Basic.RecoverOk),
    ("recover, no requeue", [], commands.Basic.Recover(False), (540, "NOT_IMPLEMENTED - requeue=false")),
    ("recover-async, no requeue", [], commands.Basic.RecoverAsync(False), (540, "NOT_IMPLEMENTED - requeue=false")),
    ("prefetch-size", [], commands.Basic.Qos(10, 1), (540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)")),
    ("flow on", [], commands.Channel.Flow(True), commands.Channel.FlowOk),
    *(
        (f"from the server: {each.name}", [], each, (503, "COMMAND_INVALID - unimplemented method"))
        for each in (
            commands.Channel.OpenOk(),
            commands.Channel.FlowOk(True),
            commands.Channel.CloseOk(),
            commands.Exchange.BindOk(),
            commands.Queue.DeclareOk("q", 0, 0),
            commands.Basic.ConsumeOk("t"),
            commands.Basic.GetEmpty(),
            commands.Tx.CommitOk(),
            commands.Confirm.SelectOk(),
            commands.Connection.Blocked("no"),
            commands.Connection.CloseOk(),
        )
    ),
    ("flow off", [], commands.Channel.Flow(False), (540, "NOT_IMPLEMENTED - active=false")),
]


@pytest.mark.parametrize(("before", "what", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_answer(broker, before, what, expected):
    check(broker, before, what, expected)


def read_until(raw, done, found):
    """Reads on, adding deliveries to `found` as consumer and body, until `done` says so of a method or of what was found."""
    while not done(None, found):
        _, method = raw.read_method()
        if isinstance(method, commands.Basic.Deliver):
            found.append(method.consumer_tag + raw.read_content()[1].decode())
        elif isinstance(method, commands.Basic.GetOk):
            raw.read_content()
        if done(method, found):
            return


def expect_deliveries(raw, expected, found):
    """Exactly these have to come, in this order."""
    read_until(raw, lambda _, found: len(found) >= len(expected), found)
    assert found == expected
    with pytest.raises(TimeoutError):
        _, method = raw.read_method(0.2)
        raise AssertionError(f"one too many: {method.name} {dict(method)}")


def qos(count, shared=False):
    return commands.Basic.Qos(prefetch_count=count, global_=shared)


PREFETCH = [
    ("each consumer", [qos(2), consume("{n}q", "a"), consume("{n}q", "b")], "a0 a1 b2 b3", commands.Basic.Ack(1), "a4"),
    ("the channel", [qos(3, True), consume("{n}q", "a"), consume("{n}q", "b")], "a0 a1 a2", commands.Basic.Ack(1), "a3"),
    ("both", [qos(2), qos(3, True), consume("{n}q", "a"), consume("{n}q", "b")], "a0 a1 b2", qos(4, True), "b3"),
    ("raised", [qos(1, True), consume("{n}q", "a")], "a0", qos(3, True), "a1 a2"),
    ("ended", [qos(1, True), consume("{n}q", "a")], "a0", qos(0, True), "a1 a2 a3 a4 a5"),
    ("lowered", [consume("{n}q", "a"), qos(2, True)], "a0 a1 a2 a3 a4 a5", commands.Basic.Ack(4, True), ""),
    ("not of gets", [qos(2, True), get("{n}q"), consume("{n}q", "a")], "a1 a2", commands.Basic.Ack(1), ""),
    ("not without acks", [qos(2, True), consume("{n}q", "a", no_ack=True)], "a0 a1 a2 a3 a4 a5", qos(1), ""),
    ("of a cancelled one", [qos(2, True), consume("{n}q", "a"), commands.Basic.Cancel("a"), consume("{n}q", "b")], "a0 a1", commands.Basic.Ack(2, True), "b2 b3"),
]


@pytest.mark.parametrize(("before", "first", "then", "second"), [row[1:] for row in PREFETCH], ids=[row[0] for row in PREFETCH])
def test_prefetch_counts(broker, before, first, then, second):
    """What is delivered of six messages, and what after one more method."""
    prefix = f"prefetch-{uuid.uuid4().hex[:8]}-"
    with RawConnection(broker) as raw:
        raw.handshake().open_channel()
        send(raw, queue(), prefix)
        raw.expect(commands.Queue.DeclareOk)
        for number in range(6):
            raw.method(commands.Basic.Publish(exchange="", routing_key=f"{prefix}q"))
            raw.send(frame.marshal(header.ContentHeader(body_size=1, properties=commands.Basic.Properties()), 1))
            raw.send(frame.marshal(body.ContentBody(str(number).encode()), 1))
        first, second = first.split(), second.split()
        found = []
        for each in before:
            if isinstance(each, commands.Basic.Cancel):
                # What the first one got has to be there before it goes.
                read_until(raw, lambda _, found: len(found) == len(first), found)
            send(raw, each, prefix)
            read_until(raw, lambda method, _: method is not None and method.name.endswith("Ok"), found)
        expect_deliveries(raw, first, found)
        send(raw, then, prefix)
        if isinstance(then, commands.Basic.Qos):
            read_until(raw, lambda method, _: isinstance(method, commands.Basic.QosOk), found := [])
        else:
            found = []
        expect_deliveries(raw, second, found)


def test_server_announces_what_rabbitmq_does(broker):
    with RawConnection(broker) as raw:
        raw.send(PROTOCOL_HEADER)
        start = raw.expect(commands.Connection.Start)
        names = [
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "consumer_priorities",
            "authentication_failure_close",
            "per_consumer_qos",
            "direct_reply_to",
        ]
        assert start.server_properties["capabilities"] == dict.fromkeys(names, True)


def test_secret_may_be_updated_on_an_open_connection(broker):
    with RawConnection(broker) as raw:
        raw.handshake().open_channel()
        raw.method(commands.Connection.UpdateSecret("another secret", "it is time"), 0)
        raw.expect(commands.Connection.UpdateSecretOk)
        raw.method(commands.Queue.Declare(queue="", exclusive=True))
        raw.expect(commands.Queue.DeclareOk)
