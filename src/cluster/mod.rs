//! Who is in the cluster, and who holds which shard.
//!
//! - [`map`]: the cluster map, the one value that the meta shard agrees on, and its text.
//! - [`placement`]: the ideal: a ring of hashes proposes nodes for every shard, bounds keep them even.
//! - [`plan`]: how one map follows another: founding, joining, leaving, and the way to the ideal in single steps.
//!
//! Everything here is a function from a map to a map. The caller has the clock, the connections and the Raft
//! groups: it proposes a map to the meta shard, makes the one change that the map announces, and says that it is
//! [`done`](plan::done). A node that leads the meta shard anew needs nothing but the map to go on.
//!
//! Deliberately absent: who is alive (a member that is down still is a member), and when to begin a step.

pub mod map;
pub mod placement;
pub mod plan;
