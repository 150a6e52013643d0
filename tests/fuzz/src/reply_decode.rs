//! The reply decoder: any bytes, cut anywhere, are the same values as the whole of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use marline::wire::decode::{DecodeError, Decoder, Limits, Value};

const LIMITS: Limits = Limits {
    depth_max: 5,
    line_bytes_max: 300,
    text_bytes_max: 1 << 20,
    elements_max: 1 << 20,
};

fn values(input: &[u8], piece: impl Fn(usize) -> usize) -> (Vec<Value>, Option<DecodeError>) {
    let (mut decoder, mut values) = (Decoder::new(LIMITS), Vec::new());
    let (mut at, mut pieces) = (0, 0);
    while at < input.len() {
        let end = (at + piece(pieces).max(1)).min(input.len());
        decoder.feed(&input[at..end]);
        (at, pieces) = (end, pieces + 1);
        loop {
            match decoder.next_value() {
                Ok(Some(value)) => values.push(value),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_value(), Err(error), "an error is forgotten");
                    return (values, Some(error));
                }
            }
        }
    }
    (values, None)
}

fuzz_target!(|data: &[u8]| {
    let [cuts, input @ ..] = data else {
        return;
    };
    let whole = values(input, |_| input.len());
    assert_eq!(whole, values(input, |_| 1), "cut into bytes");
    let uneven = |piece: usize| 1 + (usize::from(*cuts) >> (piece % 4 * 2) & 3) * 5;
    assert_eq!(whole, values(input, uneven), "cut unevenly");
});
