"""The bus over REST: clients, sending, receiving, errors."""

import http.client
import json
import re
import threading
from urllib.parse import urlsplit

import pytest
import requests

from support.bus import TIMEOUT_S, Client, assert_error

pytestmark = pytest.mark.bus


def raw_post(bus, path, data, **request):
    """A POST of bytes as they are."""
    return bus.call("POST", path, data=data, **request)


# Clients


def test_new_client_is_a_complete_configuration_with_its_secret(bus):
    client_id = bus.new_id()
    record = {"client_id": client_id, "client_name": "NocC2", "subscription": "soar.noc.#"}
    answer = bus.call("POST", "/clients", json=record)
    assert answer.status_code == 201, answer.text
    created = answer.json()
    assert {key: created[key] for key in record} == record
    assert created["subscriptions"] == ["soar.noc.#"]
    assert created["api"].startswith("http://")
    # 32 random bytes in a url-safe alphabet are 43 characters.
    assert re.fullmatch(r"[A-Za-z0-9_-]{43,}", created["secret"])


def test_secret_is_never_shown_again(bus):
    client = bus.create("quiet", "soar.#")
    for path in ("/clients", f"/clients/{client.id}"):
        answer = bus.call("GET", path)
        assert answer.status_code == 200, answer.text
        assert client.id in answer.text
        assert client.secret not in answer.text
    record = bus.call("GET", f"/clients/{client.id}").json()
    assert record["client_id"] == client.id
    assert record["subscription"] == "soar.#"
    assert record["subscriptions"] == ["soar.#"]
    assert "secret" not in record


def test_several_subscriptions_may_be_given_either_way(bus):
    patterns = [bus.topic("a.*"), bus.topic("b.#")]
    for field in ("subscription", "subscriptions"):
        record = {"client_id": bus.new_id(), "client_name": "many", field: patterns}
        created = bus.call("POST", "/clients", json=record).json()
        assert (created["subscription"], created["subscriptions"]) == (patterns[0], patterns)


def test_message_that_matches_two_patterns_arrives_once(bus):
    sender = bus.create("sender")
    record = {"client_id": bus.new_id(), "subscriptions": [bus.topic("#"), bus.topic("a.*")]}
    reader = Client(bus.server, bus.call("POST", "/clients", json=record).json())
    sender.send(bus.topic("a.b"), "once")
    assert [item["message"] for item in reader.receive()] == ["once"]


def test_duplicate_client_is_a_conflict_and_changes_nothing(bus):
    client = bus.create("first", bus.topic("#"))
    answer = bus.call("POST", "/clients", json={"client_id": client.id, "client_name": "second"})
    assert_error(answer, 409)
    assert client.receive() == []
    assert bus.call("GET", f"/clients/{client.id}").json()["client_name"] == "first"


@pytest.mark.parametrize("client_id", ["soar-publish", "soar-x", "has space", "ümlaut", "a/b", "x" * 101, "", 7])
def test_unfit_client_ids_are_refused(bus, client_id):
    error = assert_error(bus.call("POST", "/clients", json={"client_id": client_id, "client_name": "x"}), 400)
    assert error["field"] == "client_id"


def test_clients_are_the_administrators_business(bus):
    client = bus.create()
    record = {"client_id": bus.new_id(), "client_name": "x"}
    for auth in (None, ("admin", "wrong"), ("nobody", "x")):
        answer = bus.call("POST", "/clients", json=record, auth=auth)
        assert_error(answer, 401)
        assert "WWW-Authenticate" in answer.headers
    assert_error(bus.call("POST", "/clients", json=record, auth=client.auth), 403)
    assert_error(bus.call("GET", "/clients", auth=None), 401)
    assert_error(bus.call("DELETE", f"/clients/{client.id}", auth=None), 401)
    assert bus.call("GET", f"/clients/{record['client_id']}").status_code == 404


def test_changed_subscription_takes_effect(bus):
    sender, reader = bus.pair("old.#")
    for verb, topic in (("PATCH", "new.#"), ("PUT", "newer.#")):
        change = {"client_name": "renamed", "subscription": bus.topic(topic)}
        answer = bus.call(verb, f"/clients/{reader.id}", json=change)
        assert answer.status_code == 200, answer.text
        assert answer.json()["subscription"] == bus.topic(topic)
    for word in ("old", "new", "newer"):
        sender.send(bus.topic(f"{word}.x"), word)
    assert [item["message"] for item in reader.receive()] == ["newer"]


def test_new_secret_replaces_the_old(bus):
    client = bus.create()
    answer = bus.call("POST", f"/clients/{client.id}/secret")
    assert answer.status_code in (200, 201), answer.text
    assert_error(client.receive_answer(), 401)
    client.secret = answer.json()["secret"]
    assert client.receive() == []


def test_deleted_client_is_gone_at_once(bus):
    client = bus.create("gone", bus.topic("#"))
    assert bus.call("DELETE", f"/clients/{client.id}").status_code in (200, 204)
    assert_error(client.receive_answer(), 401)
    assert_error(bus.call("GET", f"/clients/{client.id}"), 404)
    assert_error(bus.call("DELETE", f"/clients/{client.id}"), 404)


def test_deleted_and_recreated_client_finds_an_empty_inbox(bus):
    sender, reader = bus.pair()
    sender.send(bus.topic("x"), "old")
    bus.call("DELETE", f"/clients/{reader.id}")
    record = {"client_id": reader.id, "client_name": "again", "subscription": bus.topic("#")}
    again = Client(bus.server, bus.call("POST", "/clients", json=record).json())
    assert again.receive() == []
    sender.send(bus.topic("x"), "new")
    assert [item["message"] for item in again.receive()] == ["new"]


# Sending and receiving


def test_new_client_works_at_once(bus):
    for _ in range(5):
        sender, reader = bus.pair()
        sender.send(bus.topic("first"), "now")
        assert [item["message"] for item in reader.receive()] == ["now"]


def test_item_of_receive_has_all_its_fields(bus):
    sender, reader = bus.pair()
    payload = {"status": {"battery": 64}}
    accepted = sender.send(bus.topic("platform.status"), payload)
    assert accepted["message"] == "accepted"
    assert accepted["topic"] == bus.topic("platform.status")
    (item,) = reader.receive()
    assert item["topic"] == bus.topic("platform.status")
    assert item["message"] == item["body"] == payload
    assert item["sender"] == sender.id
    assert item["id"] == accepted["id"]
    assert item["timestamp"]
    assert item["delivery_type"] == "publish"
    assert reader.receive() == []


def test_empty_inbox_is_an_empty_list_at_once(bus):
    answer = bus.create().receive_answer()
    assert (answer.status_code, answer.text.strip()) == (200, "[]")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.elapsed.total_seconds() < 1


def test_credentials_may_be_in_the_body_the_query_or_the_header(bus):
    sender, reader = bus.pair()
    message = {"topic": bus.topic("x"), "body": 1}
    ways = [
        {"json": {**message, **sender.pair}, "auth": None},
        {"json": {**message, "client_id": sender.id, "client_secret": sender.secret}, "auth": None},
        {"json": message, "params": sender.pair, "auth": None},
        {"json": message, "auth": sender.auth},
    ]
    for way in ways:
        answer = bus.call("POST", "/send", **way)
        assert answer.status_code == 200, answer.text
    assert len(reader.receive()) == len(ways)
    sender.send(bus.topic("x"), 2)
    by_header = bus.call("GET", "/receive", auth=reader.auth)
    assert [item["message"] for item in by_header.json()] == [2]


def test_form_body_works_as_the_original_posted_it(bus):
    sender, reader = bus.pair()
    form = {**sender.pair, "topic": bus.topic("form"), "body": "from a form"}
    answer = bus.call("POST", "/send", data=form, auth=None)
    assert answer.status_code == 200, answer.text
    assert [item["message"] for item in reader.receive()] == ["from a form"]


@pytest.mark.parametrize("where", ["query", "body", "header"])
def test_wrong_credentials_are_unauthorised_wherever_they_are(bus, where):
    client = bus.create()
    for pair in ({"client_id": client.id, "secret": "wrong"}, {"client_id": "nobody", "secret": client.secret}):
        request = {"json": {"topic": bus.topic("x"), "body": 1}, "auth": None}
        if where == "query":
            request["params"] = pair
        elif where == "body":
            request["json"].update(pair)
        else:
            request["auth"] = tuple(pair.values())
        answer = bus.call("POST", "/send", **request)
        assert_error(answer, 401)
        assert "WWW-Authenticate" in answer.headers
        assert client.secret not in answer.text


def test_unknown_client_and_wrong_secret_look_the_same(bus):
    client = bus.create()
    wrong = bus.call("GET", "/receive", params={"client_id": client.id, "secret": "x"}, auth=None)
    unknown = bus.call("GET", "/receive", params={"client_id": "nobody", "secret": "x"}, auth=None)
    missing = bus.call("GET", "/receive", auth=None)
    assert (wrong.status_code, wrong.text) == (unknown.status_code, unknown.text)
    assert_error(missing, 401)


def test_wrong_header_is_an_error_even_if_the_query_is_right(bus):
    client = bus.create()
    answer = bus.call("GET", "/receive", params=client.pair, auth=(client.id, "wrong"))
    assert_error(answer, 401)


def test_nobody_reads_another_client_s_inbox(bus):
    sender, reader = bus.pair()
    other = bus.create("other")
    sender.send(bus.topic("x"), "private")
    answer = bus.call("GET", "/receive", params={"client_id": reader.id}, auth=other.auth)
    assert_error(answer, 403)
    assert [item["message"] for item in reader.receive()] == ["private"]


@pytest.mark.parametrize("key", ["body", "message", "payload", "data"])
def test_payload_may_have_any_of_four_names(bus, key):
    sender, reader = bus.pair()
    answer = bus.call("POST", "/send", json={"topic": bus.topic("x"), key: {"a": 1}}, auth=sender.auth)
    assert answer.status_code == 200, answer.text
    assert [item["message"] for item in reader.receive()] == [{"a": 1}]


@pytest.mark.parametrize("payload", [{}, {"body": 1, "message": 2}])
def test_payload_must_be_there_once(bus, payload):
    answer = bus.call("POST", "/send", json={"topic": bus.topic("x"), **payload}, auth=bus.create().auth)
    assert_error(answer, 400)


def test_topic_is_found_in_body_query_header_and_payload(bus):
    sender, reader = bus.pair()
    domain = {"header": {"destination": bus.topic("domain"), "delivery_type": "publish"}, "payload": {"x": 1}}
    for request in (
        {"json": {"topic": bus.topic("body"), "body": 1}},
        {"json": {"body": 1}, "params": {"topic": bus.topic("query")}},
        {"json": {"body": 1}, "headers": {"X-Topic": bus.topic("header")}},
        {"json": {"body": domain}},
    ):
        answer = bus.call("POST", "/send", auth=sender.auth, **request)
        assert answer.status_code == 200, answer.text
    words = [item["topic"].rsplit(".", 1)[1] for item in reader.receive()]
    assert words == ["body", "query", "header", "domain"]


def test_missing_topic_is_named(bus):
    error = assert_error(bus.call("POST", "/send", json={"body": 1}, auth=bus.create().auth), 400)
    assert error["field"] == "topic" and "topic" in error["message"]


@pytest.mark.parametrize("topic", ["", "x" * 256, 7, ["a"]])
def test_unfit_topic_is_refused(bus, topic):
    assert_error(bus.call("POST", "/send", json={"topic": topic, "body": 1}, auth=bus.create().auth), 400)


PAYLOADS = [
    '"text"',
    '"{\\"looks\\": \\"like json\\"}"',
    "17",
    "12345678901234567890123",
    "1.0",
    "1e400",
    "true",
    "null",
    "[]",
    '[1, "two", {"three": [3]}]',
    '{"z": 1, "a": 2.50, "m": {"y": null, "b": "\\u00e9"}}',
    '{"topic": "soar.fake", "message": "an envelope within"}',
    '{"topic": "soar.fake", "body": {"topic": "deeper", "body": 1}}',
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payload_comes_out_as_it_went_in(bus, payload):
    """Byte for byte: no order of keys changes, no number, no type."""
    sender, reader = bus.pair()
    body = f'{{"topic": "{bus.topic("x")}", "body": {payload}}}'
    headers = {"Content-Type": "application/json"}
    answer = raw_post(bus, "/send", body.encode(), headers=headers, auth=sender.auth)
    assert answer.status_code == 200, answer.text
    received = reader.receive_answer().text
    assert payload in received
    if payload != "1e400":
        (item,) = json.loads(received)
        assert item["message"] == item["body"] == json.loads(payload)


def test_body_that_is_not_json_is_the_payload_itself(bus):
    sender, reader = bus.pair()
    for content_type, data in (("text/plain", "just téxt".encode()), ("application/octet-stream", b"\x00\xff\xfe")):
        answer = raw_post(
            bus,
            "/send",
            data,
            headers={"Content-Type": content_type},
            params={"topic": bus.topic("raw")},
            auth=sender.auth,
        )
        assert answer.status_code == 200, answer.text
    text, binary = reader.receive()
    assert text["message"] == "just téxt"
    assert (binary["message"], binary["encoding"]) == ("AP/+", "base64")


def test_topic_that_nobody_hears_is_accepted(bus):
    assert bus.create().send(bus.topic("nobody.listens"), 1)["message"] == "accepted"


def test_sender_gets_its_own_message_when_it_subscribes(bus):
    client = bus.create("self", bus.topic("#"))
    client.send(bus.topic("x"), "echo")
    assert [item["sender"] for item in client.receive()] == [client.id]


def test_subscriptions_follow_topic_rules(bus):
    sender = bus.create("sender")
    patterns = {"#": "abc", "a.*": "a", "*.*.x": "b", "c": "c", "a.#": "a"}
    readers = {pattern: bus.create("reader", bus.topic(pattern)) for pattern in patterns}
    for topic, body in (("a.x", "a"), ("b.b.x", "b"), ("c", "c")):
        sender.send(bus.topic(topic), body)
    received = {pattern: "".join(item["message"] for item in readers[pattern].receive()) for pattern in patterns}
    assert received == patterns


@pytest.mark.parametrize("path", ["/notify", "/broadcast"])
def test_notify_reaches_every_inbox_whatever_its_subscription(bus, path):
    sender, reader = bus.create("sender"), bus.create("reader", bus.topic("other.#"))
    nothing = bus.create("nothing")
    answer = bus.call("POST", path, json={"body": {"all": "hands"}}, auth=sender.auth)
    assert answer.status_code == 200, answer.text
    for client in (sender, reader, nothing):
        mine = [item for item in client.receive() if item["sender"] == sender.id]
        assert [item["message"] for item in mine] == [{"all": "hands"}]
        assert mine[0]["delivery_type"] == "broadcast"


def test_receive_gives_everything_in_order_or_as_much_as_is_asked(bus):
    sender, reader = bus.pair()
    for number in range(50):
        sender.send(bus.topic("n"), number)
    assert [item["message"] for item in reader.receive(limit=20)] == list(range(20))
    assert [item["message"] for item in reader.receive()] == list(range(20, 50))
    assert reader.receive() == []


def test_two_readers_at_once_never_get_the_same_message(bus):
    sender, reader = bus.pair()
    seen, lock, stop = [], threading.Lock(), threading.Event()

    def read():
        while not stop.is_set():
            items = reader.receive(limit=7)
            with lock:
                seen.extend(item["message"] for item in items)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    with requests.Session() as session:
        for number in range(300):
            body = {"topic": bus.topic("n"), "body": number}
            session.post(f"{bus.url}/send", json=body, auth=sender.auth, timeout=TIMEOUT_S)
    stop.set()
    for thread in threads:
        thread.join(TIMEOUT_S)
    seen.extend(item["message"] for item in reader.receive())
    assert sorted(seen) == list(range(300))


def test_waiting_receive_answers_when_a_message_comes(bus):
    sender, reader = bus.pair()
    timer = threading.Timer(0.5, sender.send, (bus.topic("late"), "worth it"))
    timer.start()
    answer = reader.receive_answer(wait=10)
    assert [item["message"] for item in answer.json()] == ["worth it"]
    assert 0.3 < answer.elapsed.total_seconds() < 5
    timer.join()


def test_megabyte_payload_passes(bus):
    sender, reader = bus.pair()
    payload = "0123456789abcdef" * 65536
    sender.send(bus.topic("large"), payload)
    assert [item["message"] for item in reader.receive()] == [payload]


# Errors


@pytest.mark.parametrize(
    "body, line, column",
    [("{not json", 1, 2), ('{"topic": "x",\n "body": }', 2, 10), ('{"topic": "x"', 1, 13), ("", None, None)],
)
def test_malformed_json_is_located(bus, body, line, column):
    headers = {"Content-Type": "application/json"}
    answer = raw_post(bus, "/send", body.encode(), headers=headers, auth=bus.create().auth)
    error = assert_error(answer, 400)
    if line is not None:
        place = re.search(r"line (\d+),? column (\d+)", error["message"])
        assert place, error
        # Parsers count the column at the offending character or right after it.
        assert int(place[1]) == line and abs(int(place[2]) - column) <= 1, error


def test_body_must_be_an_object(bus):
    headers = {"Content-Type": "application/json"}
    for body in (b"[7]", b'"text"', b"7", b"null"):
        assert_error(raw_post(bus, "/send", body, headers=headers, auth=bus.create().auth), 400)
        assert_error(raw_post(bus, "/clients", body, headers=headers), 400)


def test_unknown_path_is_not_found(bus):
    assert_error(bus.call("GET", "/no/such/path"), 404)
    assert_error(bus.call("GET", "/clients/nobody-at-all"), 404)


def test_wrong_method_names_the_right_ones(bus):
    for method, path, allowed in (
        ("GET", "/send", "POST"),
        ("POST", "/receive", "GET"),
        ("DELETE", "/clients", "POST"),
    ):
        answer = bus.call(method, path, auth=bus.create().auth)
        assert_error(answer, 405)
        assert allowed in answer.headers["Allow"]


def test_too_large_body_is_refused_before_it_is_read(bus):
    """Only the announcement is sent: the answer must not wait for the rest."""
    client = bus.create()
    parts = urlsplit(bus.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
    connection.putrequest("POST", "/send?" + "&".join(f"{key}={value}" for key, value in client.pair.items()))
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str((128 << 20) + 1))
    connection.endheaders()
    connection.send(b'{"topic": "x", "body": "')
    answer = connection.getresponse()
    assert answer.status == 413
    error = json.loads(answer.read())
    assert error["error"] and error["message"]
    connection.close()
    assert client.receive() == []


def test_sloppy_paths_are_taken_and_never_redirected(bus):
    sender, reader = bus.pair()
    for path in ("/send/", "//send", "//send/"):
        answer = bus.call("POST", path, json={"topic": bus.topic("x"), "body": path}, auth=sender.auth)
        assert answer.status_code == 200, answer.text
    assert len(reader.receive()) == 3


def test_service_pages_answer(bus):
    for path in ("/health/live", "/health/ready", "/health"):
        assert bus.call("GET", path, auth=None).status_code == 200
    assert bus.call("GET", "/openapi.json").json()["openapi"].startswith("3.")
    assert bus.call("GET", "/docs", allow_redirects=True).status_code == 200


def metric(text, name):
    """The sum of a metric over its labels; None when it is not there."""
    values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, values)) if values else None


def test_metrics_count_what_passes(bus):
    before = bus.call("GET", "/metrics").text
    sender, reader = bus.pair()
    for number in range(10):
        sender.send(bus.topic("x"), number)
    assert len(reader.receive()) == 10
    after = bus.call("GET", "/metrics").text
    assert "backbone_bus_" in after
    # The stems are RabbitMQ's, so that a dashboard moves by changing a prefix.
    for stem in ("queue_messages_ready", "connections", "queues", "global_messages_received_total"):
        assert metric(after, rf"\w+?_{stem}") is not None, stem
    grown = [
        name
        for name in set(re.findall(r"^(backbone_bus_\w+_total)", after, re.MULTILINE))
        if metric(after, name) - (metric(before, name) or 0) >= 10
    ]
    assert grown, "no counter of the bus grew by the ten messages"
    assert sender.secret not in after
