//! What the `ridgepoint` command and `cargo bench` have in common: the list of suites, how a user names cases and devices, and
//! how a program ends.

pub mod exit;
pub mod select;
pub mod suites;
