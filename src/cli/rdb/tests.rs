//! Dumps made by hand, byte by byte.

use crc::{CRC_64_REDIS, Crc};

use super::*;

const SUM: Crc<u64> = Crc::<u64>::new(&CRC_64_REDIS);
/// `aaaaaaaaaa`, packed: one byte, then nine from one before.
const TEN_AS: &[u8] = b"\xc3\x05\x0a\x00a\xe0\x00\x00";

/// A dump of version 10 with this between its magic and its end.
fn dump(body: &[u8]) -> Vec<u8> {
    let mut bytes = [b"REDIS0010", body, b"\xff"].concat();
    bytes.extend(SUM.checksum(&bytes).to_le_bytes());
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Event>, RdbError> {
    events(Rdb::new(bytes)?)
}

fn events(mut rdb: Rdb<impl Read>) -> Result<Vec<Event>, RdbError> {
    let mut events = Vec::new();
    while let Some(event) = rdb.next_event()? {
        events.push(event);
    }
    assert_eq!(rdb.next_event(), Ok(None), "an end stays one");
    Ok(events)
}

fn string(db: u64, name: &[u8], expires_ms: Option<i64>, value: &[u8]) -> Event {
    Event::Key(Key {
        db,
        name: name.to_vec(),
        expires_ms,
        value: Value::String(value.to_vec()),
    })
}

fn value(body: &[u8]) -> Result<Vec<u8>, RdbError> {
    let dump = dump(&[b"\x00\x01k", body].concat());
    match read(&dump)?.as_slice() {
        [
            Event::Key(Key {
                value: Value::String(value),
                ..
            }),
        ] => Ok(value.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn strings_in_every_encoding() {
    for (body, expected) in [
        (b"\x00".as_slice(), b"".as_slice()),
        (b"\x05hello", b"hello"),
        (b"\x40\x03abc", b"abc"),
        (b"\x80\x00\x00\x00\x02ab", b"ab"),
        (b"\x81\x00\x00\x00\x00\x00\x00\x00\x01a", b"a"),
        (b"\xc0\x80", b"-128"),
        (b"\xc1\x00\x80", b"-32768"),
        (b"\xc2\xff\xff\xff\x7f", b"2147483647"),
        (TEN_AS, b"aaaaaaaaaa"),
        // Three bytes, then three of them and a fourth that the match itself wrote.
        (b"\xc3\x06\x07\x02abc\x40\x02", b"abcabca"),
        (b"\xc3\x00\x00", b""),
    ] {
        let read = value(body).map(|value| value.escape_ascii().to_string());
        assert_eq!(read, Ok(expected.escape_ascii().to_string()), "{body:?}");
    }
    let long = vec![b'x'; 700_000];
    let body = [b"\x80\x00\x0a\xae\x60", long.as_slice()].concat();
    assert_eq!(value(&body), Ok(long));
}

#[test]
fn strings_that_do_not_unpack() {
    for body in [
        b"\xc3\x05\x0b\x00a\xe0\x00\x00".as_slice(),
        b"\xc3\x05\x09\x00a\xe0\x00\x00",
        b"\xc3\x04\x0a\x00a\xe0\x00",
        b"\xc3\x05\x0a\x00a\xe0\x00\x01",
        b"\xc3\x02\x0a\x05a",
        b"\xc3\x02\xc0\x01ab",
        b"\xc4",
        b"\xbf",
    ] {
        assert!(value(body).is_err(), "{body:?}");
    }
}

#[test]
fn what_stands_before_a_key_counts_for_it_alone() {
    let body = [
        b"\xfa\x09redis-ver\x067.0.15".as_slice(),
        b"\xfa\x0aredis-bits\xc0\x40",
        b"\xf5\x03lib",
        b"\xfe\x00\xfb\x04\x02",
        b"\xfc\xe8\x03\x00\x00\x00\x00\x00\x00\x00\x01a\x011",
        b"\xfd\x02\x00\x00\x00\xf8\x05\x00\x01b\x012",
        b"\xf9\x07\x00\x01c\x013",
        b"\xf4\x01\x02\x03\xfe\x43\x21\x00\x01d\x014",
    ];
    let expected = [
        Event::Aside("library of functions".into()),
        string(0, b"a", Some(1000), b"1"),
        string(0, b"b", Some(2000), b"2"),
        string(0, b"c", None, b"3"),
        string(0x321, b"d", None, b"4"),
    ];
    assert_eq!(read(&dump(&body.concat())).unwrap(), expected);
    assert_eq!(read(&dump(b"")).unwrap(), []);
}

type Other = (&'static str, u8, Vec<u8>);

const ID: &[u8] = &[7; 16];
const TIME: &[u8] = &[9; 8];

/// A value of each type that is not imported: what it is, its number, its bytes.
fn others() -> Vec<Other> {
    let text = b"\x03abc".as_slice();
    let module = module_id(b"AbcdefG-_", 3);
    let values = b"\x01\x05\x02\x41\x00\x03abcd\x04abcdefgh\x05\x02xy\x00";
    let fields = b"\x02\x05\x01a\x01b\x00\x01c\x01d".as_slice();
    let parts: [(_, _, &[&[u8]]); 21] = [
        ("list", 1, &[b"\x02\x01a\xc0\x05"]),
        ("list", 1, &[b"\x00"]),
        ("set", 2, &[b"\x02\x01a", TEN_AS]),
        ("zset", 3, &[b"\x04\x01a\x033.5\x01b\xfd\x01c\xfe\x01d\xff"]),
        ("hash", 4, &[b"\x02\x01a\x01b\x01c\xc1\x01\x02"]),
        ("zset", 5, &[b"\x02\x01a", TIME, TEN_AS, TIME]),
        ("module AbcdefG-_", 7, &[&module, values]),
        ("hash", 9, &[text]),
        ("list", 10, &[TEN_AS]),
        ("set", 11, &[b"\x40\x02ab"]),
        ("zset", 12, &[text]),
        ("hash", 13, &[text]),
        ("list", 14, &[b"\x02\x01a", TEN_AS]),
        ("hash", 16, &[TEN_AS]),
        ("zset", 17, &[TEN_AS]),
        ("list", 18, &[b"\x02\x01\x01a\x02", TEN_AS]),
        ("set", 20, &[TEN_AS]),
        ("hash", 22, &[fields]),
        ("hash", 23, &[text]),
        ("hash", 24, &[TIME, fields]),
        ("hash", 25, &[TIME, TEN_AS]),
    ];
    let parts = parts.map(|(name, kind, parts)| (name, kind, parts.concat()));
    parts.into_iter().chain(streams()).collect()
}

/// Streams of each format, with a node, a group, a pending entry and a consumer who owns it; and an empty one.
fn streams() -> [Other; 4] {
    let node = [b"\x01\x10", ID, TEN_AS].concat();
    let group = b"\x01\x01g\x05\x06".as_slice();
    let pending = [b"\x01", ID, TIME, b"\x03"].concat();
    let consumer = [b"\x01\x01c", TIME].concat();
    let owned = [b"\x01", ID].concat();
    let counts = b"\x02\x08\x09".as_slice();
    let more = b"\x01\x02\x03\x04\x02".as_slice();
    [
        (
            15,
            [&node, counts, group, &pending, &consumer, &owned].concat(),
        ),
        (
            19,
            [
                &node, counts, more, group, b"\x04", &pending, &consumer, &owned,
            ]
            .concat(),
        ),
        (
            21,
            [
                &node, counts, more, group, b"\x04", &pending, &consumer, TIME, &owned,
            ]
            .concat(),
        ),
        (19, vec![0; 10]),
    ]
    .map(|(kind, bytes)| ("stream", kind, bytes))
}

/// The id of a module's type, as a length of eight bytes.
fn module_id(name: &[u8; 9], version: u64) -> Vec<u8> {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let number = |letter| letters.iter().position(|known| known == letter).unwrap() as u64;
    let id = name.iter().fold(0, |id, letter| id << 6 | number(letter));
    [b"\x81".as_slice(), &(id << 10 | version).to_be_bytes()].concat()
}

#[test]
fn every_other_type_is_walked_over_and_named() {
    for (name, kind, bytes) in others() {
        let body = [&[kind, 1, b'o'], bytes.as_slice(), b"\x00\x01k\x01v"].concat();
        let read = read(&dump(&body)).unwrap_or_else(|error| panic!("type {kind}: {error}"));
        let other = Event::Key(Key {
            db: 0,
            name: b"o".to_vec(),
            expires_ms: None,
            value: Value::Other(name.into()),
        });
        assert_eq!(read, [other, string(0, b"k", None, b"v")], "type {kind}");
    }
    let aside = [
        b"\xf7".as_slice(),
        &module_id(b"AbcdefG-_", 1),
        b"\x02\x01\x05\x01x\x00",
    ];
    let read = read(&dump(&aside.concat())).unwrap();
    assert_eq!(read, [Event::Aside("data of module AbcdefG-_".into())]);
}

#[test]
fn what_has_no_end_that_is_told_ends_with_its_place() {
    for (body, reason) in [
        (
            b"\x06\x01k\x00".as_slice(),
            "module in the format before Redis 4.0",
        ),
        (b"\xf6\x01k\x00", "preview of Redis 7.0"),
        (b"\x08\x01k\x00", "type 8 is not known"),
        (b"\x1a\x01k\x00", "type 26 is not known"),
        (b"\xf3\x01k\x00", "type 243 is not known"),
        (b"\x07\x01k\x00\x06", "unknown kind 6"),
        (b"\xfe\xc0\x01", "where a number belongs"),
    ] {
        let error = read(&dump(&[b"\x00\x01a\x01b", body].concat())).unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
        assert!(
            (14..=14 + body.len() as u64).contains(&error.offset),
            "{error}"
        );
    }
}

#[test]
fn versions() {
    for version in 1..=12 {
        let mut old = format!("REDIS{version:04}").into_bytes();
        old.extend(b"\x00\x01k\x01v\xff");
        if version >= 5 {
            old.extend(SUM.checksum(&old).to_le_bytes());
        }
        assert_eq!(
            read(&old).unwrap(),
            [string(0, b"k", None, b"v")],
            "{version}"
        );
    }
    for other in [
        "REDIS0000",
        "REDIS0013",
        "REDIS0080",
        "VALKEY080",
        "REDIS 10.",
        "*3\r\n$3\r\nS",
        "",
        "REDIS",
    ] {
        assert!(read(other.as_bytes()).is_err(), "{other}");
    }
}

/// A dump with something of everything.
fn rich() -> Vec<u8> {
    let mut body = b"\xfa\x01a\x01b\xfe\x00\xfb\x01\x01\xfd\x02\x00\x00\x00\x00\x01k\x01v".to_vec();
    for (_, kind, bytes) in others() {
        body.extend([&[kind, 1, b'o'], bytes.as_slice()].concat());
    }
    body.extend([b"\x00\x01k", TEN_AS].concat());
    dump(&body)
}

#[test]
fn every_flip_every_cut_and_every_addition_is_seen() {
    let whole = rich();
    assert!(read(&whole).is_ok());
    for at in 0..whole.len() {
        let error = read(&whole[..at]).unwrap_err();
        assert!(error.offset <= at as u64, "{error}");
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            assert!(read(&changed).is_err(), "byte {at}, bit {bit}");
        }
    }
    let error = read(&[whole.as_slice(), b"*1"].concat()).unwrap_err();
    assert!(error.reason.contains("behind the end"), "{error}");
    let mut without_sum = whole.clone();
    without_sum.truncate(whole.len() - 8);
    without_sum.extend([0; 8]);
    assert_eq!(read(&without_sum), read(&whole), "a sum of 0 is none");
}

#[test]
fn it_does_not_matter_in_which_pieces_the_bytes_come() {
    struct Trickle<'b>(&'b [u8], usize);
    impl Read for Trickle<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let most = self.1.min(into.len());
            self.0.read(&mut into[..most])
        }
    }
    let whole = rich();
    for most in 1..20 {
        assert_eq!(
            events(Rdb::new(Trickle(&whole, most)).unwrap()),
            read(&whole),
            "{most}"
        );
    }
}

#[test]
fn bytes_without_sense_end_in_an_error() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let whole = rich();
    for _ in 0..20_000 {
        let mut bytes = whole[..whole.len() - 8].to_vec();
        bytes.extend([0; 8]);
        for _ in 0..random.usize(1..6) {
            let at = random.usize(9..bytes.len());
            bytes[at] = *random
                .choice(&[0, 0x7f, 0x80, 0x81, 0xc3, 0xff, random.clone().u8(..)])
                .unwrap();
        }
        bytes.truncate(random.usize(9..=bytes.len()));
        // Whatever comes of it, it comes: a length of 2^63 must neither be allocated nor waited for.
        let _ = read(&bytes);
    }
    let far = b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff";
    for body in [
        [b"\x00\x01k".as_slice(), far].concat(),
        [b"\x00\x01k\xc3\x01".as_slice(), far, b"x"].concat(),
        [b"\x00\x01k\xc3".as_slice(), far, far].concat(),
        [b"\x01\x01k".as_slice(), far].concat(),
        [b"\x0d\x01k".as_slice(), far].concat(),
        [b"\xfa".as_slice(), far].concat(),
    ] {
        assert!(read(&dump(&body)).is_err(), "{body:?}");
    }
}
