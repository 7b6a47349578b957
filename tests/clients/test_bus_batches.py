"""Several messages in one call of /send."""

import json

import pytest

from support.bus import assert_error

pytestmark = pytest.mark.bus


def test_list_arrives_in_order_under_the_ids_of_the_answer(bus):
    sender, reader = bus.pair()
    messages = [{"topic": bus.topic(f"n.{number}"), "body": {"number": number}} for number in range(200)]
    answer = bus.call("POST", "/send", json=messages, auth=sender.auth)
    assert answer.status_code == 200, answer.text
    items = reader.receive()
    assert [item["id"] for item in items] == answer.json()["ids"]
    assert [item["body"] for item in items] == [message["body"] for message in messages]


def test_lines_of_json_are_a_list_too(bus):
    sender, reader = bus.pair()
    lines = "".join(json.dumps({"body": number}) + "\n" for number in range(50))
    answer = bus.call(
        "POST",
        "/send",
        data=lines,
        headers={"Content-Type": "application/x-ndjson"},
        params={"topic": bus.topic("x")},
        auth=sender.auth,
    )
    assert answer.status_code == 200, answer.text
    assert [item["body"] for item in reader.receive()] == list(range(50))


def test_one_bad_message_stops_them_all(bus):
    sender, reader = bus.pair()
    messages = [{"topic": bus.topic("x"), "body": 1}, {"topic": bus.topic("x")}]
    error = assert_error(bus.call("POST", "/send", json=messages, auth=sender.auth), 400)
    assert error["field"] == "[1].body"
    assert reader.receive() == []
