"""The management interface as its clients see it: where it is, what is made through it, and RabbitMQ's own command line for it."""

import glob
import os
import shutil
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest
import requests

TIMEOUT_S = 30
VHOST = "%2F"
# Where RabbitMQ's server package keeps the script that its management plugin serves under /cli/rabbitmqadmin.
PLUGIN = "usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins/rabbitmq_management-*/priv/www/cli/rabbitmqadmin"


def management_url(server):
    """Our own server's; of a running broker what MANAGEMENT_URL says, such as http://127.0.0.1:15672."""
    if server.process is not None:
        return server.http_url
    url = os.environ.get("MANAGEMENT_URL")
    if not url:
        pytest.skip("only AMQP_URL is given: set MANAGEMENT_URL to the broker's management interface")
    return url.rstrip("/")


def rabbitmqadmin_script(folder):
    """The unmodified script: what RABBITMQADMIN names, else that of an installed RabbitMQ, else out of Debian's package.

    It is RabbitMQ's under another licence than ours, so it is not kept here.
    """
    named = os.environ.get("RABBITMQADMIN")
    found = [named] if named else sorted(glob.glob("/" + PLUGIN))
    if found:
        return found[-1]
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip("rabbitmqadmin: no RabbitMQ is installed, and this is no Debian; set RABBITMQADMIN to the script")
    fetched = subprocess.run(["apt-get", "download", "rabbitmq-server"], cwd=folder, capture_output=True, text=True, check=False)
    packages = glob.glob(os.path.join(folder, "*.deb"))
    if not packages:
        pytest.skip(f"rabbitmqadmin: Debian's rabbitmq-server could not be downloaded: {fetched.stderr.strip()[-300:]}")
    subprocess.run(["dpkg-deb", "-x", packages[0], folder], check=True)
    found = glob.glob(os.path.join(folder, PLUGIN))
    if not found:
        pytest.skip("rabbitmqadmin: Debian's rabbitmq-server does not carry it any more")
    return found[0]


class Rabbitmqadmin:
    """The script, run as a process."""

    def __init__(self, script, url, user, password):
        parts = urlsplit(url)
        self.command = [
            sys.executable, script, "-H", parts.hostname, "-P", str(parts.port), "-u", user, "-p", password,
        ]

    def run(self, *arguments, flags=()):
        done = subprocess.run(
            [*self.command, *flags, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def refused(self, *arguments):
        """What it says when it fails."""
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr

    def rows(self, *arguments, flags=()):
        """The lines of a list, each by its columns."""
        head, *lines = self.run(*arguments, flags=("-f", "tsv", *flags)).splitlines()
        names = head.split("\t")
        return [dict(zip(names, line.split("\t"), strict=False)) for line in lines]


def eventually(look):
    """What `look` finds, as soon as it finds something: RabbitMQ's pages are some seconds behind."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.1)
    return found


class Management:
    """Users, permissions, policies; what is made is taken back by `undo`."""

    def __init__(self, server):
        self.url = management_url(server)
        self.credentials = (server.user, server.password)
        self.made = []

    def call(self, method, path, body=None):
        answer = requests.request(method, f"{self.url}/api/{path}", json=body, auth=self.credentials, timeout=30)
        assert answer.ok or (method == "DELETE" and answer.status_code == 404), f"{path}: {answer.status_code} {answer.text}"

    def put(self, path, body):
        self.call("PUT", path, body)
        self.made.append(path)

    def delete(self, path):
        self.call("DELETE", path)

    def user(self, name, password):
        self.put(f"users/{name}", {"password": password, "tags": ""})

    def permissions(self, user, configure=".*", write=".*", read=".*"):
        self.put(f"permissions/{VHOST}/{user}", {"configure": configure, "write": write, "read": read})

    def policy(self, name, pattern, apply_to="all", priority=0, operator=False, **definition):
        definition = {key.replace("_", "-"): value for key, value in definition.items()}
        path = f"{'operator-' if operator else ''}policies/{VHOST}/{name}"
        self.put(path, {"pattern": pattern, "definition": definition, "apply-to": apply_to, "priority": priority})
        return path

    def undo(self):
        while self.made:
            self.delete(self.made.pop())
