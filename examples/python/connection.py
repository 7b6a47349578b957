"""Where the broker is and who is calling: AMQP_URL, or a client's own soar-config.json, or the guest of this machine."""

import json
import os
from urllib.parse import quote, urlsplit

import pika

DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"


def url():
    """AMQP_URL if it is set; SOAR_CONFIG names a client's file, whose id and secret are its login at AMQP_ADDRESS."""
    if "SOAR_CONFIG" not in os.environ:
        return os.environ.get("AMQP_URL", DEFAULT_URL)
    with open(os.environ["SOAR_CONFIG"], encoding="utf-8") as file:
        config = json.load(file)
    address = os.environ.get("AMQP_ADDRESS", f"{urlsplit(config['api']).hostname}:5672")
    return f"amqp://{quote(config['client_id'], safe='')}:{quote(config['secret'], safe='')}@{address}/%2F"


def connect():
    """A connection and a channel."""
    connection = pika.BlockingConnection(pika.URLParameters(url()))
    return connection, connection.channel()
