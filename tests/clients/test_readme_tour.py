"""The README's tour, typed as it is printed, prints what it says.

Blocks of `sh` under the tour's heading run in one shell, in order; a `text` block after one is its expected output,
where `...` stands for anything. Only the ports are changed to those of the server under test.
"""

import json
import os
import re
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "README.md")
HEADING = "## One-minute tour"
# What the fixtures have done already: the server runs, and the clients are installed.
DONE_BY_FIXTURES = ("cargo run --release", "pip install pika")
MARK = "--- end of block ---"


def tour_blocks():
    """[(commands, expected output or None)] in the order of the page."""
    with open(README, encoding="utf-8") as file:
        page = file.read()
    tour = page.split(HEADING, 1)[1].split("\n## ", 1)[0]
    blocks = []
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", tour, re.MULTILINE | re.DOTALL):
        if language == "sh":
            blocks.append([text, None])
        elif language == "text":
            blocks[-1][1] = text
    return blocks


def matches(printed, expected):
    """Line by line; JSON by value."""
    printed, expected = printed.strip().splitlines(), expected.strip().splitlines()
    return len(printed) == len(expected) and all(map(line_matches, printed, expected))


def line_matches(printed, expected):
    try:
        return value_matches(json.loads(printed), json.loads(expected))
    except ValueError:
        pattern = ".+".join(map(re.escape, expected.split("...")))
        return re.fullmatch(pattern, printed) is not None


def value_matches(printed, expected):
    if expected == "...":
        return isinstance(printed, str) and printed != ""
    if isinstance(expected, dict):
        return (
            isinstance(printed, dict)
            and printed.keys() == expected.keys()
            and all(value_matches(printed[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list):
        return (
            isinstance(printed, list) and len(printed) == len(expected) and all(map(value_matches, printed, expected))
        )
    return printed == expected


def test_tour_is_found_in_the_readme():
    blocks = tour_blocks()
    assert [done for done in DONE_BY_FIXTURES if not any(done in commands for commands, _ in blocks)] == []
    assert sum(expected is not None for _, expected in blocks) >= 5


@pytest.mark.bus
def test_tour_works_as_printed(bus, broker, tmp_path):
    # Clients of an earlier visit would be in the way of the tour's own.
    bus.created += ["client-a", "client-b"]
    bus.call("DELETE", "/clients/client-a")
    bus.call("DELETE", "/clients/client-b")
    blocks = [block for block in tour_blocks() if not any(done in block[0] for done in DONE_BY_FIXTURES)]
    http = urlsplit(broker.http_url)
    script = ["set -eu -o pipefail"]
    for commands, _ in blocks:
        commands = re.sub(r"127\.0\.0\.1:(3000|5000)\b", http.netloc, commands)
        commands = commands.replace('"127.0.0.1", 5672', f'"{broker.host}", {broker.amqp_port}')
        # Output may end without a line break, as curl's does.
        script += [commands.rstrip(), f"printf '\\n{MARK}\\n'"]
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    outputs = done.stdout.split(f"{MARK}\n")
    for (commands, expected), printed in zip(blocks, outputs):
        # curl prints no line break after an answer, so the next command's output may follow on the same line.
        assert expected is None or matches(printed, expected), f"{commands}\nprinted:\n{printed}\n{done.stderr}"
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert os.listdir(tmp_path) == []
