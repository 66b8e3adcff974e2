//! What the end-to-end tests share: the real binaries, run and killed; small models; seeded documents.
//!
//! Tests assert results, never times. Whatever a test starts ends with it, and everything lies in its own temporary
//! folder, so tests may run side by side.

pub mod binaries;
pub mod command;
pub mod documents;
pub mod extend;
pub mod models;
pub mod process;
pub mod search;
