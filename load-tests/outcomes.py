"""What tests of pytest came to, and lists of tests with reasons."""

import re


def of_pytest(text):
    """The outcome of each test, from what `pytest -rA` printed."""
    summary = text.rpartition("short test summary info")[2]
    outcomes = {}
    for outcome, name in re.findall(r"^(PASSED|FAILED|ERROR|XFAIL|XPASS) (.*?)(?: - .*)?$", summary, re.MULTILINE):
        if outcomes.get(name) != "FAILED":
            outcomes[name] = outcome
    return outcomes


def failed(outcomes):
    return [name for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR")]


def passed(outcomes):
    return [name for name, outcome in outcomes.items() if outcome == "PASSED"]


def read_list(path):
    """Tests by name, or by the beginning of their names, with the reason: the comment above them."""
    tests, reason, is_new = {}, "", True
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("#"):
            text = line[1:].strip()
            reason = text if is_new else f"{reason} {text}"
        elif line.strip():
            if not reason:
                raise ValueError(f"{path}: {line} has no reason")
            tests[line.strip()] = reason
        is_new = not line.startswith("#")
    return tests


def reason_of(name, tests):
    return next((reason for start, reason in tests.items() if name.startswith(start)), None)
