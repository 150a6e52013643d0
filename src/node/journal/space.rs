//! Space for the log: the next segment and the reserve, made before they are needed, and what becomes of writes when
//! there is none.
//!
//! ```text
//!   enough ── no segment can be made ─▶ full: writes are refused, the reserve is given up
//!      ▲                                  │ every second another attempt
//!      └── segment and reserve are there ─┘
//! ```
//!
//! A batch is handed over only when its record has its space ([`room_for`]), so that one that has none can be refused
//! before anything of it was done.

use std::io;

use crate::data::files::RESERVE;
use crate::disk::wal::is_full;
use crate::disk::wal::spares::Spare;
use crate::disk::wal::writer::Wal;
use crate::disk::{DIRECTORY, Disk, FileInfo, fill_with_zeros};
use crate::failpoint::{self, Point};
use crate::reactor::app::Cx;
use crate::reactor::timer::Nanos;

use super::super::Node;
use super::{Journal, Link, fail, pump};

/// How long a full disk is left alone before it is tried again.
const RETRY_NANOS: Nanos = 1_000_000_000;

/// What there is, and what is being made.
#[derive(Default)]
pub(super) struct Space {
    /// Keeps writes refused until then.
    pub(super) full: Option<Nanos>,
    is_preparing: bool,
    /// The space that the open batch waited for could not be had.
    is_denied: bool,
    /// A segment that was made ready while a job had the log.
    pub(super) spare: Option<Spare>,
    has_reserve: bool,
    /// The reserve is being removed.
    is_giving_up: bool,
}

/// Whether a record finds its space in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It does.
    Enough,
    /// Space is being made.
    Soon,
    /// There is none to be had.
    None,
}

impl Link {
    /// Whether the log takes a record of at most so many bytes now, without asking the disk for space.
    fn has_room(&self, bytes: usize) -> bool {
        let room = self.wal.as_ref().map_or(0, Wal::room);
        bytes as u64 <= room
    }
}

impl Journal {
    /// Whether the log takes a record of at most so many bytes now, without asking the disk for space.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.link.as_ref().is_none_or(|link| link.has_room(bytes))
    }
}

/// Whether the log, which is not at work, takes a record of at most so many bytes without asking the disk for space;
/// if it does not, space is made: now, or on a full disk with the next attempt, which decides it.
pub fn room_for(cx: &mut Cx<'_, Node>, bytes: usize) -> Room {
    let Some(link) = &mut cx.app.journal.link else {
        return Room::Enough;
    };
    let is_denied = std::mem::take(&mut link.space.is_denied);
    if link.has_room(bytes) {
        return Room::Enough;
    }
    if is_denied {
        return Room::None;
    }
    if link.space.full.is_none() {
        prepare(cx, bytes as u64);
    }
    Room::Soon
}

/// There is no space: writes are refused from now on, and the reserve is given up for what frees some.
pub fn run_out(cx: &mut Cx<'_, Node>, error: &io::Error) {
    let retry_at = cx.net.clock() + RETRY_NANOS;
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    if link.space.full.replace(retry_at).is_none() {
        log::error!(
            "the disk is full ({error}): writes are refused until there is space; reads and deletes go on"
        );
    }
    if std::mem::take(&mut link.space.has_reserve) {
        let disk = link.files.disk.clone();
        link.space.is_giving_up = true;
        cx.net.defer_to_thread(
            move || disk.remove(RESERVE),
            |cx, removed| {
                if let Some(link) = &mut cx.app.journal.link {
                    link.space.is_giving_up = false;
                }
                if let Err(error) = removed {
                    log::warn!("the reserve could not be given up: {error}");
                }
            },
        );
    }
}

/// Writes are taken again, if they were refused.
pub(super) fn enough(cx: &mut Cx<'_, Node>) {
    if let Some(link) = &mut cx.app.journal.link
        && link.space.full.take().is_some()
    {
        log::info!("there is space on the disk again: writes are taken");
    }
}

/// Makes the reserve, whole or not at all, unless it is there.
fn make_reserve(disk: &dyn Disk, bytes: u64) -> io::Result<()> {
    let is_there = |file: &FileInfo| file.name == RESERVE && file.bytes == bytes;
    if disk.list()?.iter().any(is_there) {
        return Ok(());
    }
    let made = fill_with_zeros(disk, RESERVE, bytes)
        .inspect(|()| failpoint::reach(Point::ReserveFilled))
        .and_then(|()| disk.sync(DIRECTORY));
    if made.is_err() {
        // It may not be there yet; and what cannot be removed now is written over by the next attempt.
        let _ = disk.remove(RESERVE);
    }
    made
}

/// What could be made ready.
struct Prepared {
    spare: Option<Spare>,
    /// A segment of more than the usual length was to be.
    is_long: bool,
    /// Whether the reserve is there.
    outcome: io::Result<bool>,
}

/// Makes the next segment ready, with room for a record of so many bytes, if there is none, and the reserve, if it
/// was given up. Not while the disk thread has the log, which must find the space first.
pub(super) fn prepare(cx: &mut Cx<'_, Node>, bytes: u64) {
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    let Some(wal) = link.wal.as_mut().filter(|_| !link.space.is_preparing) else {
        return;
    };
    let is_wanted = wal.wants_spare() || wal.room() < bytes;
    // The batch grows while it waits.
    let plan = is_wanted.then(|| wal.plan_spare(bytes + bytes / 4));
    let wants_reserve = !link.space.has_reserve && !link.space.is_giving_up;
    if plan.is_none() && !wants_reserve {
        return;
    }
    link.space.is_preparing = true;
    let (disk, reserve_bytes) = (link.files.disk.clone(), link.files.reserve_bytes);
    let is_long = plan
        .as_ref()
        .is_some_and(|plan| plan.bytes() > link.files.segment_bytes);
    let make = move || {
        let made = plan.map(|plan| plan.make(&*disk)).transpose();
        let outcome = match &made {
            Ok(_) if wants_reserve => make_reserve(&*disk, reserve_bytes).map(|()| true),
            _ => Ok(false),
        };
        match made {
            Ok(spare) => Prepared {
                spare,
                is_long,
                outcome,
            },
            Err(error) => Prepared {
                spare: None,
                is_long,
                outcome: Err(error),
            },
        }
    };
    cx.net.defer_to_thread(make, prepared);
}

fn prepared(cx: &mut Cx<'_, Node>, made: Prepared) {
    let Some(link) = &mut cx.app.journal.link else {
        return;
    };
    link.space.is_preparing = false;
    link.space.is_denied = made.outcome.is_err();
    if made.spare.is_some() {
        link.space.spare = made.spare;
        link.adopt();
    }
    match made.outcome {
        Ok(has_reserve) => {
            link.space.has_reserve |= has_reserve;
            if link.space.has_reserve {
                enough(cx);
            }
            pump(cx);
        }
        // There is no space for an unusually long record; that there is none at all, others would notice.
        Err(error) if is_full(&error) && made.is_long => {}
        Err(error) if is_full(&error) => run_out(cx, &error),
        Err(error) => fail(cx, &error),
    }
}
