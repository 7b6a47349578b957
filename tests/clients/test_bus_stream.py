"""The inbox as server-sent events."""

import json

import pytest
import requests

from support.bus import TIMEOUT_S, assert_error

pytestmark = pytest.mark.bus


def items_of(answer):
    """The items, as they come."""
    data = []
    for line in answer.iter_lines(decode_unicode=True):
        if line.startswith("data: "):
            data.append(line.removeprefix("data: "))
        elif not line and data:
            yield json.loads("\n".join(data))
            data = []


def test_messages_come_as_events_in_order(bus):
    sender, reader = bus.pair()
    for number in range(5):
        sender.send(bus.topic("n"), number)
    path = f"{reader.url}/receive/stream"
    with requests.get(path, auth=reader.auth, stream=True, timeout=TIMEOUT_S) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        items = items_of(answer)
        assert [next(items)["body"] for _ in range(5)] == list(range(5))
        sender.send(bus.topic("n"), {"late": [1, 2]})
        item = next(items)
        assert (item["body"], item["sender"]) == ({"late": [1, 2]}, sender.id)
    assert reader.receive() == []


def test_streams_are_for_clients(bus):
    assert_error(bus.call("GET", "/receive/stream"), 403)
    assert_error(bus.call("GET", "/receive/stream", auth=None), 401)
