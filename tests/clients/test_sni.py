"""Several certificates: which one a client is shown, asked for by openssl, Python's ssl and unmodified pika."""

import contextlib
import datetime
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time

import pika
import pytest
import requests
import trustme

from support.server import free_ports, start_server, stop_server

pytestmark = pytest.mark.skipif("AMQP_URL" in os.environ, reason="starts servers of its own")


class Hosts:
    """A server with a certificate for `mq.example.org` and further ones, all of one authority."""

    def __init__(self, folder, further, default=("mq.example.org",), **environment):
        self.folder, self.authority, self.clients = folder, trustme.CA(), trustme.CA()
        self.clients.cert_pem.write_to_path(folder / "clients.pem")
        self.authority.cert_pem.write_to_path(folder / "authority.pem")
        self.port, self.http_port = free_ports(2)
        self.write("default", *default)
        lines = [
            "[amqp]",
            f'tls_bind = ["127.0.0.1:{self.port}"]',
            "[http]",
            f'tls_bind = ["127.0.0.1:{self.http_port}"]',
            "[tls]",
            f'certificate_file = "{folder}/default.pem"',
            f'key_file = "{folder}/default.key"',
            f'client_ca_file = "{folder}/clients.pem"',
            'client_certificates = "optional"',
        ]
        for file, names in further.items():
            self.write(file, *names)
            lines += ["[[tls.certificates]]", f'certificate_file = "{folder}/{file}.pem"']
            lines += [f'key_file = "{folder}/{file}.key"']
        config = folder / "backbone.toml"
        config.write_text("\n".join(lines))
        environment["BACKBONE_CONFIG"] = str(config)
        self.server = start_server(os.environ["BACKBONE_BIN"], environment)

    def write(self, file, *names, **settings):
        certificate = self.authority.issue_cert(*names, **settings)
        certificate.private_key_pem.write_to_path(self.folder / f"{file}.key")
        chain = self.folder / f"{file}.pem"
        chain.unlink(missing_ok=True)
        for part in certificate.cert_chain_pems:
            part.write_to_path(chain, append=True)

    def context(self, certificate_of=None):
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if certificate_of:
            self.clients.issue_cert(common_name=certificate_of).configure_cert(context)
        return context

    def shown(self, host, port=None, version=ssl.TLSVersion.TLSv1_3):
        """The names in the certificate that who asks for `host` is shown; an authority that we trust has signed it."""
        context = self.context()
        context.check_hostname = False
        context.maximum_version = version
        with socket.create_connection(("127.0.0.1", port or self.port), 20) as connection:
            with context.wrap_socket(connection, server_hostname=host) as secured:
                return [name for kind, name in secured.getpeercert()["subjectAltName"] if kind == "DNS"]

    def connect(self, host, user=None, **settings):
        credentials = pika.PlainCredentials(*user) if user else pika.credentials.ExternalCredentials()
        options = pika.SSLOptions(self.context(**settings), host)
        parameters = pika.ConnectionParameters(
            "127.0.0.1", self.port, credentials=credentials, ssl_options=options, socket_timeout=10, stack_timeout=20
        )
        return pika.BlockingConnection(parameters)

    def hang_up(self):
        self.server.process.send_signal(signal.SIGHUP)

    def wait_for_log(self, text):
        deadline = time.monotonic() + 20
        while text not in self.server.log_tail():
            assert time.monotonic() < deadline, self.server.log_tail()
            time.sleep(0.05)


@pytest.fixture
def hosts(tmp_path):
    started = []

    def start(further, **settings):
        started.append(Hosts(tmp_path, further, **settings))
        return started[-1]

    yield start
    for each in started:
        stop_server(each.server)


FLEET = {
    "fleet": ("*.fleet.example.org",),
    "noc": ("noc.fleet.example.org", "noc.example.org"),
}
# Who asks for the host is shown a certificate with the names.
ROWS = {
    "mq.example.org": ["mq.example.org"],
    "noc.example.org": list(FLEET["noc"]),
    "NOC.Example.org": list(FLEET["noc"]),
    # A name as a whole goes before a star.
    "noc.fleet.example.org": list(FLEET["noc"]),
    "tank.fleet.example.org": list(FLEET["fleet"]),
    "Tank.Fleet.Example.ORG": list(FLEET["fleet"]),
    # A star is one label, not two and not none.
    "a.tank.fleet.example.org": ["mq.example.org"],
    "fleet.example.org": ["mq.example.org"],
    "unknown.example.com": ["mq.example.org"],
    "localhost": ["mq.example.org"],
    # Nobody is asked for.
    None: ["mq.example.org"],
}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_is_shown_the_certificate_of_the_host_that_it_asks_for(hosts, version):
    server = hosts(FLEET)
    for port in (server.port, server.http_port):
        for host, names in ROWS.items():
            assert server.shown(host, port, version) == names, host


def test_openssl_sees_the_same(hosts):
    server = hosts(FLEET)
    openssl = shutil.which("openssl")
    assert openssl, "openssl is missing"

    def subject(*flags):
        command = [openssl, "s_client", "-connect", f"127.0.0.1:{server.port}", "-CAfile", server.folder / "authority.pem"]
        done = subprocess.run(
            [*command, "-verify_return_error", *flags], input="", capture_output=True, text=True, timeout=30, check=False
        )
        assert "Verification: OK" in done.stdout, done.stdout + done.stderr
        text = [openssl, "x509", "-noout", "-ext", "subjectAltName"]
        return subprocess.run(text, input=done.stdout, capture_output=True, text=True, timeout=30, check=True).stdout

    assert "DNS:noc.example.org" in subject("-servername", "noc.example.org", "-verify_hostname", "noc.example.org")
    assert "DNS:*.fleet.example.org" in subject("-servername", "x.fleet.example.org", "-verify_hostname", "x.fleet.example.org")
    assert "DNS:mq.example.org" in subject("-servername", "x.y.fleet.example.org")
    assert "DNS:mq.example.org" in subject("-noservername")


def test_amqp_and_http_work_under_each_name_with_the_names_checked(hosts):
    server = hosts(FLEET)
    for host in ("mq.example.org", "noc.example.org", "tank.fleet.example.org"):
        with server.connect(host, user=("guest", "guest")) as connection:
            connection.channel().queue_declare("q")
        connection = http.client.HTTPSConnection("127.0.0.1", server.http_port, timeout=20, context=server.context())
        # The connection goes to the address, the name is that of the host.
        raw = socket.create_connection(("127.0.0.1", server.http_port), 20)
        connection.sock = server.context().wrap_socket(raw, server_hostname=host)
        connection.request("GET", "/health/ready")
        assert connection.getresponse().status == 200
        connection.close()
    with pytest.raises((ssl.SSLCertVerificationError, pika.exceptions.AMQPConnectionError)):
        server.connect("a.tank.fleet.example.org", user=("guest", "guest"))


def test_clients_log_in_with_certificates_under_each_name(hosts):
    server = hosts(FLEET)
    for host in ("mq.example.org", "noc.example.org", "tank.fleet.example.org"):
        with server.connect(host, certificate_of="admin") as connection:
            connection.channel().queue_declare("q")
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            server.connect(host, certificate_of="nobody")


def test_of_several_for_one_name_the_first_is_shown_and_the_default_last(hosts):
    server = hosts(
        {"one": ("a.example.org", "one.example.org"), "two": ("a.example.org", "mq.example.org", "two.example.org")},
        default=("mq.example.org", "a.example.org", "*.example.org"),
    )
    assert "one.example.org" in server.shown("a.example.org")
    assert "two.example.org" in server.shown("mq.example.org")
    assert "*.example.org" in server.shown("other.example.org")


def test_sighup_brings_new_certificates_for_new_names(hosts):
    server = hosts(FLEET)
    with server.connect("noc.example.org", user=("guest", "guest")) as connection:
        channel = connection.channel()
        channel.queue_declare("q")
        server.write("noc", "soc.example.org")
        server.write("default", "other.example.org")
        server.hang_up()
        server.wait_for_log("certificates read again")
        for port in (server.port, server.http_port):
            assert server.shown("soc.example.org", port) == ["soc.example.org"]
            assert server.shown("noc.example.org", port) == ["other.example.org"]
            assert server.shown("noc.fleet.example.org", port) == ["*.fleet.example.org"]
        channel.queue_declare("q", passive=True)


def test_the_check_for_certificates_that_end_looks_at_all_of_them(hosts):
    server = hosts(FLEET)

    def check(within):
        url = f"{server.server.http_url}/api/health/checks/certificate-expiration/{within}"
        return requests.get(url, auth=("guest", "guest"), timeout=15).status_code

    assert check("4/weeks") == 200
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=10)
    server.write("noc", "noc.example.org", not_after=soon)
    assert (check("1/weeks"), check("4/weeks")) == (200, 503)


def broken(server):
    (server.folder / "noc.pem").write_text("no certificate")
    return "noc.pem"


def without_a_file(server):
    (server.folder / "noc.key").unlink()
    return "noc.key"


def of_another_key(server):
    key = (server.folder / "noc.key").read_bytes()
    server.write("noc", "noc.example.org")
    (server.folder / "noc.key").write_bytes(key)
    return "noc.key"


def without_a_name(server):
    server.write("noc", "127.0.0.1")
    return "noc.pem: names no host"


@pytest.mark.parametrize("spoil", [broken, without_a_file, of_another_key, without_a_name])
def test_sighup_with_one_file_that_cannot_be_used_keeps_all_that_were_there(hosts, spoil):
    server = hosts(FLEET)
    server.write("default", "other.example.org")
    server.write("fleet", "*.other.example.org")
    blamed = spoil(server)
    server.hang_up()
    server.wait_for_log("the certificates in use stay")
    (line,) = [line for line in server.server.log_tail().splitlines() if "the certificates in use stay" in line]
    assert "tls.certificates: " in line and blamed in line, line
    for port in (server.port, server.http_port):
        for host, names in ROWS.items():
            assert server.shown(host, port) == names, host


def test_a_certificate_without_a_name_keeps_the_server_from_starting(tmp_path):
    with pytest.raises(RuntimeError, match="tls.certificates: .*ip.pem: names no host"), contextlib.ExitStack() as stack:
        stack.callback(stop_server, Hosts(tmp_path, {"ip": ("127.0.0.1",)}).server)


def test_a_certificate_needs_its_key(tmp_path):
    config = tmp_path / "backbone.toml"
    config.write_text('[[tls.certificates]]\ncertificate_file = "a.pem"\n')
    command = [os.environ["BACKBONE_BIN"], "config", "check", "--config", config]
    done = subprocess.run(command, env={}, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "tls.certificates" in done.stderr and "key_file" in done.stderr, done.stderr
