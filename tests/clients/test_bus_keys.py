"""Calls that are made once under a key."""

import threading

import pytest

from support.bus import assert_error

pytestmark = pytest.mark.bus


def test_repeated_call_is_answered_as_before_and_sends_nothing(bus):
    sender, reader = bus.pair()
    message = {"topic": bus.topic("x"), "body": 1}
    headers = {"Idempotency-Key": "order-7"}
    answers = [bus.call("POST", "/send", json=message, headers=headers, auth=sender.auth) for _ in range(3)]
    assert {answer.text for answer in answers} == {answers[0].text}
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None, "true", "true"]
    assert len(reader.receive()) == 1
    other = {"topic": bus.topic("x"), "body": 2}
    assert_error(bus.call("POST", "/send", json=other, headers=headers, auth=sender.auth), 422)
    assert reader.receive() == []


def test_calls_at_once_send_one_message(bus):
    sender, reader = bus.pair()
    texts = []

    def send():
        message = [{"topic": bus.topic("x"), "body": number} for number in range(3)]
        headers = {"Idempotency-Key": "at-once"}
        texts.append(bus.call("POST", "/send", json=message, headers=headers, auth=sender.auth).text)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 8 and len(set(texts)) == 1
    assert [item["body"] for item in reader.receive()] == [0, 1, 2]
