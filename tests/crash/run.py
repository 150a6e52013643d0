"""Crash a node in every way that can be had without pulling a plug: run.py [PART ...]

    cycles   kill -9 under load at random moments, restart, compare with a model
    power    the same, and what was not synced is thrown away at random (faulty_disk.c)
    faults   a disk that fails, is full, is slow
    canary   what is sealed shows nothing of it in any file

    --cycles N   of kill -9 (default 50); power failures are a fifth of that
    --seed S     of everything random; printed first
    --sealed     seal the data, and rotate keys meanwhile
    --sync MODE  always (default), 1s, never
    --self-test  plants lies and losses, and demands that each is found
"""

import argparse
import pathlib
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "clients")]

from disk import NoCompiler  # noqa: E402
from cycles import Figures, kill_cycles, power_cycles  # noqa: E402
from node import Node  # noqa: E402
import canary  # noqa: E402
import faults  # noqa: E402
import selftest  # noqa: E402
from harness import Skip  # noqa: E402


def cycles(options):
    figures = Figures()
    with Node(sync=options.sync, sealed=options.sealed) as node:
        kill_cycles(options.cycles, options.seed, figures, node)
    return str(figures)


def power(options):
    if options.sync != "always":
        raise Skip(f"--sync {options.sync} promises nothing when the power fails")
    figures = Figures()
    with Node(sealed=options.sealed, faulty=True) as node:
        power_cycles(max(5, options.cycles // 5), options.seed, figures, node)
    return str(figures)


def steps(options):
    """(name, function that gives a line or raises) of what was asked for."""
    parts = {"cycles": [("kill -9", lambda: cycles(options))],
             "power": [("power failures", lambda: power(options))],
             "faults": [(scenario.__name__, lambda scenario=scenario: scenario(options)) for scenario in faults.ALL],
             "canary": [("canary", lambda: canary.scan(options))]}
    if options.self_test:
        return [(test.__name__, lambda test=test: test(options)) for test in selftest.ALL]
    return [step for part in options.parts or parts for step in parts[part]]


def run(name, function):
    """None when it passed, "skipped", or "failed"."""
    start = time.monotonic()
    try:
        said = function() or ""
        print(f"  ok      {name} ({time.monotonic() - start:.1f} s) {said}", flush=True)
        return None
    except (Skip, NoCompiler) as reason:
        print(f"  SKIPPED {name}: {reason}", flush=True)
        return "skipped"
    except Exception as error:
        known = isinstance(error, (AssertionError, RuntimeError)) or type(error).__name__ == "Broken"
        text = str(error) if known and str(error) else traceback.format_exc(limit=-4)
        print(f"  FAILED  {name} ({time.monotonic() - start:.1f} s): {text}", flush=True)
        return "failed"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["cycles", "power", "faults", "canary", []])
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9)
    parser.add_argument("--sealed", action="store_true")
    parser.add_argument("--sync", default="always", choices=["always", "1s", "never"])
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    results = [run(name, function) for name, function in steps(options)]
    print(f"{results.count(None)} passed, {results.count('failed')} failed, {results.count('skipped')} skipped")
    return 1 if "failed" in results or None not in results else 0


if __name__ == "__main__":
    sys.exit(main())
