//! The disk of the operating system.
