"""What a scenario is, and the few checks that many of them share.

A scenario is a function with a sentence as its docstring. It gets a fresh server and fails by
raising. After each one the runner asks the server once more, so that "and another client is
unharmed" need not be said in every scenario.
"""

import subprocess
import time

from server import ROOT, Connection

SCENARIOS = []
HERE = ROOT / "tests/clients"


class Skip(Exception):
    """The scenario cannot run here, and why."""


class Scenario:
    def __init__(self, function, only_marline, options, survives, seconds):
        self.function = function
        self.name = function.__name__
        self.sentence = " ".join((function.__doc__ or "").split())
        self.only_marline = only_marline
        self.options = options
        self.survives = survives
        self.seconds = seconds


def scenario(only_marline=False, options=(), survives=True, seconds=120):
    """Register a scenario. `survives`: the server is expected to answer afterwards."""
    def register(function):
        assert function.__doc__, f"{function.__name__} needs its sentence"
        SCENARIOS.append(Scenario(function, only_marline, options, survives, seconds))
        return function
    return register


def equal(got, want, what="reply"):
    if got != want:
        raise AssertionError(f"{what}: got {clip(got)}, want {clip(want)}")


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def contains(text, part):
    if part not in text:
        raise AssertionError(f"{clip(part)} is not in {clip(text)}")


def clip(value):
    text = repr(value)
    return text if len(text) < 600 else text[:400] + " ... " + text[-150:]


def run(*command, input=None, timeout=60, fails=False):
    """Run an outside program; give its standard output as text. It must exit 0, unless `fails`."""
    if isinstance(input, str):
        input = input.encode()
    done = subprocess.run(
        [str(part) for part in command], timeout=timeout, cwd=ROOT, capture_output=True,
        **({"stdin": subprocess.DEVNULL} if input is None else {"input": input}))
    out = done.stdout.decode(errors="replace")
    if (done.returncode != 0) != fails:
        raise AssertionError(
            f"{' '.join(map(str, command))[:200]} exited {done.returncode}\n"
            f"{out[-1500:]}\n{done.stderr.decode(errors='replace')[-1500:]}")
    return out


def shell(line, timeout=120):
    """Run a pipeline as a person types it; a failure anywhere in it counts."""
    return run("bash", "-o", "pipefail", "-c", line, timeout=timeout)


def eventually(condition, message, seconds=10):
    """Wait for a condition that the server reaches in its own time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(message)
        time.sleep(0.02)


def connect(server, timeout=30):
    return Connection(server.port, timeout)
