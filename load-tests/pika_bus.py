#!/usr/bin/env python3
"""A writer and a reader in Python with pika, as the bus's users have them: JSON of 256 B from an outbox to an inbox.

With --http the broker is Backbone, which forwards by itself; both are clients of its bus. Without, a third process in
Python forwards from the outbox to a topic exchange, to which the inbox is bound: the system that the bus replaces.
Every message is numbered; the result is a line of JSON on standard output. Nothing is confirmed or acknowledged.
"""

import argparse
import base64
import http.client
import json
import multiprocessing
import os
import sys
import time

import pika

SIZE = 256
TOPIC = "fleet.alerts.new"
LAST = "the last"
# How long nothing may arrive.
STALL_S = 30


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amqp", type=int, required=True, metavar="PORT")
    parser.add_argument("--http", type=int, metavar="PORT", help="of Backbone's REST interface")
    parser.add_argument("--messages", type=int, default=40_000)
    arguments = parser.parse_args()
    if arguments.http:
        with Clients(arguments.http) as clients:
            result = run(arguments, clients.writer, clients.reader, None)
    else:
        queues = Queues(arguments.amqp)
        guest = ("guest", "guest", f"{queues.prefix}-outbox")
        result = run(arguments, guest, (*guest[:2], f"{queues.prefix}-inbox"), queues.prefix)
        queues.delete()
    print(json.dumps(result))
    return 0 if result["ok"] else 1


def run(arguments, writer, reader, forward):
    """Lets the processes run; `writer` and `reader` are user, password and queue of each."""
    ready = multiprocessing.Barrier(4 if forward else 3)
    ends = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(target=write, args=(arguments, *writer, ready, ends), daemon=True),
        multiprocessing.Process(target=read, args=(arguments, *reader, ready, ends), daemon=True),
    ]
    if forward:
        processes.append(multiprocessing.Process(target=forward_all, args=(arguments, forward, ready), daemon=True))
    for process in processes:
        process.start()
    ready.wait(STALL_S)
    seen = {}
    while len(seen) < 2:
        name, *values = ends.get(timeout=STALL_S + arguments.messages / 1000)
        seen[name] = values
    for process in processes:
        process.join(STALL_S)
        process.kill()
    (began,), (ended, delivered, wrong) = seen["writer"], seen["reader"]
    problems = [f"{wrong} messages out of order"] if wrong else []
    if delivered != arguments.messages:
        problems.append(f"{delivered} of {arguments.messages} messages delivered")
    seconds = ended - began
    return {
        "ok": not problems,
        "problems": problems,
        "seconds": seconds,
        "delivered": delivered,
        "delivered_per_s": delivered / seconds,
        "size": SIZE,
        "pika": pika.__version__,
        "python": sys.version.split()[0],
    }


def write(arguments, user, password, outbox, ready, ends):
    channel = connect(arguments.amqp, user, password)
    ready.wait(STALL_S)
    began = time.monotonic()
    for number in range(arguments.messages):
        channel.basic_publish("", outbox, message(f"{number:08}"))
    channel.basic_publish("", outbox, message(LAST))
    channel.connection.close()
    ends.put(("writer", began))


def read(arguments, user, password, inbox, ready, ends):
    channel = connect(arguments.amqp, user, password)
    at = message(LAST).index(LAST.encode())
    seen = wrong = 0

    def take(channel, method, properties, body):
        nonlocal seen, wrong
        number = body[at : at + 8]
        if number == LAST.encode():
            channel.stop_consuming()
            return
        wrong += len(body) != SIZE or int(number) != seen
        seen += 1

    channel.connection.call_later(STALL_S + arguments.messages / 1000, channel.stop_consuming)
    channel.basic_consume(inbox, take, auto_ack=True)
    ready.wait(STALL_S)
    channel.start_consuming()
    ends.put(("reader", time.monotonic(), seen, wrong))


def forward_all(arguments, prefix, ready):
    channel = connect(arguments.amqp, "guest", "guest")
    exchange = f"{prefix}-x"

    def take(channel, method, properties, body):
        channel.basic_publish(exchange, json.loads(body)["topic"], body, properties)
        if LAST.encode() in body:
            channel.stop_consuming()

    channel.basic_consume(f"{prefix}-outbox", take, auto_ack=True)
    ready.wait(STALL_S)
    channel.start_consuming()
    channel.connection.close()


def connect(port, user, password):
    login = pika.PlainCredentials(user, password)
    parameters = pika.ConnectionParameters("127.0.0.1", port, credentials=login, heartbeat=0)
    return pika.BlockingConnection(parameters).channel()


def message(number):
    """JSON of 256 octets."""
    text = json.dumps({"topic": TOPIC, "number": number, "text": ""})
    return (text[:-2] + "x" * (SIZE - len(text)) + text[-2:]).encode()


class Queues:
    """Outbox, topic exchange and inbox, declared as any broker has them."""

    def __init__(self, port):
        self.port = port
        self.prefix = f"perf-{os.getpid()}-pika"
        channel = connect(port, "guest", "guest")
        for name in ("outbox", "inbox"):
            channel.queue_declare(f"{self.prefix}-{name}", durable=True)
        channel.exchange_declare(f"{self.prefix}-x", "topic", durable=True)
        channel.queue_bind(f"{self.prefix}-inbox", f"{self.prefix}-x", TOPIC)
        channel.connection.close()

    def delete(self):
        channel = connect(self.port, "guest", "guest")
        for name in ("outbox", "inbox"):
            channel.queue_delete(f"{self.prefix}-{name}")
        channel.exchange_delete(f"{self.prefix}-x")
        channel.connection.close()


class Clients:
    """A writer and a reader that are registered with Backbone's bus, and removed at the end."""

    def __init__(self, port):
        self.port = port
        self.names = []

    def __enter__(self):
        prefix = f"perf-{os.getpid()}-pika"
        self.writer = self.register(f"{prefix}-w", "outbox")
        self.reader = self.register(f"{prefix}-r", "inbox", subscription=TOPIC)
        return self

    def __exit__(self, *_):
        for name in self.names:
            self.call("DELETE", f"/clients/{name}")

    def register(self, name, queue, **more):
        answer = self.call("POST", "/clients", {"client_id": name, "client_name": name, **more})
        self.names.append(name)
        return name, answer["secret"], f"{name}-{queue}"

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=STALL_S)
        operator = base64.b64encode(b"guest:guest").decode()
        headers = {"Authorization": f"Basic {operator}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            sys.exit(f"pika_bus: {method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text) if text else None


if __name__ == "__main__":
    sys.exit(main())
