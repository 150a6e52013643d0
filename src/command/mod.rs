//! Commands: from the arguments that were typed to what they mean.
//!
//! - [`verb`], [`row`], [`rows`], [`table`]: the command table, the single source of truth.
//! - [`resolve`]: what was typed -> its row, or the error.
//! - [`op`]: what the store can be asked to do with one key: parsed, checked, borrowed from the request.
//! - [`float`]: the floating point of INCRBYFLOAT, for the parser that checks and the store that adds.
//! - [`data`]: the commands on data, made of operations; [`parse`]: arguments -> those.
//! - [`encode`]: a change as bytes for the log, made of the fields in [`binary`]; [`describe`]: as a line for people.
//! - [`glob`]: the patterns of KEYS, SCAN, PSUBSCRIBE and CONFIG GET.
//!
//! *Parse, don't validate*: an [`op::Op`] that exists is well formed, its times are absolute, its numbers
//! are in range. What depends on stored data (overflow, existence) is the store's to say.

pub mod binary;
pub mod data;
pub mod describe;
pub mod encode;
pub mod float;
pub mod glob;
pub mod op;
pub mod parse;
pub mod resolve;
pub mod row;
pub mod rows;
pub mod table;
pub mod verb;
