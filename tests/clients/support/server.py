"""The server under test: one that we start, or one that already runs.

`BACKBONE_BIN` names the binary to start on free loopback ports with a data directory of its own. `AMQP_URL` (with
`HTTP_URL` for the bus) names a running broker instead; any RabbitMQ will do for the AMQP part.
"""

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

READY_TIMEOUT_S = 30
STOP_TIMEOUT_S = 15

ADMIN_ID = "admin"
ADMIN_SECRET = "correct-horse-battery-staple"


class Server:
    """Where the server listens, and who may administer it. `process` is None when we did not start it."""

    def __init__(self, amqp_url, http_url, admin, process=None, data_dir=None, log_path=None):
        parts = urlsplit(amqp_url)
        self.amqp_url = amqp_url
        self.host = parts.hostname
        self.amqp_port = parts.port or 5672
        self.user = parts.username or "guest"
        self.password = parts.password or "guest"
        self.http_url = http_url.rstrip("/") if http_url else None
        self.admin = admin
        self.process = process
        self.data_dir = data_dir
        self.log_path = log_path

    def log_tail(self, lines=40):
        """The last lines that the server wrote, for the report of a failure."""
        if self.log_path is None:
            return ""
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-lines:])


def running_server():
    """The broker that the environment names, or None."""
    amqp_url = os.environ.get("AMQP_URL")
    if not amqp_url:
        return None
    admin = (os.environ.get("ADMIN_ID", ADMIN_ID), os.environ.get("ADMIN_SECRET", ADMIN_SECRET))
    return Server(amqp_url, os.environ.get("HTTP_URL"), admin)


def start_server(binary, environment=None):
    """Start `binary` on free ports and wait until it says that it is ready."""
    scratch = tempfile.TemporaryDirectory(prefix="backbone-clients-")
    amqp_port, http_port = free_ports(2)
    http_url = f"http://127.0.0.1:{http_port}"
    # Settings of the caller's shell must not leak into the server under test.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("BACKBONE_", "SOAR_", "DATA_DIR"))}
    env.update(
        BACKBONE_DATA_DIR=os.path.join(scratch.name, "data"),
        BACKBONE_AMQP__BIND=f"127.0.0.1:{amqp_port}",
        BACKBONE_HTTP__BIND=f"127.0.0.1:{http_port}",
        BACKBONE_ADMIN__ID=ADMIN_ID,
        BACKBONE_ADMIN__SECRET=ADMIN_SECRET,
    )
    env.update(environment or {})
    log_path = os.path.join(scratch.name, "server.log")
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [os.path.abspath(binary)],
            cwd=scratch.name,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = Server(
        f"amqp://guest:guest@127.0.0.1:{amqp_port}/",
        http_url,
        (ADMIN_ID, ADMIN_SECRET),
        process=process,
        data_dir=scratch,
        log_path=log_path,
    )
    try:
        wait_until_ready(server)
    except BaseException:
        stop_server(server)
        raise
    return server


def wait_until_ready(server):
    """Poll /health/ready until it answers 200."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.process is not None and server.process.poll() is not None:
            raise RuntimeError(f"the server ended with {server.process.returncode}:\n{server.log_tail()}")
        try:
            with urllib.request.urlopen(f"{server.http_url}/health/ready", timeout=1) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.05)
    raise RuntimeError(f"not ready after {READY_TIMEOUT_S} s:\n{server.log_tail()}")


def stop_server(server):
    """End the process that `start_server` began: politely, then by force."""
    process = server.process
    if process is None:
        return
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    server.data_dir.cleanup()


def free_ports(count):
    """Ports that were free a moment ago; all are held at once so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
