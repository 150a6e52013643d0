//! What only a simulation can show: the same run from the same seed, a cut network, no descriptors left.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::SocketAddr;
use std::time::Duration;

use marline::reactor::Reactor;
use marline::reactor::app::{App, Cx};
use marline::reactor::id::ConnId;
use marline::reactor::limits::{Limits, ListenOptions};
use marline::reactor::protocol::{ClientFactory, Factory, Protocol, Reason, Retry};
use marline::reactor::reconnect::{Backoff, Reconnecting};
use marline::reactor::sim::{Faults, SimBackend, SimNet};

#[derive(Default)]
struct Count {
    made: u64,
    lost: u64,
    heard: u64,
    failed: Vec<Reason>,
    conns: Vec<ConnId>,
}

impl App for Count {
    type Message = ();
}

/// Answers, delays, aborts and hangs up as the generator says.
#[derive(Clone)]
struct Whim {
    speaks_first: bool,
}

impl Protocol<Count> for Whim {
    fn connection_made(&mut self, cx: &mut Cx<'_, Count>) {
        cx.app.made += 1;
        cx.app.conns.push(cx.net.id());
        if self.speaks_first {
            cx.net.write(b"hello, hello, hello");
        }
    }
    fn data_received(&mut self, cx: &mut Cx<'_, Count>, data: &[u8]) {
        cx.app.heard += data.len() as u64;
        let id = cx.net.id();
        match cx.net.random() % 40 {
            0 => cx.net.abort_connection(),
            1 => cx.net.lose_connection(),
            2 => cx.net.lose_write_connection(),
            3 => drop(
                cx.net
                    .call_later(Duration::from_millis(3), move |cx| cx.net.abort(id)),
            ),
            4 => {
                cx.net.pause_reading();
                cx.net.call_later(Duration::from_millis(2), move |cx| {
                    cx.net.resume_reading_of(id);
                });
            }
            5 => cx.net.defer_to_thread(
                || 5,
                move |cx, n| {
                    cx.net.write_to(id, &[b'5'; 5][..n]);
                },
            ),
            _ => cx.net.write(data),
        }
    }
    fn connection_lost(&mut self, cx: &mut Cx<'_, Count>, _: &Reason) {
        cx.app.lost += 1;
    }
}

impl Factory<Count> for Whim {
    fn build_protocol(
        &mut self,
        _: &mut Cx<'_, Count>,
        _: SocketAddr,
    ) -> Option<Box<dyn Protocol<Count>>> {
        Some(Box::new(self.clone()))
    }
}

impl ClientFactory<Count> for Whim {
    fn connection_failed(&mut self, app: &mut Count, reason: &Reason, _: u32) -> Retry {
        app.failed.push(*reason);
        Retry::Stop
    }
}

struct Pair {
    net: SimNet,
    server: Reactor<SimBackend, Count>,
    client: Reactor<SimBackend, Count>,
    addr: SocketAddr,
}

impl Pair {
    fn new(seed: u64, faults: Faults, limits: Limits) -> Self {
        let net = SimNet::new(seed, faults);
        let mut server = Reactor::new(net.node(), Count::default(), limits);
        let client = Reactor::new(net.node(), Count::default(), limits);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let addr = server
            .listen(
                &ListenOptions::new(any),
                Box::new(Whim {
                    speaks_first: false,
                }),
            )
            .unwrap()
            .1;
        Pair {
            net,
            server,
            client,
            addr,
        }
    }

    /// Plays until that time.
    fn until_ms(&mut self, ms: u64) {
        let end = ms * 1_000_000;
        while self.net.now() < end {
            self.server.turn(None).unwrap();
            self.client.turn(None).unwrap();
            let wakes = [self.server.next_wake(), self.client.next_wake(), Some(end)];
            assert!(self.net.advance(wakes.into_iter().flatten().min()));
        }
    }
}

/// A run of ten reconnecting clients; everything that can be told of it.
fn run(seed: u64) -> [u64; 6] {
    let limits = Limits {
        flush_ms: 50,
        linger_ms: 30,
        read_bytes_per_connection: 4,
        read_bytes_per_turn: 9,
        ..Limits::default()
    };
    let faults = Faults {
        refuse_percent: 20,
        ..Faults::rough()
    };
    let mut pair = Pair::new(seed, faults, limits);
    let connectors: Vec<_> = (0..10)
        .map(|_| {
            let factory = Reconnecting::new(Whim { speaks_first: true }, Backoff::default());
            pair.client
                .with(|cx| cx.net.connect(pair.addr, Box::new(factory)))
        })
        .collect();
    pair.until_ms(400);
    pair.client.with(|cx| {
        connectors
            .iter()
            .for_each(|connector| cx.net.disconnect(*connector));
    });
    pair.until_ms(1_500);
    pair.client.with(|cx| cx.net.stop());
    pair.server.with(|cx| cx.net.stop());
    pair.until_ms(15_000);
    let (server, client) = (pair.server.app(), pair.client.app());
    assert_eq!(
        (server.made, client.made),
        (server.lost, client.lost),
        "seed {seed}: each is lost exactly once"
    );
    assert!(
        server.made >= 10,
        "seed {seed}: {} connections",
        server.made
    );
    for node in [0, 1] {
        assert_eq!(
            pair.net.sockets(node),
            0,
            "seed {seed}: node {node} has sockets left"
        );
    }
    [
        pair.net.trace(),
        pair.net.now(),
        server.made,
        client.made,
        server.heard,
        client.heard,
    ]
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let mut traces = Vec::new();
    for seed in 1..=60 {
        let first = run(seed);
        assert_eq!(first, run(seed), "seed {seed}");
        traces.push(first[0]);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 60, "and another seed another run");
}

#[test]
fn without_descriptors_the_waiting_are_turned_away_and_the_port_goes_on() {
    let mut pair = Pair::new(1, Faults::calm(), Limits::default());
    // The listener and two more.
    pair.net.set_descriptors_max(0, 3);
    for _ in 0..10 {
        pair.client.with(|cx| {
            cx.net.connect(
                pair.addr,
                Box::new(Whim {
                    speaks_first: false,
                }),
            )
        });
    }
    pair.until_ms(50);
    assert_eq!(
        pair.server
            .with(|cx| (cx.net.connections(), cx.net.stats().refused)),
        (2, 8)
    );
    assert!(
        pair.server.with(|cx| cx.net.stats().turns) < 200,
        "it does not spin"
    );
    pair.net.set_descriptors_max(0, 100);
    pair.client.with(|cx| {
        cx.net.connect(
            pair.addr,
            Box::new(Whim {
                speaks_first: false,
            }),
        )
    });
    pair.until_ms(100);
    assert_eq!(pair.server.with(|cx| cx.net.connections()), 3);
}

#[test]
fn an_unanswered_attempt_times_out_and_a_healed_network_delivers() {
    let mut pair = Pair::new(
        1,
        Faults::calm(),
        Limits {
            connect_ms: 500,
            ..Limits::default()
        },
    );
    pair.net.cut(1, 0);
    pair.client.with(|cx| {
        cx.net
            .connect(pair.addr, Box::new(Whim { speaks_first: true }))
    });
    pair.until_ms(600);
    assert_eq!(pair.client.app().failed, [Reason::TimedOut]);
    pair.client.with(|cx| {
        cx.net
            .connect(pair.addr, Box::new(Whim { speaks_first: true }))
    });
    pair.until_ms(800);
    assert_eq!(pair.server.app().heard, 0);
    pair.net.heal();
    pair.until_ms(900);
    assert!(pair.server.app().heard >= 19, "{}", pair.server.app().heard);
}

#[test]
fn a_crashed_node_is_noticed() {
    let mut pair = Pair::new(1, Faults::calm(), Limits::default());
    pair.client.with(|cx| {
        cx.net.connect(
            pair.addr,
            Box::new(Whim {
                speaks_first: false,
            }),
        )
    });
    pair.until_ms(50);
    assert_eq!((pair.client.app().made, pair.client.app().lost), (1, 0));
    pair.net.crash(0);
    let Pair {
        net, mut client, ..
    } = pair;
    while client.app().lost == 0 {
        client.turn(None).unwrap();
        assert!(net.advance(client.next_wake()));
    }
}

#[test]
fn a_stop_waits_for_its_deadline_without_spinning() {
    let mut pair = Pair::new(
        1,
        Faults::calm(),
        Limits {
            drain_ms: 400,
            flush_ms: 10_000,
            ..Limits::default()
        },
    );
    for _ in 0..3 {
        let factory = Reconnecting::new(
            Whim {
                speaks_first: false,
            },
            Backoff::default(),
        );
        pair.client
            .with(|cx| cx.net.connect(pair.addr, Box::new(factory)));
    }
    pair.until_ms(50);
    assert_eq!(pair.client.app().made, 3);
    // Nothing is answered any more, and there is more to send than the window takes.
    pair.net.cut(0, 1);
    pair.net.cut(1, 0);
    pair.client.with(|cx| {
        for id in cx.app.conns.clone() {
            cx.net.write_to(id, &[0; 200_000]);
        }
        cx.net.stop();
    });
    let before = pair.client.with(|cx| cx.net.stats().turns);
    pair.until_ms(300);
    assert_eq!(
        (
            pair.client.app().lost,
            pair.client.with(|cx| cx.net.connections())
        ),
        (0, 3)
    );
    pair.until_ms(1_000);
    assert_eq!(
        (
            pair.client.app().lost,
            pair.client.with(|cx| cx.net.connections())
        ),
        (3, 0)
    );
    let turns = pair.client.with(|cx| cx.net.stats().turns) - before;
    assert!(turns < 100, "{turns} turns");
}

#[test]
fn a_stop_with_nobody_left_is_complete_at_once() {
    let mut pair = Pair::new(1, Faults::calm(), Limits::default());
    pair.client.with(|cx| {
        cx.net.connect(
            pair.addr,
            Box::new(Whim {
                speaks_first: false,
            }),
        )
    });
    pair.until_ms(50);
    pair.server.with(|cx| cx.net.stop());
    let begun = pair.net.now();
    while pair.server.turn(None).unwrap() {
        pair.client.turn(None).unwrap();
        let wakes = [pair.server.next_wake(), pair.client.next_wake()];
        assert!(pair.net.advance(wakes.into_iter().flatten().min()));
    }
    let took = Duration::from_nanos(pair.net.now() - begun);
    assert!(took < Duration::from_millis(5), "{took:?}");
    pair.server.with(|cx| cx.net.stop());
    assert!(
        !pair.server.turn(None).unwrap(),
        "and with nothing open, in one turn"
    );
}

#[test]
fn a_reactor_alone_runs_by_itself() {
    let mut reactor = Reactor::new(
        SimNet::solo(1, Faults::calm()),
        Count::default(),
        Limits::default(),
    );
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let addr = reactor
        .listen(
            &ListenOptions::new(any),
            Box::new(Whim {
                speaks_first: false,
            }),
        )
        .unwrap()
        .1;
    reactor.with(|cx| {
        cx.net.connect(addr, Box::new(Whim { speaks_first: true }));
        cx.net
            .call_later(Duration::from_secs(3600), |cx| cx.net.stop());
    });
    reactor.run().unwrap();
    assert_eq!((reactor.app().made, reactor.app().lost), (2, 2));
    assert!(reactor.with(|cx| cx.net.now()) >= 3_600_000_000_000);
}
