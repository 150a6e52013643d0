//! What several targets need.

pub mod heavy;
pub mod sim;

use marline::wire::decode::{Decoder, Limits, Value};

/// All values in `bytes`, which must be nothing but whole values.
pub fn decoded(bytes: &[u8]) -> Vec<Value> {
    let mut decoder = Decoder::new(Limits::default());
    decoder.feed(bytes);
    let mut values = Vec::new();
    while let Some(value) = decoder.next_value().expect("a reply is RESP") {
        values.push(value);
    }
    assert!(
        decoder.is_between_values(),
        "a reply without its end: {:?}",
        bytes.escape_ascii().to_string()
    );
    values
}

/// The only line in `bytes`.
pub fn one_line(bytes: &[u8]) -> &[u8] {
    let line = bytes.strip_suffix(b"\n").expect("a line has its end");
    assert!(
        !line.contains(&b'\n') && !line.contains(&b'\r'),
        "more than a line"
    );
    line
}
