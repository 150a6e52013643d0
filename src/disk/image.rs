//! Images: snapshots and backups.
