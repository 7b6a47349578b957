"""Policies with unmodified pika: what they set on queues and exchanges that are there, which one counts, and their end."""

import pytest

from support.pika_client import get_all, publish, ready
from support.wait import eventually


@pytest.fixture
def channel(connection):
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def holds(channel, queue, count, bodies=5):
    """Whether, of so many messages, the queue keeps that many; it is empty before and after."""
    channel.queue_purge(queue)
    publish(channel, queue, *(b"x" for _ in range(bodies)))
    found = ready(channel, queue)
    channel.queue_purge(queue)
    return found == count


def test_length_by_policy_counts_for_a_queue_that_is_there_and_ends_with_the_policy(channel, names, management):
    queue = names.queue(channel)
    assert holds(channel, queue, 5)
    path = management.policy(queue, f"^{queue}$", max_length=2)
    eventually(lambda: holds(channel, queue, 2))
    management.delete(path)
    eventually(lambda: holds(channel, queue, 5))


def test_policy_is_for_a_queue_that_comes_later(channel, names, management):
    queue = names.new()
    management.policy(queue, f"^{queue}$", max_length=2)
    channel.queue_declare(queue)
    eventually(lambda: holds(channel, queue, 2))


def test_policy_with_the_highest_priority_counts(channel, names, management):
    queue = names.queue(channel)
    management.policy(f"{queue}-low", f"^{queue}$", priority=1, max_length=1)
    management.policy(f"{queue}-high", f"^{queue}$", priority=2, max_length=3)
    eventually(lambda: holds(channel, queue, 3))


@pytest.mark.parametrize(("own", "of_policy"), [(2, 4), (4, 2)])
def test_smaller_of_argument_and_policy_counts(channel, names, management, own, of_policy):
    queue, witness = names.queue(channel, arguments={"x-max-length": own}), names.new()
    management.policy(queue, f"^({queue}|{witness})$", max_length=of_policy)
    channel.queue_declare(witness)
    eventually(lambda: holds(channel, witness, of_policy))
    eventually(lambda: holds(channel, queue, 2))


@pytest.mark.parametrize(("user", "operator"), [(2, 4), (4, 2)])
def test_smaller_of_policy_and_operator_policy_counts(channel, names, management, user, operator):
    queue = names.queue(channel)
    management.policy(queue, f"^{queue}$", max_length=user)
    management.policy(queue, f"^{queue}$", apply_to="queues", operator=True, max_length=operator)
    eventually(lambda: holds(channel, queue, 2))


def test_policy_for_exchanges_is_none_for_queues(channel, names, management):
    queue, other = names.queue(channel), names.queue(channel)
    management.policy(queue, f"^{queue}$", apply_to="exchanges", alternate_exchange="amq.fanout")
    management.policy(other, f"^{other}$", apply_to="queues", max_length=2)
    eventually(lambda: holds(channel, other, 2))
    assert holds(channel, queue, 5)


def test_time_and_dead_letters_by_policy(channel, names, management):
    queue, grave = names.queue(channel), names.queue(channel)
    management.policy(queue, f"^{queue}$", message_ttl=50, dead_letter_exchange="", dead_letter_routing_key=grave)

    def dies():
        publish(channel, queue, b"x")
        channel.connection.sleep(0.1)
        return ready(channel, grave) > 0

    eventually(dies)
    assert set(get_all(channel, grave)) == {b"x"}


def test_argument_wins_over_policy_where_they_are_no_numbers(channel, names, management):
    own, other = names.queue(channel), names.queue(channel)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": own, "x-max-length": 1}
    queue, witness = names.queue(channel, arguments=arguments), names.queue(channel, arguments={"x-max-length": 1})
    management.policy(queue, f"^({queue}|{witness})$", dead_letter_exchange="", dead_letter_routing_key=other)

    def told():
        publish(channel, witness, b"1", b"2")
        return ready(channel, other) > 0

    eventually(told)
    channel.queue_purge(other)
    publish(channel, queue, b"1", b"2")
    eventually(lambda: ready(channel, own) == 1)
    assert ready(channel, other) == 0


def test_alternate_exchange_by_policy_takes_what_is_not_routed(channel, names, management):
    exchange, alternate = names.exchange(channel, "direct"), names.exchange(channel, "fanout")
    queue = names.queue(channel)
    channel.queue_bind(queue, alternate)
    path = management.policy(exchange, f"^{exchange}$", apply_to="exchanges", alternate_exchange=alternate)

    def routed():
        channel.basic_publish(exchange, "nowhere", b"x")
        found = ready(channel, queue)
        channel.queue_purge(queue)
        return found == 1

    eventually(routed)
    management.delete(path)
    eventually(lambda: not routed())


def test_overflow_by_policy(channel, names, management):
    queue = names.queue(channel, arguments={"x-max-length": 1})
    management.policy(queue, f"^{queue}$", overflow="reject-publish")

    def refuses():
        channel.queue_purge(queue)
        try:
            publish(channel, queue, b"1", b"2")
        except Exception as error:
            return type(error).__name__ == "NackError"
        return False

    eventually(refuses)
    assert get_all(channel, queue) == [b"1"]
