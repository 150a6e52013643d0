//! Whole sessions in a simulated network: two clients say anything, cut anywhere, and hang up some time.
//! Nothing panics, and what comes back decodes as long as nobody asked for another dialect.
//!
//! The first byte is the network's seed. In the rest, 0xFE changes the speaker, 0xFD lets time pass.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use marline::config::Options;
use marline::config::values::{Origin, Values};
use marline::node::{self, Node};
use marline::reactor::Reactor;
use marline::reactor::backend::{Backend, Raw};
use marline::reactor::sim::{Faults, SimBackend, SimNet};
use marline::wire::decode::{Decoder, Limits};

const TURN: u8 = 0xfe;
const TIME: u8 = 0xfd;
/// Events of one run; a session that says more keeps the network busy for ever.
const STEPS_MAX: usize = 400;

fn configuration() -> Values {
    let mut values = Values::default();
    for (name, text) in [
        ("port", "0"),
        ("data", "none"),
        ("shards", "3"),
        ("slowlog-log-slower-than", "0"),
    ] {
        values.set(name, text, Origin::Flag).expect(name);
    }
    values
}

struct Client {
    backend: SimBackend,
    raw: Option<Raw>,
    heard: Vec<u8>,
}

impl Client {
    fn new(net: &SimNet, to: SocketAddr) -> Client {
        let mut backend = net.node();
        let raw = backend.connect(to, 1).ok();
        Client {
            backend,
            raw,
            heard: Vec::new(),
        }
    }

    fn say(&mut self, mut bytes: &[u8], world: &mut World) {
        for _ in 0..STEPS_MAX {
            let Some(raw) = self.raw.filter(|_| !bytes.is_empty()) else {
                return;
            };
            match self.backend.write(raw, bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            world.step();
            self.listen();
        }
    }

    fn listen(&mut self) {
        let (Some(raw), mut piece) = (self.raw, [0; 4096]) else {
            return;
        };
        while let Ok(read @ 1..) = self.backend.read(raw, &mut piece) {
            self.heard.extend_from_slice(&piece[..read]);
        }
    }
}

struct World {
    net: SimNet,
    server: Reactor<SimBackend, Node>,
    stopped: bool,
}

impl World {
    fn step(&mut self) {
        if !self.stopped {
            self.stopped = !self.server.turn(None).expect("the loop goes on");
            self.net.pass(Duration::from_micros(100));
        }
    }
}

fn faults(seed: u8) -> Faults {
    match seed & 1 {
        0 => Faults {
            job_delay_max_ns: 1,
            ..Faults::calm()
        },
        _ => Faults::rough(),
    }
}

/// Whether every word that changes what replies look like is absent: then they decode one by one.
fn speaks_resp(data: &[u8]) -> bool {
    let text = data.to_ascii_lowercase();
    let has = |word: &[u8]| text.windows(word.len()).any(|window| window == word);
    // Telnet's words are answered in telnet.
    !has(b"hello")
        && !has(b"subscribe")
        && !has(b"monitor")
        && !has(b"\xff")
        && !has(b"quit")
        && !has(b"shutdown")
        && !has(b"kill")
        && !has(b"reply")
}

/// Strings of hundreds of megabytes are legal and would only take time.
fn is_huge(data: &[u8]) -> bool {
    data.split(|byte| !byte.is_ascii_digit())
        .any(|digits| digits.len() > 5)
}

fuzz_target!(|data: &[u8]| {
    let [seed, script @ ..] = data else {
        return;
    };
    if is_huge(script) {
        return;
    }
    let values = configuration();
    let options = Options::read(&values).expect("defaults are whole");
    let net = SimNet::new(u64::from(*seed), faults(*seed));
    let started = node::start(net.node(), Node::new(values, options, 1));
    let (server, address) = started.expect("an address is free");
    let mut world = World {
        net: net.clone(),
        server,
        stopped: false,
    };
    let mut clients = [Client::new(&net, address), Client::new(&net, address)];
    for _ in 0..10 {
        world.step();
    }
    let mut speaker = 0;
    for words in script.split_inclusive(|&byte| byte == TURN || byte == TIME) {
        let (said, mark) = match words {
            [said @ .., mark @ (TURN | TIME)] => (said, Some(*mark)),
            said => (said, None),
        };
        clients[speaker].say(said, &mut world);
        match mark {
            Some(TURN) => speaker ^= 1,
            Some(_) => net.pass(Duration::from_millis(120)),
            None => {}
        }
        world.step();
    }
    // One hangs up at once, the other says that it is done and listens on.
    if let Some(raw) = clients[1].raw.take_if(|_| seed & 2 != 0) {
        clients[1].backend.close(raw, seed & 4 != 0);
    }
    if let Some(raw) = clients[0].raw {
        clients[0].backend.shutdown_write(raw);
    }
    for _ in 0..STEPS_MAX {
        world.step();
        clients.iter_mut().for_each(Client::listen);
    }
    if speaks_resp(script) && !world.stopped && seed & 1 == 0 {
        let mut decoder = Decoder::new(Limits::default());
        decoder.feed(&clients[0].heard);
        while decoder.next_value().expect("replies are RESP").is_some() {}
    }
});
