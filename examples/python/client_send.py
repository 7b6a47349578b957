"""Puts a message on a client's outbox: client_send.py QUEUE TOPIC WORD...

The bus reads the topic from the message. Done means that the message is on the server's disk.
"""

import json
import sys

import pika

from connection import connect


def main():
    if len(sys.argv) < 4:
        sys.exit("usage: client_send.py QUEUE TOPIC WORD...")
    queue, topic, *words = sys.argv[1:]
    connection, channel = connect()
    channel.confirm_delivery()
    message = json.dumps({"topic": topic, "message": " ".join(words)})
    persistent = pika.BasicProperties(content_type="application/json", delivery_mode=2)
    # mandatory: a queue that is not there is an error, instead of a message that is gone.
    channel.basic_publish(exchange="", routing_key=queue, body=message, properties=persistent, mandatory=True)
    connection.close()
    print(f"sent to {queue} on {topic}")


if __name__ == "__main__":
    main()
