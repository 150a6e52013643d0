//! Bytes: their order, their pace, and who waits for whom.

use std::time::Duration;

use marline::reactor::limits::{Limits, ListenOptions, OutputLimits};
use marline::reactor::policy::Throttle;
use marline::reactor::protocol::Reason;

use crate::harness::{ANY, Acts, Play, Probes, Stage, amount, echo, pattern};

pub fn a_stream_keeps_its_order_both_ways<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(echo());
    let all = pattern(amount::<S>(2_000_000));
    let sent = all.clone();
    play.connect(
        addr,
        Acts::default().made(move |cx| {
            for piece in sent.chunks(12_345) {
                cx.net.write(piece);
            }
        }),
    );
    play.until("all came back", |play| {
        play.client.app().data.len() == all.len()
    });
    assert!(play.client.app().data == all);
    play.client.with(|cx| cx.net.lose(cx.app.conns[0]));
    play.until_empty();
}

pub fn producers_are_paused_and_resumed<S: Stage>() {
    let mut play = Play::<S>::new();
    let marks = OutputLimits {
        high_bytes: 50_000,
        low_bytes: 10_000,
        hard_bytes: 1 << 30,
    };
    let piece = pattern(30_000_000);
    let addr = play.listen(
        Acts::default()
            .made(move |cx| {
                cx.net.set_output_limits(marks);
                cx.net.write(&piece);
                assert!(cx.net.is_congested());
            })
            .pause(move |cx| assert!(cx.net.out_len() > marks.high_bytes))
            .resume(move |cx| {
                assert!(cx.net.out_len() <= marks.low_bytes);
                cx.net.write(b"!");
            }),
    );
    play.connect(addr, Acts::default().made(|cx| cx.net.pause_reading()));
    play.until("it was paused", |play| {
        play.server.app().lines.iter().any(|line| line == "pause")
    });
    play.pass(Duration::from_millis(30));
    assert!(
        !play.server.app().lines.iter().any(|line| line == "resume"),
        "nobody reads, yet it resumed"
    );
    if S::ROUGH {
        // A small window makes thirty megabytes a matter of minutes.
        play.client.with(|cx| cx.net.abort(cx.app.conns[0]));
        return play.until_empty();
    }
    unpause(&mut play);
    play.until("it was resumed", |play| {
        play.client.app().data.len() == 30_000_001
    });
    assert_eq!(
        play.server.app().lines,
        ["start", "made", "pause", "resume"]
    );
    play.client.with(|cx| cx.net.lose(cx.app.conns[0]));
    play.until_empty();
}

/// Lets the client's only connection read again.
fn unpause<S: Stage>(play: &mut Play<S>) {
    play.client.with(|cx| {
        let id = cx.app.conns[0];
        cx.net.resume_reading_of(id);
    });
}

pub fn too_much_output_ends_the_connection<S: Stage>() {
    let limits = Limits {
        output: OutputLimits {
            hard_bytes: 100_000,
            ..OutputLimits::default()
        },
        ..Limits::default()
    };
    let mut play = Play::<S>::with_limits(limits);
    let addr = play.listen(Acts::default().made(|cx| {
        cx.net.write(&pattern(100_000));
        assert!(!cx.net.is_losing());
        cx.net.write(b"one too many");
        assert!(cx.net.is_losing());
        assert_eq!(cx.net.out_len(), 0);
    }));
    play.connect(addr, Acts::default());
    play.until("it was ended", |play| {
        play.client.app().lost.len() + play.client.app().failed.len() == 1
    });
    play.until_empty();
    assert_eq!(play.server_reason(), Some(Reason::Overflow));
    assert_eq!(play.server.with(|cx| cx.net.stats().overflowed), 1);
}

pub fn paused_reading_loses_nothing<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(Acts::default().data(|cx, _| {
        let id = cx.net.id();
        cx.net.pause_reading();
        cx.net.call_later(Duration::from_millis(15), move |cx| {
            cx.net.resume_reading_of(id);
        });
    }));
    play.connect(
        addr,
        Acts::default().made(|cx| {
            cx.net.write(&pattern(300));
            let id = cx.net.id();
            cx.net.call_later(Duration::from_millis(5), move |cx| {
                cx.net.write_to(id, &pattern(200));
                cx.net.lose(id);
            });
        }),
    );
    play.until("all was read, and the end", |play| {
        play.server.app().lost.len() == 1
    });
    assert_eq!(
        play.server.app().data,
        [pattern(300), pattern(200)].concat()
    );
    assert_eq!(play.server_reason(), Some(Reason::Done));
    play.until_empty();
}

pub fn a_loud_connection_does_not_silence_the_others<S: Stage>() {
    let limits = Limits {
        read_bytes_per_connection: 1_000,
        read_bytes_per_turn: 2_500,
        ..Limits::default()
    };
    let mut play = Play::<S>::with_limits(limits);
    let addr = play.listen(Acts::default().data(|cx, data| {
        assert!(data.len() <= 1_000);
        if data == b"?" {
            cx.net.write(b"yes");
        }
    }));
    let quiet = Acts::default().made(|cx| cx.net.write(b"."));
    for _ in 0..4 {
        play.connect(addr, quiet.clone());
    }
    play.until("all are connected", |play| {
        play.server.app().data.len() == 4
    });
    let conns = play.client.app().conns.clone();
    let flood = pattern(amount::<S>(400_000))
        .into_iter()
        .map(|byte| byte.max(64))
        .collect::<Vec<u8>>();
    play.client.with(|cx| {
        conns[..3]
            .iter()
            .for_each(|id| assert!(cx.net.write_to(*id, &flood)));
    });
    play.until("the flood is on", |play| {
        play.server.app().data.len() > 1_000
    });
    let before = play.server.with(|cx| cx.net.stats().bytes_read);
    play.client.with(|cx| cx.net.write_to(conns[3], b"?"));
    play.until("the question was answered", |play| {
        play.client.app().data == b"yes"
    });
    let read = play.server.with(|cx| cx.net.stats().bytes_read) - before;
    assert!(
        read < 2 * flood.len() as u64,
        "{read} bytes of flood came before one question"
    );
    play.client
        .with(|cx| conns.iter().for_each(|id| cx.net.lose(*id)));
    play.until_empty();
    assert_eq!(
        play.server.app().data.len(),
        3 * flood.len() + 5,
        "and nothing of the flood was lost"
    );
}

pub fn a_turn_writes_once_and_after_the_commit<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(Acts::default().data(|cx, _| {
        for _ in 0..100 {
            cx.net.write(b"0123456789");
        }
        cx.app.lines.push(format!("commits {}", cx.app.commits));
        assert_eq!(cx.net.out_len(), 1000);
    }));
    play.connect(addr, Acts::default().made(|cx| cx.net.write(b"x")));
    play.until("the answer is there", |play| {
        play.client.app().data.len() == 1000
    });
    let stats = play.server.with(|cx| *cx.net.stats());
    if !S::ROUGH {
        assert_eq!(
            (stats.reads, stats.writes),
            (1, 1),
            "one read and one write"
        );
    }
    play.client.with(|cx| cx.net.lose(cx.app.conns[0]));
    play.until_empty();
}

pub fn a_large_buffer_changes_hands<S: Stage>() {
    let mut play = Play::<S>::new();
    let len = 200_000;
    let addr = play.listen(Acts::default().made(move |cx| {
        let mut large = pattern(len);
        let at = large.as_ptr();
        cx.net.write_buf(&mut large);
        assert!(
            large.is_empty() && large.as_ptr() != at,
            "it was not taken over"
        );
        let mut small = b"tail".to_vec();
        let at = small.as_ptr();
        cx.net.write_buf(&mut small);
        assert!(
            small.is_empty() && small.as_ptr() == at,
            "it was not copied"
        );
        cx.net.lose_connection();
    }));
    play.connect(addr, Acts::default());
    play.until("it was connected", |play| {
        !play.client.app().conns.is_empty()
    });
    play.until_empty();
    assert!(play.client.app().data == [pattern(len), b"tail".to_vec()].concat());
}

pub fn a_throttle_slows_its_connection<S: Stage>() {
    let mut play = Play::<S>::with_limits(Limits {
        read_bytes_per_connection: 100,
        ..Limits::default()
    });
    let factory = Throttle::new(*Probes::boxed(Acts::default()), 10_000, 500);
    let addr = play
        .server
        .listen(&ListenOptions::new(ANY), Box::new(factory))
        .unwrap()
        .1;
    play.connect(
        addr,
        Acts::default().made(|cx| cx.net.write(&pattern(2_500))),
    );
    play.until("it began", |play| !play.server.app().data.is_empty());
    let begun = play.now();
    play.until("all was read", |play| play.server.app().data.len() == 2_500);
    let took = Duration::from_nanos(play.now() - begun);
    assert!(
        took >= Duration::from_millis(150) && took < Duration::from_secs(2),
        "{took:?}"
    );
    assert!(play.server.app().data == pattern(2_500));
    play.client.with(|cx| cx.net.lose(cx.app.conns[0]));
    play.until_empty();
}
