//! Messages as bytes: there and back, one message byte for byte, and whatever is no message.

use fastrand::Rng;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeV2};

use super::*;

fn number(random: &mut Rng) -> u64 {
    match random.u8(..4) {
        0 => 0,
        1 => NUMBER_MAX,
        _ => random.u64(..NUMBER_MAX) >> random.u32(..62),
    }
}

fn some_bytes(random: &mut Rng, max: usize) -> Bytes {
    let len = random.usize(..=max);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

fn entry(random: &mut Rng, index: u64) -> Entry {
    let mut entry = Entry {
        index,
        term: number(random),
        data: some_bytes(random, 40),
        ..Entry::default()
    };
    if random.bool() {
        let mut change = ConfChangeV2::default();
        let single = ConfChangeSingle {
            node_id: random.u64(1..NUMBER_MAX),
            ..ConfChangeSingle::default()
        };
        change.mut_changes().push(single);
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.data = change
            .write_to_bytes()
            .expect("a change is writable")
            .into();
    }
    entry
}

fn snapshot(random: &mut Rng) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let meta = snapshot.mut_metadata();
    (meta.index, meta.term) = (number(random), number(random));
    let mut ids = || (0..random.usize(..4)).map(|_| number(random)).collect();
    let mut members = ConfState::default();
    members.set_voters(ids());
    members.set_learners(ids());
    members.set_voters_outgoing(ids());
    members.set_learners_next(ids());
    members.auto_leave = random.bool();
    meta.set_conf_state(members);
    snapshot.data = some_bytes(random, 100);
    snapshot
}

/// A message with all that its kind can carry.
fn random_message(random: &mut Rng) -> Message {
    let (_, kind, allowed) = KINDS[random.usize(..KINDS.len())];
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (number(random), number(random), number(random));
    let mut field = |flag| match allowed & flag {
        0 => 0,
        _ => number(random),
    };
    // Room for entries behind it.
    message.index = field(INDEX) / 2;
    message.log_term = field(LOG_TERM);
    message.commit = field(COMMIT);
    message.commit_term = field(COMMIT_TERM);
    message.reject_hint = field(REJECT_HINT);
    message.request_snapshot = field(REQUEST_SNAPSHOT);
    message.priority = field(PRIORITY) as i64 * random.i64(-1..2);
    message.deprecated_priority = message.priority.max(0) as u64;
    message.reject = allowed & REJECT != 0 && random.bool();
    if allowed & CONTEXT != 0 {
        message.context = some_bytes(random, CONTEXT_BYTES_MAX);
    }
    if kind == MessageType::MsgAppend {
        let indices = message.index + 1..;
        let count = random.usize(..5);
        let entries: Vec<Entry> = indices.take(count).map(|it| entry(random, it)).collect();
        message.set_entries(entries.into());
    }
    if kind == MessageType::MsgSnapshot {
        message.set_snapshot(snapshot(random));
    }
    message
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    encode(7, message, &mut out);
    out
}

#[test]
fn what_was_written_is_read() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    for _ in 0..3_000 {
        let messages: Vec<Message> = (0..random.usize(1..4))
            .map(|_| random_message(&mut random))
            .collect();
        let mut frame = Vec::new();
        for (shard, message) in (0..).zip(&messages) {
            encode(shard, message, &mut frame);
        }
        let mut rest = &frame[..];
        for (shard, message) in (0..).zip(&messages) {
            let (of, read, used) = decode(rest).expect("we wrote it");
            assert_eq!((of, &read), (shard, message));
            for cut in 0..used {
                assert!(decode(&rest[..cut]).is_err(), "{message:?} cut at {cut}");
            }
            rest = &rest[used..];
        }
        assert!(rest.is_empty());
    }
}

#[test]
fn whatever_is_read_is_written_again_the_same() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    for _ in 0..20_000 {
        let mut bytes = encoded(&random_message(&mut random));
        let at = random.usize(..bytes.len());
        bytes[at] ^= 1 << random.u8(..8);
        if let Ok((shard, message, used)) = decode(&bytes) {
            let mut again = Vec::new();
            encode(shard, &message, &mut again);
            assert_eq!(again, bytes[..used]);
        }
    }
}

#[test]
fn a_vote_request_is_these_bytes() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgRequestVote);
    (message.from, message.to, message.term) = (0x1_0000_0002, 0x3_0000_0004, 5);
    (message.index, message.log_term) = (6, 4);
    message.priority = -2;
    message.context = Bytes::from_static(b"ctx");
    let bytes = [
        b"\x07\x00\x03\x86\x01".as_slice(),
        b"\x02\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00\x03\x00\x00\x00",
        b"\x05\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00",
        b"\x04\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff\xff\xff\xff\xff\x03ctx",
    ]
    .concat();
    assert_eq!(encoded(&message), bytes);
    assert_eq!(decode(&bytes), Ok((7, message, bytes.len())));
}

#[test]
fn an_append_and_a_snapshot_are_these_bytes() {
    let mut append = Message::default();
    append.set_msg_type(MessageType::MsgAppend);
    append.term = 1;
    let mut change = Entry::default();
    (change.index, change.term) = (1, 1);
    change.set_entry_type(EntryType::EntryConfChangeV2);
    append.set_entries(vec![change].into());
    let bytes = encoded(&append);
    let tail = b"\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00";
    assert!(bytes.starts_with(b"\x07\x00\x01\x00\x00") && bytes[29..] == tail[..]);

    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgSnapshot);
    let snapshot = message.mut_snapshot();
    (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = (9, 8);
    let members = snapshot.mut_metadata().mut_conf_state();
    members.set_voters(vec![1]);
    members.set_voters_outgoing(vec![2]);
    members.auto_leave = true;
    snapshot.data = Bytes::from_static(b"d");
    let tail = [
        b"\x09\x00\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01".as_slice(),
        b"\x01\x00\x00\x00\x01\x00\x00\x00",
        b"\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00d",
    ]
    .concat();
    assert_eq!(encoded(&message)[29..], tail);
}

#[test]
fn a_heartbeat_is_small() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgHeartbeat);
    message.commit = 1;
    assert_eq!(encoded(&message).len(), 37);
}

/// The bytes of a message of this kind that has no fields, and what follows.
fn raw(code: u8, flags: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, code];
    bytes.extend(flags.to_le_bytes());
    (1..=3).for_each(|number| put_fixed(number, &mut bytes));
    bytes.extend(rest);
    bytes
}

fn refused(bytes: &[u8], reason: &str) {
    let error = decode(bytes).expect_err(reason);
    assert!(error.contains(reason), "{error}");
}

#[test]
fn heads_that_stand_for_nothing_are_refused() {
    assert!(decode(&raw(10, 0, b"")).is_ok());
    for code in [0, 11, 255] {
        refused(&raw(code, 0, b""), "of kind");
    }
    for (code, _, allowed) in KINDS {
        for flag in (0..16).map(|bit| 1 << bit).filter(|it| allowed & it == 0) {
            refused(&raw(code, flag, &[1; 64]), "with flags");
        }
    }
    for at in [5, 13, 21] {
        let mut bytes = raw(10, 0, b"");
        bytes[at..at + 8].copy_from_slice(&(NUMBER_MAX + 1).to_le_bytes());
        refused(&bytes, "impossible number");
    }
}

#[test]
fn fields_that_say_nothing_are_refused() {
    let impossible = (NUMBER_MAX + 1).to_le_bytes();
    for flag in [INDEX, LOG_TERM, COMMIT, COMMIT_TERM] {
        refused(&raw(3, flag, &[0; 8]), "announced is zero");
        refused(&raw(3, flag, &impossible), "impossible number");
    }
    for priority in [0, i64::MIN, i64::MAX, -(NUMBER_MAX as i64) - 1] {
        refused(&raw(3, PRIORITY, &priority.to_le_bytes()), "a priority");
    }
    refused(&raw(7, CONTEXT, &[0]), "a context of 0");
    refused(&raw(7, CONTEXT, &[65; 66]), "a context of 65");
}

#[test]
fn entries_are_believed_when_they_are_there() {
    let entry = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let of = |count: u32, entries: &[u8]| [&count.to_le_bytes(), entries].concat();
    assert!(decode(&raw(1, 0, &of(1, &entry))).is_ok());
    refused(&raw(1, 0, &of(u32::MAX, &entry)), "not there");
    refused(&raw(1, 0, &of(2, &entry)), "not there");
    let mut long = entry;
    long[9..].copy_from_slice(&[0xFF; 4]);
    refused(&raw(1, 0, &of(1, &long)), "end within");
    let mut strange = entry;
    strange[8] = 2;
    refused(&raw(1, 0, &of(1, &strange)), "neither no nor yes");
    let mut change = entry.to_vec();
    (change[8], change[9]) = (1, 1);
    change.push(0x1a);
    refused(&raw(1, 0, &of(1, &change)), "change of members");
    let last = [&NUMBER_MAX.to_le_bytes()[..], &of(1, &entry)].concat();
    refused(&raw(1, INDEX, &last), "impossible indices");
}

#[test]
fn snapshots_are_told_in_few_words() {
    let of = |yes: u8, counts: [u16; 4], rest: usize| {
        let mut bytes = vec![1; 16];
        (bytes[7], bytes[15]) = (0, 0);
        bytes.push(yes);
        bytes.extend(counts.into_iter().flat_map(u16::to_le_bytes));
        bytes.resize(bytes.len() + rest, 0);
        raw(9, 0, &bytes)
    };
    assert!(decode(&of(0, [1_000, 0, 0, 0], 8_004)).is_ok());
    refused(&of(2, [0; 4], 4), "neither no nor yes");
    refused(&of(0, [1_000, 0, 1, 0], 9_000), "too many");
    refused(&of(0, [1, 0, 1, 0], 15), "not there");
    let mut bytes = of(0, [0; 4], 4 + SNAPSHOT_BYTES_MAX + 1);
    let len = bytes.len();
    bytes[len - SNAPSHOT_BYTES_MAX - 5..][..4].copy_from_slice(&65_537u32.to_le_bytes());
    refused(&bytes, "65537 bytes");
}

#[test]
#[should_panic(expected = "MsgPropose goes to no peer")]
fn a_proposal_goes_to_no_peer() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgPropose);
    encoded(&message);
}

#[test]
#[should_panic(expected = "carries what it should not")]
fn a_field_is_not_lost_in_silence() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgHeartbeat);
    message.index = 1;
    encoded(&message);
}
