"""One node with a data directory that outlives its processes: start, kill -9, start again."""

import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import time

from disk import FaultyDisk
from resp import Incomplete
from server import STAND_IN, Connection, Server, marline_binary

LOADED_SECONDS = 60
# Of Redis behind the shim: its append-only files stand one directory deeper.
REDIS_FILES = "appendonlydir"


class Node:
    """`home` holds data/, the keys, the shim's control directory and the logs of all processes."""

    def __init__(self, binary=None, sync="always", sealed=False, faulty=False, options=(), data=None):
        self.binary = str(binary or marline_binary())
        self.stand_in = pathlib.Path(self.binary).resolve() == STAND_IN
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="marline-crash-")).resolve()
        self.data = pathlib.Path(data or self.home / "data")
        self.options = ["--sync", sync, *options]
        self.sealed = sealed and not self.stand_in
        if self.sealed:
            self.keys = self.home / "keys"
            write_keys(self.keys)
            self.options += ["--seal-keys", self.keys]
        self.disk = None
        if faulty:
            # Redis refuses an append-only file that has a hole.
            files = self.data / REDIS_FILES if self.stand_in else self.data
            self.disk = FaultyDisk(files, self.home / "faults", tears=not self.stand_in)
        self.server = None

    @staticmethod
    def of_stand_in():
        """Whether the server under test is Redis."""
        return pathlib.Path(marline_binary()).resolve() == STAND_IN

    def launch(self):
        if self.disk:
            self.disk.mend()
        environment = {**(self.disk.environment() if self.disk else {}), "RUST_BACKTRACE": "1"}
        self.server = Server(self.binary, self.options, data=self.data, environment=environment).launch()

    def start(self, seconds=LOADED_SECONDS):
        """Launch, and wait until every key can be read."""
        self.launch()
        self.wait(seconds)
        return self

    def wait(self, seconds=LOADED_SECONDS):
        deadline = time.monotonic() + seconds
        while not self.server.answers():
            if self.server.process.poll() is not None:
                code = self.server.process.returncode
                raise AssertionError(f"the node did not start: exit code {code}\n{self.end_log()}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the node did not answer within {seconds} s\n{self.last_log()}")
            time.sleep(0.005)

    def first_answer(self, seconds=5):
        """What it says to the first PING that it answers at all: LOADING or PONG; None when it is gone."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.server.process.poll() is None:
            try:
                with Connection(self.port, timeout=2) as connection:
                    return connection.ask("PING")
            except (OSError, Incomplete, EOFError, ValueError):
                time.sleep(0.001)
        return None

    @property
    def port(self):
        return self.server.port

    @property
    def process(self):
        return self.server.process

    def connect(self, timeout=30):
        return Connection(self.port, timeout)

    def ask(self, *args, timeout=60):
        with self.connect(timeout) as connection:
            return connection.ask(*args)

    def kill(self):
        """kill -9."""
        if self.server:
            self.server.kill()
            self.end_log()

    def terminate(self):
        """SIGTERM; gives the exit code."""
        self.process.terminate()
        code = self.process.wait(60)
        self.end_log()
        return code

    def exit_code(self, seconds=30):
        """The code of a process that is to end by itself."""
        code = self.process.wait(seconds)
        self.end_log()
        return code

    def end_log(self):
        """Appends the ended process's output to the node's log, and gives it."""
        text = self.server.log_text()
        with open(self.home / "log", "a") as log:
            log.write(text)
        self.server.stop()
        self.server = None
        return text

    def last_log(self):
        log = self.home / "log"
        return log.read_text()[-3000:] if log.exists() else ""

    def tool(self, *args, timeout=120):
        """`marline ARGS`; (exit code, output)."""
        done = subprocess.run([self.binary, *map(str, args)], capture_output=True, timeout=timeout, cwd=self.home,
                              stdin=subprocess.DEVNULL)
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    def check(self):
        """`marline check DIR` must find everything whole."""
        if self.stand_in:
            return
        keys = ["--seal-keys", self.keys] if self.sealed else []
        code, said = self.tool("check", self.data, *keys)
        if code != 0:
            raise AssertionError(f"marline check: exit code {code}\n{said}")

    def discard(self):
        """End what runs and remove everything."""
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.kill()
        if kind is None:
            shutil.rmtree(self.home, ignore_errors=True)
        else:
            print(f"    kept: {self.home}", flush=True)


def crc32c(data):
    """Bit by bit: of one line."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def write_keys(path):
    """A ring of one key (the form is src/disk/seal.rs's), which only its owner may read."""
    title = ("# Marline keys: whoever has this file reads what is sealed. Keep a copy, but not beside the data.\n")
    line = f"1 2026-01-01T00:00:00Z {random.SystemRandom().randbytes(32).hex()}"
    path.write_text(f"{title}{line} {crc32c(line.encode()):08x}\n")
    os.chmod(path, 0o600)
