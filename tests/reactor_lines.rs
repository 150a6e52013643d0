//! `LineReceiver`: torn lines, raw bytes, pauses, bounds and congestion, in the simulator.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use marline::reactor::Reactor;
use marline::reactor::app::{App, Cx};
use marline::reactor::id::ConnId;
use marline::reactor::limits::{Limits, ListenOptions};
use marline::reactor::line::{Flow, LineHandler, LineReceiver};
use marline::reactor::protocol::{ClientFactory, Factory, Protocol, Reason};
use marline::reactor::sim::{Faults, SimBackend, SimNet};

#[derive(Default)]
struct Log {
    heard: Vec<String>,
    reply: Vec<u8>,
    lost: Vec<Reason>,
    /// The most output that ever waited.
    out_max: usize,
}

impl App for Log {
    type Message = &'static str;
}

struct Server;

impl LineHandler<Log> for Server {
    fn line_received(&mut self, cx: &mut Cx<'_, Log>, line: &[u8]) -> Flow {
        let line = String::from_utf8_lossy(line).into_owned();
        cx.app.heard.push(line.clone());
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match word {
            "RAW" => Flow::Raw(rest.parse().unwrap()),
            "WAIT" => {
                let id = cx.net.id();
                cx.net
                    .call_later(Duration::from_millis(30), move |cx| cx.net.post(id, "over"));
                Flow::Pause
            }
            "BIG" => {
                cx.net.write(&vec![b'b'; rest.parse().unwrap()]);
                cx.app.out_max = cx.app.out_max.max(cx.net.out_len());
                Flow::Continue
            }
            "QUIT" => {
                cx.net.write(b"bye");
                Flow::Close
            }
            _ => Flow::Continue,
        }
    }

    fn raw_received(&mut self, cx: &mut Cx<'_, Log>, data: &[u8], left: usize) -> Flow {
        cx.app.reply.extend_from_slice(data);
        if left == 0 {
            cx.app.heard.push(format!(
                "raw {:?}",
                String::from_utf8_lossy(&std::mem::take(&mut cx.app.reply))
            ));
        }
        Flow::Continue
    }

    fn message(&mut self, cx: &mut Cx<'_, Log>, message: &'static str) -> Flow {
        cx.app.heard.push(message.into());
        Flow::Continue
    }

    fn line_length_exceeded(&mut self, cx: &mut Cx<'_, Log>) {
        cx.net.write(b"too long");
    }

    fn connection_lost(&mut self, cx: &mut Cx<'_, Log>, reason: &Reason) {
        cx.app.lost.push(*reason);
    }
}

impl Factory<Log> for Server {
    fn build_protocol(
        &mut self,
        _: &mut Cx<'_, Log>,
        _: SocketAddr,
    ) -> Option<Box<dyn Protocol<Log>>> {
        Some(Box::new(LineReceiver::with_max(Server, 20)))
    }
}

/// Says everything, then ends its stream, and keeps what comes back.
#[derive(Clone)]
struct Client(Rc<[u8]>);

impl Protocol<Log> for Client {
    fn connection_made(&mut self, cx: &mut Cx<'_, Log>) {
        cx.net.write(&self.0);
        cx.net.lose_write_connection();
    }
    fn data_received(&mut self, cx: &mut Cx<'_, Log>, data: &[u8]) {
        cx.app.reply.extend_from_slice(data);
    }
}
impl Factory<Log> for Client {
    fn build_protocol(
        &mut self,
        _: &mut Cx<'_, Log>,
        _: SocketAddr,
    ) -> Option<Box<dyn Protocol<Log>>> {
        Some(Box::new(self.clone()))
    }
}
impl ClientFactory<Log> for Client {}

/// Lets a client say `words`; the server's log, and what the client heard.
fn hold(words: &[u8], faults: Faults) -> (Log, Vec<u8>) {
    let net = SimNet::new(3, faults);
    let new = || Reactor::<SimBackend, Log>::new(net.node(), Log::default(), Limits::default());
    let (mut server, mut client) = (new(), new());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let addr = server
        .listen(&ListenOptions::new(any), Box::new(Server))
        .unwrap()
        .1;
    client.with(|cx| cx.net.connect(addr, Box::new(Client(words.into()))));
    loop {
        server.turn(None).unwrap();
        client.turn(None).unwrap();
        let wake = server
            .next_wake()
            .into_iter()
            .chain(client.next_wake())
            .min();
        if !net.advance(wake) {
            break;
        }
    }
    assert_eq!(
        server.with(|cx| (cx.net.id(), cx.net.connections())),
        (ConnId::NONE, 0)
    );
    (
        std::mem::take(server.app_mut()),
        std::mem::take(&mut client.app_mut().reply),
    )
}

#[test]
fn any_chunking_gives_the_same_lines() {
    let words = b"one\r\ntwo\n\r\n\nRAW 7\nab\ncd\r\nthree\nRAW 0\nfour\r\r\nWAIT\nfive\nRAW 5\r\n12345six\nQUIT\nnever\n";
    for segment_max_bytes in 1..words.len() {
        let (log, reply) = hold(
            words,
            Faults {
                segment_max_bytes,
                ..Faults::calm()
            },
        );
        let expected = [
            "one",
            "two",
            "",
            "",
            "RAW 7",
            "raw \"ab\\ncd\\r\\n\"",
            "three",
            "RAW 0",
            "four\r",
            "WAIT",
            "over",
            "five",
            "RAW 5",
            "raw \"12345\"",
            "six",
            "QUIT",
        ];
        assert_eq!(log.heard, expected, "pieces of {segment_max_bytes}");
        assert_eq!(
            (&reply[..], &log.lost[..]),
            (&b"bye"[..], &[Reason::Done][..])
        );
    }
}

#[test]
fn a_long_line_is_not_waited_for() {
    for segment_max_bytes in [1, 5, 21, 22, 1000] {
        let faults = Faults {
            segment_max_bytes,
            ..Faults::calm()
        };
        let (log, reply) = hold(
            b"12345678901234567890\r\n123456789012345678901\nnever\n",
            faults,
        );
        assert_eq!(
            log.heard,
            ["12345678901234567890"],
            "pieces of {segment_max_bytes}"
        );
        assert_eq!(reply, b"too long", "pieces of {segment_max_bytes}");
        let (log, reply) = hold(&[b'x'; 1000], faults);
        assert!(log.heard.is_empty());
        assert_eq!(reply, b"too long");
    }
}

#[test]
fn a_line_without_an_end_is_not_delivered() {
    let (log, reply) = hold(b"one\ntwo", Faults::calm());
    assert_eq!((log.heard, reply.len()), (vec!["one".to_owned()], 0));
}

#[test]
fn congestion_stops_delivery_between_two_lines() {
    let words = b"BIG 50000\n".repeat(200);
    let (log, reply) = hold(&words, Faults::calm());
    assert_eq!((log.heard.len(), reply.len()), (200, 10_000_000));
    assert!(
        log.out_max <= 64 * 1024 + 50_000,
        "{} bytes waited",
        log.out_max
    );
    assert_eq!(log.lost, [Reason::Done]);
}
