//! Three nodes in three processes: commands over several shards, transactions, watches and messages, typed to any of
//! them.
//!
//! A scenario is text. `2b> GET k` types to the client `b` of node 2 (`2>`: its client without a name), and the line
//! below is the reply, in the dialect LINE; `2b< …` is a line that comes without being asked for. A reply that ends in
//! `…` is the beginning of one.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test says what it misses by failing, and may look at the clock"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use marline::cluster::map::Map;
use marline::ring;

/// How long a line may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process, killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Client {
            stream: BufReader::new(stream),
        };
        client.say("HELLO LINE");
        client.line();
        client
    }

    fn say(&mut self, text: &str) {
        let stream = self.stream.get_mut();
        stream.write_all(format!("{text}\r\n").as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        if let Err(error) = self.stream.read_line(&mut line) {
            panic!("nothing came ({error}), so far {line:?}");
        }
        line.trim_end().to_owned()
    }

    fn ask(&mut self, text: &str) -> String {
        self.say(text);
        self.line()
    }
}

struct Cluster {
    home: PathBuf,
    addresses: Vec<SocketAddr>,
    nodes: Vec<Option<Process>>,
    clients: BTreeMap<String, Client>,
}

impl Cluster {
    fn start(name: &str) -> Cluster {
        let listeners: Vec<TcpListener> = (0..3)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses = listeners.iter().map(|one| one.local_addr().unwrap());
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cluster-{name}"));
        let _ = fs::remove_dir_all(&home);
        let mut cluster = Cluster {
            home,
            addresses: addresses.collect(),
            nodes: Vec::new(),
            clients: BTreeMap::new(),
        };
        drop(listeners);
        for node in 0..3 {
            let process = cluster.launch(node);
            cluster.nodes.push(Some(process));
        }
        cluster.wait_until_whole();
        cluster
    }

    fn launch(&self, node: usize) -> Process {
        let list: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let child = Command::new(env!("CARGO_BIN_EXE_marline"))
            .args(["--port", &self.addresses[node].port().to_string()])
            .arg("--data")
            .arg(self.home.join(node.to_string()))
            .args(["--cluster", &list.join(",")])
            .stderr(Stdio::null())
            .spawn();
        Process(child.unwrap())
    }

    /// Waits until every node that runs can reach every shard.
    fn wait_until_whole(&self) {
        let until = Instant::now() + PATIENCE;
        for (node, _) in self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, one)| one.is_some())
        {
            while !self.is_whole(node) {
                assert!(
                    Instant::now() < until,
                    "node {node} never answered for all shards"
                );
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn is_whole(&self, node: usize) -> bool {
        TcpStream::connect(self.addresses[node]).is_ok_and(|_| {
            let mut client = Client::connect(self.addresses[node]);
            client.ask("DBSIZE").parse::<u64>().is_ok()
        })
    }

    fn client(&mut self, name: &str) -> &mut Client {
        let node: usize = name[..1].parse().unwrap();
        let address = self.addresses[node - 1];
        let client = self.clients.entry(name.to_owned());
        client.or_insert_with(|| Client::connect(address))
    }

    /// The nodes, counted from 1, that have the leader of at least one shard, with one of these each.
    fn leaders(&mut self) -> Vec<(usize, u16)> {
        let mut leaders = Vec::new();
        for node in 1..=3 {
            let status = self.client(&node.to_string()).ask("REPL STATUS");
            let led = status
                .split("shard=")
                .find(|line| line.contains("role=leader") && !line.starts_with("meta"));
            let number = led.and_then(|line| line.split(' ').next()?.parse().ok());
            leaders.extend(number.map(|number| (node, number)));
        }
        leaders
    }

    fn play(&mut self, scenario: &str) {
        let mut lines = scenario
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty());
        while let Some(line) = lines.next() {
            println!("{line}");
            let (name, rest) = line.split_at(line.find(['>', '<']).unwrap());
            let (mark, text) = rest.split_at(1);
            let (expected, got) = match mark {
                ">" => {
                    self.client(name).say(text.trim());
                    (lines.next().unwrap(), self.client(name).line())
                }
                _ => (text.trim(), self.client(name).line()),
            };
            match expected.strip_suffix('…') {
                Some(begin) => assert!(got.starts_with(begin), "{line}: {got}"),
                None => assert_eq!(got, expected, "{line}"),
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        let _ = fs::remove_dir_all(&self.home);
    }
}

#[test]
fn any_node_answers_for_all() {
    let mut cluster = Cluster::start("commands");
    several_shards(&mut cluster);
    all_keys(&mut cluster);
    transactions(&mut cluster);
    watches(&mut cluster);
    messages(&mut cluster);
    events(&mut cluster);
    busy_keys(&mut cluster);
    pipelines(&mut cluster);
    statistics(&mut cluster);
    the_map(&mut cluster);
    a_node_less(&mut cluster);
}

fn several_shards(cluster: &mut Cluster) {
    cluster.play(
        "
        1> SET a 1
        OK
        2> SET b 2
        OK
        3> SET c 3
        OK
        1> MGET a b missing c a
        *5 1 2 (nil) 3 1
        2> EXISTS a b c d a
        4
        3> TOUCH a b d
        2
        2> DEL a d b
        2
        1> UNLINK c
        1
        1> MGET a b c
        *3 (nil) (nil) (nil)
        1> MSET a 1 b 2
        -CROSSSLOT…
        2> MSETNX a 1 b 2
        -CROSSSLOT…
        3> RENAME a b
        -CROSSSLOT…
        1> COPY a b
        -CROSSSLOT…
        2> BITOP AND a b c
        -CROSSSLOT…
        3> LCS a b
        -CROSSSLOT…
        1> EXISTS a b c
        0
        1> MSET {t}a 1 {t}b 2
        OK
        2> RENAME {t}a {t}c
        OK
        3> MGET {t}a {t}b {t}c
        *3 (nil) 2 1
        3> RENAME {t}a {t}c
        -ERR no such key
        1> BITOP OR {t}d {t}b {t}c
        1
        2> DEL {t}b {t}c {t}d
        3
        ",
    );
}

fn all_keys(cluster: &mut Cluster) {
    cluster.play("2> DBSIZE\n0\n3> RANDOMKEY\n(nil)\n1> KEYS *\n*0");
    let keys: Vec<String> = (0..100).map(|number| format!("key:{number}")).collect();
    for (number, key) in keys.iter().enumerate() {
        let node = format!("{}", number % 3 + 1);
        assert_eq!(
            cluster.client(&node).ask(&format!("SET {key} {number}")),
            "OK"
        );
    }
    cluster.play("1> DBSIZE\n100\n2> DBSIZE\n100\n3> EXISTS key:1 key:2 key:3 key:4\n4");
    for node in ["1", "2", "3"] {
        let all = cluster.client(node).ask("KEYS key:*");
        let missing = keys.iter().find(|key| !all.contains(key.as_str()));
        assert_eq!(missing, None, "{all}");
        assert!(cluster.client(node).ask("RANDOMKEY").contains("key:"));
        let (mut cursor, mut seen) = ("0".to_owned(), String::new());
        loop {
            let step = cluster.client(node).ask(&format!("SCAN {cursor} COUNT 7"));
            let (next, found) = step.strip_prefix("*2 ").unwrap().split_once(' ').unwrap();
            next.clone_into(&mut cursor);
            seen.push_str(found);
            if cursor == "0" {
                break;
            }
        }
        let missing = keys.iter().find(|key| !seen.contains(key.as_str()));
        assert_eq!(missing, None, "{seen}");
    }
    cluster.play(
        "
        1> SCAN x
        -ERR invalid cursor
        1> FLUSHALL SOMEHOW
        -ERR syntax error
        3> FLUSHALL
        OK
        1> DBSIZE
        0
        ",
    );
}

fn transactions(cluster: &mut Cluster) {
    cluster.play(
        "
        1> MULTI
        OK
        1> SET {t}a 1
        QUEUED
        1> INCR {t}a
        QUEUED
        1> GET {t}a
        QUEUED
        1> PING
        QUEUED
        1> RENAME {t}a {t}b
        QUEUED
        1> EXEC
        *5 OK 2 2 PONG OK
        2> MULTI
        OK
        2> GET {t}b
        QUEUED
        2> MGET {t}a {t}b
        QUEUED
        2> EXEC
        *2 2 *2 (nil) 2
        3> MULTI
        OK
        3> SET a 1
        QUEUED
        3> SET b 1
        -CROSSSLOT…
        3> EXEC
        -EXECABORT…
        3> EXISTS a b
        0
        3> MULTI
        OK
        3> MGET a b
        -CROSSSLOT…
        3> DBSIZE
        -CROSSSLOT…
        3> DISCARD
        OK
        3> MULTI
        OK
        3> CLIENT GETNAME
        QUEUED
        3> SET a 1
        -ERR Command not allowed…
        3> EXEC
        -EXECABORT…
        3> MULTI
        OK
        3> CLIENT GETNAME
        QUEUED
        3> EXEC
        *1 (nil)
        3> MULTI
        OK
        3> EXEC
        *0
        1> DEL {t}b
        1
        ",
    );
}

fn watches(cluster: &mut Cluster) {
    for node in 1..=3 {
        for key in ["a", "b", "c"] {
            watch(cluster, node, key);
        }
    }
}

fn watch(cluster: &mut Cluster, node: usize, key: &str) {
    let other = node % 3 + 1;
    let scenario = "
        N> SET K 1
        OK
        N> WATCH K
        OK
        N> GET K
        1
        N> MULTI
        OK
        N> SET K 2
        QUEUED
        M> GET K
        1
        N> EXEC
        *1 OK
        N> WATCH K
        OK
        M> SET K 3
        OK
        N> MULTI
        OK
        N> SET K 4
        QUEUED
        N> EXEC
        (nil)
        N> WATCH K
        OK
        M> SET K 5
        OK
        N> UNWATCH
        OK
        N> MULTI
        OK
        N> SET K 6
        QUEUED
        N> EXEC
        *1 OK
        N> WATCH K
        OK
        N> WATCH K another
        -CROSSSLOT…
        M> FLUSHALL
        OK
        N> MULTI
        OK
        N> GET K
        QUEUED
        N> EXEC
        (nil)
        N> MULTI
        OK
        N> GET K
        QUEUED
        N> EXEC
        *1 (nil)
        ";
    let scenario = scenario
        .replace("N>", &format!("{node}>"))
        .replace("M>", &format!("{other}>"))
        .replace(" K", &format!(" {key}"));
    cluster.play(&scenario);
}

fn messages(cluster: &mut Cluster) {
    cluster.play(
        "
        1s> SUBSCRIBE news
        >3 subscribe news 1
        2s> SUBSCRIBE news
        >3 subscribe news 1
        2t> PSUBSCRIBE n*
        >3 psubscribe n* 1
        3> PUBLISH news hello
        3
        1s< >3 message news hello
        2s< >3 message news hello
        2t< >4 pmessage n* news hello
        1> PUBLISH nothing x
        1
        2t< >4 pmessage n* nothing x
        1> PUBLISH other x
        0
        1> MULTI
        OK
        1> SET a 1
        QUEUED
        1> PUBLISH news more
        QUEUED
        1> EXEC
        *2 OK…
        1s< >3 message news more
        2s< >3 message news more
        2t< >4 pmessage n* news more
        1> DEL a
        1
        ",
    );
}

/// Changes to keys are told once each, to listeners on any node.
fn events(cluster: &mut Cluster) {
    cluster.play(
        "
        1> CONFIG SET notify-keyspace-events KEA
        OK
        3> CONFIG SET notify-keyspace-events Eg
        OK
        1e> PSUBSCRIBE __keyspace@0__:*
        >3 psubscribe __keyspace@0__:* 1
        3e> SUBSCRIBE __keyevent@0__:del
        >3 subscribe __keyevent@0__:del 1
        ",
    );
    thread::sleep(Duration::from_millis(300));
    for key in ["a", "b", "c", "d"] {
        let before = "
            2> SET K 1
            OK
            1e< >4 pmessage __keyspace@0__:* __keyspace@0__:K set
            3> PEXPIRE K 20
            1
            1e< >4 pmessage __keyspace@0__:* __keyspace@0__:K expire
            ";
        let after = "
            1> SET K 1
            OK
            1e< >4 pmessage __keyspace@0__:* __keyspace@0__:K expired
            1e< >4 pmessage __keyspace@0__:* __keyspace@0__:K set
            2> DEL K
            1
            1e< >4 pmessage __keyspace@0__:* __keyspace@0__:K del
            3e< >3 message __keyevent@0__:del K
            ";
        for scenario in [before, after] {
            let scenario = scenario.replace(" K", &format!(" {key}"));
            cluster.play(&scenario.replace(":K", &format!(":{key}")));
            thread::sleep(Duration::from_millis(30));
        }
    }
    cluster.play("1> CONFIG SET notify-keyspace-events \"\"\nOK\n3> CONFIG SET notify-keyspace-events \"\"\nOK");
    for name in ["1e", "3e", "1s", "2s", "2t"] {
        cluster.clients.remove(name);
    }
}

/// Keys that everybody writes do not keep RENAME from its turn, nor does it keep others from theirs.
fn busy_keys(cluster: &mut Cluster) {
    let addresses = cluster.addresses.clone();
    let writers = addresses.iter().map(|&address| {
        thread::spawn(move || {
            let mut client = Client::connect(address);
            for number in 0..300 {
                assert_eq!(client.ask(&format!("SET {{h}}a {number}")), "OK");
            }
        })
    });
    let renamers = addresses.iter().map(|&address| {
        thread::spawn(move || {
            let mut client = Client::connect(address);
            for _ in 0..30 {
                let reply = client.ask("RENAME {h}a {h}b");
                assert!(reply == "OK" || reply == "-ERR no such key", "{reply}");
                let reply = client.ask("BITOP OR {h}c {h}a {h}b");
                assert!(reply.parse::<u64>().is_ok(), "{reply}");
            }
        })
    });
    let all: Vec<_> = writers.chain(renamers).collect();
    all.into_iter().for_each(|one| one.join().unwrap());
    cluster.play("1> FLUSHALL\nOK");
}

/// What one client says without waiting is done in its order, whoever leads the keys.
fn pipelines(cluster: &mut Cluster) {
    for node in ["1", "2", "3"] {
        let (mut typed, mut expected) = (String::new(), Vec::new());
        for number in 0..40 {
            for key in ["a", "b", "c"] {
                let lines = [
                    (format!("SET {{{key}}}1 {number}"), "OK".to_owned()),
                    (format!("RENAME {{{key}}}1 {{{key}}}2"), "OK".to_owned()),
                    (format!("SET {{{key}}}1 later"), "OK".to_owned()),
                    (format!("GET {{{key}}}2"), number.to_string()),
                ];
                for (line, reply) in lines {
                    typed.push_str(&format!("{line}\r\n"));
                    expected.push(reply);
                }
            }
            let n = number;
            typed.push_str(
                "MGET {a}2 {b}2 {c}2\r\nDEL {a}2 {b}1 {c}2\r\nEXISTS {a}1 {a}2 {b}1 {b}2\r\n",
            );
            typed.push_str("CLIENT REPLY SKIP\r\nMGET {a}1 {b}1\r\nDBSIZE\r\n");
            expected.extend([
                format!("*3 {n} {n} {n}"),
                "3".to_owned(),
                "2".to_owned(),
                "3".to_owned(),
            ]);
        }
        let client = cluster.client(node);
        client.say(typed.trim_end());
        for (at, expected) in expected.iter().enumerate() {
            assert_eq!(&client.line(), expected, "reply {at} of node {node}");
        }
        assert_eq!(client.ask("FLUSHALL"), "OK");
    }
}

/// A command is counted where it was typed, once.
fn statistics(cluster: &mut Cluster) {
    for node in ["1", "2", "3"] {
        assert_eq!(cluster.client(node).ask("CONFIG RESETSTAT"), "OK");
    }
    cluster.play("1> MGET a b c d e f\n*6…\n1> GET b\n(nil)\n1> SET b x\nOK\n1> INCR b\n-ERR…\n1> DEL a b c\n1");
    for node in ["1", "2", "3"] {
        let stats = cluster.client(node).ask("INFO commandstats");
        for command in ["mget", "get", "set", "incr", "del"] {
            let is_there = stats.contains(&format!("cmdstat_{command}:calls=1,"));
            assert_eq!(is_there, node == "1", "{command} on node {node}: {stats}");
        }
        let is_there = stats.contains(&format!("cmdstat_{command}:", command = "mset"));
        assert!(!is_there);
    }
}

fn the_map(cluster: &mut Cluster) {
    let maps = ["1", "2", "3"].map(|node| cluster.client(node).ask("CLUSTER MAP"));
    assert!(maps[0].starts_with("\"cluster "), "{maps:?}");
    assert!(maps.iter().all(|map| *map == maps[0]), "{maps:?}");
    let map = maps[0].trim_matches('"').replace("\\n", "\n");
    let map = Map::decode(map.as_bytes()).unwrap();
    let addresses: BTreeSet<SocketAddr> = cluster.addresses.iter().copied().collect();
    let known = map.nodes.values().map(|member| member.address).collect();
    assert_eq!(addresses, known);
}

/// A node is killed: watches on its shards are broken, messages do not wait for it, and all keys are there.
fn a_node_less(cluster: &mut Cluster) {
    let (victim, shard) = cluster.leaders().pop().unwrap();
    let (node, other) = (victim % 3 + 1, (victim + 1) % 3 + 1);
    let of_shard = |key: &String| ring::shard_of_slot(ring::slot(key.as_bytes()), 16) == shard;
    let key = (0..)
        .map(|number| format!("k{number}"))
        .find(of_shard)
        .unwrap();
    let scenario = format!(
        "
        {node}> SET {key} 1
        OK
        {node}> WATCH {key}
        OK
        {node}> MULTI
        OK
        {node}> SET {key} 2
        QUEUED
        "
    );
    cluster.play(&scenario);
    cluster.nodes[victim - 1] = None;
    cluster.clients.remove(&victim.to_string());
    // It may be said before it is known that there is nobody to hear it: then nobody can tell.
    let answer = cluster.client(&node.to_string()).ask("EXEC");
    assert!(
        answer == "(nil)" || answer.starts_with("-UNKNOWN"),
        "EXEC after the leader was killed: {answer}"
    );
    cluster.play(&format!("{other}> GET {key}\n1"));
    let began = Instant::now();
    cluster.play(&format!("{node}> PUBLISH news x\n0"));
    assert!(began.elapsed() < Duration::from_secs(1));
    cluster.wait_until_whole();
    cluster.play(&format!("{other}> DEL {key} a b c\n1\n{node}> DBSIZE\n0"));
}
