//! Changes as log bytes and as lines: every one comes back, nothing else is taken for one, and what was written
//! once is read for ever.

use marline::command::binary::{Coded, Malformed};
use marline::command::data::Command;
use marline::command::describe::describe;
use marline::command::encode::{Change, decode, encode};
use marline::command::op::{
    Action, BitFieldOp, BitFieldVerb, Encoding, Event, ExpireCondition, GetExExpiry, Op, Overflow,
    Set, SetAnswer, SetCondition, SetExpiry,
};
use marline::command::{parse, table};
use marline::config::KEY_BYTES_MAX;
use marline::wire::quote;
use marline::wire::request::Args;

const AT_MS: u64 = 1_700_000_000_000;
const CONDITIONS: [Option<ExpireCondition>; 7] = [
    None,
    Some(ExpireCondition::Absent),
    Some(ExpireCondition::Present),
    Some(ExpireCondition::Later),
    Some(ExpireCondition::Earlier),
    Some(ExpireCondition::PresentAndLater),
    Some(ExpireCondition::PresentAndEarlier),
];
const OVERFLOWS: [Overflow; 3] = [Overflow::Wrap, Overflow::Saturate, Overflow::Fail];
const OFFSETS: [u64; 4] = [0, 127, 128, 4_294_967_295];

fn seed() -> u64 {
    let given = std::env::var("MARLINE_SEED").ok();
    let seed = given.and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MARLINE_SEED={seed}");
    seed
}

fn sets<'a>(value: &'a [u8], all: &mut Vec<Action<'a>>) {
    for expiry in [SetExpiry::Clear, SetExpiry::Keep, SetExpiry::At(AT_MS)] {
        for condition in [
            None,
            Some(SetCondition::Absent),
            Some(SetCondition::Present),
        ] {
            for answer in [
                SetAnswer::Ok,
                SetAnswer::Integer,
                SetAnswer::OldValue,
                SetAnswer::Silent,
            ] {
                all.push(Action::Set(Set {
                    value,
                    expiry,
                    condition,
                    answer,
                }));
            }
        }
    }
}

fn puts<'a>(value: &'a [u8], all: &mut Vec<Action<'a>>) {
    for event in Event::ALL {
        all.push(Action::Remove { event });
        for encoding in [Encoding::Plain, Encoding::Text, Encoding::Raw] {
            for expire_at_ms in [None, Some(0), Some(AT_MS)] {
                all.push(Action::Put {
                    value,
                    expire_at_ms,
                    encoding,
                    event,
                });
            }
        }
    }
}

fn field_ops() -> Vec<BitFieldOp> {
    let mut ops = Vec::new();
    let mut random = fastrand::Rng::with_seed(1);
    for (signed, bits) in [(false, 1), (false, 63), (true, 1), (true, 64), (true, 7)] {
        let mut verbs = vec![BitFieldVerb::Get];
        for overflow in OVERFLOWS {
            let (value, delta) = (random.i64(..), random.i64(..));
            verbs.push(BitFieldVerb::Set { value, overflow });
            verbs.push(BitFieldVerb::IncrBy { delta, overflow });
        }
        ops.extend(verbs.into_iter().map(|verb| BitFieldOp {
            bits,
            signed,
            offset: OFFSETS[random.usize(..OFFSETS.len())],
            verb,
        }));
    }
    ops
}

/// Every writing action with every option, all values being `value`.
fn actions(value: &[u8]) -> Vec<Action<'_>> {
    let mut all = vec![Action::GetDel, Action::Del, Action::Persist];
    sets(value, &mut all);
    puts(value, &mut all);
    for expiry in [
        GetExExpiry::Keep,
        GetExExpiry::Clear,
        GetExExpiry::At(AT_MS),
    ] {
        all.push(Action::GetEx { expiry });
    }
    all.push(Action::Append { value });
    all.push(Action::IncrByFloat { delta: b"-1.5e10" });
    for offset in OFFSETS {
        all.push(Action::SetRange { offset, value });
        for bit in [false, true] {
            all.push(Action::SetBit { offset, bit });
        }
    }
    for delta in [0, 1, -1, i64::MAX, i64::MIN] {
        all.push(Action::IncrBy { delta });
    }
    for ops in [vec![], field_ops()] {
        all.push(Action::BitField { ops });
    }
    all.extend(
        field_ops()
            .into_iter()
            .map(|op| Action::BitField { ops: vec![op] }),
    );
    for at_ms in [AT_MS as i64, -1, i64::MIN, i64::MAX] {
        for condition in CONDITIONS {
            all.push(Action::Expire { at_ms, condition });
        }
    }
    all.push(Action::Cas {
        expected: value,
        new: b"new",
    });
    all
}

fn encoded(change: &Change<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(change, &mut bytes);
    bytes
}

#[test]
fn every_change_comes_back_and_a_part_of_one_does_not() {
    let long = vec![b'x'; 300];
    let longest = vec![b'k'; KEY_BYTES_MAX];
    for (key, value) in [
        (&b"k"[..], &b"v"[..]),
        (b"", b""),
        (b"\r\n\0\xFF", &long),
        (&longest, b"v"),
    ] {
        let ops = actions(value)
            .into_iter()
            .map(|action| Change::One(Op { key, action }));
        for change in ops.chain([Change::Flush]) {
            let mut bytes = encoded(&change);
            let len = bytes.len();
            let cuts = if len < 1000 { 0..len } else { len - 20..len };
            for cut in cuts {
                assert_eq!(decode(&bytes[..cut]), Err(Malformed::Ends), "{change:?}");
            }
            bytes.extend_from_slice(b"what follows");
            assert_eq!(decode(&bytes), Ok((change, len)));
        }
    }
}

#[test]
fn random_bytes_are_refused_or_are_what_they_say() {
    let mut random = fastrand::Rng::with_seed(seed());
    let samples: Vec<Vec<u8>> = actions(b"value")
        .into_iter()
        .map(|action| {
            encoded(&Change::One(Op {
                key: b"key",
                action,
            }))
        })
        .collect();
    let mut understood = 0;
    for round in 0..200_000 {
        let mut bytes: Vec<u8> = match round % 2 {
            0 => (0..random.usize(..40)).map(|_| random.u8(..)).collect(),
            _ => samples[random.usize(..samples.len())].clone(),
        };
        if round % 2 == 0 && !bytes.is_empty() {
            bytes[0] = random.u8(..0x12);
        }
        for _ in 0..random.usize(..3).min(bytes.len()) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        if let Ok((change, used)) = decode(&bytes) {
            assert_eq!(encoded(&change), bytes[..used], "one encoding for each");
            describe(&change);
            understood += 1;
        }
    }
    assert!(understood > 10_000, "{understood} were understood");
}

#[test]
fn what_is_wrong_is_named() {
    let refused = |bytes: &[u8]| decode(bytes).expect_err("malformed").to_string();
    assert_eq!(refused(b""), "the bytes end within a field");
    assert_eq!(refused(b"\x00"), "unknown tag 0x00");
    assert_eq!(refused(b"\x2a\x01k"), "unknown tag 0x2a");
    assert_eq!(
        refused(b"\x0f\x01k\x20"),
        "unknown code 0x20 as an event",
        "remove"
    );
    assert_eq!(
        refused(b"\x01\x01k\x0c\x01v"),
        "unknown code 0x03 as the condition of SET"
    );
    assert_eq!(
        refused(b"\x0a\x81\x80\x04"),
        "a key of 65537 bytes; 65536 are allowed"
    );
    assert_eq!(
        refused(b"\x09\x01k\xff\xff\xff\xff\x0f"),
        "the bytes end within a field",
        "a count of operations that are not there"
    );
    assert_eq!(
        refused(b"\x03\x01k\x02\xff\xff\xff\xff\xff\xff\xff\xff"),
        "an expiry at no time"
    );
    assert_eq!(
        refused(b"\x09\x01k\x01\x00\x40\x00"),
        "a bit field of 64 bits"
    );
    assert_eq!(
        refused(b"\x09\x01k\x01\x10\x00\x00"),
        "a bit field of 0 bits"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One example of each kind of change. These bytes are in logs: a line here may be added, none may change.
#[rustfmt::skip]
const GOLDEN: &[(&str, &str)] = &[
    ("01 01 6b 00 01 76", "SET k v"),
    ("01 01 6b 06 01 76 0068e5cf8b010000", "SET k v NX PXAT 1700000000000"),
    ("01 01 6b 29 01 76", "SET k v XX GET KEEPTTL"),
    ("01 01 6b 14 01 76", "SETNX k v"),
    ("02 01 6b", "GETDEL k"),
    ("03 01 6b 00", "GETEX k"),
    ("03 01 6b 01", "GETEX k PERSIST"),
    ("03 01 6b 02 0068e5cf8b010000", "GETEX k PXAT 1700000000000"),
    ("04 01 6b 01 76", "APPEND k v"),
    ("05 01 6b 8001 01 76", "SETRANGE k 128 v"),
    ("06 01 6b fbffffffffffffff", "INCRBY k -5"),
    ("07 01 6b 03 312e35", "INCRBYFLOAT k 1.5"),
    ("08 01 6b 07 01", "SETBIT k 7 1"),
    ("09 01 6b 03 01 08 00 0500000000000000 1a 05 0a ffffffffffffffff 00 3f 8001", "BITFIELD k SET u8 0 5 OVERFLOW FAIL INCRBY i5 10 -1 GET u63 128"),
    ("0a 01 6b", "DEL k"),
    ("0b 01 6b 0068e5cf8b010000 05", "PEXPIREAT k 1700000000000 XX GT"),
    ("0c 01 6b", "PERSIST k"),
    ("0d 01 6b 01 61 01 62", "CAS k a b"),
    ("0e 01 6b 0d 02 01 76 01 0068e5cf8b010000", "SET k v PXAT 1700000000000"),
    ("0e 01 6b 0c 00 01 76 00", "SET k v"),
    ("0f 01 6b 0b", "DEL k"),
    ("10", "FLUSHALL"),
];

#[test]
fn bytes_that_were_written_once_are_read_for_ever() {
    for &(bytes, line) in GOLDEN {
        let digits: Vec<u8> = bytes.bytes().filter(|byte| *byte != b' ').collect();
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let (change, used) = decode(&bytes).unwrap_or_else(|why| panic!("{line}: {why}"));
        assert_eq!((describe(&change).as_str(), used), (line, bytes.len()));
        assert_eq!(hex(&encoded(&change)), hex(&bytes), "{line}");
    }
}

#[test]
fn codes_keep_their_meaning() {
    let events = Event::ALL.map(Coded::code);
    assert_eq!(events, std::array::from_fn(|place| place as u8));
    let conditions = CONDITIONS.map(|condition| condition.map_or(0, Coded::code));
    assert_eq!(conditions, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(OVERFLOWS.map(Coded::code), [0, 1, 2]);
    let encodings = [Encoding::Plain, Encoding::Text, Encoding::Raw];
    assert_eq!(encodings.map(Coded::code), [0, 1, 2]);
    let answers = [
        SetAnswer::Ok,
        SetAnswer::Integer,
        SetAnswer::OldValue,
        SetAnswer::Silent,
    ];
    assert_eq!(answers.map(Coded::code), [0, 1, 2, 3]);
    let conditions = [SetCondition::Absent, SetCondition::Present];
    assert_eq!(conditions.map(Coded::code), [1, 2]);
}

/// What a line means when it is typed.
fn typed(line: &str, check: impl FnOnce(Action<'_>)) {
    let (mut text, mut ranges) = (Vec::new(), Vec::new());
    quote::split_line(line.as_bytes(), &mut text, &mut ranges).expect("balanced");
    let args = Args::new(&text, &ranges);
    let row = table::find(args.at(0)).expect("a command");
    assert!(row.takes(args.len()), "{line}");
    match parse::data(row, args, 0) {
        Some(Ok(Command::One(op))) => check(op.action),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn a_line_typed_again_does_the_same() {
    let odd = b"two words \"\r\n\0\xFF-\xC3\xBC";
    for value in [&b"v"[..], b"-x", odd, b""] {
        for action in actions(value) {
            let key = odd;
            let change = Change::One(Op {
                key,
                action: action.clone(),
            });
            let want = match action {
                Action::Remove { .. } => Action::Del,
                Action::Put { expire_at_ms, .. } => Action::Set(Set {
                    value,
                    expiry: expire_at_ms.map_or(SetExpiry::Clear, SetExpiry::At),
                    condition: None,
                    answer: SetAnswer::Ok,
                }),
                Action::Set(set) if matches!(set.answer, SetAnswer::Integer) => {
                    let is_setnx = set.expiry == SetExpiry::Clear
                        && set.condition == Some(SetCondition::Absent);
                    let answer = if is_setnx { set.answer } else { SetAnswer::Ok };
                    Action::Set(Set { answer, ..set })
                }
                Action::Set(set) if set.answer == SetAnswer::Silent => Action::Set(Set {
                    answer: SetAnswer::Ok,
                    ..set
                }),
                other => other,
            };
            let line = describe(&change);
            assert!(!line.contains(['\r', '\n']));
            // A time of 0 is refused where it is typed, and means the past.
            if !line.ends_with("PXAT 0") {
                typed(&line, |action| assert_eq!(action, want, "{line}"));
            }
        }
    }
    assert_eq!(describe(&Change::Flush), "FLUSHALL");
}

#[test]
#[should_panic(expected = "changes nothing")]
fn a_reading_action_is_no_change() {
    encoded(&Change::One(Op {
        key: b"k",
        action: Action::Get,
    }));
}
