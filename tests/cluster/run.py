"""Clusters of three real nodes, and what may happen to them: run.py [NAME-PART ...]

    --seed S     of everything random; printed first
    --rounds N   all of it so many times, each with another seed
    --list       what there is
"""

import argparse
import os
import pathlib
import signal
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "clients")]

from harness import Skip  # noqa: E402
import partition  # noqa: E402
import scenarios  # noqa: E402

SKIPPED = 77


def run_inside(scenario, seed):
    """Runs a scenario in a network namespace of its own, as another process; its lines are printed there."""
    partition.demand()
    code = partition.enter([str(HERE / "run.py"), "--seed", str(seed), scenario.__name__])
    return {0: None, SKIPPED: "skipped"}.get(code, "failed")


def run(scenario, seed):
    """None when it passed, "skipped", or "failed"."""
    start = time.monotonic()
    name = scenario.__name__
    try:
        if scenario is scenarios.partition and partition.INSIDE not in os.environ:
            return run_inside(scenario, seed)
        said = scenario(seed)
        print(f"  ok      {name} ({time.monotonic() - start:.1f} s) {said}", flush=True)
        return None
    except Skip as reason:
        print(f"  SKIPPED {name}: {reason}", flush=True)
        return "skipped"
    except Exception as error:
        text = str(error) if isinstance(error, AssertionError) and str(error) else traceback.format_exc(limit=-4)
        print(f"  FAILED  {name} ({time.monotonic() - start:.1f} s, seed {seed}): {text}", flush=True)
        return "failed"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="NAME-PART")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    chosen = [scenario for scenario in scenarios.ALL
              if not options.parts or any(part in scenario.__name__ for part in options.parts)]
    if options.list:
        for scenario in chosen:
            print(f"{scenario.__name__}: {' '.join(scenario.__doc__.split())}")
        return 0
    # So that nodes are ended when this is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    inside = partition.INSIDE in os.environ
    results = []
    for seed in range(options.seed, options.seed + options.rounds):
        if not inside:
            print(f"seed {seed}", flush=True)
        results += [run(scenario, seed) for scenario in chosen]
        if "failed" in results:
            break
    if inside:
        return SKIPPED if "skipped" in results else int("failed" in results)
    print(f"{results.count(None)} passed, {results.count('failed')} failed, {results.count('skipped')} skipped")
    return 1 if "failed" in results or None not in results else 0


if __name__ == "__main__":
    sys.exit(main())
