//! What the command table knows of a command.

use super::verb::Verb;

/// One command or subcommand.
#[derive(Debug)]
pub struct Row {
    /// Its name in code.
    pub verb: Verb,
    /// Its name on the wire, lower case; a subcommand is `container|name`.
    pub name: &'static str,
    /// Number of arguments with the name: exactly `n`, or at least `-n` when negative.
    pub arity: i8,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Which arguments are keys.
    pub keys: Keys,
    /// What it is about.
    pub group: Group,
    /// The Redis version that brought it.
    pub since: &'static str,
    /// The arguments, in Redis's notation.
    pub syntax: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
}

/// Which arguments are keys: every `step`th from `first` to `last` (negative: from the end). No keys
/// when `first` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// Position of the first key.
    pub first: i8,
    /// Position of the last one.
    pub last: i8,
    /// Distance between two.
    pub step: i8,
}

impl Keys {
    /// No argument is a key.
    pub const NONE: Keys = Keys {
        first: 0,
        last: 0,
        step: 0,
    };
    /// The first argument.
    pub const ONE: Keys = Keys {
        first: 1,
        last: 1,
        step: 1,
    };
    /// The first two.
    pub const TWO: Keys = Keys {
        first: 1,
        last: 2,
        step: 1,
    };
    /// All of them.
    pub const ALL: Keys = Keys {
        first: 1,
        last: -1,
        step: 1,
    };
    /// Every other one.
    pub const PAIRS: Keys = Keys {
        first: 1,
        last: -1,
        step: 2,
    };
    /// The second.
    pub const SECOND: Keys = Keys {
        first: 2,
        last: 2,
        step: 1,
    };
    /// All from the second.
    pub const FROM_SECOND: Keys = Keys {
        first: 2,
        last: -1,
        step: 1,
    };

    /// Positions of the keys among `len` arguments.
    pub fn positions(self, len: usize) -> impl Iterator<Item = usize> {
        let last = match self.last {
            last if last < 0 => len.saturating_sub(usize::from(last.unsigned_abs())),
            last => last.unsigned_abs().into(),
        };
        let first = usize::from(self.first.unsigned_abs());
        let end = if first == 0 { 0 } else { (last + 1).min(len) };
        (first..end).step_by(usize::from(self.step.max(1).unsigned_abs()))
    }
}

/// What a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Redis's")]
pub enum Group {
    String,
    Bitmap,
    Keyspace,
    Transaction,
    Pubsub,
    Connection,
    Server,
    Scripting,
    Cluster,
    None,
}

impl Group {
    /// Every group that `HELP @group` knows, in the order in which people meet them.
    pub const ALL: [Group; 9] = [
        Group::String,
        Group::Keyspace,
        Group::Bitmap,
        Group::Transaction,
        Group::Pubsub,
        Group::Connection,
        Group::Server,
        Group::Scripting,
        Group::Cluster,
    ];

    /// The group's name in `COMMAND DOCS` and `HELP`.
    pub fn name(self) -> &'static str {
        match self {
            Group::String => "string",
            Group::Bitmap => "bitmap",
            Group::Keyspace => "generic",
            Group::Transaction => "transactions",
            Group::Pubsub => "pubsub",
            Group::Connection => "connection",
            Group::Server | Group::None => "server",
            Group::Scripting => "scripting",
            Group::Cluster => "cluster",
        }
    }

    /// Redis's ACL category of the group.
    pub(super) fn category(self) -> Option<&'static str> {
        match self {
            Group::String => Some("@string"),
            Group::Bitmap => Some("@bitmap"),
            Group::Keyspace => Some("@keyspace"),
            Group::Transaction => Some("@transaction"),
            Group::Pubsub => Some("@pubsub"),
            Group::Connection => Some("@connection"),
            Group::Scripting => Some("@scripting"),
            Group::Server | Group::Cluster | Group::None => None,
        }
    }
}

/// Properties of a command, by Redis's names.
pub mod flag {
    #![expect(missing_docs, reason = "the names are Redis's")]
    pub const WRITE: u16 = 1;
    pub const READONLY: u16 = 1 << 1;
    pub const DENYOOM: u16 = 1 << 2;
    pub const ADMIN: u16 = 1 << 3;
    pub const PUBSUB: u16 = 1 << 4;
    pub const NOSCRIPT: u16 = 1 << 5;
    pub const LOADING: u16 = 1 << 6;
    pub const SKIP_SLOWLOG: u16 = 1 << 7;
    pub const FAST: u16 = 1 << 8;
    pub const NO_AUTH: u16 = 1 << 9;
    pub const NO_MULTI: u16 = 1 << 10;
    pub const ALLOW_BUSY: u16 = 1 << 11;
    /// Only an ACL category.
    pub const DANGEROUS: u16 = 1 << 12;
    /// Only an ACL category.
    pub const ADMIN_ONLY_IN_ACL: u16 = 1 << 13;
}
