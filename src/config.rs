//! Limits and defaults. Units are in the names.

/// Longest key. A key longer than this is refused with an error.
pub const KEY_BYTES_MAX: usize = 65_536;
/// Longest value and longest argument, unless `proto-max-bulk-len` says otherwise.
pub const VALUE_BYTES_MAX: usize = 512 << 20;
