//! Answers as text: formatted for people, plain for scripts.
//!
//! Formatted is what redis-cli prints on a terminal, except that readable UTF-8 stays readable. What it
//! prints for a string is the quoting of inline commands, so it can be pasted back as an argument.
//! Plain is one line for each element, aggregates flattened, nothing added.

use std::io::Write;

use super::link::Answer;
use crate::wire::decode::Value;
use crate::wire::quote::double_quoted;

/// How answers are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Formatted,
    Plain,
}

/// Appends an answer, ended by a newline.
pub(super) fn show(answer: &Answer, style: Style, out: &mut Vec<u8>) {
    match (answer, style) {
        (Answer::Line(_, line), _) => push_line(line, out),
        (Answer::Value(value), Style::Formatted) => formatted(value, 0, out),
        (Answer::Value(value), Style::Plain) => plain(value, out),
    }
}

fn push_line(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(line);
    out.push(b'\n');
}

fn plain(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Simple(text)
        | Value::Error(text)
        | Value::Bulk(text)
        | Value::Double(text)
        | Value::BigNumber(text)
        | Value::Verbatim { text, .. } => push_line(text, out),
        Value::Int(number) => push_line(number.to_string().as_bytes(), out),
        Value::Boolean(truth) => push_line(truth.to_string().as_bytes(), out),
        Value::Nil => out.push(b'\n'),
        Value::Array(elements) | Value::Set(elements) | Value::Push(elements) => {
            elements.iter().for_each(|element| plain(element, out));
        }
        Value::Map(pairs) => {
            for (key, value) in pairs {
                plain(key, out);
                plain(value, out);
            }
        }
    }
}

/// Appends a value whose first line begins at column `indent`, ended by a newline.
fn formatted(value: &Value, indent: usize, out: &mut Vec<u8>) {
    match value {
        Value::Simple(text) | Value::BigNumber(text) | Value::Verbatim { text, .. } => {
            push_line(text, out);
        }
        Value::Error(text) => {
            out.extend_from_slice(b"(error) ");
            push_line(text, out);
        }
        Value::Bulk(text) => {
            double_quoted(text, out);
            out.push(b'\n');
        }
        Value::Double(text) => {
            out.extend_from_slice(b"(double) ");
            push_line(text, out);
        }
        Value::Int(number) => push_line(format!("(integer) {number}").as_bytes(), out),
        Value::Boolean(truth) => push_line(format!("({truth})").as_bytes(), out),
        Value::Nil => push_line(b"(nil)", out),
        Value::Array(elements) => list(elements, ("(empty array)", ')'), indent, out),
        Value::Set(elements) => list(elements, ("(empty set)", '~'), indent, out),
        Value::Push(elements) => list(elements, ("(empty push)", ')'), indent, out),
        Value::Map(pairs) if pairs.is_empty() => push_line(b"(empty hash)", out),
        Value::Map(pairs) => {
            let width = pairs.len().to_string().len();
            for (at, (key, value)) in pairs.iter().enumerate() {
                number(at, width, '#', indent, out);
                formatted(key, indent + width + 2, out);
                out.pop();
                out.extend_from_slice(b" => ");
                formatted(value, indent + width + 2, out);
            }
        }
    }
}

fn list(elements: &[Value], (empty, mark): (&str, char), indent: usize, out: &mut Vec<u8>) {
    if elements.is_empty() {
        return push_line(empty.as_bytes(), out);
    }
    let width = elements.len().to_string().len();
    for (at, element) in elements.iter().enumerate() {
        number(at, width, mark, indent, out);
        formatted(element, indent + width + 2, out);
    }
}

/// The number before an element; the first one stands where the line already is.
fn number(at: usize, width: usize, mark: char, indent: usize, out: &mut Vec<u8>) {
    let indent = if at == 0 { 0 } else { indent };
    // Writing into memory has no way to fail.
    let _ = write!(out, "{:indent$}{:>width$}{mark} ", "", at + 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: Value, style: Style) -> String {
        let mut out = Vec::new();
        show(&Answer::Value(value), style, &mut out);
        String::from_utf8(out).expect("readable")
    }

    fn bulk(text: &str) -> Value {
        Value::Bulk(text.as_bytes().to_vec())
    }

    fn sample() -> Value {
        let mut elements: Vec<Value> = (1..=9).map(Value::Int).collect();
        elements.push(Value::Array(vec![
            bulk("a\n\"b\" \u{fc}"),
            Value::Array(vec![Value::Nil, Value::Array(vec![])]),
        ]));
        elements.push(Value::Map(vec![
            (bulk("k"), Value::Boolean(true)),
            (bulk("l"), Value::Set(vec![Value::Double(b"1.5".to_vec())])),
        ]));
        Value::Array(elements.split_off(7))
    }

    #[test]
    fn formatted_as_redis_cli_does_on_a_terminal() {
        assert_eq!(
            shown(sample(), Style::Formatted),
            "1) (integer) 8\n\
             2) (integer) 9\n\
             3) 1) \"a\\n\\\"b\\\" \u{fc}\"\n   \
                2) 1) (nil)\n      \
                   2) (empty array)\n\
             4) 1# \"k\" => (true)\n   \
                2# \"l\" => 1~ (double) 1.5\n"
        );
        let ten = Value::Array((1..=10).map(|_| Value::Simple(b"x".to_vec())).collect());
        assert!(shown(ten, Style::Formatted).starts_with(" 1) x\n 2) x\n"));
        assert_eq!(
            shown(Value::Error(b"ERR no".to_vec()), Style::Formatted),
            "(error) ERR no\n"
        );
    }

    #[test]
    fn plain_is_one_line_for_each_element() {
        assert_eq!(
            shown(sample(), Style::Plain),
            "8\n9\na\n\"b\" \u{fc}\n\nk\ntrue\nl\n1.5\n"
        );
        assert_eq!(shown(Value::Array(vec![]), Style::Plain), "");
    }
}
