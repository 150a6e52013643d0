//! What nodes say to each other behind `REPL`, beside raft's messages: commands of clients and their answers.
//!
//! ```text
//!   commands = command command ...
//!   command  = id u64 | shard u16 | dialect u8 | flags u8 | arguments u32 | length u32 bytes ...
//!   answers  = answer answer ...
//!   answer   = id u64 | 0 | length u32 | reply          the reply, in the dialect that was asked for
//!            | id u64 | 1 | replica u64                 not done: another leads (0: who, is not known)
//!            | id u64 | 2                               not done: ask again
//! ```
//!
//! Integers are little-endian. `shard` [`ANY`] asks the node itself. The caller chooses the ids; a command with the id
//! 0 is not answered. Behind a shard a command is restricted to it: `DBSIZE` counts the keys of that shard.
//!
//! Some commands are said by nodes only: `EXEC` with a whole transaction, `WATCH` and `UNWATCH` with the name of a
//! client ([`transact`](super::transact)); `EVENT` and `LISTEN` ([`spread`](super::spread)).

use std::ops::Range;

use crate::wire::reply::Dialect;
use crate::wire::request::{Args, OwnedArgs};

/// In the place of a shard: the node itself is asked.
pub const ANY: u16 = u16::MAX;

/// The command does not count as use of keys.
pub const NO_TOUCH: u8 = 1;
/// The local replica may answer, however old what it knows.
pub const STALE: u8 = 1 << 1;
/// When it was sent, the caller had nothing under way for its shard.
pub const FRESH: u8 = 1 << 2;
/// Its client does not wait for other replicas than the leader.
pub const EARLY: u8 = 1 << 3;

/// A command of this node's own making.
pub fn words(words: &[&[u8]]) -> OwnedArgs {
    let mut args = OwnedArgs::default();
    words.iter().for_each(|word| args.push(word));
    args
}

/// A command that has come, lying in its frame.
#[derive(Debug, Clone, Copy)]
pub struct Command<'f> {
    /// How it is to be done.
    pub head: Head,
    /// What was typed.
    pub args: Args<'f>,
}

/// What a command says beside what was typed.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// The caller's name for it.
    pub id: u64,
    /// The shard it is for.
    pub shard: u16,
    /// How the reply is to look.
    pub dialect: Dialect,
    /// [`NO_TOUCH`], [`STALE`], [`FRESH`], [`EARLY`].
    pub flags: u8,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'f> {
    /// It was answered.
    Replied(&'f [u8]),
    /// Nothing was done: another replica leads, if it is known.
    Moved(u64),
    /// Nothing was done; it may be asked again.
    Again,
}

impl Head {
    /// Of a command for a node itself.
    pub fn of_node(id: u64) -> Head {
        Head {
            id,
            shard: ANY,
            dialect: Dialect::Resp2,
            flags: 0,
        }
    }
}

/// Appends a command.
pub fn put_command(out: &mut Vec<u8>, head: Head, args: Args<'_>) {
    put_head(out, head);
    put_args(out, args);
}

/// Appends what a command begins with; its arguments follow.
pub fn put_head(out: &mut Vec<u8>, head: Head) {
    out.extend_from_slice(&head.id.to_le_bytes());
    out.extend_from_slice(&head.shard.to_le_bytes());
    out.extend_from_slice(&[dialect_code(head.dialect), head.flags]);
}

/// Arguments, as they stand in a command.
pub fn encoded(args: Args<'_>) -> Box<[u8]> {
    let len = args
        .iter()
        .map(|argument| 4 + argument.len())
        .sum::<usize>();
    let mut out = Vec::with_capacity(4 + len);
    put_args(&mut out, args);
    out.into()
}

/// Appends arguments, as they stand in a command.
pub fn put_args(out: &mut Vec<u8>, args: Args<'_>) {
    out.extend_from_slice(&(args.len() as u32).to_le_bytes());
    for argument in args.iter() {
        out.extend_from_slice(&(argument.len() as u32).to_le_bytes());
        out.extend_from_slice(argument);
    }
}

/// Appends an answer.
pub fn put_answer(out: &mut Vec<u8>, id: u64, outcome: Outcome<'_>) {
    out.extend_from_slice(&id.to_le_bytes());
    match outcome {
        Outcome::Replied(reply) => {
            out.push(0);
            out.extend_from_slice(&(reply.len() as u32).to_le_bytes());
            out.extend_from_slice(reply);
        }
        Outcome::Moved(leader) => {
            out.push(1);
            out.extend_from_slice(&leader.to_le_bytes());
        }
        Outcome::Again => out.push(2),
    }
}

const WRONG: &str = "the frame makes no sense";

/// The first command of `frame`, which is left with the others; `ranges` say where its arguments lie.
///
/// # Errors
/// There is none.
pub fn take_command<'c, 'f: 'c>(
    frame: &mut &'f [u8],
    ranges: &'c mut Vec<Range<usize>>,
) -> Result<Command<'c>, &'static str> {
    let head = take_head(frame)?;
    let args = take_args(frame, ranges)?;
    Ok(Command { head, args })
}

fn take_head(frame: &mut &[u8]) -> Result<Head, &'static str> {
    let id = u64::from_le_bytes(array(frame)?);
    let shard = u16::from_le_bytes(array(frame)?);
    let [dialect, flags] = array(frame)?;
    let dialect = dialect_of(dialect)?;
    Ok(Head {
        id,
        shard,
        dialect,
        flags,
    })
}

/// The arguments with which `frame` begins; there is at least one. `ranges` say where they lie.
///
/// # Errors
/// There are none.
pub fn take_args<'c, 'f: 'c>(
    frame: &mut &'f [u8],
    ranges: &'c mut Vec<Range<usize>>,
) -> Result<Args<'c>, &'static str> {
    let text = *frame;
    ranges.clear();
    for _ in 0..u32::from_le_bytes(array(frame)?) {
        let len = bytes(frame)?.len();
        let end = text.len() - frame.len();
        ranges.push(end - len..end);
    }
    match ranges.is_empty() {
        true => Err(WRONG),
        false => Ok(Args::new(text, ranges)),
    }
}

/// The first two arguments of the first command of `frame`, which is left with the others; `None`: it has not as many.
///
/// # Errors
/// There is no command.
pub fn skim<'f>(frame: &mut &'f [u8]) -> Result<Option<[&'f [u8]; 2]>, &'static str> {
    take_head(frame)?;
    let count = u32::from_le_bytes(array(frame)?);
    let mut two = [&[][..]; 2];
    for at in 0..count as usize {
        let argument = bytes(frame)?;
        if let Some(place) = two.get_mut(at) {
            *place = argument;
        }
    }
    Ok((count >= 2).then_some(two))
}

/// The first answer of `frame`, which is left with the others.
///
/// # Errors
/// There is none.
pub fn take_answer<'f>(frame: &mut &'f [u8]) -> Result<(u64, Outcome<'f>), &'static str> {
    let id = u64::from_le_bytes(array(frame)?);
    let outcome = match array(frame)? {
        [0] => Outcome::Replied(bytes(frame)?),
        [1] => Outcome::Moved(u64::from_le_bytes(array(frame)?)),
        [2] => Outcome::Again,
        _ => return Err(WRONG),
    };
    Ok((id, outcome))
}

fn array<const N: usize>(frame: &mut &[u8]) -> Result<[u8; N], &'static str> {
    let (array, rest) = frame.split_first_chunk::<N>().ok_or(WRONG)?;
    *frame = rest;
    Ok(*array)
}

fn bytes<'f>(frame: &mut &'f [u8]) -> Result<&'f [u8], &'static str> {
    let len = u32::from_le_bytes(array(frame)?) as usize;
    let (bytes, rest) = frame.split_at_checked(len).ok_or(WRONG)?;
    *frame = rest;
    Ok(bytes)
}

fn dialect_code(dialect: Dialect) -> u8 {
    match dialect {
        Dialect::Resp2 => 0,
        Dialect::Resp3 => 1,
        Dialect::Line => 2,
        Dialect::Json => 3,
    }
}

fn dialect_of(code: u8) -> Result<Dialect, &'static str> {
    match code {
        0 => Ok(Dialect::Resp2),
        1 => Ok(Dialect::Resp3),
        2 => Ok(Dialect::Line),
        3 => Ok(Dialect::Json),
        _ => Err(WRONG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_back_and_cut_ones_refused() {
        let mut args = OwnedArgs::default();
        args.push(b"SET");
        args.push(b"k");
        args.push(b"");
        let mut frame = Vec::new();
        let head = Head {
            id: 7,
            shard: 3,
            dialect: Dialect::Line,
            flags: NO_TOUCH,
        };
        put_head(&mut frame, head);
        frame.extend_from_slice(&encoded(args.args()));
        for cut in 0..frame.len() {
            let mut ranges = Vec::new();
            assert!(
                take_command(&mut &frame[..cut], &mut ranges).is_err(),
                "{cut} bytes"
            );
            assert!(skim(&mut &frame[..cut]).is_err(), "{cut} bytes");
        }
        let (mut rest, mut ranges) = (&frame[..], Vec::new());
        let Command { head, args } = take_command(&mut rest, &mut ranges).expect("it is whole");
        assert!(rest.is_empty());
        assert_eq!((head.id, head.shard, head.flags), (7, 3, NO_TOUCH));
        assert_eq!(head.dialect, Dialect::Line);
        let words: Vec<&[u8]> = args.iter().collect();
        assert_eq!(words, [&b"SET"[..], b"k", b""]);
        let mut rest = &frame[..];
        assert_eq!(skim(&mut rest), Ok(Some([&b"SET"[..], b"k"])));
        assert!(rest.is_empty());

        for outcome in [
            Outcome::Replied(b"+OK\r\n"),
            Outcome::Moved(9),
            Outcome::Again,
        ] {
            let mut frame = Vec::new();
            put_answer(&mut frame, 5, outcome);
            let mut rest = &frame[..];
            assert_eq!(take_answer(&mut rest), Ok((5, outcome)));
            assert!(rest.is_empty());
            for cut in 0..frame.len() {
                assert!(take_answer(&mut &frame[..cut]).is_err());
            }
        }
    }
}
