"""What queues answer, row by row (specification of behaviour, §6, §8, §10, §11), as RabbitMQ 3.10 does; see `test_raw_rows.py`."""

import pytest
from pamqp import commands

from support.rows import (
    Publish,
    bind,
    check,
    consume,
    delete_queue,
    get,
    missing,
    precondition,
    purge,
    queue,
)

Q = queue("{n}q")


def differs(argument, received, current):
    text = f"inequivalent arg '{argument}' for queue '{{n}}q' in vhost '/': received {received} but current is {current}"
    return precondition(text)


def bad(argument, why):
    return precondition(f"invalid arg '{argument}' for queue '{{n}}q' in vhost '/': {why}")


def no_such(argument, kind):
    text = f"invalid arg '{argument}' for queue '{{n}}q' in vhost '/' of queue type rabbit_{kind}_queue"
    return precondition(text)


def locked(name):
    text = (
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'. It could be originally declared on"
        " another connection or the exclusive property value does not match that of the original declaration."
    )
    return (405, text)


def stored(kind="quorum", **fields):
    return queue("{n}q", **{"durable": True, "exclusive": False, "x_queue_type": kind, **fields})


def no_property(what):
    return precondition(f"invalid property '{what}' for queue '{{n}}q' in vhost '/'")


OK = commands.Queue.DeclareOk
BIG = 4294967296
DECLARES = [
    ("a number", [], Q, {"queue": "{n}q", "message_count": 0, "consumer_count": 0}),
    ("counts ready ones and consumers", [Q, Publish("", "{n}q"), Publish("", "{n}q"), get("{n}q")], queue(passive=True), {"message_count": 1, "consumer_count": 0}),
    ("reserved name", [], queue("amq.foo"), (403, "ACCESS_REFUSED - queue name 'amq.foo' contains reserved prefix 'amq.*'")),
    ("look, missing", [], queue("{n}q", passive=True), missing("queue", "{n}q")),
    ("look, no name", [], queue("", passive=True), missing("queue", "")),
    ("look, no name, one declared", [Q], queue("", passive=True), missing("queue", "")),
    ("look, other properties", [Q], queue("{n}q", passive=True, durable=True, exclusive=False), OK),
    ("alike", [Q], Q, OK),
    ("other durable", [queue(exclusive=False, auto_delete=True)], queue(exclusive=False, auto_delete=True, durable=True), differs("durable", "'true'", "'false'")),
    ("other auto_delete", [Q], queue(auto_delete=True), differs("auto_delete", "'true'", "'false'")),
    ("argument differs", [queue(x_message_ttl=100000)], queue(x_message_ttl=200000), differs("x-message-ttl", "'200000'", "'100000'")),
    ("argument missing now", [queue(x_message_ttl=100000)], Q, differs("x-message-ttl", "none", "the value '100000' of type 'signedint'")),
    ("argument new now", [Q], queue(x_max_length=100000), differs("x-max-length", "the value '100000' of type 'signedint'", "none")),
    ("several arguments differ", [queue(x_max_length=100000)], queue(x_overflow="drop-head", x_dead_letter_exchange="x"), differs("x-dead-letter-exchange", "the value 'x' of type 'longstr'", "none")),
    ("unknown argument", [queue(foo="a")], queue(bar=True), OK),
    ("line breaks", [queue("{n}\r\nq")], queue("{n}q", passive=True), OK),
    ("line breaks are not answered", [], queue("{n}\r\nq"), {"queue": "{n}q"}),
    ("line breaks, delete", [Q, Publish("", "{n}q")], delete_queue("{n}q\r\n"), {"message_count": 1}),
    ("line breaks, bind", [Q, bind("{n}\nq", "amq.direct", "{n}k"), Publish("amq.direct", "{n}k")], purge(), {"message_count": 1}),
    ("line breaks, get", [Q], get("{n}\nq"), missing("queue", "{n}\nq")),
    ("line breaks, reserved", [], queue("amq\n.foo"), (403, "ACCESS_REFUSED - queue name 'amq.foo' contains reserved prefix 'amq.*'")),
    ("exclusive is never durable", [queue(durable=True)], Q, OK),
    ("exclusive is never durable, nor is another", [Q], queue(durable=True), OK),
    ("exclusive now, and more", [queue(exclusive=False)], queue(auto_delete=True, x_max_length=1), locked("{n}q")),
    ("not exclusive now", [Q], queue(exclusive=False), locked("{n}q")),
    ("a bad argument of what is there", [Q], queue(x_expires=-1), differs("x-expires", "the value '-1' of type 'byte'", "none")),
    ("look, a name too long for the text", [], queue("{n}" + 241 * "z", passive=True), (404, "NOT_FOUND - no queue '{n}" + 217 * "z" + "...")),
    ("delete missing", [], delete_queue(), {"message_count": 0}),
    ("delete used", [Q, consume("{n}q")], delete_queue(if_unused=True), precondition("queue '{n}q' in vhost '/' in use")),
    ("delete not empty", [Q, Publish("", "{n}q")], delete_queue(if_empty=True), precondition("queue '{n}q' in vhost '/' not empty")),
    ("delete counts ready ones", [Q, Publish("", "{n}q"), Publish("", "{n}q"), get("{n}q")], delete_queue(), {"message_count": 1}),
    ("delete unused and empty", [Q], delete_queue(if_unused=True, if_empty=True), commands.Queue.DeleteOk),
    ("purge missing", [], purge(), missing("queue", "{n}q")),
    ("purge counts ready ones", [Q, Publish("", "{n}q"), Publish("", "{n}q"), get("{n}q")], purge(), {"message_count": 1}),
    ("purge, none declared", [], purge(""), (404, "NOT_FOUND - no previously declared queue")),
    ("the last declared", [Q, Publish("", "{n}q")], purge(""), {"message_count": 1}),
    ("bind the last declared to its name", [Q, bind("", "amq.direct", ""), Publish("amq.direct", "{n}q")], purge(), {"message_count": 1}),
]
ARGUMENTS = [
    ("ttl negative", queue(x_message_ttl=-1), bad("x-message-ttl", "{value_negative,-1}")),
    ("ttl a string", queue(x_message_ttl="1"), bad("x-message-ttl", '"expected integer, got longstr"')),
    ("ttl too large", queue(x_message_ttl=BIG * 1000), bad("x-message-ttl", "{value_too_large,4294967296000}")),
    ("ttl 0", queue(x_message_ttl=0), OK),
    ("expires 0", queue(x_expires=0), bad("x-expires", "{value_zero,0}")),
    ("expires negative", queue(x_expires=-1), bad("x-expires", "{value_negative,-1}")),
    ("expires a string", queue(x_expires="1"), bad("x-expires", '"expected integer, got longstr"')),
    ("length negative", queue(x_max_length=-1), bad("x-max-length", "{value_negative,-1}")),
    ("length a string", queue(x_max_length="1"), bad("x-max-length", '"expected integer, got longstr"')),
    ("length 0", queue(x_max_length=0), OK),
    ("bytes negative", queue(x_max_length_bytes=-1), bad("x-max-length-bytes", "{value_negative,-1}")),
    ("bytes a string", queue(x_max_length_bytes="1"), bad("x-max-length-bytes", '"expected integer, got longstr"')),
    ("overflow unknown", queue(x_overflow="foo"), bad("x-overflow", "invalid_overflow")),
    ("overflow a boolean", queue(x_overflow=True), bad("x-overflow", "{unacceptable_type,bool}")),
    ("overflow drop-head", queue(x_overflow="drop-head"), OK),
    ("overflow reject-publish", queue(x_overflow="reject-publish"), OK),
    ("overflow reject-publish-dlx", queue(x_overflow="reject-publish-dlx"), OK),
    ("dead letters' exchange no string", queue(x_dead_letter_exchange=True), precondition("invalid type 'bool' for arg 'x-dead-letter-exchange' in queue '{n}q' in vhost '/'")),
    ("dead letters' exchange missing", queue(x_dead_letter_exchange="nowhere"), OK),
    ("dead letters' key no string", queue(x_dead_letter_exchange="x", x_dead_letter_routing_key=True), bad("x-dead-letter-routing-key", "{unacceptable_type,bool}")),
    ("dead letters' key alone", queue(x_dead_letter_routing_key="k"), bad("x-dead-letter-routing-key", "routing_key_but_no_dlx_defined")),
    ("priorities 256", queue(x_max_priority=256), bad("x-max-priority", "{max_value_exceeded,256}")),
    ("priorities negative", queue(x_max_priority=-1), bad("x-max-priority", "{value_negative,-1}")),
    ("priorities a string", queue(x_max_priority="1"), bad("x-max-priority", '"expected integer, got longstr"')),
    ("priorities 255", queue(x_max_priority=255), OK),
    ("mode unknown", queue(x_queue_mode="foo"), bad("x-queue-mode", "\"unsupported queue mode 'foo'\"")),
    ("mode a boolean", queue(x_queue_mode=True), bad("x-queue-mode", "{unacceptable_type,bool}")),
    ("mode lazy", queue(x_queue_mode="lazy"), OK),
    ("version unknown", queue(x_queue_version=3), bad("x-queue-version", "\"unsupported queue version '3'\"")),
    ("version 2", queue(x_queue_version=2), OK),
    ("type unknown", queue(x_queue_type="foo"), bad("x-queue-type", "\"unsupported queue type 'foo'\"")),
    ("type a boolean", queue(x_queue_type=True), bad("x-queue-type", "{unacceptable_type,bool}")),
    ("type classic", queue(x_queue_type="classic"), OK),
    ("single active no boolean", queue(x_single_active_consumer="true"), bad("x-single-active-consumer", "{unacceptable_type,longstr}")),
    ("single active", queue(x_single_active_consumer=True), OK),
    ("delivery limit of classic", queue(x_delivery_limit=2), no_such("x-delivery-limit", "classic")),
    ("age of classic", queue(x_max_age="1h"), no_such("x-max-age", "classic")),
    ("segment of classic", queue(x_stream_max_segment_size_bytes=1), no_such("x-stream-max-segment-size-bytes", "classic")),
    ("leader of classic", queue(x_queue_leader_locator="client-local"), no_such("x-queue-leader-locator", "classic")),
    ("master", queue(x_queue_master_locator="client-local"), OK),
]
TYPES = [
    ("quorum", [], stored(), OK),
    ("quorum, not durable", [], stored(durable=False), no_property("non-durable")),
    ("quorum, exclusive", [], stored(exclusive=True), no_property("exclusive-owner")),
    ("quorum, auto-delete", [], stored(auto_delete=True), no_property("auto-delete")),
    ("quorum, nothing right", [], stored(auto_delete=True, exclusive=True, durable=False), no_property("auto-delete")),
    ("quorum, exclusive and not durable", [], stored(exclusive=True, durable=False), no_property("exclusive-owner")),
    ("quorum, priorities", [], stored(x_max_priority=1), no_such("x-max-priority", "quorum")),
    ("quorum, mode", [], stored(x_queue_mode="lazy"), no_such("x-queue-mode", "quorum")),
    ("quorum, age", [], stored(x_max_age="1h"), no_such("x-max-age", "quorum")),
    ("quorum, group", [], stored(x_quorum_initial_group_size=1), OK),
    ("quorum, in memory", [], stored(x_max_in_memory_length=1), OK),
    ("quorum, delivery limit", [], stored(x_delivery_limit=2), OK),
    ("quorum, delivery limit negative", [], stored(x_delivery_limit=-1), OK),
    ("quorum, reject-publish-dlx", [], stored(x_overflow="reject-publish-dlx"), OK),
    ("quorum, leader", [], stored(x_queue_leader_locator="client-local"), OK),
    ("quorum, strategy", [], stored(x_dead_letter_strategy="at-least-once", x_dead_letter_exchange="x", x_overflow="reject-publish"), OK),
    ("quorum, strategy unknown", [], stored(x_dead_letter_strategy="foo"), bad("x-dead-letter-strategy", "invalid_dlx_strategy")),
    ("quorum, then classic", [stored()], stored("classic"), differs("x-queue-type", "'classic'", "'quorum'")),
    ("quorum, then no type", [stored()], queue(durable=True, exclusive=False), differs("x-queue-type", "none", "the value 'quorum' of type 'longstr'")),
    ("classic, then no type", [stored("classic")], queue(durable=True, exclusive=False), OK),
    ("quorum, shared prefetch", [stored(), commands.Basic.Qos(prefetch_count=1, global_=True)], consume("{n}q"), (540, "NOT_IMPLEMENTED - queue '{n}q' in vhost '/' does not support global qos")),
    ("quorum, exclusive beside another", [stored(), consume("{n}q")], consume("{n}q", exclusive=True), commands.Basic.ConsumeOk),
    ("quorum, beside exclusive", [stored(), consume("{n}q", exclusive=True)], consume("{n}q"), commands.Basic.ConsumeOk),
    ("stream, bytes", [], stored("stream", x_max_length_bytes=1000000), OK),
    ("stream, not durable", [], stored("stream", durable=False), no_property("non-durable")),
    ("stream, exclusive", [], stored("stream", exclusive=True), no_property("exclusive-owner")),
    ("stream, auto-delete", [], stored("stream", auto_delete=True), no_property("auto-delete")),
    ("stream, length", [], stored("stream", x_max_length=1), no_such("x-max-length", "stream")),
    ("stream, ttl", [], stored("stream", x_message_ttl=1), no_such("x-message-ttl", "stream")),
    ("stream, dead letters", [], stored("stream", x_dead_letter_exchange="x"), no_such("x-dead-letter-exchange", "stream")),
    ("stream, priorities", [], stored("stream", x_max_priority=1), no_such("x-max-priority", "stream")),
    ("stream, bad age", [], stored("stream", x_max_age="foo"), bad("x-max-age", "invalid_max_age")),
]
SINGLE = queue(x_single_active_consumer=True)
CONSUMES = [
    ("priority a string", [Q], consume("{n}q", x_priority="1"), precondition("invalid arg 'x-priority' for queue '{n}q' in vhost '/': \"expected integer, got longstr\"")),
    ("priority negative", [Q], consume("{n}q", x_priority=-5), commands.Basic.ConsumeOk),
    ("priority a boolean", [Q], consume("{n}q", x_priority=True), precondition("invalid arg 'x-priority' for queue '{n}q' in vhost '/': \"expected integer, got bool\"")),
    ("cancel on failover", [Q], consume("{n}q", x_cancel_on_ha_failover=True), commands.Basic.ConsumeOk),
    ("unknown argument", [Q], consume("{n}q", foo="bar"), commands.Basic.ConsumeOk),
    ("exclusive of a single active", [SINGLE], consume("{n}q", exclusive=True), (403, "ACCESS_REFUSED - queue '{n}q' in vhost '/' in exclusive use")),
    ("a second one of a single active", [SINGLE, consume("{n}q")], consume("{n}q"), commands.Basic.ConsumeOk),
    ("get beside exclusive", [Q, consume("{n}q", exclusive=True)], get("{n}q"), commands.Basic.GetEmpty),
    ("get beside single active", [SINGLE, consume("{n}q")], get("{n}q"), commands.Basic.GetEmpty),
    ("get says how many are left", [Q, Publish("", "{n}q"), Publish("", "{n}q"), Publish("", "{n}q")], get("{n}q"), {"delivery_tag": 1, "redelivered": False, "exchange": "", "message_count": 2}),
    ("reply consumer with acks", [], consume("amq.rabbitmq.reply-to"), precondition("reply consumer cannot acknowledge")),
    ("reply consumer twice", [consume("amq.rabbitmq.reply-to", no_ack=True)], consume("amq.rabbitmq.reply-to", no_ack=True), precondition("reply consumer already set")),
    ("reply without consumer", [], Publish("", "k", reply_to="amq.rabbitmq.reply-to"), precondition("fast reply consumer does not exist")),
    ("declare the reply queue", [], queue("amq.rabbitmq.reply-to", exclusive=False), {"message_count": 0, "consumer_count": 1}),
    ("look for a reply queue gone", [], queue("amq.rabbitmq.reply-to.gone", passive=True), missing("queue", "amq.rabbitmq.reply-to.gone")),
]
EXPIRATIONS = [
    (f"expiration {value!r}", [], Publish("", "k", expiration=value), precondition(f"invalid expiration '{value}': {why}"))
    for value, why in (
        ("abc", "no_integer"),
        ("-1", "{value_negative,-1}"),
        ("1.5", '{leftover_string,".5"}'),
        ("1a", '{leftover_string,"a"}'),
        ("4294967296000", "{value_too_large,4294967296000}"),
    )
]


def table(rows):
    return pytest.mark.parametrize(("before", "what", "expected"), [row[1:] for row in rows], ids=[row[0] for row in rows])


@table(DECLARES)
def test_declare_delete_and_purge(broker, before, what, expected):
    check(broker, before, what, expected)


@table([(name, [], what, expected) for name, what, expected in ARGUMENTS])
def test_argument(broker, before, what, expected):
    check(broker, before, what, expected)


@table(TYPES)
def test_type(broker, before, what, expected):
    check(broker, before, what, expected)


@table(CONSUMES)
def test_consume(broker, before, what, expected):
    check(broker, before, what, expected)


@table(EXPIRATIONS)
def test_expiration(broker, before, what, expected):
    check(broker, before, what, expected)
