//! The request parser: any bytes, cut anywhere, are the same requests as the whole of them.
//!
//! The first byte chooses the limits and where the input is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use marline::wire::request::{Limits, Parser, Progress, Violation};

/// What became of one stretch of the input.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Request(Vec<Vec<u8>>, usize),
    Nothing(usize),
    Telnet(usize, &'static [u8]),
    Violation(Violation),
}

fn limits(choice: u8) -> Limits {
    match choice & 3 {
        0 => Limits::trusted(512 << 20),
        1 => Limits::UNAUTHENTICATED,
        // So small that a short input meets them all.
        _ => Limits {
            line_bytes_max: 24,
            arguments_max: 4,
            argument_bytes_max: 12,
            unauthenticated: choice & 1 != 0,
        },
    }
}

/// Everything in `input`, which arrives in pieces of `piece(n)` bytes, up to the first violation that
/// ends a conversation.
fn events(
    input: &[u8],
    lenient: bool,
    limits: &Limits,
    piece: impl Fn(usize) -> usize,
) -> Vec<Event> {
    let (mut parser, mut events) = (Parser::default(), Vec::new());
    let (mut start, mut end, mut pieces) = (0, 0, 0);
    while end < input.len() {
        end = (end + piece(pieces).max(1)).min(input.len());
        pieces += 1;
        while start < end {
            let bytes = &input[start..end];
            let consumed = match parser.next(bytes, limits, lenient) {
                Ok(Progress::Incomplete) => break,
                Ok(Progress::Request { consumed }) => {
                    let args = parser.args(bytes);
                    assert!(
                        !args.is_empty() && args.len() <= limits.arguments_max.max(bytes.len())
                    );
                    let args: Vec<Vec<u8>> = args.iter().map(<[u8]>::to_vec).collect();
                    events.push(Event::Request(args, consumed));
                    consumed
                }
                // A line that is skipped may be skipped in pieces.
                Ok(Progress::Nothing { consumed }) => {
                    match events.last_mut() {
                        Some(Event::Nothing(before)) => *before += consumed,
                        _ => events.push(Event::Nothing(consumed)),
                    }
                    consumed
                }
                Ok(Progress::Telnet { consumed, refusal }) => {
                    events.push(Event::Telnet(consumed, refusal));
                    consumed
                }
                Err(violation) => {
                    events.push(Event::Violation(violation));
                    if !(lenient && violation.is_of_one_line()) {
                        return events;
                    }
                    parser.discard_line();
                    continue;
                }
            };
            assert!(
                consumed > 0 && consumed <= bytes.len(),
                "consumed what was not there"
            );
            start += consumed;
        }
    }
    events
}

fuzz_target!(|data: &[u8]| {
    let [choice, cuts, input @ ..] = data else {
        return;
    };
    let (limits, lenient) = (limits(*choice), choice & 4 != 0);
    let whole = events(input, lenient, &limits, |_| input.len());
    let bytewise = events(input, lenient, &limits, |_| 1);
    assert_eq!(whole, bytewise, "cut into bytes");
    let uneven = |piece: usize| 1 + (usize::from(*cuts) >> (piece % 4 * 2) & 3) * 5;
    assert_eq!(
        whole,
        events(input, lenient, &limits, uneven),
        "cut unevenly"
    );
});
