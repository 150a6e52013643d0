//! Marline: a distributed key-value store and data processor that you drive by typing lines.
//!
//! The modules are declared bottom-up and a module imports only from those above it in this list;
//! modules on one line of the map are strangers to each other. `tests/layers.rs` reads this file and
//! fails on an upward import: *the declaration order is the architecture*.
//!
//! ```text
//!            main.rs            argv -> role (node | cli | backup | check | import | leave | restore)
//!  L7   node/  cli/  offline/   where everything meets: sessions, keyspace, admin; the client tools; and the
//!                               tools for a directory that no node uses
//!  L6   data/                   the data directory of a node: its files, whose they are, how they are opened
//!  L5   shard/                  one Raft group: propose, hand to the log, apply what is committed
//!  L4   cluster/                who is in the cluster, and who holds which shard
//!  L3   store/  client/         siblings: deterministic apply(command, at) -> reply; the client library for
//!                               Rust programs
//!  L2   command/                the command table; args <-> Command <-> log bytes
//!  L1   reactor/  wire/  disk/  ring
//!                               siblings: "Twisted for Rust"; the line protocol; files; key -> slot -> shard
//!  L0   named  config  failpoint  odd  planted
//!                               siblings: enums with names (a macro); every option, default and limit; places where
//!                               tests stop a node; odd sizes and bugs that only tests choose
//! ```

// L0
#[macro_use]
pub mod named;
pub mod config;
pub mod failpoint;
pub mod odd;
pub mod planted;
// L1
pub mod disk;
pub mod reactor;
pub mod ring;
pub mod wire;
// L2
pub mod command;
// L3
pub mod client;
pub mod store;
// L4
pub mod cluster;
// L5
pub mod shard;
// L6
pub mod data;
// L7
pub mod cli;
pub mod node;
pub mod offline;
