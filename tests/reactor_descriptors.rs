//! A server whose process runs out of descriptors, on the kernel. The test runs itself again under `ulimit -n`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::env;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use marline::reactor::Reactor;
use marline::reactor::app::{App, Cx};
use marline::reactor::limits::{Limits, ListenOptions};
use marline::reactor::mio_backend::MioBackend;
use marline::reactor::protocol::{Factory, Protocol};

struct Server;
impl App for Server {
    type Message = ();
}

struct Echo;
impl Protocol<Server> for Echo {
    fn data_received(&mut self, cx: &mut Cx<'_, Server>, data: &[u8]) {
        let stats = *cx.net.stats();
        if data == b"stats" {
            cx.net
                .write(format!("{} {}", stats.turns, stats.refused).as_bytes());
        } else {
            cx.net.write(data);
        }
    }
}
impl Factory<Server> for Echo {
    fn build_protocol(
        &mut self,
        _: &mut Cx<'_, Server>,
        _: SocketAddr,
    ) -> Option<Box<dyn Protocol<Server>>> {
        Some(Box::new(Echo))
    }
}

/// In the environment of the inner run.
const INNER: &str = "REACTOR_DESCRIPTORS_INNER";

fn ask(mut stream: &TcpStream, words: &[u8]) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(words).ok()?;
    let mut reply = [0; 64];
    match stream.read(&mut reply) {
        Ok(n) if n > 0 => Some(String::from_utf8_lossy(&reply[..n]).into_owned()),
        _ => None,
    }
}

/// The server, under a limit that the outer run has set.
fn inner() {
    let mut reactor = Reactor::new(MioBackend::new().unwrap(), Server, Limits::default());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (_, addr) = reactor
        .listen(&ListenOptions::new(any), Box::new(Echo))
        .unwrap();
    println!("port={};", addr.port());
    reactor.run().unwrap();
}

#[test]
fn running_out_of_descriptors_neither_stalls_nor_spins() {
    if env::var(INNER).is_ok() {
        return inner();
    }
    let name = "running_out_of_descriptors_neither_stalls_nor_spins";
    let mut server = Command::new("sh")
        .args(["-c", "ulimit -n 24; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(env::current_exe().unwrap())
        .arg(name)
        .env(INNER, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = server.stdout.take().unwrap();
    let (mut said, mut byte) = (String::new(), [0]);
    while !said.contains(';') {
        assert_eq!(
            stdout.read(&mut byte).unwrap(),
            1,
            "the server ended: {said}"
        );
        said.push(byte[0] as char);
    }
    let port: u16 = said
        .split_once("port=")
        .unwrap()
        .1
        .trim_end_matches(';')
        .parse()
        .unwrap();
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();

    let streams: Vec<TcpStream> = (0..40).map(|_| connect()).collect();
    let served: Vec<bool> = streams
        .iter()
        .map(|stream| ask(stream, b"ping").as_deref() == Some("ping"))
        .collect();
    let count = served.iter().filter(|served| **served).count();
    assert!(
        (8..24).contains(&count),
        "{count} served with 24 descriptors"
    );
    let stats = || {
        let reply = ask(&streams[0], b"stats").unwrap();
        let (turns, refused) = reply.split_once(' ').unwrap();
        (
            turns.parse::<u64>().unwrap(),
            refused.parse::<usize>().unwrap(),
        )
    };
    let (turns, refused) = stats();
    assert_eq!(
        refused,
        40 - count,
        "the others were turned away, not left waiting"
    );
    thread::sleep(Duration::from_millis(300));
    let (later, _) = stats();
    assert!(
        later - turns < 20,
        "{} turns in 300 ms of silence",
        later - turns
    );

    drop(streams);
    let again = (0..50).any(|_| {
        thread::sleep(Duration::from_millis(20));
        ask(&connect(), b"back").as_deref() == Some("back")
    });
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(again, "it serves again when descriptors are free");
}
