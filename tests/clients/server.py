"""Start a server on a free port, wait until it answers, stop it by its own pid.

The one place where the tests, the benchmark and the soak start a server. `MARLINE_BIN` names
the binary (default: the release build); `tests/clients/redis-stand-in` put there runs every
scenario against Debian's redis-server, which shows that the scenarios themselves are right.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from resp import ErrorReply, Incomplete, encode, parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "tests/clients/redis-stand-in"
START_SECONDS = 20
STOP_SECONDS = 20


def marline_binary():
    return os.environ.get("MARLINE_BIN") or str(ROOT / "target/release/marline")


def free_port():
    """A port that is free now, and whose neighbour 100 above (the HTTP port) is free too."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port > 65000:
                continue
            try:
                second.bind(("127.0.0.1", port + 100))
            except OSError:
                continue
            return port
    raise RuntimeError("no free pair of ports")


class Server:
    """One running server process; use it with `with`."""

    def __init__(self, binary=None, options=(), data="none", prefix=(), environment=None, port=None):
        self.binary = str(binary or marline_binary())
        self.options = [str(option) for option in options]
        self.data = str(data)
        self.prefix = list(prefix)
        self.environment = environment and {**os.environ, **environment}
        self.host = "127.0.0.1"
        self.port = port or free_port()
        self.process = None

    def command(self, port=None, bind=None):
        return [*self.prefix, self.binary, "--port", str(port or self.port),
                "--bind", bind or self.host, "--data", self.data, *self.options]

    def launch(self):
        """Start the process and do not wait until it answers."""
        self.home = tempfile.mkdtemp(prefix="marline-test-")
        self.log = open(os.path.join(self.home, "log"), "w+b")
        self.process = subprocess.Popen(
            self.command(), cwd=self.home, stdin=subprocess.DEVNULL, env=self.environment,
            stdout=self.log, stderr=subprocess.STDOUT)
        return self

    def start(self, seconds=START_SECONDS):
        """Start the process and wait until it answers, which it does once its data is loaded."""
        self.launch()
        deadline = time.monotonic() + seconds
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = self.log_text()
                self.stop()
                raise RuntimeError(f"the server did not start: {' '.join(self.command())}\n{text}")
            time.sleep(0.01)
        return self

    def answers(self):
        try:
            with Connection(self.port, timeout=2) as connection:
                return connection.ask("PING") == "PONG"
        except (OSError, Incomplete, EOFError, ValueError):
            return False

    def is_marline(self):
        with Connection(self.port) as connection:
            return b"marline_version:" in connection.ask("INFO")

    def log_text(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text(errors="replace")[-4000:]

    def kill(self):
        """End the process as `kill -9` does, or find that it is gone; its directory of data stays."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def rss(self):
        """Resident bytes of the process."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the server has no resident memory: it is gone")

    def cpu_ns(self):
        """Processor nanoseconds of all the process's threads."""
        total = 0
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


class Cluster:
    """Nodes that found a cluster together; use it with `with`."""

    def __init__(self, count=3, options=()):
        ports = set()
        while len(ports) < count:
            ports.add(free_port())
        addresses = ",".join(f"127.0.0.1:{port}" for port in sorted(ports))
        self.nodes = []
        for port in sorted(ports):
            node = Server(options=("--cluster", addresses, *options), data="data")
            node.port = port
            self.nodes.append(node)

    def start(self, seconds=START_SECONDS):
        """Start all nodes and wait until all see each other and a leader of every shard."""
        for node in self.nodes:
            node.launch()
        deadline = time.monotonic() + seconds
        while not all(self.is_ok(node, unreachable=0) for node in self.nodes):
            if time.monotonic() > deadline:
                text = "\n".join(node.log_text() for node in self.nodes)
                self.stop()
                raise RuntimeError(f"the cluster did not start\n{text}")
            time.sleep(0.02)
        return self

    def is_ok(self, node, unreachable=None):
        """Whether a node sees a leader of every shard, and misses so many nodes."""
        try:
            with Connection(node.port, timeout=2) as connection:
                facts = connection.ask("CLUSTER", "INFO")
        except (OSError, Incomplete, EOFError):
            return False
        if isinstance(facts, ErrorReply) or b"cluster_state:ok\r\n" not in facts:
            return False
        return unreachable is None or b"marline_nodes_unreachable:%d\r\n" % unreachable in facts

    def ports(self):
        return [node.port for node in self.nodes]

    def stop(self):
        for node in self.nodes:
            node.stop()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


class Connection:
    """A raw socket that can send any bytes and read replies one by one."""

    def __init__(self, port, timeout=30, host="127.0.0.1"):
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, data):
        self.socket.sendall(data)

    def ask(self, *args):
        """Send one command and give its reply."""
        self.send(encode(args))
        return self.reply()

    def reply(self):
        while True:
            try:
                value, after = parse(self.buffer)
            except Incomplete:
                self.fill()
                continue
            self.buffer = self.buffer[after:]
            return value

    def fill(self):
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError(f"closed by the server; unread: {self.buffer[:200]!r}")
        self.buffer += data

    def take(self, count):
        """The next `count` bytes, whatever they are."""
        while len(self.buffer) < count:
            self.fill()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def line(self):
        """One line, for the one-line modes: it must end in a bare newline."""
        while b"\n" not in self.buffer:
            self.fill()
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()

    def finish_sending(self):
        self.socket.shutdown(socket.SHUT_WR)

    def rest(self):
        """Everything until the server closes. A reset counts as closing."""
        parts = [self.buffer]
        self.buffer = b""
        try:
            while data := self.socket.recv(1 << 20):
                parts.append(data)
        except ConnectionResetError:
            pass
        return b"".join(parts)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


__all__ = ["Cluster", "Connection", "ErrorReply", "ROOT", "STAND_IN", "Server", "free_port", "marline_binary"]
