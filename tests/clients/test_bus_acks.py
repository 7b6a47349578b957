"""Messages that a reader has for a while and acknowledges."""

import pytest

from support.bus import assert_error

pytestmark = pytest.mark.bus


def post(bus, client, path, ids, **fields):
    answer = bus.call("POST", path, json={"ids": ids, **fields}, auth=client.auth)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_acknowledged_messages_are_gone_and_others_come_back_in_order(bus):
    sender, reader = bus.pair()
    for number in range(4):
        sender.send(bus.topic("n"), number)
    items = reader.receive(ack="explicit", lease=60)
    assert [item["body"] for item in items] == [0, 1, 2, 3]
    assert not any(item["redelivered"] for item in items)
    assert reader.receive() == []
    assert post(bus, reader, "/ack", [items[1]["ack"]]) == {"count": 1, "unknown": []}
    assert post(bus, reader, "/nack", [item["ack"] for item in items[2:]])["count"] == 2
    again = reader.receive(ack="explicit", lease=1)
    assert [(item["body"], item["redelivered"]) for item in again] == [(2, True), (3, True)]
    late = reader.receive(wait=10)
    assert [item["body"] for item in late] == [2, 3]
    assert post(bus, reader, "/ack", [again[0]["ack"]]) == {"count": 0, "unknown": [again[0]["ack"]]}


def test_nobody_acknowledges_for_another(bus):
    sender, reader = bus.pair()
    sender.send(bus.topic("x"), "private")
    (item,) = reader.receive(ack="explicit", lease=60)
    assert post(bus, sender, "/ack", [item["ack"]])["count"] == 0
    assert post(bus, reader, "/ack", [item["ack"]])["count"] == 1


@pytest.mark.parametrize("body", [{}, {"ids": "x"}, {"ids": ["x"]}, {"ids": [7]}, {"ids": None}])
def test_ids_have_to_be_ids(bus, body):
    error = assert_error(bus.call("POST", "/ack", json=body, auth=bus.create().auth), 400)
    assert error["field"] == "ids"
