//! The reactor stands alone: Twisted's two classic servers, in under forty lines each, against real sockets.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};

use marline::reactor::Reactor;
use marline::reactor::app::{App, Cx};
use marline::reactor::id::ConnId;
use marline::reactor::limits::{Limits, ListenOptions};
use marline::reactor::line::{Flow, LineHandler, LineReceiver};
use marline::reactor::mio_backend::MioBackend;
use marline::reactor::protocol::{Factory, Protocol, Reason};
use marline::reactor::remote::Remote;

/// What every protocol sends back.
mod echo {
    use super::*;

    pub(super) struct Server;
    impl App for Server {
        type Message = ();
    }

    pub(super) struct Echo;
    impl Protocol<Server> for Echo {
        fn data_received(&mut self, cx: &mut Cx<'_, Server>, data: &[u8]) {
            cx.net.write(data);
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
}

/// The first line is a name; each further line is said to everybody.
mod chat {
    use super::*;
    #[derive(Default)]
    pub(super) struct Room(BTreeMap<ConnId, String>);
    impl App for Room {
        type Message = ();
    }
    fn say(cx: &mut Cx<'_, Room>, words: &str) {
        for id in cx.app.0.keys() {
            cx.net.write_to(*id, words.as_bytes());
        }
    }
    pub(super) struct Chatter;
    impl LineHandler<Room> for Chatter {
        fn line_received(&mut self, cx: &mut Cx<'_, Room>, line: &[u8]) -> Flow {
            let line = String::from_utf8_lossy(line).into_owned();
            let name = cx.app.0.get(&cx.net.id());
            let words = name.map_or(format!("{line} comes in\n"), |name| {
                format!("<{name}> {line}\n")
            });
            say(cx, &words);
            cx.app.0.entry(cx.net.id()).or_insert(line);
            Flow::Continue
        }
        fn connection_lost(&mut self, cx: &mut Cx<'_, Room>, _: &Reason) {
            let name = cx.app.0.remove(&cx.net.id()).unwrap_or_default();
            say(cx, &format!("{name} goes out\n"));
        }
    }
    impl Factory<Room> for Chatter {
        fn build_protocol(
            &mut self,
            _: &mut Cx<'_, Room>,
            _: SocketAddr,
        ) -> Option<Box<dyn Protocol<Room>>> {
            Some(Box::new(LineReceiver::new(Chatter)))
        }
    }
}

/// Runs a server on a thread of its own.
#[expect(
    clippy::disallowed_methods,
    reason = "a test's server is not a reactor's job"
)]
fn serve<A: App>(
    app: impl FnOnce() -> A + Send + 'static,
    factory: impl FnOnce() -> Box<dyn Factory<A>> + Send + 'static,
) -> (SocketAddr, Remote<A>, JoinHandle<()>) {
    let (tell, told) = std::sync::mpsc::channel();
    let server = thread::spawn(move || {
        let mut reactor =
            Reactor::new(MioBackend::new().expect("a poll"), app(), Limits::default());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (_, addr) = reactor
            .listen(&ListenOptions::new(any), factory())
            .expect("to listen");
        tell.send((addr, reactor.remote())).expect("to be heard");
        reactor.run().expect("to run");
    });
    let (addr, remote) = told.recv().expect("an address");
    (addr, remote, server)
}

#[test]
fn an_echo_server() {
    let (addr, remote, server) = serve(|| echo::Server, || Box::new(echo::Echo));
    let mut stream = TcpStream::connect(addr).expect("to connect");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 253) as u8).collect();
    let mut reader = stream.try_clone().expect("a second handle");
    let (mut back, all) = (vec![0; sent.len()], sent.clone());
    #[expect(clippy::disallowed_methods, reason = "somebody has to write meanwhile")]
    let writer = thread::spawn(move || {
        stream.write_all(&all).expect("to write");
        stream.shutdown(Shutdown::Write).expect("to shut down");
    });
    reader.read_exact(&mut back).expect("to read");
    assert!(back == sent);
    assert_eq!(reader.read(&mut back).expect("the end"), 0);
    writer.join().expect("the writer");
    remote.call(|cx| cx.net.stop());
    server.join().expect("the server");
}

#[test]
fn a_chat_server() {
    let (addr, remote, server) = serve(chat::Room::default, || Box::new(chat::Chatter));
    let enter = |name: &str| {
        let mut stream = TcpStream::connect(addr).expect("to connect");
        writeln!(stream, "{name}").expect("to write");
        BufReader::new(stream)
    };
    let hear = |who: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        who.read_line(&mut line).expect("a line");
        line
    };
    let mut ann = enter("ann");
    writeln!(ann.get_mut(), "anybody there?").expect("to write");
    assert_eq!(hear(&mut ann), "<ann> anybody there?\n");
    let mut bob = enter("bob");
    assert_eq!(hear(&mut ann), "bob comes in\n");
    write!(bob.get_mut(), "hello\r\nbye\n").expect("to write");
    for who in [&mut ann, &mut bob] {
        assert_eq!(
            (hear(who), hear(who)),
            ("<bob> hello\n".into(), "<bob> bye\n".into())
        );
    }
    drop(bob);
    assert_eq!(hear(&mut ann), "bob goes out\n");
    remote.call(|cx| cx.net.stop());
    assert_eq!(
        hear(&mut ann),
        "",
        "the server says goodbye with an end of stream"
    );
    drop(ann);
    server.join().expect("the server");
}
