//! Places at which a process may be made to stop, to see whether what is left is enough to go on from.
//!
//! ```text
//!   driver: arm(2, Some(Point::SegmentRenamed), 0)
//!           enter(2) ─▶ catch(a turn, or a job, of node 2) ─▶ leave
//!                          code: … rename … reach(Point::SegmentRenamed) ── the armed hit: everything unwinds ─┐
//!           Err(Halted { node: 2, point }) ◀───────────────────────────────────────────────────────────────────┘
//!           drops the process, loses what its disk had not synced, starts another
//! ```
//!
//! Power fails anywhere, but a random moment is seldom the one between two steps that belong together. So these
//! steps have names: before and after whatever makes something durable, visible or sent. A campaign of the simulator
//! stops nodes at each of them, and fails if one was never come to.
//!
//! A node is named by its number in the simulated network. A whole simulated cluster, its disk threads and pool
//! threads included, is one thread, so that everything here is the thread's own; tests beside it are not disturbed.
//! A process outside of the simulator never arms anything, and pays an increment.
//!
//! Without debug assertions, which no release has, [`reach`] is empty: nothing of it is in the program.
//!
//! Invariants: what is armed is disarmed by the hit that it was armed for; code that no driver runs for a node is never
//! stopped. Unwinding runs destructors, which a power failure does not: whoever simulates a disk lets it refuse
//! meanwhile.
//!
//! Deliberately absent: failures that are returned as errors (disks and networks have those), delays, and conditions
//! other than counts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};

named! {
    /// A place where a process may stop: what has just been done, or is about to be.
    enum Point;

    // The log.

    /// A record has its place in a segment, and nothing of it is written.
    RecordFramed = "record-framed",
    /// A record is written and not synced.
    RecordWritten = "record-written",
    /// A record is durable, and nobody knows.
    RecordSynced = "record-synced",
    /// A segment is to be made of a spare.
    SegmentBegun = "segment-begun",
    /// A segment is durable under the name of a spare.
    SegmentSynced = "segment-synced",
    /// A segment has its name, and a crash may take it away.
    SegmentRenamed = "segment-renamed",
    /// A segment is durable under its own name.
    SegmentNamed = "segment-named",
    /// A segment that nobody needs is removed, and a crash may bring it back.
    SegmentRemoved = "segment-removed",
    /// A segment that nobody needs has become a spare, and a crash may give it its name back.
    SegmentSpared = "segment-spared",
    /// The directory says so too.
    SpareKept = "spare-kept",
    /// The names of what a start has read are durable, and not yet all of it.
    LogFound = "log-found",
    /// Records that nothing vouches for are written again and not synced.
    RecordsWrittenAgain = "records-written-again",
    /// A spare has its length.
    SpareMade = "spare-made",
    /// The beginnings of all segments are read.
    ReplayBegun = "replay-begun",
    /// The records of a segment are read.
    SegmentReplayed = "segment-replayed",

    // Files that are written whole.

    /// A file is to be written, and what an earlier attempt left is gone.
    FileBegun = "file-begun",
    /// A piece of a file is written.
    FileWritten = "file-written",
    /// All of a file is written and not synced.
    FileEnded = "file-ended",
    /// A file is durable and has no name.
    FileSynced = "file-synced",
    /// A file has its name, and a crash may take it away.
    FileRenamed = "file-renamed",
    /// A file is durable under its name.
    FileNamed = "file-named",
    /// It is about to be said whose directory it is.
    IdentityBegun = "identity-begun",
    /// The map of the cluster is about to be kept.
    MapFileBegun = "map-file-begun",

    // A start.

    /// What nobody finished is removed.
    LeftoversRemoved = "leftovers-removed",
    /// It is known whose directory it is.
    IdentityKnown = "identity-known",
    /// A shard is loaded from its snapshot.
    SnapshotLoaded = "snapshot-loaded",
    /// The log is read to its end.
    LogReplayed = "log-replayed",
    /// The shards are put together, and the log does not go on yet.
    ShardsRecovered = "shards-recovered",
    /// The log can be written to.
    LogOpened = "log-opened",
    /// The first record of a start is durable.
    FirstRecordKept = "first-record-kept",
    /// Everything is in memory, and nobody else has been talked to.
    StartEnded = "start-ended",

    // The way to the disk.

    /// The disk thread has its records.
    RecordsTaken = "records-taken",
    /// The disk thread has done with its records.
    RecordsKept = "records-kept",
    /// The node learns what became of its records.
    RecordsBack = "records-back",
    /// What was promised is to be written anew, and old segments are to go.
    PromisesQueued = "promises-queued",
    /// The reserve has its length, and a crash may take its name.
    ReserveFilled = "reserve-filled",

    // Writes.

    /// What clients wrote is proposed to raft.
    BatchProposed = "batch-proposed",
    /// A record goes to the disk.
    RecordHandedOver = "record-handed-over",
    /// A record is durable, and raft does not know.
    RecordLanded = "record-landed",
    /// A record is durable, and raft knows.
    RecordCounted = "record-counted",
    /// An entry is committed and not applied.
    EntryCommitted = "entry-committed",
    /// All that is committed in a shard is applied.
    ShardApplied = "shard-applied",
    /// A batch is to be applied and answered.
    BatchEnded = "batch-ended",
    /// What a client wrote is applied, and it is not answered.
    ClientServed = "client-served",
    /// A client is answered, be it that its answer is corked.
    ClientAnswered = "client-answered",
    /// Answers that were corked are to be sent.
    RepliesUncorked = "replies-uncorked",
    /// An answer of another node is to be given to its client.
    AnswerCameBack = "answer-came-back",

    // Raft.

    /// Raft has said what is to be kept and sent.
    ReadyTaken = "ready-taken",
    /// What raft wants kept is in a record.
    RecordFilled = "record-filled",
    /// What raft wanted kept is, and messages that waited for it may go.
    StepKept = "step-kept",
    /// This replica leads from now on.
    LeaderElected = "leader-elected",
    /// This replica leads no longer.
    LeaderResigned = "leader-resigned",
    /// A vote is given, and neither kept nor told.
    VoteGiven = "vote-given",
    /// A change of members has begun: two majorities count.
    MembersEntered = "members-entered",
    /// A change of members is over.
    MembersLeft = "members-left",
    /// Another replica is asked to take over.
    LeadershipOffered = "leadership-offered",
    /// A snapshot takes the place of the log.
    LogRestarted = "log-restarted",
    /// A snapshot has taken the place of the store, and nothing says so on the disk.
    SnapshotInstalled = "snapshot-installed",
    /// A section of the log is taken in, and what it calls committed is not applied.
    SectionRead = "section-read",
    /// A replica is let go.
    ReplicaBuried = "replica-buried",
    /// A replica begins that the others of its group will bring everything to.
    ReplicaBegun = "replica-begun",

    // Snapshots.

    /// A snapshot is begun.
    SnapshotBegun = "snapshot-begun",
    /// A snapshot is on the disk, and nobody knows.
    SnapshotPublished = "snapshot-published",
    /// Segments that a snapshot makes needless are to go.
    LogRecycled = "log-recycled",
    /// Older snapshots are removed, and a crash may bring them back.
    OldSnapshotsRemoved = "old-snapshots-removed",
    /// A follower is to be brought a snapshot.
    SendingBegun = "sending-begun",
    /// Pieces of it are to be sent.
    PiecesSent = "pieces-sent",
    /// The follower has it.
    ReceiverReady = "receiver-ready",
    /// The follower has it, or there is no more to be done for it.
    SendingEnded = "sending-ended",
    /// A leader brings a snapshot.
    ReceivingBegun = "receiving-begun",
    /// Pieces of it have come.
    PiecesTaken = "pieces-taken",
    /// All of it is durable here, and raft does not know.
    SnapshotReceived = "snapshot-received",

    // Links.

    /// Another node has accepted a connection.
    LinkDialed = "link-dialed",
    /// Another node has said who it is.
    LinkGreeted = "link-greeted",
    /// A link is gone.
    LinkLost = "link-lost",
    /// Another node calls.
    CallerGreeted = "caller-greeted",
    /// A message of a replica has come.
    MessageHeard = "message-heard",
    /// All that a turn has to say to other nodes is ready.
    MessagesReady = "messages-ready",
    /// Messages and commands are sent, answers are not.
    MessagesSent = "messages-sent",

    // Commands that are passed on.

    /// A command goes to another node.
    CommandPassedOn = "command-passed-on",
    /// Another node has done a command.
    AnswerHeard = "answer-heard",
    /// Another node has sent a command back undone.
    CommandCameBack = "command-came-back",
    /// Nobody answers a command: its client is told so.
    CommandGivenUp = "command-given-up",
    /// A command of another node has come.
    CommandHeard = "command-heard",
    /// A command of another node waits for keys or for a new leader.
    CommandParked = "command-parked",
    /// A command of another node is done, and the answer is not sent.
    CommandAnswered = "command-answered",
    /// A command of another node goes back undone.
    CommandRefused = "command-refused",
    /// A command is taken apart.
    PartsAsked = "parts-asked",
    /// One of its parts is answered.
    PartAnswered = "part-answered",
    /// All of its parts are answered, and its client is not.
    PartsGathered = "parts-gathered",
    /// A transaction goes to where its keys are led.
    TransactionPassedOn = "transaction-passed-on",
    /// Keys are watched for a client of another node.
    WatchServed = "watch-served",
    /// The transaction of a client of another node is to be run.
    TransactionServed = "transaction-served",

    // Who is where.

    /// The first map is made, and nobody has it.
    ClusterFounded = "cluster-founded",
    /// The replicas of a founder have begun in memory.
    FoundersBegun = "founders-begun",
    /// The first map is durable here, and the others are to hear it.
    FoundingKept = "founding-kept",
    /// The others have been told, and elections are to be held.
    FoundingTold = "founding-told",
    /// A node asks to be taken in.
    JoiningAsked = "joining-asked",
    /// A new map is proposed.
    MapProposed = "map-proposed",
    /// The leader of the meta shard is asked for something.
    WishHeard = "wish-heard",
    /// A change of members is proposed.
    MembersProposed = "members-proposed",
    /// Another node is told the map.
    MapTold = "map-told",
    /// Another node tells the map.
    MapHeard = "map-heard",
    /// A new map counts, and the replicas are still those of the one before.
    MapAdopted = "map-adopted",
    /// A node that joined says how many shards its cluster has.
    ShardsCounted = "shards-counted",
    /// A shard is to be handed over.
    HandingBegun = "handing-begun",
    /// Another replica has taken over, or it came to nothing.
    HandingEnded = "handing-ended",
}

const COUNT: usize = Point::ALL.len();

impl Point {
    /// Whether a process comes to it when it starts, and seldom or never later.
    pub fn is_of_start(self) -> bool {
        matches!(
            self,
            Point::LogFound
                | Point::RecordsWrittenAgain
                | Point::ReplayBegun
                | Point::SegmentReplayed
                | Point::LeftoversRemoved
                | Point::IdentityBegun
                | Point::IdentityKnown
                | Point::SnapshotLoaded
                | Point::LogReplayed
                | Point::ShardsRecovered
                | Point::SectionRead
                | Point::LogOpened
                | Point::FirstRecordKept
                | Point::StartEnded
        )
    }

    /// Whether nodes come to it only where others come and go, or are brought anew what they had.
    pub fn is_of_membership(self) -> bool {
        matches!(
            self,
            Point::MembersEntered
                | Point::MembersLeft
                | Point::LogRestarted
                | Point::SnapshotInstalled
                | Point::ReplicaBuried
                | Point::ReplicaBegun
                | Point::SendingBegun
                | Point::PiecesSent
                | Point::ReceiverReady
                | Point::SendingEnded
                | Point::ReceivingBegun
                | Point::PiecesTaken
                | Point::SnapshotReceived
                | Point::JoiningAsked
                | Point::MapProposed
                | Point::WishHeard
                | Point::MembersProposed
                | Point::ShardsCounted
        )
    }

    /// Whether nodes come to it only where they save their stores.
    pub fn is_of_saving(self) -> bool {
        matches!(
            self,
            Point::SegmentRemoved
                | Point::SegmentSpared
                | Point::SpareKept
                | Point::PromisesQueued
                | Point::SnapshotBegun
                | Point::SnapshotPublished
                | Point::LogRecycled
                | Point::OldSnapshotsRemoved
                | Point::SnapshotLoaded
        )
    }
}

/// What the process of a node unwinds with that was made to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Halted {
    /// The node.
    pub node: usize,
    /// Where it stopped.
    pub point: Point,
}

/// What a node is to stop at.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(debug_assertions),
    expect(dead_code, reason = "nothing is reached")
)]
struct Armed {
    /// `None`: any point.
    point: Option<Point>,
    /// Hits that still pass.
    passes: u64,
}

/// What each hit looks at: without a destructor, so that to get at it costs nothing.
struct Counts {
    hits: [Cell<u64>; COUNT],
    kills: [Cell<u64>; COUNT],
    /// The node that runs.
    running: Cell<Option<usize>>,
    /// Whether it is to stop somewhere.
    is_armed: Cell<bool>,
}

thread_local! {
    static COUNTS: Counts = const {
        Counts {
            hits: [const { Cell::new(0) }; COUNT],
            kills: [const { Cell::new(0) }; COUNT],
            running: Cell::new(None),
            is_armed: Cell::new(false),
        }
    };
    static ARMED: RefCell<BTreeMap<usize, Armed>> = const { RefCell::new(BTreeMap::new()) };
}

/// The code has come to a point: as this program has no debug assertions, nothing happens.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reach(_: Point) {}

/// The code has come to a point. If that is the hit for which the node that runs was [armed](arm), its process stops
/// here: everything unwinds to whoever [catches](catch) it. The panic hook is not called.
#[cfg(debug_assertions)]
#[inline]
pub fn reach(point: Point) {
    let is_armed = COUNTS.with(|counts| {
        let hits = &counts.hits[point as usize];
        hits.set(hits.get() + 1);
        counts.is_armed.get()
    });
    if is_armed {
        reach_armed(point);
    }
}

#[cfg(debug_assertions)]
#[cold]
fn reach_armed(point: Point) {
    let Some(node) = COUNTS.with(|counts| counts.running.get()) else {
        return;
    };
    let is_over = ARMED.with_borrow_mut(|armed| {
        let it = armed.get_mut(&node);
        let Some(it) = it.filter(|it| it.point.is_none_or(|wanted| wanted == point)) else {
            return false;
        };
        let is_over = it.passes == 0;
        it.passes = it.passes.saturating_sub(1);
        is_over
    });
    if is_over {
        COUNTS.with(|counts| {
            let kills = &counts.kills[point as usize];
            kills.set(kills.get() + 1);
        });
        disarm(node);
        leave();
        panic::resume_unwind(Box::new(Halted { node, point }));
    }
}

/// What this thread runs from now on is of this node, until [`leave`].
pub fn enter(node: usize) {
    let is_armed = is_armed(node);
    COUNTS.with(|counts| {
        counts.running.set(Some(node));
        counts.is_armed.set(is_armed);
    });
}

/// What this thread runs from now on is of no node.
pub fn leave() {
    COUNTS.with(|counts| {
        counts.running.set(None);
        counts.is_armed.set(false);
    });
}

/// Runs something that may stop at a point.
///
/// # Errors
/// It did. Of what it worked on nothing may be used but to be dropped.
///
/// # Panics
/// As `run` does.
pub fn catch<T>(run: impl FnOnce() -> T) -> Result<T, Halted> {
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        match payload.downcast::<Halted>() {
            Ok(halted) => *halted,
            Err(other) => panic::resume_unwind(other),
        }
    })
}

/// Lets the process of a node stop at a point (`None`: at whichever it comes to), when it has passed so many. In
/// place of what the node was armed with; takes effect when it is [entered](enter) next, be it by another process.
pub fn arm(node: usize, point: Option<Point>, passes: u64) {
    ARMED.with_borrow_mut(|armed| armed.insert(node, Armed { point, passes }));
}

/// Lets a node go on wherever it comes to.
pub fn disarm(node: usize) {
    ARMED.with_borrow_mut(|armed| armed.remove(&node));
}

/// Whether a node is to stop somewhere, and has not.
pub fn is_armed(node: usize) -> bool {
    ARMED.with_borrow(|armed| armed.contains_key(&node))
}

/// How often each point was come to on this thread since the last [`reset`], by whomever; points without any are not
/// among them.
pub fn hits() -> BTreeMap<Point, u64> {
    COUNTS.with(|counts| by_point(&counts.hits))
}

/// How often a process was stopped at each point on this thread since the last [`reset`]; points without any are not
/// among them.
pub fn kills() -> BTreeMap<Point, u64> {
    COUNTS.with(|counts| by_point(&counts.kills))
}

fn by_point(counts: &[Cell<u64>; COUNT]) -> BTreeMap<Point, u64> {
    let all = Point::ALL
        .iter()
        .map(|&point| (point, counts[point as usize].get()));
    all.filter(|&(_, count)| count > 0).collect()
}

/// Begins anew on this thread: nothing is armed, no node runs, nothing was counted.
pub fn reset() {
    leave();
    ARMED.with_borrow_mut(BTreeMap::clear);
    COUNTS.with(|counts| {
        let all = counts.hits.iter().chain(&counts.kills);
        all.for_each(|count| count.set(0));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Point = Point::RecordFramed;
    const THERE: Point = Point::RecordWritten;

    /// A node comes to these points; what stopped it.
    fn run(node: usize, points: &[Point]) -> Option<Halted> {
        enter(node);
        let ran = catch(|| points.iter().copied().for_each(reach));
        leave();
        ran.err()
    }

    #[test]
    fn every_point_has_a_name_of_its_own() {
        for &point in Point::ALL {
            assert_eq!(Point::named(point.name()), Some(point));
            let is_of_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            assert!(point.name().bytes().all(is_of_name), "{}", point.name());
        }
        assert_eq!(Point::named("none"), None);
    }

    #[test]
    #[cfg(debug_assertions)]
    fn a_node_stops_at_the_hit_that_it_was_armed_for_and_goes_on_the_next_time() {
        reset();
        arm(1, Some(HERE), 1);
        assert_eq!(run(2, &[HERE, HERE, HERE]), None, "another node");
        assert_eq!(run(1, &[THERE, HERE, THERE]), None, "one is to pass");
        let halted = Halted {
            node: 1,
            point: HERE,
        };
        assert_eq!(run(1, &[THERE, HERE, THERE]), Some(halted));
        assert!(!is_armed(1));
        assert_eq!(run(1, &[HERE]), None);
        let count = |counts: &BTreeMap<Point, u64>, point| counts.get(&point).copied();
        assert_eq!(count(&hits(), HERE), Some(6));
        assert_eq!(count(&hits(), THERE), Some(3), "none behind the stop");
        assert_eq!(count(&kills(), HERE), Some(1));
        assert_eq!(count(&kills(), THERE), None);
        reset();
        assert!(hits().is_empty() && kills().is_empty());
    }

    #[test]
    #[cfg(debug_assertions)]
    fn any_point_will_do_and_what_is_disarmed_goes_on() {
        reset();
        arm(1, None, 2);
        let halted = run(1, &[HERE, THERE, THERE]);
        assert_eq!(halted.map(|halted| halted.point), Some(THERE));
        arm(1, None, 0);
        disarm(1);
        assert_eq!(run(1, &[HERE]), None);
        arm(1, None, 0);
        reach(HERE);
        assert!(is_armed(1), "what no node runs is not stopped");
        reset();
        assert!(!is_armed(1));
    }

    #[test]
    #[cfg(debug_assertions)]
    fn other_panics_go_on_as_they_are() {
        let other = panic::catch_unwind(|| catch(|| panic::resume_unwind(Box::new("another"))));
        let payload = other.expect_err("it panics");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"another"));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[expect(clippy::disallowed_methods, reason = "points are a thread's own")]
    fn what_is_armed_is_the_threads_own() {
        reset();
        arm(1, None, 0);
        let elsewhere = std::thread::spawn(|| run(1, &[HERE])).join();
        assert_eq!(elsewhere.expect("it runs and ends"), None);
        assert!(is_armed(1));
        reset();
    }
}
