"""Waiting with a bound."""

import time


def eventually(check, timeout_s=10, interval_s=0.05):
    """Call `check` until what it returns is true, and return that; fail with the last value after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still {value!r} after {timeout_s} s")
        time.sleep(interval_s)
