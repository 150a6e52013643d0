"""A network of its own for each node, so that it can be cut between any two of them.

Each node lives in a network namespace that has one cable to the hub, which is where the tests run; the hub passes on what
one node sends to another. A cut is a rule of the hub's routing that drops what one of them sends to the other, in silence.
The hub reaches every node all the time. The whole needs root, and no firewall. Nothing has a name, so nothing is left
behind: a namespace ends with the processes in it.
"""

import os
import subprocess
import sys
import time

from harness import Skip

# Says to this program that it runs in a namespace of its own already.
INSIDE = "MARLINE_TEST_HUB"
HOLD_SECONDS = "900"


def address(number):
    return f"10.77.{number}.1"


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Skip(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()}")


def enter(arguments):
    """Runs this program once more, with `arguments`, in a namespace of its own; gives its exit code."""
    environment = {**os.environ, INSIDE: "1"}
    return subprocess.run(["unshare", "-n", sys.executable, *arguments], env=environment).returncode


def demand():
    """Raises `Skip` where no namespaces can be had."""
    if os.geteuid() != 0:
        raise Skip("only root can make network namespaces: run it as root to test partitions")
    run("unshare", "-n", "true")


class Network:
    """Namespaces of `count` nodes around this process's own; use it with `with`."""

    def __init__(self, count):
        self.count, self.holders, self.cuts = count, [], []

    def __enter__(self):
        if INSIDE not in os.environ:
            raise Skip("it runs in a namespace of its own only")
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def build(self):
        try:
            with open("/proc/sys/net/ipv4/ip_forward", "w") as forward:
                forward.write("1")
        except OSError as error:
            raise Skip(f"the hub cannot pass packets on: {error}") from None
        run("ip", "link", "set", "lo", "up")
        for number in range(1, self.count + 1):
            # A namespace is there as long as a process is in it.
            holder = subprocess.Popen(["unshare", "-n", "sleep", HOLD_SECONDS])
            self.holders.append(holder)
            pid = str(holder.pid)
            wait_for_namespace(holder.pid)
            inside, hub = ("nsenter", "-t", pid, "-n"), f"10.77.{number}.254"
            run("ip", "link", "add", f"node{number}", "type", "veth", "peer", "name", "hub", "netns", pid)
            run("ip", "addr", "add", f"{hub}/24", "dev", f"node{number}")
            run("ip", "link", "set", f"node{number}", "up")
            run(*inside, "ip", "addr", "add", f"{address(number)}/24", "dev", "hub")
            run(*inside, "ip", "link", "set", "hub", "up")
            run(*inside, "ip", "link", "set", "lo", "up")
            run(*inside, "ip", "route", "add", "default", "via", hub)

    def places(self):
        """For `Cluster`: where each node is, and how it gets there."""
        return [(address(number), ("nsenter", "-t", str(holder.pid), "-n"))
                for number, holder in enumerate(self.holders, 1)]

    def others(self, number):
        return [other for other in range(1, self.count + 1) if other != number]

    def cut(self, source, target):
        """What `source` sends does not reach `target`; the other way round it does."""
        rule = ("from", address(source), "to", address(target), "blackhole")
        run("ip", "rule", "add", *rule)
        self.cuts.append(rule)

    def isolate(self, number):
        for other in self.others(number):
            self.cut(number, other)
            self.cut(other, number)

    def silence(self, number):
        for other in self.others(number):
            self.cut(number, other)

    def mend(self):
        while self.cuts:
            run("ip", "rule", "del", *self.cuts.pop())

    def __exit__(self, *_):
        for holder in self.holders:
            holder.kill()
            holder.wait()


def wait_for_namespace(pid, seconds=5):
    """Until a process that was just started has left our namespace."""
    own, deadline = os.readlink("/proc/self/ns/net"), time.monotonic() + seconds
    while os.readlink(f"/proc/{pid}/ns/net") == own:
        if time.monotonic() > deadline:
            raise Skip("unshare does not unshare")
        time.sleep(0.01)
