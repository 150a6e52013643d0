//! Changes, as they stand in the log: any bytes are changes or an error; what is a change is written with just these
//! bytes, can be told as a line, and can be done.
#![no_main]

use libfuzzer_sys::fuzz_target;
use marline::command::binary::Malformed;
use marline::command::describe::describe;
use marline::command::encode::{Change, decode, encode};
use marline::store::{HashSeed, Store};
use marline::wire::quote::split_line;
use marline::wire::reply::{Dialect, Reply};
use marline_fuzz::heavy::is_heavy;
use marline_fuzz::{decoded, one_line};

const AT_MS: u64 = 1_700_000_000_000;

fn judge(change: &Change<'_>, bytes: &[u8]) {
    let mut again = Vec::new();
    encode(change, &mut again);
    assert_eq!(again, bytes, "{change:?} has two encodings");
    let cut = decode(&bytes[..bytes.len() - 1]);
    assert_eq!(cut, Err(Malformed::Ends), "{change:?} is whole too early");
    let (mut text, mut ranges) = (Vec::new(), Vec::new());
    let line = format!("{}\n", describe(change));
    split_line(one_line(line.as_bytes()), &mut text, &mut ranges).expect("a line can be typed");
    assert!(!ranges.is_empty());
}

fn apply(store: &mut Store, change: &Change<'_>, at_ms: u64) {
    let Change::One(op) = change else {
        drop(store.clear());
        return;
    };
    let mut out = Vec::new();
    let mut reply = Reply::new(&mut out, Dialect::Resp2);
    store.apply(op, at_ms, &mut reply);
    assert!(reply.is_complete(), "an aggregate is open");
    assert!(decoded(&out).len() <= 1, "more than a reply");
}

fuzz_target!(|data: &[u8]| {
    let (mut rest, mut at_ms) = (data, AT_MS);
    let mut store = Store::new(HashSeed(1, 2));
    while let Ok((change, used)) = decode(rest) {
        assert!(used > 0 && used <= rest.len(), "bytes that are not there");
        judge(&change, &rest[..used]);
        // Time passes, so that keys expire.
        at_ms += used as u64;
        if !is_heavy(&change) {
            apply(&mut store, &change, at_ms);
        }
        rest = &rest[used..];
    }
});
