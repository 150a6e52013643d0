//! The tools for files that no node uses: what they find, and what they make, on simulated disks and real ones.

#![allow(clippy::unwrap_used, reason = "a test says what it misses by failing")]

mod check;
mod command_line;
mod restore;
mod world;
