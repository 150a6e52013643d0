//! Redis's inline quoting, both ways: what [`quoted`] writes, [`split_line`] reads back as one argument.
//!
//! ```text
//! argument = bare | '"' { char | escape } '"' | "'" { char | "\'" } "'"
//! escape   = \n \r \t \b \a \" \\ \xHH, and a backslash before anything else stands for that byte
//! ```
//!
//! A closing quote must be followed by a blank or the end of the line. Bytes are bytes: no encoding is
//! assumed when reading; when writing, valid UTF-8 stays readable and everything else is `\xHH`.

use std::ops::Range;

/// Why a line could not be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unbalanced;

/// What separates arguments.
pub fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Splits a line that holds quotes. Argument `i` is `text[ranges[i]]`; both are cleared first.
///
/// # Errors
/// A quote that is not closed, or is followed by something else than a blank.
pub fn split_line(
    line: &[u8],
    text: &mut Vec<u8>,
    ranges: &mut Vec<Range<usize>>,
) -> Result<(), Unbalanced> {
    text.clear();
    ranges.clear();
    let mut at = 0;
    loop {
        while line.get(at).copied().is_some_and(is_blank) {
            at += 1;
        }
        if at == line.len() {
            return Ok(());
        }
        let start = text.len();
        at = take_argument(line, at, text)?;
        ranges.push(start..text.len());
    }
}

/// Appends the argument that begins at `at` to `text` and returns where it ended.
fn take_argument(line: &[u8], mut at: usize, text: &mut Vec<u8>) -> Result<usize, Unbalanced> {
    loop {
        match line.get(at).copied() {
            None => return Ok(at),
            Some(byte) if is_blank(byte) => return Ok(at),
            Some(b'"') => at = take_double_quoted(line, at + 1, text)?,
            Some(b'\'') => at = take_single_quoted(line, at + 1, text)?,
            Some(byte) => {
                text.push(byte);
                at += 1;
            }
        }
    }
}

fn closed(line: &[u8], at: usize) -> Result<usize, Unbalanced> {
    match line.get(at).copied() {
        None => Ok(at),
        Some(byte) if is_blank(byte) => Ok(at),
        Some(_) => Err(Unbalanced),
    }
}

fn take_double_quoted(line: &[u8], mut at: usize, text: &mut Vec<u8>) -> Result<usize, Unbalanced> {
    loop {
        match (
            line.get(at).copied().ok_or(Unbalanced)?,
            line.get(at + 1).copied(),
        ) {
            (b'"', _) => return closed(line, at + 1),
            (b'\\', Some(b'x')) if hex_pair(line, at + 2).is_some() => {
                text.extend(hex_pair(line, at + 2));
                at += 4;
            }
            (b'\\', Some(escaped)) => {
                text.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => other,
                });
                at += 2;
            }
            (byte, _) => {
                text.push(byte);
                at += 1;
            }
        }
    }
}

fn take_single_quoted(line: &[u8], mut at: usize, text: &mut Vec<u8>) -> Result<usize, Unbalanced> {
    loop {
        match (
            line.get(at).copied().ok_or(Unbalanced)?,
            line.get(at + 1).copied(),
        ) {
            (b'\'', _) => return closed(line, at + 1),
            (b'\\', Some(b'\'')) => {
                text.push(b'\'');
                at += 2;
            }
            (byte, _) => {
                text.push(byte);
                at += 1;
            }
        }
    }
}

fn hex_pair(line: &[u8], at: usize) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (high, low) = (digit(*line.get(at)?)?, digit(*line.get(at + 1)?)?);
    Some((high * 16 + low) as u8)
}

/// Whether `value` can stand in a line as it is.
fn is_bare(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    !text.is_empty()
        && !matches!(value[0], b'(' | b'-' | b'*' | b'>' | b'#')
        && !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\''))
}

/// Appends `value` so that [`split_line`] reads it back as one argument: bare when that is
/// unambiguous, else in double quotes.
pub fn quoted(value: &[u8], out: &mut Vec<u8>) {
    if is_bare(value) {
        out.extend_from_slice(value);
    } else {
        double_quoted(value, out);
    }
}

/// Appends `value` in double quotes, whatever it holds.
pub fn double_quoted(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                c if c.is_control() => {
                    let mut utf8 = [0; 4];
                    c.encode_utf8(&mut utf8)
                        .bytes()
                        .for_each(|byte| push_hex(byte, out));
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        chunk.invalid().iter().for_each(|&byte| push_hex(byte, out));
    }
    out.push(b'"');
}

fn push_hex(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(&[
        b'\\',
        b'x',
        DIGITS[usize::from(byte >> 4)],
        DIGITS[usize::from(byte & 15)],
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
        let (mut text, mut ranges) = (Vec::new(), Vec::new());
        split_line(line, &mut text, &mut ranges).ok()?;
        Some(
            ranges
                .into_iter()
                .map(|range| text[range].to_vec())
                .collect(),
        )
    }

    fn words(words: &[&str]) -> Option<Vec<Vec<u8>>> {
        Some(words.iter().map(|word| word.as_bytes().to_vec()).collect())
    }

    #[test]
    fn lines_split_as_redis_splits_them() {
        assert_eq!(
            split(b"set a \"hello world\""),
            words(&["set", "a", "hello world"])
        );
        assert_eq!(split(b"  a\t b  "), words(&["a", "b"]));
        assert_eq!(split(b"'it\\'s' \"\\\"\""), words(&["it's", "\""]));
        assert_eq!(
            split(b"\"\\x41\\x4\\z\""),
            words(&["Ax4z"]),
            "a half hex escape is no escape"
        );
        assert_eq!(split(b"\"\" ''"), words(&["", ""]));
        assert_eq!(
            split(b"pre\"fix\""),
            words(&["prefix"]),
            "a quote may open inside a word"
        );
        assert_eq!(
            split(b"a\\b"),
            words(&["a\\b"]),
            "a bare backslash is a backslash"
        );
        assert_eq!(split(b"\"a\"b"), None, "a closing quote must end the word");
        assert_eq!(split(b"\"open"), None);
        assert_eq!(split(b"'open\\'"), None);
        assert_eq!(split(b"\"a\\"), None);
        assert_eq!(split(b""), words(&[]));
    }

    #[test]
    fn every_value_reads_back_as_it_was_written() {
        let mut samples: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
        samples.extend((0..=255u8).map(|byte| vec![b'a', byte, b'z']));
        samples.push((0..=255).collect());
        for text in [
            "",
            "plain",
            "two words",
            "-12",
            "-x",
            "(nil)",
            "*3",
            "ünïcode",
            "\u{2028}",
            "\u{85}",
            "\\",
            "\"'",
        ] {
            samples.push(text.as_bytes().to_vec());
        }
        for sample in samples {
            let mut line = Vec::new();
            quoted(&sample, &mut line);
            assert!(
                !line.iter().any(|&byte| byte == b'\n' || byte == b'\r'),
                "one line: {line:?}"
            );
            assert!(std::str::from_utf8(&line).is_ok(), "readable: {line:?}");
            assert_eq!(
                split(&line),
                Some(vec![sample.clone()]),
                "{sample:?} as {line:?}"
            );
        }
    }
}
