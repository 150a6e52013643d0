//! Lines: a protocol that hears one line at a time, or raw bytes for a while.
//!
//! A line ends with LF or CRLF and is delivered without its end. What a handler wants next is what it returns
//! ([`Flow`]), so a change of mode takes effect with the very next byte and needs no flag against recursion.
//!
//! **Cost.** While no partial line is pending, lines are slices of the reactor's shared buffer: no copy, no allocation.
//! A partial line is kept, and a byte that was searched for a line's end is never searched again: a line that comes
//! byte by byte costs linear time.
//!
//! **Backpressure.** When the output is congested (a hundred requests in one chunk, each with a large reply), delivery
//! stops between two lines and reading pauses; both go on when the output has drained. The receiver alone pauses and
//! resumes reading: a handler that wants to wait returns [`Flow::Pause`].
//!
//! **Bounds.** A line longer than `line_max_bytes` is not waited for: the handler says its last words in
//! `line_length_exceeded`. At most that plus one read (64 KiB) is pending.
//!
//! Deliberately absent: delivery of an unended last line at the end of the stream. A line has an end.

use super::app::{App, Cx};
use super::protocol::{Protocol, Reason};

/// What a handler wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// The next line.
    Continue,
    /// So many raw bytes, in any chunking, then lines again.
    Raw(usize),
    /// Nothing, until [`LineHandler::message`] returns another flow.
    Pause,
    /// Nothing more: flush and close.
    Close,
}

/// What a line protocol does.
pub trait LineHandler<A: App> {
    /// The connection is up.
    fn connection_made(&mut self, _cx: &mut Cx<'_, A>) {}

    /// One line, without its end.
    fn line_received(&mut self, cx: &mut Cx<'_, A>, line: &[u8]) -> Flow;

    /// The next raw bytes after [`Flow::Raw`]; `left` more belong to it. The answer to a piece that is not the last
    /// may be `Continue`, which keeps to raw mode.
    fn raw_received(&mut self, _cx: &mut Cx<'_, A>, _data: &[u8], _left: usize) -> Flow {
        Flow::Continue
    }

    /// A line is longer than allowed. The connection is lost after this call, so this is the place for last words.
    fn line_length_exceeded(&mut self, _cx: &mut Cx<'_, A>) {}

    /// The peer will send nothing more, and all its lines were delivered.
    fn read_closed(&mut self, cx: &mut Cx<'_, A>) {
        cx.net.lose_connection();
    }

    /// Somebody posted to this connection. Anything but [`Flow::Pause`] ends a pause.
    fn message(&mut self, _cx: &mut Cx<'_, A>, _message: A::Message) -> Flow {
        Flow::Continue
    }

    /// See [`Protocol::timed_out`].
    fn timed_out(&mut self, cx: &mut Cx<'_, A>) {
        cx.net.abort_connection();
    }

    /// The connection is gone.
    fn connection_lost(&mut self, _cx: &mut Cx<'_, A>, _reason: &Reason) {}
}

/// Turns a stream into lines for a handler.
pub struct LineReceiver<H> {
    handler: H,
    /// Received and not delivered.
    pending: Vec<u8>,
    /// So many bytes of `pending` are known to hold no line's end.
    scanned: usize,
    /// Raw bytes still to deliver.
    raw_left: usize,
    /// The handler asked for a pause.
    paused: bool,
    line_max_bytes: usize,
}

/// A line's default bound: Twisted's.
const LINE_MAX_BYTES: usize = 16 << 10;

impl<H> LineReceiver<H> {
    /// A receiver of lines of at most 16 KiB.
    pub fn new(handler: H) -> Self {
        LineReceiver::with_max(handler, LINE_MAX_BYTES)
    }

    /// A receiver of lines of at most `line_max_bytes`, without their ends.
    pub fn with_max(handler: H, line_max_bytes: usize) -> Self {
        LineReceiver {
            handler,
            pending: Vec::new(),
            scanned: 0,
            raw_left: 0,
            paused: false,
            line_max_bytes,
        }
    }

    /// Delivers from `data`, whose first `scanned` bytes are known to hold no line's end; how many bytes it consumed.
    fn deliver<A: App>(&mut self, cx: &mut Cx<'_, A>, data: &[u8]) -> usize
    where
        H: LineHandler<A>,
    {
        let mut at = 0;
        while at < data.len() && !self.paused && !cx.net.is_losing() && !cx.net.is_congested() {
            let taken = if self.raw_left > 0 {
                self.deliver_raw(cx, &data[at..])
            } else {
                self.deliver_line(cx, &data[at..])
            };
            match taken {
                Some(taken) => at += taken,
                None => break,
            }
        }
        at
    }

    fn deliver_raw<A: App>(&mut self, cx: &mut Cx<'_, A>, data: &[u8]) -> Option<usize>
    where
        H: LineHandler<A>,
    {
        let n = self.raw_left.min(data.len());
        self.raw_left -= n;
        let flow = self.handler.raw_received(cx, &data[..n], self.raw_left);
        self.obey(cx, flow);
        Some(n)
    }

    /// One line from the front of `data`; `None` when it has no end yet or is too long.
    fn deliver_line<A: App>(&mut self, cx: &mut Cx<'_, A>, data: &[u8]) -> Option<usize>
    where
        H: LineHandler<A>,
    {
        let from = std::mem::take(&mut self.scanned);
        let end = memchr::memchr(b'\n', &data[from..]).map(|found| from + found);
        let line = &data[..end.unwrap_or(data.len())];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.line_max_bytes {
            self.handler.line_length_exceeded(cx);
            cx.net.lose_connection();
            return None;
        }
        let Some(end) = end else {
            self.scanned = data.len();
            return None;
        };
        let flow = self.handler.line_received(cx, line);
        self.obey(cx, flow);
        Some(end + 1)
    }

    fn obey<A: App>(&mut self, cx: &mut Cx<'_, A>, flow: Flow) {
        match flow {
            Flow::Continue => {}
            Flow::Raw(n) => self.raw_left = n,
            Flow::Pause => self.paused = true,
            Flow::Close => cx.net.lose_connection(),
        }
    }

    /// Delivers from what is pending.
    fn deliver_pending<A: App>(&mut self, cx: &mut Cx<'_, A>)
    where
        H: LineHandler<A>,
    {
        let mut pending = std::mem::take(&mut self.pending);
        let taken = self.deliver(cx, &pending);
        // All taken: the buffer goes, idle connections keep none.
        if taken < pending.len() {
            pending.drain(..taken);
            self.pending = pending;
        }
    }

    /// Reading follows delivery: it rests while lines wait for something else than bytes.
    fn steer<A: App>(&mut self, cx: &mut Cx<'_, A>) {
        if self.paused || cx.net.is_congested() {
            cx.net.pause_reading();
        } else {
            cx.net.resume_reading();
        }
    }
}

impl<A: App, H: LineHandler<A>> Protocol<A> for LineReceiver<H> {
    fn connection_made(&mut self, cx: &mut Cx<'_, A>) {
        self.handler.connection_made(cx);
    }

    fn data_received(&mut self, cx: &mut Cx<'_, A>, data: &[u8]) {
        if self.pending.is_empty() {
            let taken = self.deliver(cx, data);
            self.pending.extend_from_slice(&data[taken..]);
        } else {
            self.pending.extend_from_slice(data);
            self.deliver_pending(cx);
        }
        if self.paused || cx.net.is_congested() {
            cx.net.pause_reading();
        }
    }

    fn read_closed(&mut self, cx: &mut Cx<'_, A>) {
        self.handler.read_closed(cx);
    }

    fn resume_producing(&mut self, cx: &mut Cx<'_, A>) {
        self.deliver_pending(cx);
        self.steer(cx);
    }

    fn timed_out(&mut self, cx: &mut Cx<'_, A>) {
        self.handler.timed_out(cx);
    }

    fn message(&mut self, cx: &mut Cx<'_, A>, message: A::Message) {
        let flow = self.handler.message(cx, message);
        self.paused = false;
        self.obey(cx, flow);
        self.deliver_pending(cx);
        self.steer(cx);
    }

    fn connection_lost(&mut self, cx: &mut Cx<'_, A>, reason: &Reason) {
        self.handler.connection_lost(cx, reason);
    }
}
