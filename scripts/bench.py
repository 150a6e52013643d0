"""Ratios of Marline to Debian's redis-server on this machine, each with its goal beside it.

    scripts/bench [speed] [memory] [idle] [turn] [--keys N] [--pairs N] [--seconds S]

Without a part, all four. Each server has core 0 to itself, the load generator core 1. The servers
take turns (A B A B ...), and the medians are compared, so that a slow minute of the machine hits
both. Throughput says nothing once the generator is the limit: then the server's processor time per
command, which is printed beside it, decides.
"""

import argparse
import os
import pathlib
import re
import select
import socket
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/clients"))

from resp import encode  # noqa: E402
from server import STAND_IN, Connection, Server  # noqa: E402

SERVER_CORE, CLIENT_CORE = "0", "1"
CONNECTIONS = 50
IDLE_CONNECTIONS = 10_000
SPEED_GOALS = {("resp", 1): 1.10, ("resp", 16): 1.5, ("resp", 64): 2.0,
               ("random", 1): 1.10, ("random", 16): 1.5, ("random", 64): 2.0,
               ("inline", 16): 2.0, ("inline", 64): 2.5}
RANDOM_KEYS = 1_000_000
MEMORY_GOAL, IDLE_GOAL, TURN_GOAL_US = 0.6, 512, 5000


def on_core(binary=None):
    return Server(binary, ["--maxclients", 2 * IDLE_CONNECTIONS], prefix=["taskset", "-c", SERVER_CORE])


def both():
    """The two servers, by name."""
    return {"Redis": on_core(STAND_IN), "Marline": on_core()}


def table(title, head, rows):
    print(f"\n{title}")
    rows = [head] + [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    sys.stdout.flush()


def verdict(met):
    return "met" if met else "MISSED"


# speed

def redis_benchmark(port, command, pipeline, requests, *more, connections=CONNECTIONS):
    said = subprocess.run(
        ["taskset", "-c", CLIENT_CORE, "redis-benchmark", "-p", str(port), "-c", str(connections), "-q", "--csv",
         "-n", str(requests), "-P", str(pipeline), "-t", command.lower(), *more],
        capture_output=True, text=True, timeout=300, check=True).stdout
    return float(re.search(rf'"{command}","([\d.]+)"', said).group(1))


def random_load(port, command, pipeline, requests):
    """As redis_benchmark, which without this asks for one and the same key all the time."""
    return redis_benchmark(port, command, pipeline, requests, "-r", str(RANDOM_KEYS))


def inline_load(port, command, pipeline, requests):
    """redis-benchmark cannot send lines: 50 connections, each with `pipeline` lines under way. The
    buffers are made beforehand and the replies only counted, so that Python can keep up."""
    line, reply = {"SET": (b"SET key:__rand_int__ xxx\r\n", 5), "GET": (b"GET key:__rand_int__\r\n", 9)}[command]
    buffer, expected = line * pipeline, reply * pipeline
    peers, missing, poller = {}, {}, select.epoll()
    for _ in range(CONNECTIONS):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poller.register(peer, select.EPOLLIN)
        peers[peer.fileno()], missing[peer.fileno()] = peer, expected
    rounds, done = requests // pipeline, 0
    start = time.monotonic()
    for peer in peers.values():
        peer.send(buffer)
    while done < rounds:
        ready = poller.poll(10)
        if not ready:
            raise RuntimeError("no reply for 10 seconds")
        for fd, _ in ready:
            data = peers[fd].recv(65536)
            if not data:
                raise RuntimeError("closed by the server")
            missing[fd] -= len(data)
            if missing[fd] == 0:
                missing[fd] = expected
                done += 1
                peers[fd].send(buffer)
    took = time.monotonic() - start
    for peer in peers.values():
        peer.close()
    poller.close()
    return done * pipeline / took


def measure(load, server, command, pipeline, requests):
    """(commands a second, processor nanoseconds of the server a command)"""
    before = server.cpu_ns()
    per_second = load(server.port, command, pipeline, requests)
    return per_second, (server.cpu_ns() - before) / requests


def speed(options):
    os.sched_setaffinity(0, {int(CLIENT_CORE)})
    rows, servers = [], both()
    with servers["Redis"], servers["Marline"]:
        for server in servers.values():
            with Connection(server.port) as connection:
                connection.ask("SET", "key:__rand_int__", "xxx")
        for (form, pipeline), goal in SPEED_GOALS.items():
            load = {"resp": redis_benchmark, "random": random_load, "inline": inline_load}[form]
            for command in ("GET", "SET"):
                # To warm up, and to find how many requests last long enough.
                fastest = max(measure(load, server, command, pipeline, 100_000)[0] for server in servers.values())
                requests = max(100_000, int(fastest * options.seconds) // 1000 * 1000)
                measured = {name: [] for name in servers}
                for _ in range(options.pairs):
                    for name, server in servers.items():
                        measured[name].append(measure(load, server, command, pipeline, requests))
                (rate, cost), (our_rate, our_cost) = (
                    map(statistics.median, zip(*measured[name])) for name in ("Redis", "Marline"))
                ratio, cpu_ratio = our_rate / rate, cost / our_cost
                by = "" if ratio >= goal else " by cpu" if cpu_ratio >= goal else ""
                rows.append([f"{command} {form} P={pipeline}", f"{rate:,.0f}", f"{our_rate:,.0f}", f"{ratio:.2f} x",
                             f"{cost:,.0f}", f"{our_cost:,.0f}", f"{cpu_ratio:.2f} x", f">= {goal:.2f} x",
                             verdict(max(ratio, cpu_ratio) >= goal) + by])
                print(".", end="", flush=True)
    table(f"speed: {CONNECTIONS} connections, {options.pairs} pairs, medians; random: among {RANDOM_KEYS:,} keys",
          ["load", "Redis/s", "Marline/s", "ratio", "Redis ns", "Marline ns", "cpu ratio", "goal", ""], rows)


# memory and turn

def load_keys(server, count):
    """`count` keys of 16 bytes with values of 32, pipelined on one connection; commands a second."""
    form = encode(["SET", "k" * 16, "v" * 32]).replace(b"k" * 16, b"key:%012d").replace(b"v" * 32, b"%032d")
    chunk = 1000
    start = time.monotonic()
    with Connection(server.port, timeout=60) as connection:
        waiting = 0
        for at in range(0, count, chunk):
            some = range(at, min(at + chunk, count))
            connection.send(b"".join([form % (n, n) for n in some]))
            waiting += 5 * len(some)
            while waiting > 5 * chunk * 4:
                waiting -= len(connection.socket.recv(1 << 20))
        while waiting:
            waiting -= len(connection.socket.recv(1 << 20))
        if connection.ask("DBSIZE") != count:
            raise RuntimeError("not every key was stored")
    return count / (time.monotonic() - start)


def memory(options):
    rows, each = [], {}
    for name, server in both().items():
        with server:
            before = server.rss()
            rate = load_keys(server, options.keys)
            time.sleep(1)
            each[name] = (server.rss() - before) / options.keys
            rows.append([name, f"{each[name]:.1f}", f"{(server.rss() - before) / 2**20:,.0f} MiB", f"{rate:,.0f}/s"])
    ratio = each["Marline"] / each["Redis"]
    rows.append(["ratio", f"{ratio:.2f} x", f"goal <= {MEMORY_GOAL} x", verdict(ratio <= MEMORY_GOAL)])
    table(f"memory: {options.keys:,} keys of 16 bytes, values of 32",
          ["server", "resident bytes a key", "in all", "loaded at"], rows)


def turn(options):
    server = on_core()
    with server, Connection(server.port) as connection:
        connection.ask("CONFIG", "RESETSTAT")
        rate = load_keys(server, options.keys)
        longest = re.search(rb"marline_turn_us_max:(\d+)", connection.ask("INFO"))
        if not longest:
            table("turn", ["INFO has no marline_turn_us_max"], [])
            return
        micros = int(longest.group(1))
        table(f"turn: the reactor's longest while {options.keys:,} keys were loaded ({rate:,.0f}/s)",
              ["longest", "goal", ""],
              [[f"{micros / 1000:.2f} ms", f"< {TURN_GOAL_US / 1000:.0f} ms", verdict(micros < TURN_GOAL_US)]])


# idle

def idle(options):
    rows = []
    for name, server in both().items():
        with server, Connection(server.port) as control:
            control.ask("PING")
            before = server.rss()
            peers = []
            for _ in range(IDLE_CONNECTIONS):
                peer = Connection(server.port)
                peer.send(b"PING\r\n")
                peers.append(peer)
            for peer in peers:
                peer.reply()
            time.sleep(5)  # what was lent to them for the one command may be given back
            each = (server.rss() - before) / IDLE_CONNECTIONS
            ours = name == "Marline"
            rows.append([name, f"{each:,.0f}", f"<= {IDLE_GOAL}" if ours else "", verdict(each <= IDLE_GOAL) if ours else ""])
            for peer in peers:
                peer.close()
    table(f"idle: {IDLE_CONNECTIONS:,} connections that sent one PING each (the kernel's memory is not counted)",
          ["server", "resident bytes each", "goal", ""], rows)


PARTS = {"speed": speed, "memory": memory, "idle": idle, "turn": turn}


def part(name):
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(PARTS)}")
    return name


def main():
    options = argparse.ArgumentParser(prog="scripts/bench", description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", default=PARTS, type=part, metavar="part")
    options.add_argument("--keys", type=int, default=10_000_000)
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--seconds", type=float, default=2, help="about how long one measurement of speed lasts")
    chosen = options.parse_args()
    for name in chosen.parts:
        PARTS[name](chosen)


if __name__ == "__main__":
    main()
