"""TLS with unmodified pika, and over HTTP with Python's own client: whom the server shows itself to, whom it lets in, and
what goes through.
"""

import base64
import http.client
import json
import os
import signal
import ssl
import time

import pika
import pika.exceptions
import pytest
import requests
import trustme

from support.server import free_ports, start_server, stop_server

pytestmark = pytest.mark.skipif("AMQP_URL" in os.environ, reason="starts servers of its own")


class Secured:
    """A server with TLS, and the authorities that signed its certificate and clients'."""

    def __init__(self, folder, **settings):
        self.folder = folder
        self.authority, self.clients = trustme.CA(), trustme.CA()
        self.port, self.http_port = free_ports(2)
        self.write_certificate(self.authority)
        self.clients.cert_pem.write_to_path(folder / "clients.pem")
        environment = {
            "BACKBONE_AMQP__TLS_BIND": f"127.0.0.1:{self.port}",
            "BACKBONE_HTTP__TLS_BIND": f"127.0.0.1:{self.http_port}",
            "BACKBONE_TLS__CERTIFICATE_FILE": str(folder / "server.pem"),
            "BACKBONE_TLS__KEY_FILE": str(folder / "server.key"),
            "BACKBONE_TLS__CLIENT_CA_FILE": str(folder / "clients.pem"),
        }
        environment.update({f"BACKBONE_TLS__{key.upper()}": value for key, value in settings.items()})
        self.server = start_server(os.environ["BACKBONE_BIN"], environment)

    def write_certificate(self, authority):
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(self.folder / "server.key")
        chain = self.folder / "server.pem"
        chain.unlink(missing_ok=True)
        for part in certificate.cert_chain_pems:
            part.write_to_path(chain, append=True)

    def context(self, trust=None, certificate_of=None, **settings):
        context = ssl.create_default_context()
        (trust or self.authority).configure_trust(context)
        for key, value in settings.items():
            setattr(context, key, value)
        if certificate_of:
            self.clients.issue_cert(common_name=certificate_of).configure_cert(context)
        return context

    def https(self, **settings):
        return http.client.HTTPSConnection("localhost", self.http_port, timeout=20, context=self.context(**settings))

    def whoami(self, connection, user=("guest", "guest")):
        token = base64.b64encode(":".join(user).encode()).decode()
        connection.request("GET", "/api/whoami", headers={"Authorization": f"Basic {token}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()).get("name")

    def connect(self, trust=None, user=None, certificate_of=None, **context_settings):
        context = self.context(trust, certificate_of, **context_settings)
        credentials = pika.PlainCredentials(*user) if user else pika.credentials.ExternalCredentials()
        parameters = pika.ConnectionParameters(
            "127.0.0.1",
            self.port,
            credentials=credentials,
            ssl_options=pika.SSLOptions(context, "localhost"),
            socket_timeout=10,
            stack_timeout=20,
            connection_attempts=1,
        )
        return pika.BlockingConnection(parameters)


@pytest.fixture
def secured(tmp_path):
    started = []

    def start(**settings):
        started.append(Secured(tmp_path, **settings))
        return started[-1]

    yield start
    for each in started:
        stop_server(each.server)


GUEST = ("guest", "guest")
REFUSED = (pika.exceptions.AMQPConnectionError, ssl.SSLError, ConnectionError)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_messages_of_all_sizes_go_both_ways(secured, version):
    server = secured()
    with server.connect(user=GUEST, maximum_version=version) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("q")
        bodies = [bytes([size % 251]) * size for size in (0, 1, 100, 16_384, 131_072, 3_000_000)] * 3
        for body in bodies:
            channel.basic_publish("", "q", body)
        got = []
        for method, _, body in channel.consume("q", inactivity_timeout=20):
            assert method is not None, f"{len(got)} of {len(bodies)} came"
            got.append(body)
            channel.basic_ack(method.delivery_tag)
            if len(got) == len(bodies):
                break
        assert got == bodies


def test_many_small_messages_wait_for_a_slow_reader(secured):
    server = secured()
    count, body = 20_000, b"x" * 500
    with server.connect(user=GUEST) as publisher, server.connect(user=GUEST) as consumer:
        channel, other = publisher.channel(), consumer.channel()
        channel.queue_declare("q")
        seen = []

        def take(_channel, method, _properties, _body):
            seen.append(method.delivery_tag)

        other.basic_consume("q", take, auto_ack=True)
        for _ in range(count):
            channel.basic_publish("", "q", body)
        deadline = time.monotonic() + 60
        while len(seen) < count and time.monotonic() < deadline:
            consumer.process_data_events(time_limit=1)
        assert seen == list(range(1, count + 1))


def test_a_client_that_trusts_another_authority_does_not_connect(secured):
    server = secured()
    with pytest.raises(REFUSED):
        server.connect(trust=trustme.CA(), user=GUEST)


def test_the_name_in_a_good_certificate_is_the_user(secured):
    server = secured(client_certificates="optional")
    with server.connect(certificate_of="admin") as connection:
        connection.channel().queue_declare("q")
    with server.connect(user=GUEST) as connection:
        connection.channel().queue_declare("q")


@pytest.mark.parametrize("name", ["nobody", "guest", ""])
def test_the_name_in_a_good_certificate_has_to_be_a_users(secured, name):
    server = secured(client_certificates="optional")
    with pytest.raises(REFUSED):
        server.connect(certificate_of=name or "*")


def test_without_a_certificate_there_is_no_external_login(secured):
    server = secured(client_certificates="optional")
    with pytest.raises(REFUSED):
        server.connect()


def test_where_certificates_are_required_nobody_comes_in_without_a_good_one(secured):
    server = secured(client_certificates="required")
    with pytest.raises(REFUSED):
        server.connect(user=GUEST)
    server.clients, good = trustme.CA(), server.clients
    with pytest.raises(REFUSED):
        server.connect(user=GUEST, certificate_of="admin")
    server.clients = good
    with server.connect(user=GUEST, certificate_of="admin") as connection:
        connection.channel().queue_declare("q")


def test_sighup_brings_a_new_certificate_and_leaves_connections_alone(secured):
    server = secured()
    old, new = server.authority, trustme.CA()
    with server.connect(user=GUEST) as connection:
        channel = connection.channel()
        channel.queue_declare("q")
        server.write_certificate(new)
        server.server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while True:
            try:
                server.connect(trust=new, user=GUEST).close()
                break
            except REFUSED:
                assert time.monotonic() < deadline, "the new certificate is not shown"
        with pytest.raises(REFUSED):
            server.connect(trust=old, user=GUEST)
        channel.queue_declare("q", passive=True)


def test_sighup_with_a_file_that_cannot_be_used_changes_nothing(secured):
    server = secured()
    (server.folder / "server.pem").write_text("no certificate")
    server.server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while "the certificates in use stay" not in server.server.log_tail():
        assert time.monotonic() < deadline, server.server.log_tail()
        time.sleep(0.05)
    server.connect(user=GUEST).close()


def test_who_does_not_speak_tls_is_dropped(secured):
    server = secured()
    parameters = pika.ConnectionParameters("127.0.0.1", server.port, socket_timeout=10, stack_timeout=20)
    with pytest.raises(REFUSED):
        pika.BlockingConnection(parameters)
    server.connect(user=GUEST).close()


def test_the_management_interface_tells_of_tls_and_of_certificates_that_end(secured):
    server = secured()
    url = f"{server.server.http_url}/api"
    with server.connect(user=GUEST):
        (shown,) = requests.get(f"{url}/connections", auth=GUEST, timeout=15).json()
        assert (shown["ssl"], shown["ssl_protocol"]) == (True, "TLSv1_3")
        assert shown["ssl_cipher"].startswith("TLS13_")

    def check(within):
        return requests.get(f"{url}/health/checks/certificate-expiration/{within}", auth=GUEST, timeout=15)

    assert check("1/days").json() == {"status": "ok"}
    soon = check("9000/years")
    assert (soon.status_code, soon.json()["reason"]) == (503, "Certificates expiring")
    listener = requests.get(f"{url}/health/checks/protocol-listener/amqps", auth=GUEST, timeout=15)
    assert listener.json() == {"status": "ok", "protocol": "amqp/ssl"}
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_http_over_tls_answers_as_without(secured, version):
    server = secured()
    connection = server.https(maximum_version=version)
    assert server.whoami(connection) == (200, "guest")
    # The connection is kept, and carries bodies of any size.
    body = json.dumps({"value": "x" * 3_000_000})
    token = base64.b64encode(b"guest:guest").decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    connection.request("PUT", "/api/global-parameters/large", body, headers)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (201, b"")
    connection.request("GET", "/api/global-parameters/large", headers=headers)
    assert len(connection.getresponse().read()) > 3_000_000


def test_http_shows_the_certificate_and_who_trusts_another_authority_goes(secured):
    server = secured()
    with pytest.raises(ssl.SSLCertVerificationError):
        server.whoami(server.https(trust=trustme.CA()))
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        server.whoami(http.client.HTTPConnection("localhost", server.http_port, timeout=20))


def test_sighup_brings_http_a_new_certificate_and_new_authorities(secured):
    server = secured(client_certificates="required")
    assert server.whoami(server.https(certificate_of="admin")) == (200, "guest")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.whoami(server.https())
    new, old_clients = trustme.CA(), server.clients
    server.write_certificate(new)
    server.clients = trustme.CA()
    server.clients.cert_pem.write_to_path(server.folder / "clients.pem")
    server.server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while True:
        try:
            assert server.whoami(server.https(trust=new, certificate_of="admin")) == (200, "guest")
            break
        except (ssl.SSLError, ConnectionError):
            assert time.monotonic() < deadline, "the new certificate is not shown"
    server.clients = old_clients
    with pytest.raises((ssl.SSLError, ConnectionError)):
        server.whoami(server.https(trust=new, certificate_of="admin"))
