//! Whole sessions in a simulated network, where a client says exactly what hurts.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test, of which one measures time"
)]

use std::net::SocketAddr;
use std::time::Duration;

use marline::config::Options;
use marline::config::values::{Origin, Values};
use marline::node::{self, Node};
use marline::reactor::Reactor;
use marline::reactor::backend::{Backend, Raw};
use marline::reactor::sim::{Faults, SimBackend, SimNet};
use marline::wire::reply::{Dialect, Reply};

/// A node and its network.
struct World {
    net: SimNet,
    server: Reactor<SimBackend, Node>,
    address: SocketAddr,
}

impl World {
    fn new() -> World {
        World::with(&[])
    }

    fn with(settings: &[(&str, &str)]) -> World {
        let net = SimNet::new(1, Faults::calm());
        let mut values = Values::default();
        values.set("port", "0", Origin::Flag).unwrap();
        values.set("data", "none", Origin::Flag).unwrap();
        for (name, text) in settings {
            values.set(name, text, Origin::Flag).unwrap();
        }
        let options = Options::read(&values).unwrap();
        let (server, address) = node::start(net.node(), Node::new(values, options, 1)).unwrap();
        World {
            net,
            server,
            address,
        }
    }

    fn client(&mut self) -> Client {
        let mut backend = self.net.node();
        let raw = backend.connect(self.address, 1).unwrap();
        self.pass(Duration::from_millis(5));
        Client { backend, raw }
    }

    /// Lets the node live for so long.
    fn pass(&mut self, time: Duration) {
        const STEP: Duration = Duration::from_micros(200);
        for _ in 0..time.as_micros() / STEP.as_micros() {
            self.server.turn(None).unwrap();
            self.net.pass(STEP);
        }
    }

    /// What `client` hears after it has said `words`.
    fn ask(&mut self, client: &mut Client, words: &str) -> String {
        self.send(client, words.as_bytes());
        client.heard()
    }

    fn send(&mut self, client: &mut Client, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match client.backend.write(client.raw, bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            self.pass(Duration::from_millis(1));
        }
        self.pass(Duration::from_millis(5));
    }
}

struct Client {
    backend: SimBackend,
    raw: Raw,
}

impl Client {
    fn heard(&mut self) -> String {
        let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = self.backend.read(self.raw, &mut piece) {
            heard.extend_from_slice(&piece[..read]);
        }
        String::from_utf8(heard).unwrap()
    }
}

#[test]
fn a_line_that_is_skipped_takes_no_memory() {
    let mut world = World::with(&[("client-query-buffer-limit", "1mb")]);
    let (mut talker, mut other) = (world.client(), world.client());
    world.ask(&mut talker, "HELLO LINE\r\n");
    for _ in 0..48 {
        world.send(&mut talker, &[b'a'; 64 << 10]);
        // The parser that skips is not one that others use.
        assert_eq!(world.ask(&mut other, "PING\r\n"), "+PONG\r\n");
    }
    assert_eq!(
        world.ask(&mut talker, "\nPING\r\n"),
        "-ERR Protocol error: too big inline request\nPONG\n"
    );
}

#[test]
fn watching_many_keys_is_no_more_work_than_they_are() {
    let mut world = World::new();
    let mut client = world.client();
    let keys: String = (0..100_000)
        .map(|key| format!("$7\r\nk{key:06}\r\n"))
        .collect();
    let began = std::time::Instant::now();
    world.send(
        &mut client,
        format!("*100001\r\n$5\r\nWATCH\r\n{keys}").as_bytes(),
    );
    assert_eq!(world.ask(&mut client, "UNWATCH\r\n"), "+OK\r\n+OK\r\n");
    // Looked through one by one it took a minute.
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_reply_is_not_reshaped_while_it_is_written() {
    let mut world = World::new();
    for words in [
        "HELLO 2",
        "HELLO JSON",
        "CLIENT REPLY OFF",
        "CLIENT REPLY SKIP",
    ] {
        for dialect in ["LINE", "JSON"] {
            let mut client = world.client();
            let heard = world.ask(
                &mut client,
                &format!("HELLO {dialect}\r\nMULTI\r\n{words}\r\nPING\r\nEXEC\r\nPING\r\n"),
            );
            let lines: Vec<&str> = heard.lines().collect();
            assert_eq!(lines.len(), 6, "{heard}");
            assert!(lines[2].contains("not allowed inside a transaction"));
            assert!(lines[4].contains("EXECABORT") && lines[5].contains("PONG"));
        }
    }
}

#[test]
fn silence_includes_answers_that_come_late() {
    let mut world = World::new();
    let mut client = world.client();
    let waits = "WAIT 1 1\r\nDEBUG SLEEP 0.001\r\n";
    let heard = world.ask(
        &mut client,
        &format!("CLIENT REPLY OFF\r\n{waits}CLIENT REPLY ON\r\n"),
    );
    assert_eq!(heard, "+OK\r\n");
    let heard = world.ask(&mut client, "CLIENT REPLY SKIP\r\nWAIT 1 1\r\nPING\r\n");
    assert_eq!(heard, "+PONG\r\n");
}

#[test]
fn silence_includes_what_is_refused() {
    let mut world = World::new();
    let mut client = world.client();
    let refused = "NOSUCH\r\nGET\r\nEXEC x\r\n";
    let heard = world.ask(
        &mut client,
        &format!("CLIENT REPLY OFF\r\n{refused}CLIENT REPLY ON\r\n"),
    );
    assert_eq!(heard, "+OK\r\n");
    let heard = world.ask(&mut client, "CLIENT REPLY SKIP\r\nNOSUCH\r\nPING\r\n");
    assert_eq!(heard, "+PONG\r\n");
}

#[test]
fn a_transaction_does_not_grow_for_ever() {
    let mut world = World::with(&[("client-query-buffer-limit", "1mb")]);
    let mut client = world.client();
    world.ask(&mut client, "MULTI\r\n");
    let set = format!("SET k {}\r\n", "v".repeat(30_000));
    let mut heard = String::new();
    for _ in 0..40 {
        let _ = client.backend.write(client.raw, set.as_bytes());
        world.pass(Duration::from_millis(5));
        heard.push_str(&client.heard());
    }
    assert!(heard.ends_with("larger than client-query-buffer-limit\r\n"));
}

#[test]
fn a_publisher_who_listens_by_many_patterns_is_cut_off() {
    let mut world = World::new();
    let mut client = world.client();
    world.ask(&mut client, "HELLO 3\r\n");
    // All different, and all match.
    let patterns: String = (1..=400)
        .map(|len| format!(" {}", "*".repeat(len)))
        .collect();
    world.ask(
        &mut client,
        &format!("PSUBSCRIBE{}\r\n", &patterns[..60_000]),
    );
    let message = "m".repeat(1 << 20);
    let publish = format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$1048576\r\n{message}\r\n");
    world.send(&mut client, publish.as_bytes());
    for _ in 0..2_000 {
        world.pass(Duration::from_millis(1));
        client.heard();
    }
    let mut other = world.client();
    let clients = world.ask(&mut other, "CLIENT LIST\r\n");
    assert_eq!(clients.matches("id=").count(), 1, "{clients}");
}

#[test]
fn pauses_end_once_and_hold_whom_they_should() {
    let mut world = World::new();
    let (mut a, mut b) = (world.client(), world.client());
    assert_eq!(world.ask(&mut a, "CLIENT PAUSE 50\r\n"), "+OK\r\n");
    assert_eq!(world.ask(&mut b, "PING\r\nMULTI\r\nSET k v\r\n"), "");
    // A longer pause that lets reads through holds back as the stricter one did, for its own time.
    assert_eq!(
        world.ask(&mut a, "CLIENT PAUSE 100 WRITE\r\nCLIENT PAUSE 1\r\n"),
        "+OK\r\n+OK\r\n"
    );
    world.pass(Duration::from_millis(60));
    assert_eq!(b.heard(), "");
    world.pass(Duration::from_millis(60));
    assert_eq!(b.heard(), "+PONG\r\n+OK\r\n+QUEUED\r\n");
    // The alarm of a pause that was lifted does not end the next one.
    world.ask(
        &mut a,
        "CLIENT PAUSE 20\r\nCLIENT UNPAUSE\r\nCLIENT PAUSE 80\r\n",
    );
    assert_eq!(world.ask(&mut b, "EXEC\r\n"), "");
    world.pass(Duration::from_millis(40));
    assert_eq!(b.heard(), "");
    world.pass(Duration::from_millis(60));
    assert_eq!(b.heard(), "*1\r\n+OK\r\n");
}

#[test]
fn who_hangs_up_while_held_or_waiting_is_forgotten() {
    let mut world = World::new();
    let mut watcher = world.client();
    for words in [
        "WAIT 1 0\r\n",
        "WAIT 1 100000000\r\n",
        "CLIENT PAUSE 50\r\nPING\r\n",
    ] {
        let mut client = world.client();
        world.ask(&mut client, words);
        client.backend.close(client.raw, true);
        world.pass(Duration::from_millis(100));
        let clients = world.ask(&mut watcher, "CLIENT LIST\r\n");
        assert_eq!(clients.matches("id=").count(), 1, "{words}: {clients}");
    }
    let mut client = world.client();
    world.ask(&mut client, "WAIT 1 0\r\n");
    client.backend.shutdown_write(client.raw);
    world.pass(Duration::from_millis(100));
    let clients = world.ask(&mut watcher, "CLIENT LIST\r\n");
    assert_eq!(clients.matches("id=").count(), 1, "{clients}");
}

#[test]
fn half_a_conversation_is_answered_in_full() {
    for words in [
        "WAIT 1 20\r\nPING\r\n",
        "DEBUG SLEEP 0.02\r\nPING\r\n",
        "CLIENT PAUSE 20\r\nPING\r\n",
    ] {
        let mut world = World::new();
        let mut client = world.client();
        world.send(&mut client, words.as_bytes());
        client.backend.shutdown_write(client.raw);
        world.pass(Duration::from_millis(50));
        let heard = client.heard();
        assert!(heard.ends_with("+PONG\r\n"), "{words}: {heard}");
        let mut other = world.client();
        let clients = world.ask(&mut other, "CLIENT LIST\r\n");
        assert_eq!(clients.matches("id=").count(), 1, "{words}: {clients}");
    }
}

#[test]
fn a_reply_that_nobody_will_be_sent_is_not_made() {
    let mut world = World::with(&[("client-output-limit", "1mb")]);
    let mut client = world.client();
    world.ask(&mut client, &format!("SET k {}\r\n", "v".repeat(60_000)));
    let keys = " k".repeat(10_000);
    world.send(&mut client, format!("MGET{keys}\r\n").as_bytes());
    let mut other = world.client();
    let clients = world.ask(&mut other, "CLIENT LIST\r\n");
    assert_eq!(clients.matches("id=").count(), 1, "{clients}");

    let mut bytes = Vec::new();
    let mut reply = Reply::new(&mut bytes, Dialect::Line).limited(10_000);
    reply.array(1_000);
    (0..1_000).for_each(|_| reply.bulk(&[b'v'; 1_000]));
    assert!(reply.is_cut() && reply.is_complete());
    assert!(bytes.len() < 20_000);
}

#[test]
fn who_closes_its_own_connection_in_a_transaction_hears_of_it() {
    for change in ["GET k", "SET k v"] {
        let mut world = World::new();
        let mut client = world.client();
        let words = format!("MULTI\r\n{change}\r\nCLIENT KILL SKIPME no\r\nECHO end\r\nEXEC\r\n");
        let heard = world.ask(&mut client, &words);
        assert!(heard.ends_with("\r\n:1\r\n$3\r\nend\r\n"), "{heard}");
    }
}

#[test]
fn long_replies_behind_a_write_wait_until_they_are_read() {
    let mut world = World::with(&[("client-output-limit", "16mb")]);
    let mut client = world.client();
    let value = "v".repeat(200_000);
    world.send(
        &mut client,
        format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$200000\r\n{value}\r\n").as_bytes(),
    );
    assert_eq!(client.heard(), "+OK\r\n");
    // One that is there, and one that is on its way.
    for first in ["SET x 1", "APPEND k v"] {
        let words = format!("{first}\r\n{}PING\r\n", "GET k\r\n".repeat(200));
        let mut heard = world.ask(&mut client, &words);
        for _ in 0..2_000 {
            world.pass(Duration::from_millis(1));
            heard.push_str(&client.heard());
        }
        assert!(
            heard.ends_with("+PONG\r\n"),
            "{first}: {} bytes",
            heard.len()
        );
        assert!(heard.len() > 200 * 200_000);
    }
}

#[test]
fn a_transaction_that_copies_too_much_changes_nothing() {
    let mut world = World::new();
    let (mut client, mut other) = (world.client(), world.client());
    let asked = format!("SETRANGE k {} x\r\n", 330 << 20);
    world.ask(&mut client, &asked);
    world.ask(&mut client, "MULTI\r\nSET a 1\r\nCOPY k b\r\nCOPY k c\r\n");
    // Another's write is in the same batch, before and behind.
    let words = |client: &mut Client, words: &[u8]| {
        client.backend.write(client.raw, words).unwrap();
    };
    words(&mut other, b"SET a 2\r\n");
    words(&mut client, b"EXEC\r\nEXISTS b c\r\nGET a\r\n");
    words(&mut other, b"APPEND a 3\r\n");
    world.pass(Duration::from_millis(5));
    let heard = client.heard();
    assert!(
        heard.starts_with("-ERR the changes of one command or transaction take more"),
        "{heard}"
    );
    assert!(heard.contains(":0\r\n$"), "{heard}");
    assert_eq!(
        world.ask(&mut other, "GET a\r\n"),
        "+OK\r\n:2\r\n$2\r\n23\r\n"
    );
    assert_eq!(world.ask(&mut client, "SET a 4\r\n"), "+OK\r\n");
}

/// What is looked ahead at in a pipeline of reads changes no answer, whatever comes behind a read.
#[test]
fn a_pipeline_is_answered_as_one_request_after_the_other() {
    let seed = std::env::var("MARLINE_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("MARLINE_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = World::new();
    let mut loader = world.client();
    // More keys than lie in a cache.
    for first in (0..20_000).step_by(500) {
        let pairs: String = (first..first + 500)
            .map(|key| format!(" k{key} {key}"))
            .collect();
        assert_eq!(
            world.ask(&mut loader, &format!("MSET{pairs}\r\n")),
            "+OK\r\n"
        );
    }
    let long = "x".repeat(70_000);
    for _ in 0..200 {
        let requests: Vec<String> = (0..rng.usize(2..40))
            .map(|_| {
                let key = format!("k{}", rng.u32(..25_000));
                match rng.u8(..16) {
                    0 => format!("MGET {key} k1 nothing {key}\r\n"),
                    1 => format!("SET written-{key} new\r\n"),
                    2 => format!("GETRANGE {key} 0 1\r\n"),
                    3 => "GET\r\n".to_owned(),
                    4 => "\r\n".to_owned(),
                    5 => format!("*2\r\n$3\r\nGET\r\n${}\r\n{long}\r\n", long.len()),
                    6 => "LCS k1 k2 LEN\r\n".to_owned(),
                    7 => "NOSUCH a b c\r\n".to_owned(),
                    _ => format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()),
                }
            })
            .collect();
        let [mut apart, mut together] = [(); 2].map(|()| world.client());
        let one_by_one: String = (requests.iter())
            .map(|request| world.ask(&mut apart, request))
            .collect();
        // Writes say the same the second time, and nobody reads them.
        assert_eq!(world.ask(&mut together, &requests.concat()), one_by_one);
    }
}
