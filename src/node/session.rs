//! One client connection: bytes in, commands run in order, replies out in the same order.
//!
//! ```text
//!            request            reply buffer full        reader caught up
//!   Open ──────────────▶ Open ──────────────────▶ Congested ─────────▶ Open
//!     │  command waits (WAIT, DEBUG SLEEP)   ──▶ Waiting   ── its time ──▶ Open
//!     │  CLIENT PAUSE, latched keys          ──▶ Held      ── its end ───▶ Open
//!     │  must stand behind its own writes    ──▶ Settling  ── answered ──▶ Open
//!     └─ QUIT, a violation, end of stream    ──▶ Closing
//! ```
//!
//! Only an open session runs commands. Writes are answered when they are durable; the session goes on
//! meanwhile with what can be answered behind them. In any other phase its reading is paused (a waiting one's only when
//! much has arrived, so that a hang-up is noticed during a wait without end) and what has arrived is kept;
//! an end of stream is remembered and acted upon when everything before it has been answered, so
//! that `printf … | nc -N` gets every reply.
//!
//! An idle session owns no buffer: requests are parsed where the reactor read them, and only the rest of
//! an unfinished one is copied.

use std::net::SocketAddr;

use crate::odd::{self, Size};
use crate::reactor::app::Cx;
use crate::reactor::id::ConnId;
use crate::reactor::limits::OutputLimits;
use crate::reactor::protocol::{Factory, Protocol, Reason};
use crate::reactor::timer::TimerId;
use crate::wire::reply::{Dialect, Reply};
use crate::wire::request::{Limits, Parser, Progress, Violation};

use super::Node;
use super::ahead;
use super::cluster;
use super::dispatch;
use super::turn::{Answer, Next, Turn, Until, Wait};

/// What may be posted to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// What held it back may be over.
    Resume,
    /// All its writes have been answered.
    Settled,
    /// What it waited for came to this.
    Say(Said),
    /// The time it waited for has come.
    Answer,
}

/// Replies gathered in one batch before they are handed over and the reader's pace is looked at.
const BATCH_REPLY_BYTES_MAX: usize = 256 << 10;
/// Unread replies at which a session stops running commands, and at which it goes on.
const CONGESTED_BYTES: usize = 1 << 20;
const RELIEVED_BYTES: usize = 256 << 10;
/// What a client may say while its answer waits before it is read no further.
const WAITING_BYTES_MAX: usize = 64 << 10;

/// What something that took its time came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// `OK`.
    Ok,
    /// An error.
    Error(String),
    /// A string.
    Bulk(Vec<u8>),
    /// Names with what is to be told of each.
    Fields(Vec<(String, Vec<(&'static str, String)>)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Congested,
    Waiting(Answer),
    Held,
    Settling,
    Closing,
}

/// What arrived and has not been run.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    parser: Parser,
}

/// The protocol of one client connection.
pub struct Session {
    phase: Phase,
    /// The client will send nothing more.
    ended: bool,
    pending: Option<Box<Pending>>,
    /// What ends the wait.
    alarm: Option<TimerId>,
    /// Nothing ends the wait but the connection.
    endless: bool,
    /// What was found in the input and must be answered behind other answers.
    behind: Option<Behind>,
}

/// What is answered and is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// The request at hand breaks a rule.
    Violation(Violation),
    /// A telnet client asked for something; it is refused with this.
    Telnet(&'static [u8]),
}

impl Session {
    fn keep(&mut self, data: &[u8]) {
        self.pending
            .get_or_insert_with(Default::default)
            .bytes
            .extend_from_slice(data);
    }

    /// Runs what is in `input`; how much of it was used.
    fn run(&mut self, cx: &mut Cx<'_, Node>, input: &[u8], parser: &mut Parser) -> usize {
        let me = cx.net.id();
        let Some(client) = cx.app.clients.get(me) else {
            return input.len();
        };
        let dialect = client.dialect;
        let bytes_max = cx.app.options.output_bytes_max;
        let mut out = std::mem::take(&mut cx.app.scratch.replies);
        cx.app.stamp(cx.net.wall_ms());
        let mut turn = Turn {
            node: cx.app,
            net: &mut cx.net,
            reply: Reply::new(&mut out, dialect).limited(bytes_max),
            me,
            request_bytes: 0,
            quick: true,
            in_transaction: false,
            pushed: Vec::new(),
            serving: None,
        };
        turn.end_run();
        // The first request is most often the only one: what is behind it is looked at when it has been run.
        let (mut used, mut seen) = (0, 1);
        while self.phase == Phase::Open && used < input.len() {
            if used >= seen {
                seen = used + ahead::look_ahead(&mut turn, &input[used..]);
            }
            match self.step(&mut turn, &input[used..], parser) {
                Some(consumed) => used += consumed,
                None => break,
            }
            if turn.reply.is_cut() {
                self.cut_off(&mut turn);
            } else if turn.reply.len() > odd::or(Size::BatchReply, BATCH_REPLY_BYTES_MAX) {
                self.hand_over(&mut turn);
            }
        }
        turn.end_run();
        drop(turn);
        cx.net.write_buf(&mut out);
        cx.app.scratch.replies = out;
        if self.phase == Phase::Open && cx.net.is_congested() {
            self.phase = Phase::Congested;
        }
        if self.phase == Phase::Closing {
            cx.net.lose_connection();
        } else if !matches!(
            self.phase,
            Phase::Open | Phase::Waiting(_) | Phase::Settling
        ) {
            cx.net.pause_reading();
        }
        used
    }

    /// Gives the replies so far to the connection and stops if its reader does not keep up.
    fn hand_over(&mut self, turn: &mut Turn<'_, '_, '_>) {
        turn.reply.hand_over(|bytes| turn.net.write_buf(bytes));
        if self.phase == Phase::Open && turn.net.is_congested() {
            self.phase = Phase::Congested;
        }
    }

    /// Ends a session whose reply is larger than all that may ever wait for its reader.
    fn cut_off(&mut self, turn: &mut Turn<'_, '_, '_>) {
        log::warn!(
            "{}: asked for a reply beyond client-output-limit; cut off",
            turn.client().peer
        );
        self.phase = Phase::Closing;
        turn.net.abort_connection();
    }

    /// Runs the request at the beginning of `input`; how long it was, or `None` when it must wait.
    fn step(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        input: &[u8],
        parser: &mut Parser,
    ) -> Option<usize> {
        let limits = Limits::trusted(turn.node.options.argument_bytes_max);
        let lenient = matches!(turn.reply.dialect(), Dialect::Line | Dialect::Json);
        if let Some(Behind::Violation(violation)) = self.behind.take() {
            return Some(self.violation(turn, input, parser, violation, lenient));
        }
        match parser.next(input, &limits, lenient) {
            Ok(Progress::Incomplete) => None,
            Ok(Progress::Nothing { consumed }) => Some(consumed),
            Ok(Progress::Telnet { consumed, refusal }) => {
                if turn.client().awaiting > 0 {
                    self.behind = Some(Behind::Telnet(refusal));
                    self.settle(turn);
                } else {
                    turn.reply.raw(refusal);
                }
                Some(consumed)
            }
            Ok(Progress::Request { consumed }) => {
                match dispatch::request(turn, parser.args(input), consumed) {
                    Next::Go | Next::Deferred => {}
                    Next::Barrier => self.settle(turn),
                    Next::Close => self.phase = Phase::Closing,
                    Next::Wait(wait) => self.wait(turn, wait),
                    Next::Held => {
                        self.phase = Phase::Held;
                        let me = turn.me;
                        turn.node.held.push(me);
                        return None;
                    }
                    Next::Latched => {
                        self.phase = Phase::Held;
                        return None;
                    }
                    Next::Settle => {
                        self.settle(turn);
                        return None;
                    }
                }
                Some(consumed)
            }
            Err(violation) if turn.client().awaiting > 0 => {
                self.behind = Some(Behind::Violation(violation));
                self.settle(turn);
                None
            }
            Err(violation) => Some(self.violation(turn, input, parser, violation, lenient)),
        }
    }

    fn violation(
        &mut self,
        turn: &mut Turn<'_, '_, '_>,
        input: &[u8],
        parser: &mut Parser,
        violation: Violation,
        lenient: bool,
    ) -> usize {
        let text = violation.text();
        log::debug!("{}: {text}", turn.client().peer);
        turn.node.stats.error(text.as_bytes());
        turn.reply.error(&text);
        if lenient && violation.is_of_one_line() {
            parser.discard_line();
            return 0;
        }
        self.phase = Phase::Closing;
        input.len()
    }

    /// Goes on when all writes of this client are answered.
    fn settle(&mut self, turn: &mut Turn<'_, '_, '_>) {
        self.phase = Phase::Settling;
        turn.client().settling = true;
    }

    fn wait(&mut self, turn: &mut Turn<'_, '_, '_>, wait: Wait) {
        self.phase = Phase::Waiting(wait.answer);
        turn.client().waiting = true;
        let me = turn.me;
        self.endless = wait.until == Until::Never;
        if let Until::Time(until) = wait.until {
            let delay = std::time::Duration::from_nanos(until.saturating_sub(turn.net.now()));
            self.alarm = Some(
                turn.net
                    .call_later(delay, move |cx| cx.net.post(me, Message::Answer)),
            );
        }
    }

    /// Goes on with what is pending, after whatever stopped it has passed.
    fn go_on(&mut self, cx: &mut Cx<'_, Node>) {
        let was_paused = self.phase != Phase::Open;
        self.phase = Phase::Open;
        if let Some(Behind::Telnet(refusal)) = self.behind {
            self.behind = None;
            cx.net.write(refusal);
        }
        if let Some(mut pending) = self.pending.take() {
            let Pending { bytes, parser } = &mut *pending;
            let used = self.run(cx, bytes, parser);
            bytes.drain(..used);
            let is_unfinished = !bytes.is_empty() || !parser.is_at_start();
            if is_unfinished && self.phase != Phase::Closing {
                self.pending = Some(pending);
            }
        }
        if self.phase == Phase::Open {
            if self.ended {
                self.end(cx);
            } else if was_paused {
                cx.net.resume_reading();
            }
        }
    }

    /// Closes, when everything has been answered.
    fn end(&mut self, cx: &mut Cx<'_, Node>) {
        let me = cx.net.id();
        match cx.app.clients.get_mut(me) {
            Some(client) if client.awaiting > 0 => client.settling = true,
            _ => {
                self.phase = Phase::Closing;
                cx.net.lose_connection();
            }
        }
    }

    /// Ends a wait with a reply.
    fn reply(&mut self, cx: &mut Cx<'_, Node>, write: impl FnOnce(&mut Reply<'_>)) {
        let me = cx.net.id();
        let Some(client) = cx.app.clients.get_mut(me) else {
            return;
        };
        client.waiting = false;
        let mut out = Vec::new();
        write(&mut Reply::new(&mut out, client.dialect));
        cx.net.write_buf(&mut out);
    }

    fn answer(&mut self, cx: &mut Cx<'_, Node>, answer: Answer) {
        self.reply(cx, |reply| match answer {
            Answer::Ok => reply.ok(),
            Answer::Zero => reply.int(0),
            Answer::Nothing => {}
        });
    }

    fn say(&mut self, cx: &mut Cx<'_, Node>, said: &Said) {
        if self.phase == Phase::Waiting(Answer::Nothing) {
            return self.answer(cx, Answer::Nothing);
        }
        self.reply(cx, |reply| match said {
            Said::Ok => reply.ok(),
            Said::Error(text) => reply.error(text),
            Said::Bulk(bytes) => reply.bulk(bytes),
            Said::Fields(all) => {
                reply.map(all.len());
                for (name, fields) in all {
                    reply.bulk(name.as_bytes());
                    reply.map(fields.len());
                    for (field, value) in fields {
                        reply.bulk(field.as_bytes());
                        reply.bulk(value.as_bytes());
                    }
                }
            }
        });
    }
}

impl Protocol<Node> for Session {
    fn data_received(&mut self, cx: &mut Cx<'_, Node>, data: &[u8]) {
        if self.phase == Phase::Closing {
            return;
        }
        if self.phase != Phase::Open || self.pending.is_some() {
            self.keep(data);
            let kept = self
                .pending
                .as_ref()
                .map_or(0, |pending| pending.bytes.len());
            if kept > cx.app.options.request_bytes_max {
                log::warn!(
                    "{}: a request of more than {kept} bytes; closed",
                    cx.net.peer()
                );
                return cx.net.abort_connection();
            }
            if self.phase == Phase::Open {
                self.go_on(cx);
            } else if kept > WAITING_BYTES_MAX {
                cx.net.pause_reading();
            }
            return;
        }
        let mut parser = std::mem::take(&mut cx.app.scratch.parser);
        let used = self.run(cx, data, &mut parser);
        let is_unfinished = used < data.len() || !parser.is_at_start();
        if is_unfinished && self.phase != Phase::Closing {
            let bytes = data[used..].to_vec();
            self.pending = Some(Box::new(Pending { bytes, parser }));
        } else {
            cx.app.scratch.parser = parser;
        }
    }

    fn read_closed(&mut self, cx: &mut Cx<'_, Node>) {
        self.ended = true;
        let is_endless = matches!(self.phase, Phase::Waiting(_)) && self.endless;
        if self.phase == Phase::Open || is_endless {
            self.end(cx);
        }
    }

    fn pause_producing(&mut self, cx: &mut Cx<'_, Node>) {
        if self.phase == Phase::Open {
            self.phase = Phase::Congested;
            cx.net.pause_reading();
        }
    }

    fn resume_producing(&mut self, cx: &mut Cx<'_, Node>) {
        if self.phase == Phase::Congested {
            self.go_on(cx);
        }
    }

    fn message(&mut self, cx: &mut Cx<'_, Node>, message: Message) {
        match (message, self.phase) {
            (Message::Resume, Phase::Held) | (Message::Settled, Phase::Settling) => self.go_on(cx),
            (Message::Settled, Phase::Open) if self.ended => self.end(cx),
            (Message::Say(said), Phase::Waiting(_)) => {
                self.say(cx, &said);
                self.go_on(cx);
            }
            (Message::Answer, Phase::Waiting(answer)) => {
                self.alarm = None;
                self.answer(cx, answer);
                self.go_on(cx);
            }
            _ => {}
        }
    }

    fn timed_out(&mut self, cx: &mut Cx<'_, Node>) {
        let exempt =
            cx.app.clients.get(cx.net.id()).is_some_and(|client| {
                client.is_subscribed() || client.monitor || client.awaiting > 0
            });
        let exempt = exempt || cx.app.tails.has(cx.net.id());
        if !exempt && !matches!(self.phase, Phase::Waiting(_) | Phase::Held) {
            cx.net.lose_connection();
        }
    }

    fn connection_lost(&mut self, cx: &mut Cx<'_, Node>, reason: &Reason) {
        if *reason == Reason::Overflow {
            log::warn!("a client that does not read its replies was cut off");
        }
        if let Some(alarm) = self.alarm.take() {
            cx.net.cancel(alarm);
        }
        let me = cx.net.id();
        cx.app.latches.release_all(me, &mut cx.net);
        cluster::forget(cx, me);
        cx.app.forget(me);
    }
}

/// Builds a session for each client that connects.
#[derive(Debug, Default)]
pub struct Sessions;

impl Factory<Node> for Sessions {
    fn build_protocol(
        &mut self,
        cx: &mut Cx<'_, Node>,
        peer: SocketAddr,
    ) -> Option<Box<dyn Protocol<Node>>> {
        if cx.app.clients.len() >= cx.app.options.clients_max {
            cx.app.stats.refused += 1;
            return None;
        }
        let (me, now): (ConnId, _) = (cx.net.id(), cx.net.now());
        let host = cx.app.options.address;
        cx.app.clients.add(me, peer, host, now);
        cx.app.stats.connections += 1;
        cx.net.set_timeout(cx.app.options.idle_timeout);
        cx.net.set_output_limits(OutputLimits {
            high_bytes: CONGESTED_BYTES,
            low_bytes: RELIEVED_BYTES,
            hard_bytes: cx.app.options.output_bytes_max,
        });
        Some(Box::new(Session {
            phase: Phase::Open,
            ended: false,
            pending: None,
            alarm: None,
            endless: false,
            behind: None,
        }))
    }

    fn refused(&mut self, _peer: SocketAddr) -> Option<&[u8]> {
        Some(b"-ERR max number of clients reached\r\n")
    }
}
