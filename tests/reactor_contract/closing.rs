//! How connections end.

use std::time::Duration;

use marline::reactor::limits::Limits;
use marline::reactor::protocol::Reason;

use crate::harness::{Acts, Play, Stage, amount, echo, pattern};

pub fn losing_flushes_everything_first<S: Stage>() {
    let mut play = Play::<S>::new();
    let sent = pattern(amount::<S>(3_000_000));
    let all = sent.clone();
    let addr = play.listen(Acts::default().made(move |cx| {
        cx.net.write(&all);
        cx.net.lose_connection();
    }));
    play.connect(addr, Acts::default());
    play.until("it was connected", |play| {
        !play.client.app().conns.is_empty()
    });
    play.until_empty();
    assert!(
        play.client.app().data == sent,
        "{} of {} bytes",
        play.client.app().data.len(),
        sent.len()
    );
    assert_eq!(
        (play.server_reason(), play.client_reason()),
        (Some(Reason::Done), Some(Reason::Done))
    );
}

pub fn end_of_stream_means_finish_flush_close<S: Stage>() {
    let mut play = Play::<S>::new();
    let reply = pattern(amount::<S>(1_000_000));
    let all = reply.clone();
    let addr = play.listen(Acts::default().data(move |cx, data| {
        for _ in data {
            cx.net.write(&all);
        }
    }));
    play.connect(
        addr,
        Acts::default().made(|cx| {
            cx.net.write(b"xyz");
            cx.net.lose_write_connection();
        }),
    );
    play.until("it was connected", |play| {
        !play.client.app().conns.is_empty()
    });
    play.until_empty();
    assert!(play.client.app().data == [reply.clone(), reply.clone(), reply].concat());
    assert_eq!(
        (play.server_reason(), play.client_reason()),
        (Some(Reason::Done), Some(Reason::Done))
    );
    let lines: Vec<&str> = play
        .server
        .app()
        .lines
        .iter()
        .map(String::as_str)
        .filter(|line| *line != "pause")
        .collect();
    assert_eq!(lines, ["start", "made", "eof", "lost"]);
}

pub fn half_closed_streams_go_on_in_the_other_direction<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(Acts::default().eof(|cx| {
        // Answers after the end of the stream, and a while later.
        cx.net.write(b"after ");
        let id = cx.net.id();
        cx.net.call_later(Duration::from_millis(20), move |cx| {
            cx.net.write_to(id, b"all");
            cx.net.lose(id);
        });
    }));
    play.connect(
        addr,
        Acts::default().made(|cx| {
            cx.net.write(b"request");
            cx.net.lose_write_connection();
            cx.net.write(b"dropped");
        }),
    );
    play.until("it was connected", |play| {
        !play.client.app().conns.is_empty()
    });
    play.until_empty();
    assert_eq!(play.server.app().data, b"request");
    assert_eq!(play.client.app().data, b"after all");
    assert_eq!(
        (play.server_reason(), play.client_reason()),
        (Some(Reason::Done), Some(Reason::Done))
    );
}

pub fn lost_is_called_once_whatever_is_asked_for<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(
        Acts::default()
            .data(|cx, data| match data[0] {
                b'a' => cx.net.abort_connection(),
                b'b' => {
                    cx.net.lose_connection();
                    cx.net.abort_connection();
                    cx.net.abort_connection();
                }
                b'c' => {
                    let id = cx.net.id();
                    cx.net.abort(id);
                    cx.net.lose_connection();
                    cx.net.post(id, "never".into());
                }
                _ => {
                    cx.net.lose_connection();
                    cx.net.lose_connection();
                }
            })
            .lost(|cx| {
                cx.net.write(b"to nobody");
                cx.net.lose_connection();
                cx.net.abort_connection();
            }),
    );
    for word in [b"a", b"b", b"c", b"d"] {
        play.connect(addr, Acts::default().made(move |cx| cx.net.write(word)));
    }
    play.until("all four were served", |play| {
        play.server.app().lost.len() == 4
    });
    play.until_empty();
    let mut reasons: Vec<String> = play
        .server
        .app()
        .lost
        .iter()
        .map(|lost| format!("{:?}", lost.1))
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["Aborted", "Aborted", "Aborted", "Done"]);
    assert!(!play.server.app().lines.iter().any(|line| line == "never"));
}

pub fn a_reset_is_a_loss<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(echo());
    play.connect(
        addr,
        Acts::default()
            .made(|cx| cx.net.write(b"x"))
            .data(|cx, _| cx.net.abort_connection()),
    );
    play.until("the server lost it", |play| {
        play.server.app().lost.len() == 1
    });
    play.until_empty();
    assert!(
        matches!(play.server_reason(), Some(Reason::Lost(_))),
        "{:?}",
        play.server_reason()
    );
    assert_eq!(play.client_reason(), Some(Reason::Aborted));
}

pub fn a_peer_that_does_not_read_cannot_hold_a_close<S: Stage>() {
    let mut play = Play::<S>::with_limits(Limits {
        flush_ms: 150,
        ..Limits::default()
    });
    let addr = play.listen(Acts::default().made(|cx| {
        cx.net.write(&pattern(20_000_000));
        cx.net.lose_connection();
    }));
    play.connect(addr, Acts::default().made(|cx| cx.net.pause_reading()));
    play.until("the server gave up", |play| {
        play.server.app().lost.len() == 1
    });
    assert_eq!(play.server_reason(), Some(Reason::TimedOut));
    assert_eq!(play.server.with(|cx| cx.net.stats().timed_out), 1);
    play.client.with(|cx| {
        cx.app
            .conns
            .clone()
            .into_iter()
            .for_each(|id| cx.net.abort(id));
    });
    play.until_empty();
}

pub fn the_last_words_survive_unread_input<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(Acts::default().data(|cx, _| {
        cx.net.write(b"-ERR too long\r\n");
        cx.net.lose_connection();
    }));
    let flood = pattern(amount::<S>(200_000));
    play.connect(addr, Acts::default().made(move |cx| cx.net.write(&flood)));
    play.until("it was connected", |play| {
        !play.client.app().conns.is_empty()
    });
    play.until_empty();
    assert_eq!(play.client.app().data, b"-ERR too long\r\n");
    assert_eq!(play.client_reason(), Some(Reason::Done));
}

pub fn a_short_read_does_not_hide_the_end_of_a_closed_peer<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(Acts::default());
    // The words and the end arrive while the server does not look: one event for both.
    play.connect(
        addr,
        Acts::default().made(|cx| {
            cx.net.write(b"short");
            cx.net.lose_connection();
        }),
    );
    for _ in 0..200 {
        play.client.turn(Some(Duration::from_micros(100))).unwrap();
        let wake = play
            .client
            .next_wake()
            .into_iter()
            .chain(play.server.next_wake())
            .min();
        play.stage.round(wake);
        if !play.client.app().conns.is_empty()
            && play.client.with(|cx| cx.net.out_len_of(cx.app.conns[0])) == 0
        {
            break;
        }
    }
    play.until("the server saw the end", |play| {
        play.server.app().lost.len() == 1
    });
    assert_eq!(play.server.app().data, b"short");
    assert_eq!(play.server_reason(), Some(Reason::Done));
    play.until_empty();
}

pub fn stopping_flushes_and_ends<S: Stage>() {
    let mut play = Play::<S>::new();
    let all = pattern(amount::<S>(2_000_000));
    let sent = all.clone();
    let addr = play.listen(Acts::default().data(move |cx, _| {
        cx.net.write(&sent);
        cx.net.stop();
    }));
    for _ in 0..3 {
        play.connect(addr, Acts::default());
    }
    play.until("three are connected", |play| {
        play.server.app().conns.len() == 3 && play.client.app().conns.len() == 3
    });
    play.client
        .with(|cx| cx.net.write_to(cx.app.conns[0], b"go"));
    play.until("the server stopped", |play| play.stopped);
    assert_eq!(
        play.server
            .app()
            .lost
            .iter()
            .filter(|lost| lost.1 == Reason::Stopped)
            .count(),
        3
    );
    assert_eq!(play.server.with(|cx| cx.net.connections()), 0);
    assert_eq!(
        play.server
            .app()
            .lines
            .iter()
            .filter(|line| *line == "stop")
            .count(),
        1
    );
    play.until_empty();
    assert!(play.client.app().data == all);
    // Nobody listens any more; and it may be run again.
    play.connect(addr, Acts::default());
    play.until("an attempt failed", |play| {
        !play.client.app().failed.is_empty()
    });
    let addr = play.listen(echo());
    play.connect(addr, Acts::default().made(|cx| cx.net.write(b"again")));
    play.until("it serves again", |play| {
        play.client.app().data.ends_with(b"again")
    });
    play.client.with(|cx| {
        cx.app
            .conns
            .clone()
            .into_iter()
            .for_each(|id| cx.net.lose(id));
    });
    play.until_empty();
}

pub fn stopping_does_not_wait_for_those_who_do_not_read<S: Stage>() {
    let mut play = Play::<S>::with_limits(Limits {
        drain_ms: 200,
        ..Limits::default()
    });
    let addr = play.listen(Acts::default().made(|cx| cx.net.write(&pattern(20_000_000))));
    play.connect(addr, Acts::default().made(|cx| cx.net.pause_reading()));
    play.until("connected", |play| {
        play.server.app().conns.len() == 1 && play.client.app().conns.len() == 1
    });
    let begun = play.now();
    play.server.with(|cx| cx.net.stop());
    play.until("the server stopped", |play| play.stopped);
    let took = Duration::from_nanos(play.now() - begun);
    assert!(
        took >= Duration::from_millis(190) && took < Duration::from_millis(1500),
        "{took:?}"
    );
    assert_eq!(play.server_reason(), Some(Reason::Stopped));
    play.client.with(|cx| {
        cx.app
            .conns
            .clone()
            .into_iter()
            .for_each(|id| cx.net.abort(id));
    });
    play.until_empty();
}

pub fn writes_after_losing_are_dropped<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(Acts::default().made(|cx| {
        cx.net.write(b"kept");
        cx.net.lose_connection();
        assert!(cx.net.is_losing());
        let id = cx.net.id();
        cx.net.write(b"dropped");
        assert!(!cx.net.write_to(id, b"dropped"));
    }));
    play.connect(addr, Acts::default());
    play.until("it was connected", |play| {
        !play.client.app().conns.is_empty()
    });
    play.until_empty();
    assert_eq!(play.client.app().data, b"kept");
    assert_eq!(play.server.with(|cx| cx.net.stats().writes_dropped), 2);
}
