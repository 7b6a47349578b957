"""Webhooks as somebody else's HTTP server hears them: signatures as documented, and certificates that are checked."""

import hashlib
import hmac
import json
import os
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from support.bus import Bus
from support.server import start_server, stop_server
from support.wait import eventually

pytestmark = pytest.mark.skipif("AMQP_URL" in os.environ, reason="starts servers of its own")


class Receiver:
    """Python's own HTTP server, with a certificate for localhost if an authority is given."""

    def __init__(self, authority=None):
        self.calls = calls = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                calls.append((self.headers, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        scheme = "http"
        if authority:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("localhost").configure_cert(context)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://localhost:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def bus(authority, tmp_path):
    """A server that may call localhost and trusts one authority."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    environment = {
        "BACKBONE_PUSH__ALLOWED": "localhost",
        "BACKBONE_PUSH__CA_FILE": str(tmp_path / "ca.pem"),
        "BACKBONE_PUSH__RETRY_MIN_MS": "20",
        "BACKBONE_PUSH__RETRY_MAX_MS": "50",
    }
    server = start_server(os.environ["BACKBONE_BIN"], environment)
    yield Bus(server)
    stop_server(server)


@pytest.fixture
def receiver():
    opened = []

    def open_one(authority=None):
        opened.append(Receiver(authority))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def is_signed(client, headers, body):
    """As docs/WEBHOOKS.md has it."""
    signed = headers["X-Backbone-Timestamp"].encode() + b"." + body
    secret = client.record["webhook_secret"].encode()
    expected = "sha256=" + hmac.new(secret, signed, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, headers["X-Backbone-Signature"])


@pytest.mark.parametrize("secured", [False, True])
def test_messages_come_signed_over_http_and_https(bus, receiver, authority, secured):
    hook = receiver(authority if secured else None)
    client = bus.create(subscription="soar.#", webhook_url=hook.url)
    for number in range(5):
        client.send("soar.ä x", {"number": number, "text": "ü"})
    eventually(lambda: len(hook.calls) == 5)
    for number, (headers, body) in enumerate(hook.calls):
        item = json.loads(body)
        assert item["body"] == {"number": number, "text": "ü"}
        assert item["topic"] == "soar.ä x"
        assert headers["X-Backbone-Topic"] == "soar.%C3%A4%20x"
        assert headers["X-Backbone-Id"] == item["id"]
        assert is_signed(client, headers, body)
        assert not is_signed(client, headers, body + b" ")
    eventually(lambda: client.receive() == [])


def test_a_certificate_of_somebody_else_gets_nothing(bus, receiver):
    hook = receiver(trustme.CA())
    client = bus.create(subscription="soar.#", webhook_url=hook.url)
    client.send("soar.x", 1)
    shown = lambda: bus.call("GET", f"/clients/{client.id}").json()["push"]
    eventually(lambda: shown()["failing"])
    assert shown()["last_error"].startswith("no TLS with localhost:"), shown()
    assert hook.calls == []
    bus.call("PATCH", f"/clients/{client.id}", json={"webhook_url": None})
    assert [item["body"] for item in client.receive()] == [1]
