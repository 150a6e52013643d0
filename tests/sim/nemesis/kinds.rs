//! The kinds of faults there are.

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A machine loses its power.
    Kill,
    /// A machine is gone, and nobody is told.
    Vanish,
    /// A machine loses its power in the middle of a call of its disk.
    KillInCall,
    /// A process dies; what it wrote is there.
    EndProcess,
    /// All machines lose their power.
    PowerOff,
    /// A process stands still.
    Pause,
    /// A disk is slow.
    SlowDisk,
    /// A disk hangs.
    Stall,
    /// A call of a disk fails.
    DiskError,
    /// A read of a disk fails.
    ReadError,
    /// All calls of a disk fail from one on.
    DiskBroken,
    /// A disk is full.
    DiskFull,
    /// A wall clock is set.
    Clock,
    /// A monotonic clock is a little too fast or too slow.
    Drift,
    /// Links of a node are slow and lossy.
    SlowLinks,
    /// Links of a node are clogged.
    Clog,
    /// Connections of a node are reset.
    Reset,
    /// Links of a node are cut one way or both.
    Cut,
    /// They are cut and mended again and again.
    Flap,
    /// The nodes are cut into two camps.
    Split,
    /// A machine is given an empty disk.
    Wipe,
    /// Something on a disk becomes wrong where it lies.
    Rot,
    /// A machine is given a backup of its disk.
    Restore,
    /// A node joins.
    Join,
    /// A node is to leave.
    Leave,
    /// A node stops at a point of its code.
    Halt,
    /// A leader reaches no other node.
    Isolate,
    /// A leader does not reach a follower, and another restarts.
    Besiege,
    /// The clock of a leader is set, and it leads no longer.
    Leap,
    /// A leader that hands over hears nothing of it.
    CutHanding,
    /// Who has just been elected reaches nobody, and a voter restarts.
    CutElected,
    /// The nodes are split as they know of a change of members or do not.
    SplitChange,
}

impl Kind {
    /// Those that are drawn.
    pub const ALL: [Kind; 29] = [
        Kind::Kill,
        Kind::Vanish,
        Kind::KillInCall,
        Kind::EndProcess,
        Kind::PowerOff,
        Kind::Pause,
        Kind::SlowDisk,
        Kind::Stall,
        Kind::DiskError,
        Kind::ReadError,
        Kind::DiskBroken,
        Kind::DiskFull,
        Kind::Clock,
        Kind::Drift,
        Kind::SlowLinks,
        Kind::Clog,
        Kind::Reset,
        Kind::Cut,
        Kind::Flap,
        Kind::Split,
        Kind::Wipe,
        Kind::Rot,
        Kind::Restore,
        Kind::Join,
        Kind::Leave,
        Kind::Halt,
        Kind::Isolate,
        Kind::Besiege,
        Kind::Leap,
    ];

    /// Whether it happens to a node that works.
    pub(super) fn needs_life(self) -> bool {
        matches!(
            self,
            Kind::Kill
                | Kind::Vanish
                | Kind::EndProcess
                | Kind::Pause
                | Kind::KillInCall
                | Kind::DiskError
                | Kind::ReadError
                | Kind::DiskBroken
                | Kind::DiskFull
                | Kind::Halt
        )
    }

    /// Whether it sets a wall clock.
    pub fn sets_clocks(self) -> bool {
        matches!(self, Kind::Clock | Kind::Leap)
    }

    /// Whether it needs nodes that come and go.
    pub fn is_of_membership(self) -> bool {
        matches!(self, Kind::Join | Kind::Leave)
    }

    /// Whether a node loses of its disk what it had acknowledged.
    pub fn loses_disks(self) -> bool {
        matches!(self, Kind::Wipe | Kind::Rot | Kind::Restore)
    }
}
