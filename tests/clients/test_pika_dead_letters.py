"""Dead letters with unmodified pika: why messages become some, where they go, what their headers tell."""

import datetime

import pika
import pytest

from support.pika_client import collect, get, get_all, publish, ready
from support.wait import eventually

TTL_MS = 50


@pytest.fixture
def channel(connection):
    """With confirms: RabbitMQ lets a look at a queue overtake what is on the way to it."""
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


@pytest.fixture
def grave(channel, names):
    """A queue for dead letters, bound to an exchange of its own; the exchange and its queue have one name."""
    name = names.new("grave")
    channel.exchange_declare(name, "fanout")
    channel.queue_declare(name)
    channel.queue_bind(name, name)
    return name


def source(channel, names, grave, **arguments):
    arguments = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
    return names.queue(channel, arguments={"x-dead-letter-exchange": grave, **arguments})


def fetch(channel, queue):
    """The next message, waited for."""

    def take():
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        return method and (method, properties, body)

    return eventually(take)


def fetch_nothing(channel, queue):
    """Twice the time in which messages here expire, nothing comes."""
    channel.connection.sleep(2 * TTL_MS / 1000)
    return get(channel, queue) is None


def reject(channel, queue):
    method, _, _ = fetch_open(channel, queue)
    channel.basic_reject(method.delivery_tag, requeue=False)


def fetch_open(channel, queue):
    def take():
        method, properties, body = channel.basic_get(queue)
        return method and (method, properties, body)

    return eventually(take)


def deaths(properties):
    """Queue, reason and count of each entry, newest first."""
    return [(each["queue"], each["reason"], each["count"]) for each in properties.headers["x-death"]]


def firsts(properties):
    return tuple(properties.headers[f"x-first-death-{what}"] for what in ("queue", "reason", "exchange"))


def test_rejected_message_tells_where_when_and_why(channel, names, grave):
    queue = source(channel, names, grave)
    exchange = names.exchange(channel, "direct")
    channel.queue_bind(queue, exchange, "k")
    sent = pika.BasicProperties(delivery_mode=2, message_id="m", headers={"own": "h"}, priority=3, reply_to="r")
    channel.basic_publish(exchange, "k", b"x", sent)
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    reject(channel, queue)
    method, properties, body = fetch(channel, grave)
    assert (method.exchange, method.routing_key, method.redelivered, body) == (grave, "k", False, b"x")
    (entry,) = properties.headers["x-death"]
    time = entry.pop("time")
    assert entry == {"count": 1, "reason": "rejected", "queue": queue, "exchange": exchange, "routing-keys": ["k"]}
    assert before - datetime.timedelta(seconds=1) <= time
    assert firsts(properties) == (queue, "rejected", exchange)
    kept = (properties.delivery_mode, properties.message_id, properties.priority, properties.reply_to)
    assert kept == (2, "m", 3, "r") and properties.headers["own"] == "h"


def test_nack_of_several_makes_dead_letters_in_order(channel, names, grave):
    queue = source(channel, names, grave)
    publish(channel, queue, b"1", b"2", b"3", b"4")
    tags = [fetch_open(channel, queue)[0].delivery_tag for _ in range(4)]
    channel.basic_nack(tags[2], multiple=True, requeue=False)
    assert [fetch(channel, grave)[2] for _ in range(3)] == [b"1", b"2", b"3"]


def test_time_of_the_queue_makes_dead_letters(channel, names, grave):
    queue = source(channel, names, grave, message_ttl=TTL_MS)
    publish(channel, queue, b"1", b"2")
    letters = [fetch(channel, grave) for _ in range(2)]
    assert [body for _, _, body in letters] == [b"1", b"2"]
    assert deaths(letters[0][1]) == [(queue, "expired", 1)]
    assert "original-expiration" not in letters[0][1].headers["x-death"][0]
    assert ready(channel, queue) == 0


def test_expiration_is_taken_out_and_told(channel, names, grave):
    queue = source(channel, names, grave)
    publish(channel, queue, b"x", expiration=str(TTL_MS))
    _, properties, _ = fetch(channel, grave)
    assert properties.expiration is None
    assert properties.headers["x-death"][0]["original-expiration"] == str(TTL_MS)
    assert deaths(properties) == [(queue, "expired", 1)]


def test_what_makes_room_is_a_dead_letter(channel, names, grave):
    queue = source(channel, names, grave, max_length=2)
    publish(channel, queue, b"1", b"2", b"3", b"4")
    letters = [fetch(channel, grave) for _ in range(2)]
    assert [body for _, _, body in letters] == [b"1", b"2"]
    assert deaths(letters[0][1]) == [(queue, "maxlen", 1)]
    assert get_all(channel, queue) == [b"3", b"4"]


def test_what_a_full_queue_refuses_is_a_dead_letter_if_it_says_so(channel, names, grave):
    queue = source(channel, names, grave, max_length=1, overflow="reject-publish-dlx")
    publish(channel, queue, b"1")
    with pytest.raises(pika.exceptions.NackError):
        publish(channel, queue, b"2")
    _, properties, body = fetch(channel, grave)
    assert body == b"2" and deaths(properties) == [(queue, "maxlen", 1)]
    assert get_all(channel, queue) == [b"1"]


def test_what_a_full_queue_refuses_is_no_dead_letter_otherwise(channel, names, grave):
    queue = source(channel, names, grave, max_length=1, overflow="reject-publish")
    publish(channel, queue, b"1")
    with pytest.raises(pika.exceptions.NackError):
        publish(channel, queue, b"2")
    assert ready(channel, grave) == 0


def test_purge_and_delete_make_no_dead_letters(channel, names, grave):
    queue = source(channel, names, grave)
    publish(channel, queue, b"1", b"2")
    channel.queue_purge(queue)
    publish(channel, queue, b"3")
    channel.queue_delete(queue)
    publish(channel, grave, b"last")
    assert fetch(channel, grave)[2] == b"last"


def test_without_an_exchange_or_route_dead_letters_are_dropped(channel, names):
    nowhere = names.queue(channel, arguments={"x-dead-letter-exchange": names.new("missing")})
    unbound = names.queue(channel, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": names.new("no")})
    for queue in (nowhere, unbound):
        publish(channel, queue, b"x")
        reject(channel, queue)
        assert ready(channel, queue) == 0


def test_key_of_the_queue_takes_the_place_of_the_message_s_and_its_copies(channel, names, grave):
    queue = source(channel, names, grave, dead_letter_routing_key="dead")
    publish(channel, queue, b"x", headers={"CC": ["c"], "BCC": ["b"]})
    reject(channel, queue)
    method, properties, _ = fetch(channel, grave)
    assert method.routing_key == "dead"
    assert "CC" not in properties.headers and "BCC" not in properties.headers
    assert properties.headers["x-death"][0]["routing-keys"] == [queue, "c"]


def test_without_one_the_message_goes_to_its_own_key_and_its_copies(channel, names):
    """RabbitMQ sends it to the keys in BCC as well, which a stored message does not have here."""
    exchange = names.exchange(channel, "direct")
    queue = names.queue(channel, arguments={"x-dead-letter-exchange": exchange})
    own, copy = (names.queue(channel) for _ in range(2))
    for target, key in ((own, queue), (copy, "c")):
        channel.queue_bind(target, exchange, key)
    publish(channel, queue, b"x", headers={"CC": ["c"], "BCC": ["b"]})
    reject(channel, queue)
    _, properties, _ = fetch(channel, own)
    assert properties.headers["CC"] == ["c"] and "BCC" not in properties.headers
    fetch(channel, copy)


def test_same_death_again_counts_and_moves_to_the_front(channel, names):
    first, second = names.new(), names.new()
    for queue, target in ((first, second), (second, first)):
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": target}
        channel.queue_declare(queue, arguments=arguments)
    publish(channel, first, b"x")
    for queue in (first, second, first):
        reject(channel, queue)
    _, properties, _ = fetch(channel, second)
    assert deaths(properties) == [(first, "rejected", 2), (second, "rejected", 1)]
    assert firsts(properties) == (first, "rejected", "")


def test_circle_without_a_reject_ends(channel, names):
    """What expires in each of two queues goes to the other, and a copy to a witness."""
    witness = names.queue(channel)
    exchanges = [names.exchange(channel, "fanout") for _ in range(2)]
    queues = [source(channel, names, exchange, message_ttl=TTL_MS) for exchange in exchanges]
    for exchange, queue in zip(exchanges, reversed(queues)):
        channel.queue_bind(queue, exchange)
        channel.queue_bind(witness, exchange)
    publish(channel, queues[0], b"x")
    letters = [fetch(channel, witness)[1] for _ in range(2)]
    assert deaths(letters[1]) == [(queues[1], "expired", 1), (queues[0], "expired", 1)]
    # It has died in the first already: there it ends.
    assert [ready(channel, queue) for queue in queues] == [0, 0]
    assert fetch_nothing(channel, witness)


def test_queue_may_send_its_rejects_to_itself(channel, names):
    queue = names.new()
    channel.queue_declare(queue, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue})
    publish(channel, queue, b"x")
    reject(channel, queue)
    reject(channel, queue)
    _, properties, _ = fetch(channel, queue)
    assert deaths(properties) == [(queue, "rejected", 2)]


def test_deaths_that_the_publisher_sent_are_continued(channel, names, grave):
    queue = source(channel, names, grave)
    known = {"count": 3, "reason": "expired", "queue": "elsewhere", "exchange": "", "routing-keys": ["k"]}
    publish(channel, queue, b"x", headers={"x-death": [known]})
    reject(channel, queue)
    _, properties, _ = fetch(channel, grave)
    assert deaths(properties) == [(queue, "rejected", 1), ("elsewhere", "expired", 3)]


@pytest.mark.parametrize("value", ["text", 7, {"a": "b"}], ids=["text", "number", "table"])
def test_anything_else_under_that_name_is_replaced(channel, names, grave, value):
    queue = source(channel, names, grave)
    publish(channel, queue, b"x", headers={"x-death": value})
    reject(channel, queue)
    _, properties, _ = fetch(channel, grave)
    assert deaths(properties) == [(queue, "rejected", 1)]


def test_returned_after_its_time_it_is_a_dead_letter_at_once(channel, names, grave):
    queue = source(channel, names, grave)
    publish(channel, queue, b"late", b"next", expiration=str(TTL_MS))
    method, _, _ = fetch_open(channel, queue)
    assert fetch(channel, grave)[2] == b"next"
    channel.basic_reject(method.delivery_tag, requeue=True)
    assert fetch(channel, grave)[2] == b"late"


def test_quorum_queue_counts_deliveries_and_gives_up_after_its_limit(channel, names, grave):
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 2, "x-dead-letter-exchange": grave}
    queue = names.queue(channel, durable=True, arguments=arguments)
    publish(channel, queue, b"x")
    counts = []
    for _ in range(3):
        method, properties, _ = fetch_open(channel, queue)
        counts.append((properties.headers or {}).get("x-delivery-count", 0))
        channel.basic_nack(method.delivery_tag, requeue=True)
    assert counts == [0, 1, 2]
    _, properties, _ = fetch(channel, grave)
    assert deaths(properties) == [(queue, "delivery_limit", 1)]
    assert get(channel, queue) is None


def test_consumer_of_dead_letters_gets_them_as_they_come(connection, channel, names, grave):
    queue = source(channel, names, grave, message_ttl=TTL_MS)
    other = connection.channel()
    publish(channel, queue, *(str(number).encode() for number in range(50)))
    letters = collect(other, grave, 50, auto_ack=True)
    assert [body for _, _, body in letters] == [str(number).encode() for number in range(50)]
    other.cancel()
