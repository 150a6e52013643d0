//! Commands: from the arguments that were typed to what they mean.
//!
//! - [`op`]: what the store can be asked to do with one key: parsed, checked, borrowed from the request.
//!
//! *Parse, don't validate*: an [`op::Op`] that exists is well formed, its times are absolute, its numbers
//! are in range. What depends on stored data (types, overflow, existence) is the store's to say.

pub mod op;
