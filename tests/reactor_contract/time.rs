//! Timers, deadlines and threads.

use std::time::Duration;

use marline::reactor::app::Cx;
use marline::reactor::protocol::Reason;

use crate::harness::{Acts, Log, Play, Stage};

const MS: Duration = Duration::from_millis(1);

fn say(word: &'static str) -> impl FnOnce(&mut Cx<'_, Log>) + 'static {
    move |cx| cx.app.lines.push(word.into())
}

pub fn timers_keep_their_order_and_new_ones_wait<S: Stage>() {
    let mut play = Play::<S>::new();
    play.server.with(|cx| {
        cx.net.call_later(20 * MS, say("c"));
        cx.net.call_later(5 * MS, say("a"));
        cx.net.call_later(5 * MS, |cx| {
            cx.app.lines.push("b".into());
            let commits = cx.app.commits;
            cx.net.call_later(Duration::ZERO, move |cx| {
                assert_eq!(
                    cx.app.commits,
                    commits + 1,
                    "in the next turn, neither sooner nor later"
                );
                cx.app.lines.push("b, again".into());
            });
        });
        cx.net.call_later(5 * MS, say("b, after"));
    });
    play.until("all fired", |play| play.server.app().lines.len() == 5);
    assert_eq!(
        play.server.app().lines,
        ["a", "b", "b, after", "b, again", "c"]
    );
}

pub fn cancelled_timers_do_not_fire<S: Stage>() {
    let mut play = Play::<S>::new();
    play.server.with(|cx| {
        let first = cx.net.call_later(5 * MS, say("no"));
        let second = cx.net.call_later(5 * MS, say("no"));
        cx.net.call_later(MS, move |cx| {
            assert!(cx.net.cancel(second));
            assert!(!cx.net.cancel(second));
        });
        assert!(cx.net.cancel(first));
        // A new timer may live where the old one did.
        cx.net.call_later(5 * MS, say("yes"));
        assert!(!cx.net.cancel(first));
    });
    play.pass(20 * MS);
    assert_eq!(play.server.app().lines, ["yes"]);
}

pub fn silence_times_out_and_only_input_counts<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(Acts::default().made(|cx| cx.net.set_timeout(Some(100 * MS))));
    play.connect(addr, Acts::default());
    play.until("connected", |play| {
        play.server.app().conns.len() == 1 && play.client.app().conns.len() == 1
    });
    for _ in 0..4 {
        play.pass(60 * MS);
        play.client
            .with(|cx| cx.net.write_to(cx.app.conns[0], b"x"));
        play.server
            .with(|cx| cx.net.write_to(cx.app.conns[0], b"y"));
    }
    assert!(play.server.app().lost.is_empty(), "input re-arms it");
    let begun = play.now();
    while play.server.app().lost.is_empty() {
        play.server
            .with(|cx| cx.net.write_to(cx.app.conns[0], b"z"));
        play.pass(10 * MS);
    }
    let took = Duration::from_nanos(play.now() - begun);
    assert!(took >= 70 * MS && took < 500 * MS, "{took:?}");
    assert_eq!(play.server_reason(), Some(Reason::TimedOut));
    play.until_empty();
}

pub fn a_timeout_may_be_survived<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(
        Acts::default()
            .made(|cx| cx.net.set_timeout(Some(20 * MS)))
            .timed_out(|cx| {
                cx.net.write(b"?");
                if cx
                    .app
                    .lines
                    .iter()
                    .filter(|line| *line == "timed_out")
                    .count()
                    == 3
                {
                    cx.net.lose_connection();
                }
            }),
    );
    play.connect(addr, Acts::default());
    play.until("connected", |play| play.client.app().conns.len() == 1);
    play.until_empty();
    assert_eq!(play.client.app().data, b"???");
    assert_eq!(play.server_reason(), Some(Reason::Done));
}

pub fn threads_bring_results_and_calls<S: Stage>() {
    let mut play = Play::<S>::new();
    play.server.with(|cx| {
        for number in 0..10_u64 {
            cx.net.defer_to_thread(
                move || number * number,
                |cx, square| cx.app.lines.push(square.to_string()),
            );
        }
        let remote = cx.net.remote();
        cx.net.defer_to_thread(
            move || {
                for word in ["first", "second"] {
                    remote.call(move |cx| cx.app.lines.push(word.into()));
                }
            },
            |cx, ()| cx.app.lines.push("done".into()),
        );
        assert_eq!(cx.net.stats().jobs_pending, 11);
    });
    play.until("all results are there", |play| {
        play.server.app().lines.len() == 13
    });
    let mut squares: Vec<u64> = play
        .server
        .app()
        .lines
        .iter()
        .filter_map(|line| line.parse().ok())
        .collect();
    squares.sort_unstable();
    assert_eq!(squares, [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]);
    let words: Vec<&String> = play
        .server
        .app()
        .lines
        .iter()
        .filter(|line| line.parse::<u64>().is_err())
        .collect();
    assert_eq!(words, ["first", "second", "done"]);
    assert_eq!(play.server.with(|cx| cx.net.stats().jobs_pending), 0);
    let remote = play.server.remote();
    remote.call(|cx| cx.app.lines.push("from outside".into()));
    play.until("the call was made", |play| {
        play.server.app().lines.ends_with(&["from outside".into()])
    });
}
