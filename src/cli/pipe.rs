//! `--pipe`: stdin to the node as it is, as fast as it goes, and every reply counted.
//!
//! One thread moves bytes from stdin to the socket without looking at them; the other decodes replies
//! at the same time, so neither side's buffers fill up and memory is the same for any amount of data.
//! Behind the data goes an ECHO of a random text: its answer is how the end of the replies is known, on
//! any Redis too. An empty line before it completes a last line that lacks its newline.
//!
//! What cannot be seen: a last RESP command that was cut short takes the marker for its data, and after
//! a MULTI that was left open the marker is queued. Both end in silence, which is reported as that.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::link::{Link, LinkError, Target};
use super::options::Options;
use super::{EXIT_CONNECT, EXIT_ERROR, EXIT_OK, Failure, complain, error_line, print};
use crate::client::connection::is_pause;
use crate::wire::decode::{Decoder, Limits, Value};
use crate::wire::encode::encode_request;

const SEND_BUFFER_BYTES: usize = 1 << 20;
const RECEIVE_BUFFER_BYTES: usize = 256 * 1024;
/// Silence after the last byte was sent.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const DRAW_INTERVAL: Duration = Duration::from_millis(100);
/// Error replies that are shown; all are counted.
const ERRORS_SHOWN_MAX: u64 = 5;

/// What the sending thread tells.
#[derive(Debug, Default)]
struct Sent {
    bytes: AtomicU64,
    /// Everything is sent, the marker included.
    all: AtomicBool,
    /// stdin could not be read to its end.
    broken: AtomicBool,
}

/// How the replies ended.
enum End {
    Marker,
    Failed(LinkError),
}

/// Sends stdin; 1 when a reply was an error.
pub(super) fn pipe(options: &Options) -> Result<i32, Failure> {
    let target = Target::new(options)?;
    let link = Link::open(&target, None)?;
    let (reading, writing) = match (link.stream(), link.stream()) {
        (Ok(reading), Ok(writing)) => (reading, writing),
        (Err(error), _) | (_, Err(error)) => return Err(LinkError::Lost(error).into()),
    };
    let input = File::from(
        io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(Failure::Input)?,
    );
    let bar = progress_bar(&input);
    let sent = Arc::new(Sent::default());
    let marker: Vec<u8> = format!("{:032x}", fastrand::u128(..)).into_bytes();
    let sending = (Arc::clone(&sent), marker.clone());
    // Not joined: when the node hangs up early it may be waiting for stdin.
    thread::spawn(move || send(input, writing, &sending.0, sending.1));
    let mut tally = Tally::new(bar, options.timeout.unwrap_or(SILENCE_MAX));
    let end = tally.receive(reading, &sent, &marker);
    tally.finish(&end, &sent, options)
}

/// The sending thread.
fn send(mut input: File, mut stream: TcpStream, sent: &Sent, marker: Vec<u8>) {
    let mut buffer = vec![0; SEND_BUFFER_BYTES];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break,
            // A write that fails is told by the reading side.
            Ok(count) if stream.write_all(&buffer[..count]).is_err() => return,
            Ok(count) => {
                sent.bytes.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                complain(&format!("cannot read stdin: {error}"));
                sent.broken.store(true, Ordering::Release);
                break;
            }
        }
    }
    let mut last = b"\r\n".to_vec();
    encode_request(&[b"ECHO".to_vec(), marker], &mut last);
    if stream.write_all(&last).is_ok() {
        sent.all.store(true, Ordering::Release);
    }
}

/// The replies so far.
struct Tally {
    begun: Instant,
    drawn: Instant,
    bar: ProgressBar,
    silence_max: Duration,
    replies: u64,
    errors: u64,
    /// The first errors, with the numbers of their replies.
    shown: Vec<(u64, Vec<u8>)>,
}

impl Tally {
    fn new(bar: ProgressBar, silence_max: Duration) -> Tally {
        let now = Instant::now();
        Tally {
            begun: now,
            drawn: now,
            bar,
            silence_max,
            replies: 0,
            errors: 0,
            shown: Vec::new(),
        }
    }

    /// Counts replies until the marker comes back.
    fn receive(&mut self, mut stream: TcpStream, sent: &Sent, marker: &[u8]) -> End {
        let mut decoder = Decoder::new(Limits::default());
        let mut buffer = vec![0; RECEIVE_BUFFER_BYTES];
        let mut heard = Instant::now();
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return End::Failed(LinkError::Closed),
                Ok(count) => {
                    decoder.feed(&buffer[..count]);
                    heard = Instant::now();
                }
                Err(error) if is_pause(&error) => {}
                Err(error) => return End::Failed(LinkError::Lost(error)),
            }
            loop {
                match decoder.next_value() {
                    Ok(Some(value)) if is_marker(&value, marker) => return End::Marker,
                    Ok(Some(value)) => self.count(value),
                    Ok(None) => break,
                    Err(error) => return End::Failed(LinkError::Decode(error)),
                }
            }
            if self.drawn.elapsed() >= DRAW_INTERVAL {
                self.draw(sent);
            }
            if !sent.all.load(Ordering::Acquire) {
                heard = Instant::now();
            } else if heard.elapsed() >= self.silence_max {
                return End::Failed(LinkError::Late(self.silence_max));
            }
        }
    }

    fn count(&mut self, value: Value) {
        match value {
            Value::Push(_) => return,
            Value::Error(text) => {
                self.errors += 1;
                if self.errors <= ERRORS_SHOWN_MAX {
                    self.shown.push((self.replies + 1, text));
                }
            }
            _ => {}
        }
        self.replies += 1;
    }

    fn rate(&self) -> u64 {
        (self.replies as f64 / self.begun.elapsed().as_secs_f64().max(1e-9)) as u64
    }

    fn draw(&mut self, sent: &Sent) {
        self.drawn = Instant::now();
        if self.bar.is_hidden() {
            return;
        }
        self.bar.set_position(sent.bytes.load(Ordering::Relaxed));
        let (replies, rate, errors) = (self.replies, self.rate(), self.errors);
        self.bar.set_message(format!(
            "{replies} replies · {rate} commands/s · {errors} errors"
        ));
    }

    fn finish(self, end: &End, sent: &Sent, options: &Options) -> Result<i32, Failure> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let rate = self.rate();
        self.bar.finish_and_clear();
        for (number, text) in &self.shown {
            let mut told = format!("reply {number}: ").into_bytes();
            told.extend_from_slice(text);
            error_line(&told);
        }
        if self.errors > ERRORS_SHOWN_MAX {
            let more = self.errors - ERRORS_SHOWN_MAX;
            error_line(format!("and {more} errors more").as_bytes());
        }
        let mut summary = String::new();
        match end {
            End::Marker => {
                summary.push_str("All data transferred. Last reply received after ");
                summary.push_str(&format!("{seconds:.2} s, {rate} commands/s.\n"));
            }
            End::Failed(error) => {
                complain(&error.told(options));
                if matches!(error, LinkError::Late(_)) {
                    complain("is the last command whole, and every MULTI followed by EXEC?");
                }
            }
        }
        summary.push_str(&format!(
            "errors: {}, replies: {}\n",
            self.errors, self.replies
        ));
        print(summary.as_bytes())?;
        let broken = sent.broken.load(Ordering::Acquire);
        Ok(match end {
            _ if self.errors > 0 || broken => EXIT_ERROR,
            End::Marker => EXIT_OK,
            End::Failed(_) => EXIT_CONNECT,
        })
    }
}

fn is_marker(value: &Value, marker: &[u8]) -> bool {
    matches!(value, Value::Bulk(text) if text == marker)
}

/// A bar over the bytes of a file, a spinner for anything else, nothing when nobody looks.
fn progress_bar(input: &File) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let length = input
        .metadata()
        .ok()
        .filter(std::fs::Metadata::is_file)
        .map(|metadata| metadata.len());
    let template = match length {
        Some(_) => "{wide_bar} {percent}% of {total_bytes}, {eta} · {msg}",
        None => "{spinner} {bytes} · {msg}",
    };
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
