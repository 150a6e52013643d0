"""Run the outside-client scenarios: run.py [--list] [NAME-PART ...]

Prints one line a scenario and closes with `N passed, N failed, N skipped`.
"""

import os
import signal
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from harness import SCENARIOS, Skip  # noqa: E402
from server import Server, marline_binary  # noqa: E402
import shell_tools  # noqa: E402,F401
import redis_tools  # noqa: E402,F401
import libraries  # noqa: E402,F401
import by_hand  # noqa: E402,F401
import lifecycle  # noqa: E402,F401
import bad_input  # noqa: E402,F401
import importing  # noqa: E402,F401
import backups  # noqa: E402,F401
import clusters  # noqa: E402,F401


class TookTooLong(Exception):
    pass


def on_alarm(_signal, _frame):
    raise TookTooLong("the scenario took too long")


def run_one(scenario, is_marline):
    """None when it passed, else a text that says why not. `Skip` passes through."""
    if scenario.only_marline and not is_marline:
        raise Skip("the server under test is not Marline")
    server = Server(options=scenario.options)
    server.start()
    try:
        signal.alarm(scenario.seconds)
        scenario.function(server)
        if scenario.survives:
            if server.process.poll() is not None:
                raise AssertionError(f"the server is gone, exit code {server.process.returncode}")
            if not server.answers():
                raise AssertionError("the server no longer answers PING")
        return None
    except Skip:
        raise
    except Exception:
        return traceback.format_exc(limit=-3) + "\nthe server's log ends:\n" + server.log_text()[-1500:]
    finally:
        signal.alarm(0)
        server.stop()


def main(arguments):
    chosen = [s for s in SCENARIOS
              if not [a for a in arguments if not a.startswith("-")]
              or any(a in s.name for a in arguments if not a.startswith("-"))]
    if "--list" in arguments:
        for scenario in chosen:
            print(f"{scenario.name}: {scenario.sentence}")
        return 0
    signal.signal(signal.SIGALRM, on_alarm)
    with Server() as server:
        is_marline = server.is_marline()
    print(f"server: {marline_binary()}{'' if is_marline else ' (not Marline: a stand-in)'}")
    passed, failed, skipped = 0, [], 0
    for scenario in chosen:
        start = time.monotonic()
        try:
            why = run_one(scenario, is_marline)
        except Skip as reason:
            skipped += 1
            print(f"  SKIPPED {scenario.name}: {reason}", flush=True)
            continue
        except Exception:
            why = traceback.format_exc(limit=-3)
        took = time.monotonic() - start
        if why is None:
            passed += 1
            print(f"  ok      {scenario.name} ({took:.1f} s)", flush=True)
        else:
            failed.append(scenario)
            print(f"  FAILED  {scenario.name} ({took:.1f} s): {scenario.sentence}\n"
                  + "\n".join("          " + line for line in why.splitlines()), flush=True)
    for scenario in failed:
        print(f"failed: {scenario.name}: {scenario.sentence}")
    print(f"{passed} passed, {len(failed)} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
