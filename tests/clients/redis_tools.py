"""redis-cli in each of its modes, and redis-benchmark: the tools that everyone has."""

import re

from harness import HERE, check, connect, contains, equal, run, scenario, shell


def cli(server, *args, **more):
    return run("redis-cli", "-p", server.port, *args, **more)


def fill(server, count):
    with connect(server) as client:
        for number in range(count):
            client.send(b"SET key:%d %s\r\n" % (number, b"v" * (number % 50 + 1)))
        for _ in range(count):
            equal(client.reply(), "OK")
        equal(client.ask("SET", "the-biggest", "x" * 5000), "OK")


@scenario()
def redis_cli_one_shot(server):
    """redis-cli with a command as its arguments: statuses, strings, numbers, nil, arrays, errors."""
    equal(cli(server, "SET", "k", "two words"), "OK\n")
    equal(cli(server, "GET", "k"), "two words\n")
    equal(cli(server, "--no-raw", "GET", "k"), '"two words"\n')
    equal(cli(server, "--no-raw", "GET", "nothing"), "(nil)\n")
    equal(cli(server, "--no-raw", "INCR", "n"), "(integer) 1\n")
    equal(cli(server, "--no-raw", "MGET", "k", "nothing"), '1) "two words"\n2) (nil)\n')
    equal(cli(server, "INCR", "k"), "ERR value is not an integer or out of range\n\n")
    cli(server, "-e", "INCR", "k", fails=True)
    equal(cli(server, "-x", "SET", "piped", input="from stdin"), "OK\n")
    equal(cli(server, "GET", "piped"), "from stdin\n")
    equal(cli(server, "-r", "3", "INCR", "n"), "2\n3\n4\n")


@scenario()
def redis_cli_resp3(server):
    """`redis-cli -3` says HELLO 3 first; nulls and maps then look as they do with Redis."""
    equal(cli(server, "-3", "--no-raw", "GET", "nothing"), "(nil)\n")
    equal(cli(server, "-3", "--json", "CONFIG", "GET", "maxmemory"), '{"maxmemory":"0"}\n')


@scenario()
def redis_cli_interactive_from_a_pipe(server):
    """redis-cli reading commands from a pipe: one reply a command, MULTI and comments of errors
    included."""
    said = cli(server, input='SET a "x y"\nGET a\nMULTI\nINCR n\nINCR n\nEXEC\nNOSUCH\nGET a\n')
    lines = said.splitlines()
    equal(lines[:7], ["OK", "x y", "OK", "QUEUED", "QUEUED", "1", "2"], "lines")
    contains(said, "ERR unknown command 'NOSUCH', with args beginning with: ")
    equal(lines[-1], "x y", "last line")


@scenario()
def redis_cli_interactive_on_a_terminal(server):
    """redis-cli on a terminal (it asks for COMMAND DOCS first): typed lines, hints, MULTI's prompt,
    SUBSCRIBE and Ctrl-C."""
    run("expect", HERE / "expect/redis-cli.exp", server.port)


@scenario()
def redis_cli_scan(server):
    """`redis-cli --scan` gives every key exactly once, and --pattern only those that match."""
    fill(server, 3000)
    keys = cli(server, "--scan").split()
    equal(len(keys), 3001, "keys")
    equal(len(set(keys)), 3001, "distinct keys")
    equal(set(cli(server, "--scan", "--pattern", "key:1?").split()), {f"key:1{d}" for d in range(10)})
    equal(cli(server, "--scan", "--pattern", "the-*"), "the-biggest\n")


@scenario()
def redis_cli_bigkeys(server):
    """`redis-cli --bigkeys` (SCAN, TYPE, STRLEN) finds the biggest string."""
    fill(server, 500)
    said = cli(server, "--bigkeys")
    contains(said, "Sampled 501 keys in the keyspace!")
    check(re.search(r'Biggest string found .?"the-biggest".? has 5000 bytes', said), said)


@scenario()
def redis_cli_memkeys(server):
    """`redis-cli --memkeys` (MEMORY USAGE) finds the key that takes most memory."""
    fill(server, 500)
    said = cli(server, "--memkeys")
    contains(said, "Sampled 501 keys in the keyspace!")
    check(re.search(r'Biggest string found .?"the-biggest".? has [5-9]\d\d\d bytes', said), said)


@scenario()
def redis_cli_stat(server):
    """`redis-cli --stat` for a second or so: its columns are read out of INFO."""
    fill(server, 100)
    said = shell(f"timeout 2.5 stdbuf -oL redis-cli -p {server.port} -i 0.5 --stat || [ $? = 124 ]")
    rows = [line.split() for line in said.splitlines() if line[:1].isdigit()]
    check(len(rows) >= 3, said)
    equal(rows[-1][0], "101", "the column keys")


@scenario()
def redis_cli_latency(server):
    """`redis-cli --latency` samples PING for a second and prints min, max, avg and samples."""
    said = shell(f"timeout 20 redis-cli -p {server.port} --latency --raw -i 1")
    numbers = said.split()
    equal(len(numbers), 4, "numbers printed")
    check(int(numbers[3]) > 10, said)


@scenario()
def redis_cli_pipe_counts_errors(server):
    """`redis-cli --pipe` with mistakes among the commands: they are counted, the rest is done, and
    it exits 1 as with Redis."""
    said = cli(server, "--pipe", input="SET a 1\nINCR a\nNOSUCH\nGET\nINCR a\n", fails=True)
    contains(said, "errors: 2, replies: 5")
    equal(cli(server, "GET", "a"), "3\n")


@scenario()
def redis_cli_monitor(server):
    """MONITOR in one redis-cli shows what another sends, quoted, with time, database and address."""
    said = shell(f"""
        cd {server.home}
        timeout 3 redis-cli -p {server.port} MONITOR > monitor & monitor=$!
        sleep 1
        redis-cli -p {server.port} SET greeting 'two "words"' > /dev/null
        wait $monitor || true
        cat monitor""")
    check(said.startswith("OK\n"), said)
    check(re.search(r'\n\d{10}\.\d{6} \[0 127\.0\.0\.1:\d+\] "SET" "greeting" "two \\"words\\""\n', said), said)


@scenario(seconds=240)
def redis_benchmark_all_string_commands(server):
    """redis-benchmark -q with every string command, plain, pipelined and over RESP3."""
    tests = "ping_inline,ping_mbulk,set,get,incr,mset"
    for more in ([], ["-P", "16"], ["-3", "-P", "16"], ["-d", "4096"], ["-r", "100000", "-P", "50"]):
        said = run("redis-benchmark", "-p", server.port, "-q", "-n", 20000, "-t", tests, *more)
        results = re.findall(r"([A-Z_]+(?: \([^)]*\))?): [\d.]+ requests per second", said)
        equal(len(results), 6, f"results in {said}")
        check("rror" not in said, said)
    for command in ("APPEND a x", "GETRANGE a 0 10", "SETBIT b 7 1", "BITCOUNT b", "SETRANGE a 4 y",
                    "STRLEN a", "DEL a", "EXPIRE b 100", "TTL b", "INCRBYFLOAT f 0.5", "EXISTS a b"):
        said = run("redis-benchmark", "-p", server.port, "-q", "-n", 5000, "-P", 8, *command.split())
        contains(said, "requests per second")
        check("rror" not in said, said)
