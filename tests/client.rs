//! The client library against real nodes, and against scripted servers that do what a node should not: hang up,
//! stay silent, talk nonsense. What counts is what the client says was done, and how often a server was asked.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may look at the clock and start threads, and says what it misses by failing"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use marline::client::Client;
use marline::client::error::{Cause, Error};
use marline::wire::decode::Value;
use socket2::{Domain, Socket, Type};

/// Far more than anything here takes; what is tested must end before.
const LONG: Duration = Duration::from_secs(60);

/// A node in a process of its own, killed when dropped.
struct Node {
    process: Child,
    address: String,
}

impl Node {
    fn start() -> Node {
        let mut process = Command::new(env!("CARGO_BIN_EXE_marline"))
            .args(["--port", "0", "--data", "none"])
            .env("MARLINE_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains(" listens on ") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
        }
        process.stderr = Some(log.into_inner());
        let (_, rest) = line.split_once(" listens on ").unwrap();
        let address = rest.split(' ').next().unwrap().to_owned();
        Node { process, address }
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a scripted server does with a request.
enum Act {
    Reply(&'static str),
    /// Says this, which may be nothing, and hangs up.
    Last(&'static str),
    Silence,
}

/// A scripted server.
struct Fake {
    address: String,
    /// Every request that came in.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// `act` is given how many requests came before, and the request.
    fn start(act: impl Fn(usize, &str) -> Act + Send + Sync + 'static) -> Fake {
        Fake::on(TcpListener::bind("127.0.0.1:0").unwrap(), act)
    }

    fn on(listener: TcpListener, act: impl Fn(usize, &str) -> Act + Send + Sync + 'static) -> Fake {
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, act) = (Arc::clone(&asked), Arc::new(act));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, act, stream) = (Arc::clone(&log), Arc::clone(&act), stream.unwrap());
                thread::spawn(move || serve(stream, &log, &*act));
            }
        });
        Fake { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<String>>, act: &dyn Fn(usize, &str) -> Act) {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = request(&mut input) {
        let before = {
            let mut log = log.lock().unwrap();
            log.push(request.clone());
            log.len() - 1
        };
        match act(before, &request) {
            Act::Reply(text) => stream.write_all(text.as_bytes()).unwrap(),
            Act::Silence => {}
            Act::Last(text) => {
                let _ = stream.write_all(text.as_bytes());
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

/// The next request, its words joined by blanks.
fn request(input: &mut impl BufRead) -> Option<String> {
    let count: usize = line(input)?.strip_prefix('*')?.parse().ok()?;
    let words: Option<Vec<String>> = (0..count)
        .map(|_| {
            let length: usize = line(input)?.strip_prefix('$')?.parse().ok()?;
            let mut text = vec![0; length + 2];
            input.read_exact(&mut text).ok()?;
            Some(String::from_utf8_lossy(&text[..length]).into_owned())
        })
        .collect();
    words.map(|words| words.join(" "))
}

fn line(input: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    match input.read_line(&mut line) {
        Ok(count) if count > 0 => Some(line.trim_end().to_owned()),
        _ => None,
    }
}

/// A port on which nobody listens yet, and which nobody else gets.
fn bound() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

fn client(nodes: &[&Fake]) -> Client {
    let nodes = nodes.iter().map(|fake| fake.address.as_str());
    Client::builder().nodes(nodes).connect().unwrap()
}

fn simple(text: &str) -> Value {
    Value::Simple(text.as_bytes().to_vec())
}

/// The cause of an error that says that nothing was done.
fn not_done<T: std::fmt::Debug>(result: Result<T, Error>) -> Cause {
    match result {
        Err(Error::NotDone { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

/// The cause of an error that says that the outcome is unknown, and what was answered before.
fn unknown<T: std::fmt::Debug>(result: Result<T, Error>) -> (Cause, Vec<Value>) {
    match result {
        Err(Error::UnknownOutcome { why, answered, .. }) => (why, answered),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_everyday_commands_have_types() {
    fn may_be_sent<T: Send>(it: T) -> T {
        it
    }
    let node = Node::start();
    let mut client = may_be_sent(Client::connect(&[&node.address]).unwrap());
    client.ping().unwrap();
    assert_eq!(client.get("a").unwrap(), None);
    client.set("a", b"\x00\r\n").unwrap();
    assert_eq!(client.get(b"a").unwrap(), Some(b"\x00\r\n".to_vec()));
    assert_eq!(client.incr("n").unwrap(), 1);
    client.mset(&[("b", "2"), ("c", "3")]).unwrap();
    assert_eq!(
        client.mget(&["b", "nothing", "c"]).unwrap(),
        [Some(b"2".to_vec()), None, Some(b"3".to_vec())]
    );
    assert_eq!(client.exists(&["a", "b", "nothing"]).unwrap(), 2);
    assert!(client.expire("b", LONG).unwrap());
    assert!(!client.expire("nothing", LONG).unwrap());
    let Value::Int(ttl) = client.call(&["TTL", "b"]).unwrap() else {
        panic!("TTL is an integer");
    };
    assert!((1..=60).contains(&ttl));
    assert_eq!(client.del(&["b", "c", "nothing"]).unwrap(), 2);
    let Err(Error::Refused { node: by, text }) = client.incr("a") else {
        panic!("it is no integer");
    };
    assert_eq!((by.as_str(), &text[..4]), (client.node(), &b"ERR "[..]));
    assert!(matches!(
        not_done(client.call(&["SUBSCRIBE", "news"])),
        Cause::Unfit(_)
    ));
}

#[test]
fn when_a_node_dies_the_next_one_is_used() {
    let (mut first, mut second) = (Node::start(), Node::start());
    let nodes = [first.address.clone(), second.address.clone()];
    let mut client = Client::builder()
        .nodes(&nodes)
        .retries(1)
        .connect()
        .unwrap();
    assert_eq!(client.incr("n").unwrap(), 1);
    assert_eq!(client.node(), nodes[0]);
    first.kill();
    // Whether the client sees the end before it sends is the kernel's affair; a command that reads does not care.
    assert_eq!(client.get("n").unwrap(), None);
    assert_eq!(client.incr("n").unwrap(), 1);
    assert_eq!(client.node(), nodes[1]);
    second.kill();
    assert!(matches!(not_done(client.get("n")), Cause::Connect(_)));
    let begun = Instant::now();
    let error = client.incr("n").unwrap_err().to_string();
    assert!(error.contains("cannot connect") && error.ends_with("nothing was changed"));
    assert!(begun.elapsed() < LONG);
}

#[test]
fn a_node_that_comes_back_is_used_again() {
    let (socket, address) = bound();
    let told = Client::builder().nodes([address.to_string()]).retries(0);
    let gone = told.clone().connect();
    assert!(matches!(not_done(gone), Cause::Connect(_)));
    socket.listen(16).unwrap();
    let fake = Fake::on(socket.into(), |before, _| match before {
        0 => Act::Last(":1\r\n"),
        _ => Act::Reply(":2\r\n"),
    });
    let mut client = told.connect().unwrap();
    assert_eq!(client.incr("n").unwrap(), 1);
    // Time for the end to arrive: then it is seen before anything is sent, and no outcome is unknown.
    thread::sleep(Duration::from_millis(200));
    assert_eq!(client.incr("n").unwrap(), 2);
    assert_eq!(fake.asked().len(), 2);
}

#[test]
fn pipelines_of_any_size_get_every_reply() {
    let node = Node::start();
    let mut client = Client::connect(&[&node.address]).unwrap();
    let (count, big, small) = (20_000, vec![b'x'; 3 << 20], vec![b'y'; 1000]);
    let mut pipeline = client.pipeline();
    pipeline.add(&[b"SET", &b"big"[..], &big]);
    for at in 0..count {
        pipeline.add(&[b"SET", at.to_string().as_bytes(), &small]);
        pipeline.add(&["GET", &at.to_string()]);
    }
    pipeline.add(&["INCR", "big"]).add(&["STRLEN", "big"]);
    let replies = pipeline.run().unwrap();
    assert_eq!(replies.len(), 2 * count + 3);
    assert_eq!(replies[0], simple("OK"));
    assert_eq!(replies[2 * count], Value::Bulk(small));
    assert!(matches!(&replies[2 * count + 1], Value::Error(text) if text.starts_with(b"ERR ")));
    assert_eq!(replies[2 * count + 2], Value::Int(3 << 20));
    assert_eq!(pipeline.run().unwrap(), [], "it is empty again");
}

#[test]
fn transactions_are_done_or_not() {
    let node = Node::start();
    let mut client = Client::connect(&[&node.address]).unwrap();
    let mut transaction = client.transaction();
    transaction.add(&["SET", "a", "x"]).add(&["INCR", "a"]);
    let replies = transaction.run().unwrap();
    assert_eq!(replies[0], simple("OK"));
    assert!(matches!(replies[1], Value::Error(_)));
    transaction.add(&["SET", "a", "y"]).add(&["NONESUCH"]);
    let Err(Error::Refused { text, .. }) = transaction.run() else {
        panic!("there is no such command");
    };
    assert!(text.starts_with(b"ERR unknown command"));
    assert_eq!(client.get("a").unwrap(), Some(b"x".to_vec()));
}

#[test]
fn a_transaction_without_its_reply_is_unknown() {
    let lost = || {
        Fake::start(|_, request| match request {
            "EXEC" => Act::Last(""),
            "MULTI" => Act::Reply("+OK\r\n"),
            _ => Act::Reply("+QUEUED\r\n"),
        })
    };
    let (first, second) = (lost(), lost());
    let mut client = client(&[&first, &second]);
    let (why, answered) = unknown(client.transaction().add(&["INCR", "n"]).run());
    assert!(matches!(why, Cause::Lost(_)) && answered.is_empty());
    assert_eq!(first.asked(), ["MULTI", "INCR n", "EXEC"]);
    assert!(second.asked().is_empty());
}

/// The commands of a client whose first node does this with whatever it is asked.
fn with_bad_first(act: fn() -> Act) -> (Fake, Fake, Client) {
    let bad = Fake::start(move |_, _| act());
    let good = Fake::start(|_, _| Act::Reply("$2\r\nok\r\n"));
    let nodes = [&bad.address, &good.address];
    let client = Client::builder()
        .nodes(nodes)
        .reply_timeout(Duration::from_millis(300))
        .reply_bytes_max(100_000)
        .connect()
        .unwrap();
    (bad, good, client)
}

#[test]
fn without_a_reply_only_what_reads_is_sent_again() {
    let acts: [fn() -> Act; 5] = [
        || Act::Last(""),
        || Act::Last("$2\r\no"),
        || Act::Last("HTTP/1.1 400 Bad Request\r\n"),
        || Act::Silence,
        || Act::Reply("*2\r\n$1\r\na\r\n"),
    ];
    for (number, act) in acts.into_iter().enumerate() {
        let (bad, good, mut client) = with_bad_first(act);
        assert_eq!(client.get("a").unwrap(), Some(b"ok".to_vec()), "{number}");
        assert_eq!((bad.asked().len(), good.asked().len()), (1, 1), "{number}");
        assert_eq!(client.node(), good.address);

        for command in [&["INCR", "a"][..], &["SET", "a", "1"], &["NONESUCH"]] {
            let (bad, good, mut client) = with_bad_first(act);
            let (why, answered) = unknown(client.call(command));
            let is_fit = matches!(why, Cause::Lost(_) | Cause::Late(_) | Cause::Unreadable(_));
            assert!(is_fit && answered.is_empty(), "{number}: {why}");
            assert_eq!(bad.asked(), [command.join(" ")], "{number}");
            assert!(good.asked().is_empty(), "{number}");
            assert_eq!(client.get("a").unwrap(), Some(b"ok".to_vec()), "{number}");
        }
    }
}

#[test]
fn a_reply_is_bounded() {
    for reply in ["$100001\r\n", "*999999\r\n"] {
        let endless: &'static str = format!("{reply}{}", ":1\r\n".repeat(100_000)).leak();
        let fake = Fake::start(move |_, _| Act::Last(endless));
        let mut client = Client::builder()
            .nodes([&fake.address])
            .reply_bytes_max(100_000)
            .connect()
            .unwrap();
        assert!(matches!(not_done(client.get("a")), Cause::TooLong(100_000)));
        assert_eq!(fake.asked().len(), 1, "it would not be shorter next time");
        assert!(matches!(unknown(client.incr("a")).0, Cause::TooLong(_)));
    }
}

#[test]
fn in_a_pipeline_what_was_answered_is_not_sent_again() {
    let bad = || {
        Fake::start(|before, _| match before {
            0 => Act::Reply(":1\r\n"),
            _ => Act::Last(""),
        })
    };
    let (first, good) = (bad(), Fake::start(|_, _| Act::Reply(":2\r\n")));
    let replies = client(&[&first, &good])
        .pipeline()
        .add(&["INCR", "a"])
        .add(&["STRLEN", "a"])
        .add(&["STRLEN", "b"])
        .run();
    assert_eq!(
        replies.unwrap(),
        [Value::Int(1), Value::Int(2), Value::Int(2)]
    );
    assert_eq!(good.asked(), ["STRLEN a", "STRLEN b"]);

    let first = bad();
    let replies = client(&[&first, &good])
        .pipeline()
        .add(&["INCR", "a"])
        .add(&["STRLEN", "a"])
        .add(&["INCR", "b"])
        .run();
    let text = replies.as_ref().unwrap_err().to_string();
    assert!(text.contains("1 command was answered"), "{text}");
    let (why, answered) = unknown(replies);
    assert!(matches!(why, Cause::Lost(_)));
    assert_eq!(answered, [Value::Int(1)]);
    assert_eq!(good.asked().len(), 2, "nothing came");
}

#[test]
fn a_node_that_is_not_ready_is_asked_again() {
    for text in [
        "-LOADING Marline is loading the dataset in memory\r\n",
        "-CLUSTERDOWN there is no majority\r\n",
        "-TRYAGAIN the shard is moving\r\n",
        "-ERR the node is stopping\r\n",
    ] {
        let fake = Fake::start(move |before, _| match before {
            0..3 => Act::Reply(text),
            _ => Act::Reply(":1\r\n"),
        });
        assert_eq!(client(&[&fake]).incr("n").unwrap(), 1, "{text}");
        assert_eq!(fake.asked().len(), 4);

        let never = Fake::start(move |_, _| Act::Reply(text));
        let good = Fake::start(|_, _| Act::Reply(":1\r\n"));
        assert_eq!(client(&[&never, &good]).incr("n").unwrap(), 1, "{text}");

        let begun = Instant::now();
        let impatient = Client::builder()
            .nodes([&never.address])
            .reply_timeout(Duration::from_millis(300));
        let result = impatient.connect().unwrap().incr("n");
        assert!(begun.elapsed() < LONG);
        assert!(
            matches!(not_done(result), Cause::Said(said) if text.as_bytes()[1..].starts_with(&said))
        );
    }
}

#[test]
fn a_transaction_that_was_not_ready_is_done_later() {
    let fake = Fake::start(|before, _| {
        Act::Reply(match before {
            0 | 3 => "+OK\r\n",
            1 => "-LOADING wait\r\n",
            2 => "-EXECABORT Transaction discarded because of previous errors.\r\n",
            4 => "+QUEUED\r\n",
            _ => "*1\r\n:1\r\n",
        })
    });
    let replies = client(&[&fake]).transaction().add(&["INCR", "n"]).run();
    assert_eq!(replies.unwrap(), [Value::Int(1)]);
    assert_eq!(fake.asked().len(), 6);
}

#[test]
fn a_full_node_is_left_for_the_next_one() {
    let full = Fake::start(|_, _| Act::Last("-ERR max number of clients reached\r\n"));
    let good = Fake::start(|_, _| Act::Reply(":1\r\n"));
    let mut client = client(&[&full, &good]);
    assert_eq!(client.incr("n").unwrap(), 1);
    assert_eq!(client.node(), good.address);
}

#[test]
fn errors_say_which_node_what_and_whether_it_was_done() {
    let fake = Fake::start(|_, request| {
        Act::Reply(match request {
            "INCR full" => "-NOSPACE the disk is full\r\n",
            "INCR lost" => "-UNKNOWN the leader was lost\r\n",
            "INCR text" => "-ERR value is not an integer or out of range\r\n",
            _ => "+what\r\n",
        })
    });
    let mut client = client(&[&fake]);
    let mut said = |key: &str| client.incr(key).unwrap_err().to_string();
    let node = &fake.address;
    assert_eq!(
        said("full"),
        format!("{node}: it says: NOSPACE the disk is full; nothing was changed")
    );
    assert_eq!(
        said("lost"),
        format!(
            "{node}: it says: UNKNOWN the leader was lost; the command may or may not have been done"
        )
    );
    assert_eq!(
        said("text"),
        format!("{node} refuses: ERR value is not an integer or out of range")
    );
    let odd = said("odd");
    assert!(odd.starts_with(&format!("{node}: a reply of another type")));
    assert!(odd.ends_with("the command may or may not have been done"));
    assert_eq!(fake.asked().len(), 4);
    let none = Client::connect(&[]).unwrap_err();
    assert_eq!(none.to_string(), "no nodes are given; nothing was changed");
}

#[test]
fn a_node_that_is_slow_to_connect_is_passed_by() {
    let (slow, address) = bound();
    slow.listen(0).unwrap();
    let mut waiting = Vec::new();
    // Nobody accepts, so that the queue fills up; then the kernel leaves who knocks without an answer.
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue has an end");
    }
    let good = Fake::start(|_, _| Act::Reply("+PONG\r\n"));
    let begun = Instant::now();
    let mut client = Client::builder()
        .nodes([address.to_string(), good.address.clone()])
        .connect_timeout(Duration::from_millis(200))
        .connect()
        .unwrap();
    client.ping().unwrap();
    assert_eq!(client.node(), good.address);
    assert!(begun.elapsed() < LONG);
}
