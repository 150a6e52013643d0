//! One operation on one key, parsed.
//!
//! Every data command is made of these. A command over several keys (MSET, RENAME, BITOP …) is taken
//! apart above the store into one [`Op`] per key, so that each of them concerns one shard only and the
//! log of a shard needs no other vocabulary.
//!
//! Times are unix milliseconds, absolute: relative ones are resolved by whoever parsed the command, so
//! that applying the same [`Op`] gives the same state on every replica at any time.

/// An operation on one key. Borrows its strings from the request.
#[derive(Debug, Clone, PartialEq)]
pub struct Op<'a> {
    /// The key, at most `config::KEY_BYTES_MAX` long.
    pub key: &'a [u8],
    /// What to do with it.
    pub action: Action<'a>,
}

/// What to do with a key. The reply named is what the operation writes.
#[expect(missing_docs, reason = "the text of a variant names its fields")]
#[derive(Debug, Clone, PartialEq)]
pub enum Action<'a> {
    // Reads.
    /// The value, or nil.
    Get,
    /// Length of the value in bytes, 0 when there is none.
    Strlen,
    /// The bytes `start..=end`; negative positions count from the end. Empty string when there are none.
    GetRange { start: i64, end: i64 },
    /// Bit at `offset`, 0 when beyond the end.
    GetBit { offset: u64 },
    /// Number of set bits in the range, or in all of the value.
    BitCount { range: Option<Range> },
    /// Position of the first bit equal to `bit`, as Redis's BITPOS defines it for open and closed ranges.
    BitPos { bit: bool, range: BitPosRange },
    /// 1 when the key exists, else 0.
    Exists,
    /// As `Exists`, and counts as an access (resets the idle time).
    Touch,
    /// `string` or `none`, as a status.
    Type,
    /// Time to live: -2 no key, -1 no expiry, else the time in the asked form.
    Ttl { form: TtlForm },
    /// `int`, `embstr` or `raw`; nil when there is no key. Is no access.
    Encoding,
    /// Seconds since the last access; nil when there is no key. Is no access.
    IdleTime,
    /// Number of references, as Redis would say (2147483647 for shared small integers); nil without key.
    RefCount,
    /// Bytes of memory this key takes; nil when there is none. Is no access.
    MemoryUsage,
    /// Redis's DEBUG OBJECT line as a status; `ERR no such key` without key. Is no access.
    DebugObject,

    // Writes.
    /// SET with all its options; see [`Set`].
    Set(Set<'a>),
    /// The value, which is deleted.
    GetDel,
    /// The value, whose expiry is changed.
    GetEx { expiry: GetExExpiry },
    /// Appends; the new length.
    Append { value: &'a [u8] },
    /// Overwrites from `offset`, zero-padding; the new length. An empty `value` never creates a key.
    SetRange { offset: u64, value: &'a [u8] },
    /// Adds; the new value. `ERR value is not an integer or out of range`, `ERR increment or decrement would overflow`.
    IncrBy { delta: i64 },
    /// Adds in 80-bit floating point as Redis does; the new value as a string. `delta` is the typed text,
    /// checked by the parser to be a float.
    IncrByFloat { delta: &'a [u8] },
    /// Sets the bit; its old value.
    SetBit { offset: u64, bit: bool },
    /// Runs the operations in order; an array of their results (nil where OVERFLOW FAIL refused).
    /// Creates or grows the value only when one of them writes.
    BitField { ops: Vec<BitFieldOp> },
    /// Deletes; 1 or 0.
    Del,
    /// Sets the expiry; 1, or 0 when there is no key or the condition does not hold. A time that is not
    /// after the operation's own time deletes the key (event `del`).
    Expire {
        at_ms: i64,
        condition: Option<ExpireCondition>,
    },
    /// Removes the expiry; 1, or 0 when there was none.
    Persist,
    /// Compare and set (ours): 1 when the value equalled `expected` and is now `new`, 0 when it did not,
    /// nil when there is no key. Keeps the expiry.
    Cas { expected: &'a [u8], new: &'a [u8] },
    /// Puts a value as it is, replacing what was there; writes no reply. The primitive behind RENAME,
    /// COPY, BITOP and restoring; `event` is what keyspace notifications call it.
    Put {
        value: &'a [u8],
        expire_at_ms: Option<u64>,
        encoding: Encoding,
        event: Event,
    },
    /// Removes a key without a reply; the primitive behind RENAME. `event` as in `Put`.
    Remove { event: Event },
}

impl Action<'_> {
    /// Whether the operation may change the store.
    pub fn is_write(&self) -> bool {
        !matches!(
            self,
            Action::Get
                | Action::Strlen
                | Action::GetRange { .. }
                | Action::GetBit { .. }
                | Action::BitCount { .. }
                | Action::BitPos { .. }
                | Action::Exists
                | Action::Touch
                | Action::Type
                | Action::Ttl { .. }
                | Action::Encoding
                | Action::IdleTime
                | Action::RefCount
                | Action::MemoryUsage
                | Action::DebugObject
        )
    }
}

/// SET and its older spellings.
#[derive(Debug, Clone, PartialEq)]
pub struct Set<'a> {
    /// The new value.
    pub value: &'a [u8],
    /// What becomes of the expiry.
    pub expiry: SetExpiry,
    /// When to set at all.
    pub condition: Option<SetCondition>,
    /// What to answer.
    pub answer: SetAnswer,
}

/// What SET does to the expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetExpiry {
    /// No expiry afterwards.
    Clear,
    /// KEEPTTL.
    Keep,
    /// Expires at this time. A key whose time is past already is stored, told of, and absent.
    At(u64),
}

/// NX or XX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetCondition {
    /// Only when there is no key.
    Absent,
    /// Only when there is one.
    Present,
}

/// How a SET-like command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetAnswer {
    /// `OK`, or nil when the condition did not hold (SET, SETEX, MSET's parts).
    Ok,
    /// 1, or 0 when the condition did not hold (SETNX).
    Integer,
    /// The old value or nil, whether set or not (GETSET, SET … GET).
    OldValue,
    /// Nothing (parts of MSET).
    Silent,
}

/// What GETEX does to the expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetExExpiry {
    /// Leaves it.
    Keep,
    /// PERSIST (event `persist` when there was one).
    Clear,
    /// Sets it (event `expire`; a time in the past deletes, event `del`).
    At(u64),
}

/// Conditions of EXPIRE. No expiry counts as infinitely far away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpireCondition {
    /// NX: only when there is none.
    Absent,
    /// XX: only when there is one.
    Present,
    /// GT: only when later than the present one.
    Later,
    /// LT: only when earlier than the present one.
    Earlier,
    /// XX GT.
    PresentAndLater,
    /// XX LT.
    PresentAndEarlier,
}

/// The four spellings of "how long".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TtlForm {
    /// TTL: seconds left, rounded to the nearest as Redis rounds.
    Seconds,
    /// PTTL: milliseconds left.
    Milliseconds,
    /// EXPIRETIME: unix seconds, rounded to the nearest.
    UnixSeconds,
    /// PEXPIRETIME: unix milliseconds.
    UnixMilliseconds,
}

/// A range of a value; negative positions count from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First position.
    pub start: i64,
    /// Last position, included.
    pub end: i64,
    /// What positions count.
    pub unit: Unit,
}

/// The range of BITPOS, whose end may be left open; an open end makes the answer for 0 bits differ.
#[expect(missing_docs, reason = "the text of a variant names its fields")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitPosRange {
    /// No positions given.
    All,
    /// Only a start (in bytes) given.
    From { start: i64 },
    /// Both given.
    Closed(Range),
}

/// What the positions of a [`Range`] count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Byte,
    /// Bits.
    Bit,
}

/// One sub-command of BITFIELD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitFieldOp {
    /// Width in bits: 1..=63 unsigned, 1..=64 signed.
    pub bits: u8,
    /// Two's complement or not.
    pub signed: bool,
    /// Position of the field's first bit.
    pub offset: u64,
    /// What to do with it.
    pub verb: BitFieldVerb,
}

/// The verb of a [`BitFieldOp`]; OVERFLOW is already resolved into it.
#[expect(missing_docs, reason = "the text of a variant names its fields")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitFieldVerb {
    /// The field.
    Get,
    /// Stores; the old field. The value is wrapped or saturated into the width by `overflow`.
    Set { value: i64, overflow: Overflow },
    /// Adds; the new field.
    IncrBy { delta: i64, overflow: Overflow },
}

/// What happens when a BITFIELD result does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// Modulo the width.
    Wrap,
    /// The nearest limit.
    Saturate,
    /// Refuse: nil, nothing stored.
    Fail,
}

/// How a value came to be, as far as `OBJECT ENCODING` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// `int` when the value is a canonical integer, else `embstr` up to 44 bytes, else `raw`.
    #[default]
    Plain,
    /// As `Plain`, but never `int` (INCRBYFLOAT).
    Text,
    /// Always `raw` (APPEND, SETRANGE, SETBIT, BITFIELD, BITOP).
    Raw,
}

/// What happened to a key, by the names that keyspace notifications use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// It was found to be past its time and removed.
    Expired,
    /// A key that was not there came to be (class `n`).
    New,
    /// SET and what replaces a whole value.
    Set,
    /// INCR, DECR and relatives.
    IncrBy,
    /// INCRBYFLOAT.
    IncrByFloat,
    /// APPEND.
    Append,
    /// SETRANGE.
    SetRange,
    /// SETBIT and BITFIELD.
    SetBit,
    /// An expiry was set.
    Expire,
    /// An expiry was removed.
    Persist,
    /// It was deleted.
    Del,
    /// The old name of RENAME.
    RenameFrom,
    /// The new name of RENAME.
    RenameTo,
    /// The destination of COPY.
    CopyTo,
    /// A read found no key (class `m`).
    KeyMiss,
}

impl Event {
    /// Every event, in the order in which one operation reports them.
    pub const ALL: [Event; 15] = [
        Event::Expired,
        Event::New,
        Event::Set,
        Event::IncrBy,
        Event::IncrByFloat,
        Event::Append,
        Event::SetRange,
        Event::SetBit,
        Event::Expire,
        Event::Persist,
        Event::Del,
        Event::RenameFrom,
        Event::RenameTo,
        Event::CopyTo,
        Event::KeyMiss,
    ];

    /// The name in a notification.
    pub fn name(self) -> &'static str {
        match self {
            Event::Expired => "expired",
            Event::New => "new",
            Event::Set => "set",
            Event::IncrBy => "incrby",
            Event::IncrByFloat => "incrbyfloat",
            Event::Append => "append",
            Event::SetRange => "setrange",
            Event::SetBit => "setbit",
            Event::Expire => "expire",
            Event::Persist => "persist",
            Event::Del => "del",
            Event::RenameFrom => "rename_from",
            Event::RenameTo => "rename_to",
            Event::CopyTo => "copy_to",
            Event::KeyMiss => "keymiss",
        }
    }
}

/// What an operation did, for watchers and notifications. Sixteen bytes at most, no allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effect {
    /// The key's value or expiry was changed, or it was removed (also by expiry): watchers are told.
    pub modified: bool,
    events: u16,
}

impl Effect {
    /// Adds an event.
    pub fn add(&mut self, event: Event) {
        self.events |= 1 << event as u16;
    }

    /// Whether the event happened.
    pub fn has(self, event: Event) -> bool {
        self.events & (1 << event as u16) != 0
    }

    /// The events in the order of [`Event::ALL`].
    pub fn events(self) -> impl Iterator<Item = Event> {
        Event::ALL.into_iter().filter(move |&event| self.has(event))
    }
}
