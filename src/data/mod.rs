//! The data directory of a node: which files there are, what they are called, and how they are opened.
//!
//! - [`files`]: names, and the directory as jobs on other threads share it.
//! - [`identity`]: whose directory it is.
//! - [`mapfile`]: the map of the cluster, as it was known last.
//! - [`loading`]: from files to shards.
//! - [`opening`]: from paths to locked directories and rings of keys.
//!
//! The node that writes them and the tools that look at them when no node runs meet here, and only here.

pub mod files;
pub mod identity;
pub mod loading;
pub mod mapfile;
pub mod opening;
