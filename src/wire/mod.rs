//! The line protocol, as bytes: requests in, replies out. `protocol.md` is the contract.
//!
//! - [`request`]: inline lines and RESP arrays -> arguments, resumable, without rescanning.
//! - [`reply`]: reply values -> bytes in the four dialects (RESP2, RESP3, one line, JSON).
//! - [`decode`]: RESP bytes -> reply values, for whoever is the client.
//! - [`encode`]: arguments -> requests, for whoever is the client.
//! - [`quote`]: Redis's inline quoting, both ways.
//! - [`number`]: the integers of the protocol, parsed exactly as Redis parses them.
//!
//! Nothing here knows a command, a key or a socket.

pub mod decode;
pub mod encode;
pub mod number;
pub mod quote;
pub mod reply;
pub mod request;
