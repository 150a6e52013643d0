//! Bugs that are planted on purpose, to see whether the tests catch them.
//!
//! ```text
//!   test:  plant(Some(Bug::StaleRead)) ─▶ runs seeds until something complains ─▶ plant(None)
//!   code:  … self.lease.is_valid(now) || planted::is(Bug::StaleRead)
//! ```
//!
//! A test that never fails may be blind. So the simulator is tested itself: each [`Bug`] is one that systems like this
//! one have had, one short expression at the place where somebody might have made it, and the simulator has to find it.
//!
//! Without the feature `planted`, which no release has, [`is`] is a constant: the compiler takes the expression
//! out, and nothing of a bug is in the program. With it, what is planted is the thread's own: a simulated cluster
//! runs on one thread, its disk threads and pool threads included, so that tests beside it are not disturbed.
//!
//! Deliberately absent: several bugs at once, and bugs that other words of the same code hide (which are none).

#[cfg(feature = "planted")]
use std::cell::Cell;

named! {
    /// A bug that can be planted: what is wrong, and whom it hurts.
    enum Bug;

    // What is read is not the latest.

    /// A leader answers reads without a lease: one that was cut off answers what another leader has overwritten.
    StaleRead = "stale-read",
    /// A leader takes its lease to be three times as long as voters keep their promise: the same, for less long.
    LongLease = "long-lease",
    /// A new leader answers reads before it has committed anything: it may not know yet what is committed.
    OldTermRead = "old-term-read",
    /// A leader answers reads while it hands over: its heir is elected at once, whatever was promised.
    TransferReads = "transfer-reads",
    /// A follower answers reads, although the client did not say READONLY.
    FollowerRead = "follower-read",
    /// A read that another node passed on does not wait for the writes in front of it: a client misses its own.
    ReadBehindIgnored = "read-behind-ignored",
    /// MGET over several shards is answered by the replicas that happen to be here.
    GatherStale = "gather-stale",

    // What raft relies on does not hold.

    /// A vote that comes without entries is not written down: who restarts may vote twice in a term.
    VoteForgotten = "vote-forgotten",
    /// Who has just started votes at once: the leader that it had promised quiet to still has its lease.
    EarlyVote = "early-vote",
    /// A vote is given to a candidate whose log lacks what is committed: writes that were acknowledged are lost.
    VoteForAnybody = "vote-for-anybody",
    /// A record counts as durable when it is handed to the disk: power fails, and what was acknowledged is gone.
    AckBeforeSync = "ack-before-sync",
    /// Writes are acknowledged when the leader alone has them: it dies, and they are gone.
    AckBeforeMajority = "ack-before-majority",
    /// An entry counts as committed when any entry is at its index: the client of one is answered for another.
    TermIgnored = "term-ignored",
    /// Entries do not replace those of an earlier term at the same indices: the replica applies what others do not.
    ConflictKept = "conflict-kept",
    /// Members change in one step, without majorities of the old and the new: two may lead, and both commit.
    MajorityOfNew = "majority-of-new",
    /// A node that lost its disk gets its old number again: its replicas count as those that had promised and kept.
    NumberReused = "number-reused",

    // What clients are told is wrong.

    /// Replies are sent as they come, not in the order of the commands.
    RepliesUnordered = "replies-unordered",
    /// Replies that were held back for the rest of their burst are dropped when that has come.
    BurstLost = "burst-lost",
    /// A write whose link broke is sent again: it may have been done, and is done twice.
    WriteSentAgain = "write-sent-again",
    /// A node that sent a command back does the one behind it: a client's writes change places.
    RefusingForgotten = "refusing-forgotten",
    /// Commands go to a new leader while the one before still has some: a client's writes change places.
    TwoLeadersAsked = "two-leaders-asked",
    /// "Nothing was done" is answered where nobody knows: it may have been.
    UnknownToldUndone = "unknown-told-undone",
    /// EXEC does not look whether a watched key has changed: updates are lost.
    WatchIgnored = "watch-ignored",
    /// DEL of several keys of a shard deletes the first.
    DeleteForgotten = "delete-forgotten",

    // Time.

    /// Each replica applies entries as of a time of its own: it finds keys expired that others find alive.
    OwnClock = "own-clock",
    /// An entry counts as of its own stamp, be it earlier than one before: a key that was removed is missed.
    TimeRunsBack = "time-runs-back",
    /// Expired keys are removed by the clock of the node, ahead of the log: a later entry finds them elsewhere.
    SweptByOwnClock = "swept-by-own-clock",
    /// Reads do not look whether a key has expired.
    ExpiredRead = "expired-read",

    // Disks.

    /// A record is appended to a segment without a sync, and taken for synced.
    SyncSkipped = "sync-skipped",
    /// A file gets its name before its bytes are durable: a crash leaves a name with anything behind it.
    ImageNotSynced = "image-not-synced",
    /// The directory is not synced when a file has got its name: what the file replaces is gone, and the file too.
    NameNotSynced = "name-not-synced",
    /// The directory is not synced when a segment of the log is begun: all of it may be gone.
    SegmentNameNotSynced = "segment-name-not-synced",
    /// Segments of the log are removed although a shard has entries in them that no snapshot holds.
    SegmentsTooEarly = "segments-too-early",
    /// A snapshot from a leader is put to use without being kept: the next start finds a log without a beginning.
    SnapshotNotKept = "snapshot-not-kept",
    /// The checksum of a record's payload is not looked at: a torn record is believed.
    ChecksumIgnored = "checksum-ignored",
    /// What an earlier use of a segment's file left in it is believed to be of this one.
    GenerationIgnored = "generation-ignored",
    /// A damaged record within the log is taken for its end: all that follows is silently lost.
    RotTruncated = "rot-truncated",
    /// A start leaves out the last entry of a log: it may have been acknowledged.
    LastEntryDropped = "last-entry-dropped",
    /// A start applies entries again that the snapshot holds: INCR counts twice.
    AppliedTwice = "applied-twice",
    /// Images are not sealed, although there is a key.
    PlainImage = "plain-image",
    /// All pieces of a file are sealed with one nonce: two of them tell their difference.
    NonceReused = "nonce-reused",
}

/// Whether this bug is planted: never, as this program was built without any.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    static REACHED: Cell<u64> = const { Cell::new(0) };
}

/// Plants a bug on this thread, in place of what was planted; `None`: nothing is wrong any more.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
    REACHED.set(0);
}

/// Whether this bug is planted on this thread.
#[cfg(feature = "planted")]
#[inline]
pub fn is(bug: Bug) -> bool {
    let is_planted = PLANTED.get() == Some(bug);
    REACHED.set(REACHED.get() + u64::from(is_planted));
    is_planted
}

/// How often the code came to the bug since it was planted. If it never did, a test that passed says nothing.
#[cfg(feature = "planted")]
pub fn reached() -> u64 {
    REACHED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_a_name_of_its_own() {
        for &bug in Bug::ALL {
            assert_eq!(Bug::named(bug.name()), Some(bug));
            assert!(!is(bug), "nothing is planted");
        }
        assert_eq!(Bug::named("none"), None);
    }

    #[cfg(feature = "planted")]
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a bug is a thread's own")]
    fn a_bug_is_planted_on_one_thread_and_alone() {
        plant(Some(Bug::StaleRead));
        assert!(is(Bug::StaleRead) && !is(Bug::LongLease));
        assert_eq!(reached(), 1);
        let elsewhere = std::thread::spawn(|| is(Bug::StaleRead)).join();
        assert!(!elsewhere.expect("it asks and ends"));
        plant(None);
        assert!(!is(Bug::StaleRead));
        assert_eq!(reached(), 0);
    }
}
