//! Commands: from the arguments that were typed to what they mean.
//!
//! - [`op`]: what the store can be asked to do with one key: parsed, checked, borrowed from the request.
//! - [`float`]: the floating point of INCRBYFLOAT, for the parser that checks and the store that adds.
//!
//! *Parse, don't validate*: an [`op::Op`] that exists is well formed, its times are absolute, its numbers
//! are in range. What depends on stored data (types, overflow, existence) is the store's to say.

pub mod float;
pub mod op;
