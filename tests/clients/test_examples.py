"""The examples do what their README says."""

import json
import os
import subprocess
import sys

import pytest
import requests

from support.server import start_server, stop_server

pytestmark = pytest.mark.skipif(not os.environ.get("BACKBONE_BIN"), reason="needs BACKBONE_BIN, the server's binary")
EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples")
PATIENCE_S = 60


@pytest.fixture(scope="module")
def server():
    server = start_server(os.environ["BACKBONE_BIN"])
    yield server
    stop_server(server)


@pytest.fixture(scope="module")
def files(server, tmp_path_factory):
    """The two clients of the README, each with its file."""
    folder = tmp_path_factory.mktemp("clients")
    made = {}
    for client, subscription in (("noc-c2", "soar.noc.#"), ("noc-sfmc", "soar.noc.slocum.#")):
        record = {"client_id": client, "subscription": subscription}
        answer = requests.post(f"{server.http_url}/clients", json=record, auth=server.admin, timeout=10)
        answer.raise_for_status()
        made[client] = folder / f"{client}.json"
        made[client].write_text(json.dumps(answer.json()))
    return made


def run(*command, **environment):
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(script, *words, **environment):
    return run(sys.executable, os.path.join(EXAMPLES, "python", script), *words, **environment)


def node(*words):
    return run("node", os.path.join(EXAMPLES, "javascript", "client.js"), *words)


def drain(server, files):
    """Nothing is left from the test before."""
    for file in files.values():
        record = json.loads(file.read_text())
        auth = (record["client_id"], record["secret"])
        while requests.get(f"{server.http_url}/receive", auth=auth, timeout=10).json():
            pass


def test_the_scripts_of_the_original_send_and_read(server, files):
    drain(server, files)
    url = f"amqp://guest:guest@127.0.0.1:{server.amqp_port}/%2F"
    sent = python("client_send.py", "noc-c2-outbox", "soar.noc.slocum.something", "from", "noc-c2", AMQP_URL=url)
    assert sent == "sent to noc-c2-outbox on soar.noc.slocum.something\n"
    read = python("client_read.py", "noc-sfmc-inbox", "1", AMQP_URL=url)
    assert read == (
        "soar.noc.slocum.something noc-c2 "
        '{"topic": "soar.noc.slocum.something", "message": "from noc-c2"}\n'
    )


def test_they_do_with_a_clients_own_file(server, files):
    drain(server, files)
    address = f"127.0.0.1:{server.amqp_port}"
    python("client_send.py", "noc-c2-outbox", "soar.noc.slocum.own", "own", SOAR_CONFIG=str(files["noc-c2"]), AMQP_ADDRESS=address)
    read = python("client_read.py", "noc-sfmc-inbox", "1", SOAR_CONFIG=str(files["noc-sfmc"]), AMQP_ADDRESS=address)
    assert read.startswith("soar.noc.slocum.own noc-c2 ")


def test_a_queue_that_is_not_there_is_an_error(server, files):
    url = f"amqp://guest:guest@127.0.0.1:{server.amqp_port}/%2F"
    with pytest.raises(AssertionError, match="UnroutableError"):
        python("client_send.py", "nobody-outbox", "soar.noc.slocum.something", "x", AMQP_URL=url)


def test_javascript_sends_and_reads_over_rest(server, files):
    drain(server, files)
    assert node(files["noc-c2"], "send", "soar.noc.slocum.depth", '{"depth_m": 12}').startswith("sent ")
    assert node(files["noc-c2"], "send", "soar.noc.slocum.word", "not JSON").startswith("sent ")
    assert node(files["noc-sfmc"], "read", "2") == (
        'soar.noc.slocum.depth noc-c2 {"depth_m":12}\nsoar.noc.slocum.word noc-c2 "not JSON"\n'
    )
