"""How clients prove who they are: which mechanisms are offered, and RABBIT-CR-DEMO, which asks for the password.

Answers and texts are those of RabbitMQ 3.10 with the same mechanisms, but for how long it leaves refusals unsaid.
"""

import os
import subprocess
import time

import pytest
import requests
from pamqp import commands

from support.raw import PROTOCOL_HEADER, RawConnection, start_ok
from support.server import ADMIN_ID, ADMIN_SECRET, start_server, stop_server

pytestmark = pytest.mark.skipif("AMQP_URL" in os.environ, reason="starts servers of its own")

DEMO = "RABBIT-CR-DEMO"
REFUSED = "ACCESS_REFUSED - Login was refused using authentication mechanism {}. For details see the broker logfile."


def server_with(**settings):
    return start_server(os.environ["BACKBONE_BIN"], {f"BACKBONE_{key}": value for key, value in settings.items()})


@pytest.fixture(scope="module")
def demo():
    server = server_with(AMQP__MECHANISMS=f"PLAIN,{DEMO}", LIMITS__FAILED_LOGINS_PER_MINUTE="0")
    yield server
    stop_server(server)


def offered(raw):
    raw.send(PROTOCOL_HEADER)
    return raw.expect(commands.Connection.Start).mechanisms


def begin(raw, response, mechanism=DEMO, capabilities=None):
    """Up to start-ok."""
    offered(raw)
    answer = start_ok("", "", capabilities)
    answer.mechanism, answer.response = mechanism, response
    raw.method(answer, 0)


def asked(raw, user, **settings):
    """Up to the challenge."""
    begin(raw, user, **settings)
    assert raw.expect(commands.Connection.Secure).challenge == "Please tell me your password"


def say(raw, answer):
    raw.method(commands.Connection.SecureOk(answer), 0)


def open_up(raw):
    raw.expect(commands.Connection.Tune)
    raw.method(commands.Connection.TuneOk(2047, 131072, 0), 0)
    raw.method(commands.Connection.Open("/"), 0)
    raw.expect(commands.Connection.OpenOk)
    raw.open_channel()


def test_the_demo_is_not_offered_and_not_taken_unless_configured(broker):
    with RawConnection(broker) as raw:
        begin(raw, broker.user)
        closed = raw.end(15)
        assert (closed.code, closed.text, closed.method) == (403, REFUSED.format(DEMO), (0, 0))
    with RawConnection(broker) as raw:
        assert offered(raw) == "PLAIN AMQPLAIN"


@pytest.mark.parametrize("user, secret", [("guest", "guest"), (ADMIN_ID, ADMIN_SECRET)])
def test_who_tells_its_password_when_asked_comes_in(demo, user, secret):
    with RawConnection(demo) as raw:
        asked(raw, user)
        say(raw, f"My password is {secret}")
        open_up(raw)
        (shown,) = requests.get(f"{demo.http_url}/api/connections", auth=("guest", "guest"), timeout=15).json()
        assert (shown["auth_mechanism"], shown["user"]) == (DEMO, user)
        raw.close()


@pytest.mark.parametrize(
    "user, answer",
    [
        ("guest", "My password is wrong"),
        ("guest", "My password is "),
        ("guest", "my password is guest"),
        ("guest", "guest"),
        ("guest", ""),
        ("nobody", "My password is guest"),
        ("", "My password is "),
        ("\0guest\0guest", "My password is guest"),
    ],
)
def test_a_wrong_answer_is_refused_as_with_plain(demo, user, answer):
    with RawConnection(demo) as raw:
        asked(raw, user)
        say(raw, answer)
        closed = raw.end(15)
        assert (closed.code, closed.text, closed.method) == (403, REFUSED.format(DEMO), (0, 0))
    with RawConnection(demo) as raw:
        asked(raw, user, capabilities={})
        say(raw, answer)
        started = time.monotonic()
        assert raw.end(15).code is None
        assert time.monotonic() - started > 0.5, "guessing is slow"


def test_failures_count_with_those_of_other_mechanisms():
    server = server_with(AMQP__MECHANISMS=f"PLAIN,{DEMO}", LIMITS__FAILED_LOGINS_PER_MINUTE="3")
    try:
        for _ in range(3):
            with RawConnection(server) as raw:
                asked(raw, ADMIN_ID)
                say(raw, "My password is wrong")
                assert raw.end(15).code == 403
        with RawConnection(server) as raw:
            asked(raw, ADMIN_ID)
            say(raw, f"My password is {ADMIN_SECRET}")
            assert raw.end(15).code == 403
        with RawConnection(server) as raw:
            begin(raw, f"\0{ADMIN_ID}\0{ADMIN_SECRET}", "PLAIN")
            closed = raw.end(15)
            assert (closed.code, closed.text) == (403, REFUSED.format("PLAIN"))
    finally:
        stop_server(server)


def test_who_is_asked_may_not_do_anything_else(demo):
    for other in (commands.Connection.TuneOk(2047, 131072, 0), commands.Connection.Open("/"), start_ok("guest", "guest")):
        with RawConnection(demo) as raw:
            asked(raw, "guest")
            raw.method(other, 0)
            closed = raw.end(15)
            assert (closed.code, closed.method) == (504, tuple(divmod(other.index, 65536)))


def test_who_is_asked_and_says_nothing_is_dropped_after_the_handshakes_time():
    server = server_with(AMQP__MECHANISMS=DEMO, AMQP__HANDSHAKE_TIMEOUT_MS="500")
    try:
        with RawConnection(server) as raw:
            asked(raw, "guest")
            assert raw.end(15).code is None
    finally:
        stop_server(server)


def test_an_answer_that_nobody_asked_for_is_a_channel_error(demo):
    with RawConnection(demo) as raw:
        offered(raw)
        say(raw, "My password is guest")
        closed = raw.end(15)
        assert (closed.code, closed.method) == (504, (10, 21))
    with RawConnection(demo) as raw:
        begin(raw, "\0guest\0guest", "PLAIN")
        raw.expect(commands.Connection.Tune)
        say(raw, "My password is guest")
        closed = raw.end(15)
        assert (closed.code, closed.method) == (504, (10, 21))
    for mechanism, response in (("PLAIN", "\0guest\0guest"), (DEMO, "guest")):
        with RawConnection(demo) as raw:
            begin(raw, response, mechanism)
            if mechanism == DEMO:
                raw.expect(commands.Connection.Secure)
                say(raw, "My password is guest")
            open_up(raw)
            say(raw, "My password is guest")
            closed = raw.end(15)
            text = "CHANNEL_ERROR - unexpected method in connection state running"
            assert (closed.code, closed.text, closed.method) == (504, text, (10, 21))


def test_what_is_not_on_the_list_is_neither_offered_nor_taken(demo):
    with RawConnection(demo) as raw:
        assert offered(raw) == f"PLAIN {DEMO}"
    with RawConnection(demo) as raw:
        begin(raw, "x", "AMQPLAIN")
        closed = raw.end(15)
        assert (closed.code, closed.text) == (403, REFUSED.format("AMQPLAIN"))


@pytest.mark.parametrize("value, says", [("PLAIN,MAGIC", "MAGIC"), (",", "at least one")])
def test_mechanisms_that_are_none_name_their_key(value, says):
    environment = {"BACKBONE_AMQP__MECHANISMS": value, "BACKBONE_CONFIG": os.devnull}
    command = [os.environ["BACKBONE_BIN"], "config", "check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "AMQP__MECHANISMS" in done.stderr and says in done.stderr, done.stderr
