"""The processes of the test with very many clients. Each runs a share of the clients in threads.

Client `i` sends half of its messages to `i + 1` and half to `i + 2`. Even clients send over AMQP with py-amqp, odd
ones over REST with keep-alive; of four neighbours two read over AMQP and two over REST, so that all four ways between
the protocols are used. A body is `{"from": i, "n": k}` with `k` counting up for each pair.
"""

import base64
import http.client
import json
import multiprocessing
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import amqp

THREADS = 16


def sends_by_amqp(number):
    return number % 2 == 0


def reads_by_amqp(number):
    return number // 2 % 2 == 0


def receivers(plan, number):
    """Who hears client `number`."""
    count = len(plan["clients"])
    return (number + 1) % count, (number + 2) % count


def topic(plan, receiver):
    return f"soar.{plan['run']}.to.{receiver}"


def messages(plan, number):
    """(topic, body) of everything that client `number` sends, in order."""
    targets = receivers(plan, number)
    for index in range(plan["messages"]):
        yield topic(plan, targets[index % 2]), {"from": number, "n": index // 2}


def connect(plan, number):
    client = plan["clients"][number]
    connection = amqp.Connection(
        f"{plan['host']}:{plan['amqp_port']}", client["id"], client["secret"], connect_timeout=20, read_timeout=60
    )
    connection.connect()
    return connection


def send_by_amqp(plan, number):
    """A thousand publishes in flight, then wait until the broker has confirmed each."""
    connection = connect(plan, number)
    channel = connection.channel()
    channel.confirm_select()
    confirmed = 0
    outbox = plan["clients"][number]["id"] + "-outbox"

    def on_ack(tag, multiple):
        nonlocal confirmed
        confirmed = max(confirmed, tag) if multiple else confirmed + 1

    channel.events["basic_ack"].add(on_ack)
    for name, body in messages(plan, number):
        text = json.dumps({"topic": name, "message": body})
        channel.basic_publish(amqp.Message(text, content_type="application/json"), "", outbox)
    while confirmed < plan["messages"]:
        connection.drain_events(timeout=max(0.1, plan["deadline"] - time.time()))
    connection.close()
    return confirmed


def send_by_rest(plan, number):
    """One POST a message over one connection; each is accepted before the next is sent."""
    client = plan["clients"][number]
    headers = {"Authorization": basic(client), "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(plan["host"], plan["http_port"], timeout=60)
    sent = 0
    for name, body in messages(plan, number):
        connection.request("POST", "/send", json.dumps({"topic": name, "body": body}), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise AssertionError(f"{answer.status} {text!r}")
        sent += 1
    connection.close()
    return sent


def read_by_amqp(plan, number):
    """Consume with acknowledgements until all that is due is there."""
    connection = connect(plan, number)
    channel = connection.channel()
    channel.basic_qos(0, 200, False)
    inbox = plan["clients"][number]["id"] + "-inbox"
    received = []

    def on_message(message):
        body = json.loads(message.body)
        received.append((body["message"]["from"], body["message"]["n"]))
        # One acknowledgement for fifty messages, and one for the rest.
        if len(received) % 50 == 0 or len(received) == plan["messages"]:
            channel.basic_ack(message.delivery_tag, multiple=True)

    channel.basic_consume(inbox, callback=on_message)
    while len(received) < plan["messages"] and time.time() < plan["deadline"]:
        try:
            connection.drain_events(timeout=max(0.1, plan["deadline"] - time.time()))
        except TimeoutError:
            break
    # Whatever came twice would come now.
    drain_a_moment(connection)
    connection.close()
    return received


def drain_a_moment(connection):
    try:
        while True:
            connection.drain_events(timeout=0.2)
    except TimeoutError:
        pass


def read_by_rest(plan, number):
    """GET /receive until all that is due is there."""
    client = plan["clients"][number]
    connection = http.client.HTTPConnection(plan["host"], plan["http_port"], timeout=60)
    received = []
    while len(received) < plan["messages"] and time.time() < plan["deadline"]:
        connection.request("GET", "/receive", headers={"Authorization": basic(client)})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise AssertionError(f"{answer.status} {text!r}")
        items = json.loads(text)
        received += [(item["message"]["from"], item["message"]["n"]) for item in items]
        if not items:
            time.sleep(0.25)
    connection.close()
    return received


def basic(client):
    pair = f"{client['id']}:{client['secret']}".encode()
    return "Basic " + base64.b64encode(pair).decode()


ROLES = {
    "send by AMQP": (send_by_amqp, sends_by_amqp, THREADS),
    "send by REST": (send_by_rest, lambda number: not sends_by_amqp(number), THREADS),
    # Readers wait, so each needs a thread of its own.
    "read by AMQP": (read_by_amqp, reads_by_amqp, None),
    "read by REST": (read_by_rest, lambda number: not reads_by_amqp(number), None),
}


def run_role(role, plan, results):
    """The body of one process: its clients' outcomes as {number: outcome}, or the error's text."""
    work, mine, threads = ROLES[role]
    numbers = [number for number in range(len(plan["clients"])) if mine(number)]
    try:
        with ThreadPoolExecutor(threads or len(numbers)) as pool:
            outcomes = dict(zip(numbers, pool.map(lambda number: work(plan, number), numbers)))
        results.put((role, outcomes, None))
    except BaseException:
        results.put((role, {}, traceback.format_exc()))


def run_all(plan):
    """All four roles at the same time; {role: {number: outcome}}."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=run_role, args=(role, plan, results), daemon=True) for role in ROLES]
    for process in processes:
        process.start()
    outcomes = {}
    try:
        for _ in processes:
            role, outcome, error = results.get(timeout=max(1, plan["deadline"] + 20 - time.time()))
            assert error is None, f"{role}: {error}"
            outcomes[role] = outcome
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    return outcomes
