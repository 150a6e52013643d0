//! Walking over what is not imported: where a value of each type ends.

use std::borrow::Cow;
use std::io::Read;

use super::RdbError;
use super::input::Input;

const MODULE: u8 = 7;
const MODULE_OF_OLD: u8 = 6;
const STREAM_2: u8 = 19;
const STREAM_3: u8 = 21;
/// Bytes of a stream entry's id as it stands in a list of pending entries.
const STREAM_ID_BYTES: u64 = 16;
const TIME_BYTES: u64 = 8;

/// The letters that a module's name is made of, six bits each.
const MODULE_LETTERS: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What a value is made of.
enum Shape {
    /// One string that holds everything (ziplist, listpack, intset, zipmap).
    String,
    /// A number, and so many times so many strings.
    Strings(u64),
    /// Members with their scores as text.
    ScoresAsText,
    /// Members with their scores as floats.
    Scores,
    /// Nodes of a list, each with a number for what it is.
    Nodes,
    /// A time, then a string.
    TimeAndString,
    /// Fields that may expire; `true`: a time before all.
    Fields(bool),
    Stream,
    Module,
}

/// Name of a type as `TYPE` says it, and its shape.
fn shape(kind: u8) -> Option<(&'static str, Shape)> {
    Some(match kind {
        0 => ("string", Shape::String),
        1 | 14 => ("list", Shape::Strings(1)),
        2 => ("set", Shape::Strings(1)),
        3 => ("zset", Shape::ScoresAsText),
        4 => ("hash", Shape::Strings(2)),
        5 => ("zset", Shape::Scores),
        MODULE => ("module", Shape::Module),
        9 | 13 | 16 | 23 => ("hash", Shape::String),
        10 => ("list", Shape::String),
        11 | 20 => ("set", Shape::String),
        12 | 17 => ("zset", Shape::String),
        18 => ("list", Shape::Nodes),
        15 | STREAM_2 | STREAM_3 => ("stream", Shape::Stream),
        22 => ("hash", Shape::Fields(false)),
        24 => ("hash", Shape::Fields(true)),
        25 => ("hash", Shape::TimeAndString),
        _ => return None,
    })
}

/// Refuses a type whose values have no end that could be found, or which is none.
pub(super) fn require_known<R: Read>(kind: u8, input: &Input<R>) -> Result<(), RdbError> {
    match shape(kind) {
        Some(_) => Ok(()),
        None if kind == MODULE_OF_OLD => Err(input.error(
            "a value of a module in the format before Redis 4.0: its end is not told, nothing behind it can be read",
        )),
        None => Err(input.error(format!("type {kind} is not known"))),
    }
}

/// Walks over a value and says what it is.
pub(super) fn value<R: Read>(
    kind: u8,
    input: &mut Input<R>,
) -> Result<Cow<'static, str>, RdbError> {
    let Some((name, shape)) = shape(kind) else {
        return Err(input.error(format!("type {kind} is not known")));
    };
    match shape {
        Shape::String => input.skip_string()?,
        Shape::TimeAndString => {
            input.skip(TIME_BYTES)?;
            input.skip_string()?;
        }
        Shape::Stream => stream(kind, input)?,
        Shape::Module => {
            let name = module_name(input.length()?);
            module_values(input)?;
            return Ok(format!("module {name}").into());
        }
        Shape::Fields(true) => {
            input.skip(TIME_BYTES)?;
            elements(&Shape::Fields(false), input)?;
        }
        several => elements(&several, input)?,
    }
    Ok(name.into())
}

/// A number, and so many elements.
fn elements<R: Read>(shape: &Shape, input: &mut Input<R>) -> Result<(), RdbError> {
    for _ in 0..input.length()? {
        match shape {
            Shape::Strings(count) => {
                for _ in 0..*count {
                    input.skip_string()?;
                }
            }
            Shape::ScoresAsText => {
                input.skip_string()?;
                // 253 to 255: not a number and the two infinities, without a text.
                match input.byte()? {
                    253.. => {}
                    length => input.skip(length.into())?,
                }
            }
            Shape::Scores => {
                input.skip_string()?;
                input.skip(8)?;
            }
            Shape::Nodes => {
                input.length()?;
                input.skip_string()?;
            }
            _ => {
                input.length()?;
                input.skip_string()?;
                input.skip_string()?;
            }
        }
    }
    Ok(())
}

fn stream<R: Read>(kind: u8, input: &mut Input<R>) -> Result<(), RdbError> {
    for _ in 0..input.length()? {
        input.skip_string()?;
        input.skip_string()?;
    }
    // How many entries and the last id; then the first id, the largest removed one, and how many ever were.
    for _ in 0..if kind >= STREAM_2 { 8 } else { 3 } {
        input.length()?;
    }
    for _ in 0..input.length()? {
        input.skip_string()?;
        for _ in 0..if kind >= STREAM_2 { 3 } else { 2 } {
            input.length()?;
        }
        for _ in 0..input.length()? {
            input.skip(STREAM_ID_BYTES + TIME_BYTES)?;
            input.length()?;
        }
        consumers(kind, input)?;
    }
    Ok(())
}

fn consumers<R: Read>(kind: u8, input: &mut Input<R>) -> Result<(), RdbError> {
    for _ in 0..input.length()? {
        input.skip_string()?;
        let times = if kind >= STREAM_3 { 2 } else { 1 };
        input.skip(times * TIME_BYTES)?;
        for _ in 0..input.length()? {
            input.skip(STREAM_ID_BYTES)?;
        }
    }
    Ok(())
}

/// The name in the id of a module's type: nine letters above ten bits of version.
pub(super) fn module_name(id: u64) -> String {
    let letter = |at: u32| char::from(MODULE_LETTERS[(id >> (10 + 6 * at)) as usize & 0x3f]);
    (0..9).rev().map(letter).collect()
}

/// Walks over the values that a module wrote, which say of themselves what they are.
pub(super) fn module_values<R: Read>(input: &mut Input<R>) -> Result<(), RdbError> {
    loop {
        match input.length()? {
            0 => return Ok(()),
            1 | 2 => {
                input.length()?;
            }
            3 => input.skip(4)?,
            4 => input.skip(8)?,
            5 => input.skip_string()?,
            other => return Err(input.error(format!("a module's value of unknown kind {other}"))),
        }
    }
}
