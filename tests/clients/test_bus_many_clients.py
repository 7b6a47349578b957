"""200 clients × 1,000 messages across the bus, AMQP and REST mixed: none lost, none doubled, every order kept."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from support.many_clients import messages, receivers, run_all, topic
from support.pika_client import ready

CLIENTS = int(os.environ.get("MANY_CLIENTS", "200"))
MESSAGES = int(os.environ.get("MANY_MESSAGES", "1000"))
DEADLINE_S = 150 * max(1, CLIENTS * MESSAGES // 200_000)


@pytest.mark.bus
@pytest.mark.big
@pytest.mark.timeout(DEADLINE_S + 60)
def test_nothing_is_lost_doubled_or_reordered_among_many_clients(bus, broker, channel):
    plan = {
        "run": bus.run,
        "host": broker.host,
        "amqp_port": broker.amqp_port,
        "http_port": urlsplit(broker.http_url).port,
        "messages": MESSAGES,
    }
    plan["clients"] = [None] * CLIENTS
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda number: bus.create(f"many-{number}", topic(plan, number)), range(CLIENTS)))
    plan["clients"] = [{"id": client.id, "secret": client.secret} for client in created]
    started = time.monotonic()
    plan["deadline"] = time.time() + DEADLINE_S

    outcomes = run_all(plan)

    took_s = time.monotonic() - started
    print(f"{CLIENTS} clients x {MESSAGES} messages in {took_s:.1f} s, {CLIENTS * MESSAGES / took_s:,.0f} messages/s")
    sent = {**outcomes["send by AMQP"], **outcomes["send by REST"]}
    assert sent == dict.fromkeys(range(CLIENTS), MESSAGES)
    received = {**outcomes["read by AMQP"], **outcomes["read by REST"]}
    due = {number: {} for number in range(CLIENTS)}
    for sender in range(CLIENTS):
        for receiver in receivers(plan, sender):
            name = topic(plan, receiver)
            due[receiver][sender] = [body["n"] for to, body in messages(plan, sender) if to == name]
    for number in range(CLIENTS):
        by_sender = {}
        for sender, index in received[number]:
            by_sender.setdefault(sender, []).append(index)
        assert by_sender == due[number], f"client {number} received {len(received[number])} messages"
    left = {client.inbox: ready(channel, client.inbox) for client in created}
    assert not any(left.values()), {name: count for name, count in left.items() if count}
