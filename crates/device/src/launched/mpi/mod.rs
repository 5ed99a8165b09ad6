//! Ranks connected by an MPI library that is found at run time: `library.rs` is the library, `rank.rs` a rank's own process,
//! `team.rs` rank 0's side.

pub(super) mod library;
pub(super) mod rank;
pub(super) mod team;
