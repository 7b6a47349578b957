"""Rows of a table of answers: what is sent, and what is said in return. Names in them that begin with `{n}` are new for each row."""

import contextlib
import copy
import uuid

from pamqp import body, commands, frame, header

from support.raw import RawConnection


class Unchecked:
    """A method whose names pamqp would not let pass; `{n}` in its texts is replaced."""

    def __init__(self, kind, **fields):
        self.kind = kind
        self.fields = fields

    def build(self, prefix):
        def fill(value):
            return value.replace("{n}", prefix) if isinstance(value, str) else value

        method = type(self.kind.__name__, (self.kind,), {"validate": lambda _: None})()
        for name, value in self.fields.items():
            if name == "arguments":
                value = {key: fill(each) for key, each in value.items()}
            setattr(method, name, fill(value))
        return method


def hyphens(arguments):
    return {key.replace("_", "-"): value for key, value in arguments.items()}


def exchange(name, kind="direct", passive=False, durable=False, auto_delete=False, internal=False, **arguments):
    return Unchecked(
        commands.Exchange.Declare,
        exchange=name,
        exchange_type=kind,
        passive=passive,
        durable=durable,
        auto_delete=auto_delete,
        internal=internal,
        nowait=False,
        arguments=hyphens(arguments),
    )


def delete(name, if_unused=False):
    return Unchecked(commands.Exchange.Delete, exchange=name, if_unused=if_unused, nowait=False)


def queue(name="{n}q", passive=False, durable=False, exclusive=True, auto_delete=False, **arguments):
    return Unchecked(
        commands.Queue.Declare,
        queue=name,
        passive=passive,
        durable=durable,
        exclusive=exclusive,
        auto_delete=auto_delete,
        nowait=False,
        arguments=hyphens(arguments),
    )


def delete_queue(name="{n}q", if_unused=False, if_empty=False):
    return Unchecked(commands.Queue.Delete, queue=name, if_unused=if_unused, if_empty=if_empty, nowait=False)


def purge(name="{n}q"):
    return Unchecked(commands.Queue.Purge, queue=name, nowait=False)


def bind(name, source, key="k", **arguments):
    return Unchecked(
        commands.Queue.Bind, queue=name, exchange=source, routing_key=key, nowait=False, arguments=hyphens(arguments)
    )


def unbind(name, source, key="k"):
    return Unchecked(commands.Queue.Unbind, queue=name, exchange=source, routing_key=key, arguments={})


def link(destination, source):
    fields = {"destination": destination, "source": source, "routing_key": "k", "nowait": False, "arguments": {}}
    return Unchecked(commands.Exchange.Bind, **fields)


def unlink(destination, source):
    fields = {"destination": destination, "source": source, "routing_key": "k", "nowait": False, "arguments": {}}
    return Unchecked(commands.Exchange.Unbind, **fields)


def consume(name, tag="", no_local=False, no_ack=False, exclusive=False, **arguments):
    return Unchecked(
        commands.Basic.Consume,
        queue=name,
        consumer_tag=tag,
        no_local=no_local,
        no_ack=no_ack,
        exclusive=exclusive,
        nowait=False,
        arguments=hyphens(arguments),
    )


def get(name, no_ack=False):
    return Unchecked(commands.Basic.Get, queue=name, no_ack=no_ack)


class Publish:
    """A publish with its content."""

    def __init__(self, to, key, **properties):
        self.to, self.key, self.properties = to, key, properties


def missing(what, name):
    return (404, f"NOT_FOUND - no {what} '{name}' in vhost '/'")


def differs(argument, received, current, name="{n}x"):
    text = f"inequivalent arg '{argument}' for exchange '{name}' in vhost '/': received {received} but current is {current}"
    return (406, f"PRECONDITION_FAILED - {text}")


def unknown(tag):
    return (406, f"PRECONDITION_FAILED - unknown delivery tag {tag}")


def precondition(text):
    return (406, f"PRECONDITION_FAILED - {text}")


def send(raw, what, prefix):
    if not isinstance(what, Publish):
        raw.method(what.build(prefix) if isinstance(what, Unchecked) else what)
        return
    properties = commands.Basic.Properties(**what.properties)
    raw.method(commands.Basic.Publish(exchange=what.to.replace("{n}", prefix), routing_key=what.key.replace("{n}", prefix)))
    raw.send(frame.marshal(header.ContentHeader(body_size=1, properties=properties), 1))
    raw.send(frame.marshal(body.ContentBody(b"x"), 1))


def check(broker, before, what, expected, login=None):
    """Sends what has to succeed, then `what`, and compares its answer; takes back the queue and exchange that stay.

    With `login`, the last is sent on a connection of that user.
    """
    prefix = f"row-{uuid.uuid4().hex[:8]}-"
    try:
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(RawConnection(broker)).handshake().open_channel()
            for each in before:
                send(raw, each, prefix)
                if not isinstance(each, Publish):
                    _, answer = raw.read_method()
                    assert answer.name.endswith("Ok"), f"{answer.name} {dict(answer)}"
                    if isinstance(answer, commands.Basic.GetOk):
                        raw.read_content()
            if login:
                other = copy.copy(broker)
                other.user, other.password = login
                raw = stack.enter_context(RawConnection(other)).handshake().open_channel()
            send(raw, what, prefix)
            if isinstance(what, Publish) and not isinstance(expected, tuple):
                # A publish has no answer: another method on its channel does.
                what = commands.Confirm.Select()
                send(raw, what, prefix)
            compare(raw.read_method()[1], what, expected, prefix)
    finally:
        with RawConnection(broker) as raw:
            raw.handshake().open_channel()
            for each in [each for each in (*before, what) if getattr(each, "kind", None) in STAYS]:
                send(raw, STAYS[each.kind](each.fields), prefix)
                raw.read_method()


STAYS = {
    commands.Queue.Declare: lambda fields: delete_queue(fields["queue"]),
    commands.Exchange.Declare: lambda fields: delete(fields["exchange"]),
}


def compare(answer, what, expected, prefix):
    if isinstance(expected, tuple):
        code, text = expected
        assert (answer.reply_code, answer.reply_text) == (code, text.replace("{n}", prefix))
        closes = commands.Connection.Close if code >= 500 else commands.Channel.Close
        assert isinstance(answer, closes)
        asked = commands.Basic.Publish if isinstance(what, Publish) else getattr(what, "kind", type(what))
        assert (answer.class_id << 16 | answer.method_id) == asked.index
    elif isinstance(expected, dict):
        wanted = {key: value.replace("{n}", prefix) if isinstance(value, str) else value for key, value in expected.items()}
        assert {key: value for key, value in dict(answer).items() if key in wanted} == wanted
    else:
        assert isinstance(answer, expected), dict(answer)
