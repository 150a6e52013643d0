//! The commands on data: one operation on one key, or something made of several.

use super::op::Op;
use crate::wire::request::Args;

/// A data command, parsed.
#[derive(Debug, Clone)]
pub enum Command<'a> {
    /// Concerns one key.
    One(Op<'a>),
    /// Concerns several, or none in particular; taken apart above the store.
    Many(Many<'a>),
}

/// A command over several keys.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the text of a variant names its fields")]
pub enum Many<'a> {
    /// MGET: the values in order, nil for those without.
    Get { keys: Args<'a> },
    /// MSET and MSETNX: `pairs` alternates keys and values.
    Set {
        pairs: Args<'a>,
        only_if_none_exists: bool,
    },
    /// DEL, UNLINK, EXISTS and TOUCH: the sum over `keys`.
    Count { what: Counted, keys: Args<'a> },
    /// RENAME, RENAMENX.
    Rename {
        from: &'a [u8],
        to: &'a [u8],
        only_if_absent: bool,
    },
    /// COPY within the one database there is.
    Copy {
        from: &'a [u8],
        to: &'a [u8],
        replace: bool,
    },
    /// BITOP.
    BitOp {
        operator: BitOperator,
        destination: &'a [u8],
        sources: Args<'a>,
    },
    /// LCS.
    Lcs {
        keys: [&'a [u8]; 2],
        answer: LcsAnswer,
    },
    /// KEYS.
    Keys { pattern: &'a [u8] },
    /// SCAN; `count` is at least 1, `only_strings` is false when TYPE names a type that we have none of.
    Scan {
        cursor: u64,
        pattern: Option<&'a [u8]>,
        count: usize,
        only_strings: bool,
    },
    /// RANDOMKEY.
    RandomKey,
    /// DBSIZE.
    DbSize,
    /// FLUSHALL and FLUSHDB.
    Flush,
}

/// What [`Many::Count`] does with each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the commands'")]
pub enum Counted {
    Del,
    Exists,
    Touch,
}

/// How BITOP combines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the operators'")]
pub enum BitOperator {
    And,
    Or,
    Xor,
    Not,
}

/// What LCS answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LcsAnswer {
    /// The subsequence itself.
    Text,
    /// LEN: its length.
    Length,
    /// IDX: the ranges that match, those of `len_min` bytes and more, with their lengths if asked.
    Ranges {
        /// MINMATCHLEN.
        len_min: u64,
        /// WITHMATCHLEN.
        with_len: bool,
    },
}

impl Command<'_> {
    /// Whether it may change the store.
    pub fn is_write(&self) -> bool {
        match self {
            Command::One(op) => op.action.is_write(),
            Command::Many(many) => match many {
                Many::Set { .. }
                | Many::Count {
                    what: Counted::Del, ..
                }
                | Many::Rename { .. }
                | Many::Copy { .. }
                | Many::BitOp { .. }
                | Many::Flush => true,
                Many::Get { .. }
                | Many::Count { .. }
                | Many::Lcs { .. }
                | Many::Keys { .. }
                | Many::Scan { .. }
                | Many::RandomKey
                | Many::DbSize => false,
            },
        }
    }
}
