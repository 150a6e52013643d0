//! Outgoing connections.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use marline::reactor::limits::ListenOptions;
use marline::reactor::protocol::Reason;
use marline::reactor::reconnect::{Backoff, Reconnecting};

use crate::harness::{ANY, Acts, Play, Probes, Stage, echo};

const MS: Duration = Duration::from_millis(1);

/// An address on which nobody listens.
fn nobody<S: Stage>(play: &mut Play<S>) -> SocketAddr {
    let (port, addr) = play
        .server
        .listen(&ListenOptions::new(ANY), Probes::boxed(echo()))
        .unwrap();
    play.server.with(|cx| cx.net.stop_listening(port));
    play.until("the port is closed", |play| {
        play.server.app().lines.ends_with(&["stop".into()])
    });
    play.server.app_mut().lines.clear();
    addr
}

pub fn a_refused_attempt_is_reported_once<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = nobody(&mut play);
    play.connect(addr, Acts::default());
    assert!(play.client.app().failed.is_empty(), "not inside the call");
    play.until("it failed", |play| !play.client.app().failed.is_empty());
    play.pass(20 * MS);
    assert_eq!(
        play.client.app().failed,
        [(Reason::Lost(ErrorKind::ConnectionRefused), 1)]
    );
    assert_eq!(play.client.app().lines, ["start", "stop"]);
    assert_eq!(play.client.with(|cx| cx.net.stats().connects_failed), 1);
    play.until_empty();
}

pub fn attempts_are_repeated_as_the_factory_says<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = nobody(&mut play);
    play.client.app_mut().retry = Some(10 * MS);
    let begun = play.now();
    play.connect(addr, Acts::default().made(|cx| cx.net.write(b"at last")));
    play.until("it failed thrice", |play| {
        play.client.app().failed.len() == 3
    });
    assert!(Duration::from_nanos(play.now() - begun) >= 20 * MS);
    assert_eq!(
        play.client
            .app()
            .failed
            .iter()
            .map(|failed| failed.1)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    play.server
        .listen(&ListenOptions::new(addr), Probes::boxed(Acts::default()))
        .unwrap();
    play.until("it is heard", |play| play.server.app().data == b"at last");
    play.client.with(|cx| cx.net.lose(cx.app.conns[0]));
    play.until_empty();
}

pub fn reconnecting_comes_back_and_starts_anew_after_a_byte<S: Stage>() {
    let mut play = Play::<S>::new();
    // Accepts and closes at once for the first three, then says a byte before it closes.
    let addr = play.listen(Acts::default().made(|cx| {
        if cx.app.conns.len() > 3 {
            cx.net.write(b"!");
        }
        cx.app.lines.push(format!("{}", cx.net.now() / 1_000_000));
        cx.net.lose_connection();
    }));
    let backoff = Backoff {
        initial: 20 * MS,
        factor: 4.0,
        max: 320 * MS,
        jitter: 0.0,
        retries: Some(10),
    };
    let factory = Reconnecting::new(*Probes::boxed(Acts::default()), backoff);
    let connector = play
        .client
        .with(|cx| cx.net.connect(addr, Box::new(factory)));
    play.until("it came six times", |play| {
        play.server.app().conns.len() == 6
    });
    let times: Vec<u64> = play
        .server
        .app()
        .lines
        .iter()
        .filter_map(|line| line.parse().ok())
        .collect();
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let slack = if S::ROUGH { 70 } else { 40 };
    for (gap, wanted) in gaps.iter().zip([20, 80, 320, 20, 20]) {
        assert!(
            (wanted..wanted + slack).contains(gap),
            "{gaps:?}: {gap} is not about {wanted}"
        );
    }
    play.client.with(|cx| cx.net.disconnect(connector));
    play.until_empty();
    play.pass(500 * MS);
    assert_eq!(play.server.app().conns.len(), 6, "it stays away after that");
    assert_eq!(
        play.client
            .app()
            .lines
            .iter()
            .filter(|line| *line == "stop")
            .count(),
        1
    );
}

pub fn names_are_looked_up<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(echo());
    let name = format!("localhost:{}", addr.port());
    play.stage.set_name(&name, addr);
    play.client.with(|cx| {
        cx.net.connect(
            name.as_str(),
            Probes::boxed(Acts::default().made(|cx| cx.net.write(b"hi"))),
        )
    });
    play.client.with(|cx| {
        cx.net
            .connect("no.such.name.invalid:1", Probes::boxed(Acts::default()))
    });
    play.until("one is there, one is not", |play| {
        play.client.app().data == b"hi" && play.client.app().failed.len() == 1
    });
    play.client.with(|cx| cx.net.lose(cx.app.conns[0]));
    play.until_empty();
}

pub fn a_disconnected_connector_ends<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(echo());
    let refused = nobody(&mut play);
    play.client.app_mut().retry = Some(5 * MS);
    let (up, down) = play.client.with(|cx| {
        let up = cx.net.connect(addr, Probes::boxed(Acts::default()));
        let down = cx.net.connect(refused, Probes::boxed(Acts::default()));
        let never = cx.net.connect(refused, Probes::boxed(Acts::default()));
        cx.net.disconnect(never);
        (up, down)
    });
    play.until("one is up, one tries", |play| {
        play.server.app().conns.len() == 1
            && play.client.app().conns.len() == 1
            && play.client.app().failed.len() >= 2
    });
    play.client.with(|cx| {
        cx.net.disconnect(up);
        cx.net.disconnect(down);
        cx.net.disconnect(down);
    });
    play.until_empty();
    let failed = play.client.app().failed.len();
    play.pass(30 * MS);
    assert_eq!(play.client.app().failed.len(), failed);
    assert_eq!(
        play.client
            .app()
            .lines
            .iter()
            .filter(|line| *line == "client lost")
            .count(),
        1
    );
    let starts = play
        .client
        .app()
        .lines
        .iter()
        .filter(|line| *line == "start")
        .count();
    assert_eq!(
        play.client
            .app()
            .lines
            .iter()
            .filter(|line| *line == "stop")
            .count(),
        starts
    );
}
