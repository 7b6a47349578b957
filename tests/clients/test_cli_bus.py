"""The bus from the command line: a client's file, sending, receiving and following, completions."""

import json
import os
import queue
import signal
import stat
import subprocess
import threading

import pytest

from support.server import start_server, stop_server

pytestmark = pytest.mark.skipif(not os.environ.get("BACKBONE_BIN"), reason="needs BACKBONE_BIN, the server's binary")
PATIENCE_S = 30


@pytest.fixture(scope="module")
def server():
    server = start_server(os.environ["BACKBONE_BIN"])
    yield server
    stop_server(server)


def arguments(server, *words):
    return [os.path.abspath(os.environ["BACKBONE_BIN"]), *words, *([] if server is None else ["--api", server.http_url])]


def run(server, *words, folder, environment=None):
    env = {key: value for key, value in os.environ.items() if not key.startswith(("BACKBONE_", "SOAR_"))}
    env.update(environment or {})
    done = subprocess.run(
        arguments(server, *words), cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return done.returncode, done.stdout, done.stderr


def as_operator(server, *words, folder):
    admin = dict(zip(("BACKBONE_ADMIN__ID", "BACKBONE_ADMIN__SECRET"), server.admin))
    return run(server, *words, folder=folder, environment=admin)


def add(server, folder, client, *more):
    """Registers a client; the name of its file."""
    code, out, err = as_operator(
        server, "client", "add", client, "--subscription", f"{client}.#", "--config", f"{client}.json", *more, folder=folder
    )
    assert (code, out, err) == (0, f"written: {client}.json\n", "")
    return f"{client}.json"


class Follower:
    """`backbone receive --follow`, and the lines that it prints."""

    def __init__(self, server, folder, *words):
        self.process = subprocess.Popen(
            arguments(server, "receive", "--follow", *words),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=lambda: [self.lines.put(line) for line in self.process.stdout], daemon=True)
        self.reader.start()

    def line(self):
        return self.lines.get(timeout=PATIENCE_S).rstrip("\n")

    def end(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=PATIENCE_S)


@pytest.fixture
def follow():
    followers = []

    def start(*arguments_):
        followers.append(Follower(*arguments_))
        return followers[-1]

    yield start
    for follower in followers:
        follower.end()
        follower.process.stderr.close()


def test_a_clients_file_is_its_record_and_only_its_owner_reads_it(server, tmp_path):
    file = tmp_path / add(server, tmp_path, "filed", "--name", "Filed")
    record = json.loads(file.read_text())
    assert {"client_id", "client_name", "subscription", "secret", "api"} <= set(record)
    assert (record["client_id"], record["client_name"], record["subscription"]) == ("filed", "Filed", "filed.#")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    code, out, _ = as_operator(server, "client", "add", "filed2", "--config", "filed2.json", "--json", folder=tmp_path)
    assert (code, json.loads(out)) == (0, {"written": "filed2.json"})
    code, out, _ = run(None, "send", "filed.x", "hello", "--client", str(file), "--api", server.http_url, folder=tmp_path)
    assert code == 0 and out.startswith("accepted ")
    code, out, _ = run(server, "receive", "--wait", "10", "--client", str(file), folder=tmp_path)
    assert (code, out) == (0, 'filed.x\tfiled\t"hello"\n')


def test_a_file_that_is_there_is_kept_and_nobody_is_registered(server, tmp_path):
    (tmp_path / "there.json").write_text("mine")
    code, _, err = as_operator(server, "client", "add", "there", "--config", "there.json", folder=tmp_path)
    assert code == 1 and "there.json" in err
    assert (tmp_path / "there.json").read_text() == "mine"
    assert as_operator(server, "client", "show", "there", folder=tmp_path)[0] == 1


def test_a_client_that_is_refused_leaves_no_file(server, tmp_path):
    add(server, tmp_path, "twice")
    code, _, err = as_operator(server, "client", "add", "twice", "--config", "again.json", folder=tmp_path)
    assert code == 1 and "409" in err
    assert not (tmp_path / "again.json").exists()


def test_a_file_that_is_no_clients_says_so(server, tmp_path):
    for text in ("{}", "not json", '{"client_id": 1, "secret": "x"}'):
        (tmp_path / "wrong.json").write_text(text)
        code, _, err = run(server, "receive", "--client", "wrong.json", folder=tmp_path)
        assert code == 1 and "wrong.json: is not a client's file" in err, text
    code, _, err = run(server, "receive", "--client", "missing.json", folder=tmp_path)
    assert code == 1 and "missing.json" in err


def test_following_shows_messages_as_they_come_in_order(server, tmp_path, follow):
    file = add(server, tmp_path, "follower")
    people = follow(server, tmp_path, "--client", file)
    for number in range(5):
        assert run(server, "send", "follower.n", str(number), "--client", file, folder=tmp_path)[0] == 0
        assert people.line() == f"follower.n\tfollower\t{number}"


def test_following_ends_at_the_limit_and_prints_json_line_by_line(server, tmp_path, follow):
    file = add(server, tmp_path, "limited")
    for number in range(3):
        assert run(server, "send", "limited.n", str(number), "--client", file, folder=tmp_path)[0] == 0
    limited = follow(server, tmp_path, "--client", file, "--json", "--limit", "2")
    assert [json.loads(limited.line())["message"] for _ in range(2)] == [0, 1]
    assert limited.process.wait(timeout=PATIENCE_S) == 0
    # The third was not taken.
    code, out, _ = run(server, "receive", "--client", file, folder=tmp_path)
    assert (code, out) == (0, "limited.n\tlimited\t2\n")


def test_following_waits_for_a_server_that_is_away_and_not_for_a_wrong_secret(server, tmp_path, follow):
    file = add(server, tmp_path, "patient")
    nowhere = Follower(None, tmp_path, "--client", file, "--api", "http://127.0.0.1:9")
    try:
        assert "trying again" in nowhere.process.stderr.readline()
        assert nowhere.process.poll() is None
    finally:
        nowhere.end()
        nowhere.process.stderr.close()
    code, _, err = run(server, "receive", "--follow", "--id", "patient", "--secret", "wrong", folder=tmp_path)
    assert code == 1 and "401" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "elvish", "powershell"])
def test_completions_name_the_commands(shell, tmp_path):
    code, out, err = run(None, "completions", shell, folder=tmp_path)
    assert (code, err) == (0, "")
    assert all(word in out for word in ("client", "receive", "follow", "definitions"))
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=out, text=True, check=True, timeout=PATIENCE_S)
