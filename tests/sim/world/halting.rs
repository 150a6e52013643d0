//! Nodes that stop at a point of their code.
//!
//! A node is known to `failpoint` by its number in the network, and not by that of its seat. It may stop in a turn or
//! in a job of one of its threads; then its power fails or only its process ends, as chance has it.

use std::io;

use marline::disk::sim::Crash;
use marline::failpoint::{self, Halted, Point};
use marline::node::Node;
use marline::reactor::Reactor;
use marline::reactor::sim::{SimBackend, SimNet};

use super::World;

/// A turn of the node with this number in the network.
pub(super) fn turn(
    process: &mut Reactor<SimBackend, Node>,
    at: usize,
) -> Result<io::Result<bool>, Halted> {
    failpoint::enter(at);
    let turned = failpoint::catch(|| process.turn(None));
    failpoint::leave();
    turned
}

impl World {
    /// A node stops at this point (`None`: at whichever it comes to), having passed so many; the process that runs, or
    /// one after it.
    pub fn halt_at(&mut self, node: usize, point: Option<Point>, passes: u64) {
        let name = point.map_or("any point", Point::name);
        self.note(Some(node), &format!("halts at {name} behind {passes}"));
        failpoint::arm(self.seats[node - 1].at, point, passes);
    }

    /// A node that was to stop somewhere goes on wherever it comes to.
    pub fn halt_nowhere(&mut self, node: usize) {
        failpoint::disarm(self.seats[node - 1].at);
    }

    /// Whether a node is to stop somewhere, and has not.
    pub fn is_to_halt(&self, node: usize) -> bool {
        failpoint::is_armed(self.seats[node - 1].at)
    }

    /// A node has stopped.
    pub(super) fn halted(&mut self, halted: Halted) {
        let seat = self.seats.iter().position(|seat| seat.at == halted.node);
        let node = seat.expect("only nodes of seats are armed") + 1;
        let chance = self.net.random();
        let (how, what) = match chance % 2 {
            0 => (Crash::Random(chance), "kill"),
            _ => (Crash::KeepAll, "kill process"),
        };
        self.note(Some(node), &format!("{what} at {}", halted.point.name()));
        self.end(node, how, SimNet::crash);
    }
}
