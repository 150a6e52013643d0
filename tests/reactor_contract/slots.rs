//! Slots and their names: what is gone stays gone, whoever lives there now.

use marline::reactor::limits::{Limits, ListenOptions};
use marline::reactor::policy::Limit;

use crate::harness::{ANY, Acts, Play, Probes, Stage, echo};

pub fn a_stale_name_does_not_touch_the_next_tenant<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(echo());
    play.connect(
        addr,
        Acts::default()
            .made(|cx| cx.net.write(b"a"))
            .data(|cx, _| cx.net.lose_connection()),
    );
    play.until("the first came and went", |play| {
        play.server.app().lost.len() == 1
    });
    play.until_empty();
    play.connect(addr, Acts::default());
    play.until("the second is there", |play| {
        play.server.app().conns.len() == 2 && play.client.app().conns.len() == 2
    });
    let [old, new] = play.server.app().conns[..] else {
        panic!()
    };
    assert_eq!(old.index(), new.index(), "the slot was reused");
    assert_ne!(old, new);
    play.server.with(|cx| {
        assert!(!cx.net.write_to(old, b"nobody"));
        cx.net.post(old, "nobody".into());
        cx.net.lose(old);
        cx.net.abort(old);
        assert_eq!(cx.net.out_len_of(old), 0);
        assert!(cx.net.write_to(new, b"somebody"));
    });
    play.until("the second hears its own", |play| {
        play.client.app().data == b"asomebody"
    });
    assert!(!play.server.app().lines.iter().any(|line| line == "nobody"));
    assert_eq!(play.server.app().lost.len(), 1, "the second lives");
    play.client.with(|cx| cx.net.lose(cx.app.conns[1]));
    play.until_empty();
}

pub fn churn_leaves_nothing_behind<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(Acts::default().data(|cx, data| {
        cx.net.write(data);
        match cx.net.random() % 4 {
            0 => cx.net.abort_connection(),
            1 => cx.net.lose_connection(),
            2 => {
                // Somebody else, dead or alive.
                let at = cx.net.random() as usize % cx.app.conns.len();
                cx.net.abort(cx.app.conns[at]);
            }
            _ => {}
        }
    }));
    let client = Acts::default()
        .made(|cx| cx.net.write(b"hello"))
        .data(|cx, _| {
            if cx.net.random().is_multiple_of(2) {
                cx.net.abort_connection();
            } else {
                cx.net.lose_connection();
            }
        });
    for _ in 0..20 {
        for _ in 0..15 {
            play.connect(addr, client.clone());
        }
        for _ in 0..8 {
            play.round();
        }
    }
    play.until("all attempts ended", |play| {
        let app = play.client.app();
        app.lost.len() + app.failed.len() == 300
    });
    play.until_empty();
}

pub fn out_of_place_events_are_ignored_in_one_batch<S: Stage>() {
    // A few bytes a turn keep names in the queue over turns in which their slots change hands: each connection has
    // unread input queued when it is aborted, and the next batch accepts into its slot.
    let limits = Limits {
        read_bytes_per_connection: 1,
        read_bytes_per_turn: 2,
        ..Limits::default()
    };
    let mut play = Play::<S>::with_limits(limits);
    let addr = play.listen(Acts::default().data(|cx, data| {
        if data == b"k" {
            cx.net.abort_connection();
        }
        if data == b"e" {
            cx.net.write(b"e");
        }
    }));
    let killed = Acts::default().made(|cx| cx.net.write(b"kxxxxxxxxxxxxxxxxxxx"));
    let asking = Acts::default()
        .made(|cx| cx.net.write(b"..e"))
        .data(|cx, _| cx.net.lose_connection());
    for _ in 0..30 {
        play.connect(addr, killed.clone());
        play.connect(addr, asking.clone());
        for _ in 0..5 {
            play.round();
        }
    }
    play.until("everybody was served", |play| {
        play.client.app().lost.len() == 60
    });
    play.until_empty();
    assert_eq!(
        play.client.app().data.len(),
        30,
        "each asker was answered once"
    );
    let slots = play
        .server
        .app()
        .conns
        .iter()
        .map(|id| id.index())
        .max()
        .unwrap();
    assert!(slots < 50, "slots were reused: {slots}");
}

pub fn messages_arrive_in_order_and_not_after_the_end<S: Stage>() {
    let mut play = Play::<S>::new();
    let addr = play.listen(Acts::default().data(|cx, _| {
        let id = cx.net.id();
        for word in ["one", "two", "three"] {
            cx.net.post(id, word.into());
        }
        assert!(
            !cx.app.lines.iter().any(|line| line == "one"),
            "not inside this callback"
        );
    }));
    play.connect(addr, Acts::default().made(|cx| cx.net.write(b"x")));
    play.until("the messages are there", |play| {
        play.server.app().lines.ends_with(&["three".into()])
    });
    let lines: Vec<&str> = play.server.app().lines[2..]
        .iter()
        .map(String::as_str)
        .collect();
    assert_eq!(
        lines,
        ["message", "one", "message", "two", "message", "three"]
    );
    play.server.with(|cx| {
        let id = cx.app.conns[0];
        cx.net.post(id, "late".into());
        cx.net.lose(id);
    });
    play.until_empty();
    assert!(!play.server.app().lines.iter().any(|line| line == "late"));
}

pub fn whom_one_turn_does_not_accept_the_next_one_does<S: Stage>() {
    let mut play = Play::<S>::with_limits(Limits {
        accepts_per_turn: 4,
        ..Limits::default()
    });
    let addr = play.listen(echo());
    for _ in 0..50 {
        play.connect(addr, Acts::default());
    }
    // All of them wait before the server looks.
    for _ in 0..50 {
        let wake = play.client.next_wake();
        play.stage.round(wake);
        let wait = play.stage.patience();
        play.client.turn(wait).unwrap();
    }
    let turns = play.server.with(|cx| cx.net.stats().turns);
    play.until("all are accepted", |play| {
        let accepted = play.server.app().conns.len() as u64;
        let turns = play.server.with(|cx| cx.net.stats().turns) - turns;
        assert!(accepted <= 4 * turns, "{accepted} in {turns} turns");
        accepted == 50
    });
    play.client.with(|cx| cx.net.stop_now());
    play.until_empty();
}

pub fn refused_connections_hear_why<S: Stage>() {
    let mut play = Play::<S>::with_limits(Limits {
        connections_max: 2,
        ..Limits::default()
    });
    let mut factory = Probes::boxed(echo());
    factory.refuse = Some(b"-ERR max number of clients reached\r\n");
    let addr = play
        .server
        .listen(&ListenOptions::new(ANY), factory)
        .unwrap()
        .1;
    for _ in 0..2 {
        play.connect(addr, Acts::default());
    }
    play.until("two are there", |play| play.server.app().conns.len() == 2);
    for _ in 0..3 {
        play.connect(addr, Acts::default().made(|cx| cx.net.write(b"PING\r\n")));
    }
    play.until("three were sent away", |play| {
        play.client.app().lost.len() == 3
    });
    let (mut heard, mut said) = (
        play.client.app().data.clone(),
        b"-ERR max number of clients reached\r\n".repeat(3),
    );
    // Of three connections: their pieces may alternate.
    heard.sort_unstable();
    said.sort_unstable();
    assert_eq!(heard, said);
    assert_eq!(play.server.app().conns.len(), 2);
    assert_eq!(play.server.with(|cx| cx.net.stats().refused), 3);
    play.client.with(|cx| {
        cx.app
            .conns
            .clone()
            .into_iter()
            .for_each(|id| cx.net.lose(id));
    });
    play.until_empty();
    play.connect(addr, Acts::default().made(|cx| cx.net.write(b"room")));
    play.until("there is room again", |play| {
        play.client.app().data.ends_with(b"room")
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

pub fn a_limit_counts_per_address_and_forgets_the_gone<S: Stage>() {
    let mut play = Play::<S>::new();
    let factory = Limit::new(*Probes::boxed(echo()), 100, 2, b"full");
    let addr = play
        .server
        .listen(&ListenOptions::new(ANY), Box::new(factory))
        .unwrap()
        .1;
    for round in 1..=3 {
        for _ in 0..3 {
            play.connect(addr, Acts::default());
        }
        play.until("one of three was sent away", |play| {
            play.client.app().data.len() == 4 * round && play.client.app().conns.len() == 3 * round
        });
        assert_eq!(play.server.app().conns.len(), 2 * round);
        let conns = play.client.app().conns.clone();
        play.client.with(|cx| {
            conns.iter().for_each(|id| {
                if round == 2 {
                    cx.net.abort(*id);
                } else {
                    cx.net.lose(*id);
                }
            });
        });
        play.until_empty();
    }
}
