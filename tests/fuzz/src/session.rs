//! Whole sessions in a simulated network: two clients say anything, cut anywhere, and hang up some time.
//! Nothing panics, and what comes back decodes as long as nobody asked for another dialect.
//!
//! The first byte is the network's seed. In the rest, 0xFE changes the speaker, 0xFD lets time pass.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use marline::config::Options;
use marline::config::values::{Origin, Values};
use marline::node::Node;
use marline::reactor::sim::{Faults, SimNet};
use marline::wire::decode::{Decoder, Limits};
use marline_fuzz::sim::{Client, STEPS_MAX, World};

const TURN: u8 = 0xfe;
const TIME: u8 = 0xfd;

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
    let mut world = World::start(&net, Node::new(values, options, 1));
    let mut clients = [Client::new(&mut world), Client::new(&mut world)];
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
    if seed & 2 != 0 {
        clients[1].close(&mut world, seed & 4 != 0);
    }
    clients[0].finish(&mut world);
    for _ in 0..STEPS_MAX {
        world.step();
        clients
            .iter_mut()
            .for_each(|client| client.listen(&mut world));
    }
    if speaks_resp(script) && !world.stopped && seed & 1 == 0 {
        let mut decoder = Decoder::new(Limits::default());
        decoder.feed(&clients[0].heard);
        while decoder.next_value().expect("replies are RESP").is_some() {}
    }
});
