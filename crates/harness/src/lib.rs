//! The way of a number: prepare → verify → sample → record. The measurement policy lives here once and nowhere else; suites
//! say what to do, devices do it, and this crate decides how often, how warm, how cold and when to stop.
//!
//! Others can measure with it, too: [`kernel`] takes a kernel and a reference of theirs, [`Bench`] gives another tool's stopping
//! rule a case that was proved right.

mod bench;
pub mod kernel;
mod operands;
pub mod policy;
mod sample;
mod sets;
pub mod soak;
mod suite;
mod sustain;
mod timer;
mod trial;
mod tuned;
mod turns;
pub mod verify;
mod window;

pub use bench::{Bench, Refused};
pub use operands::{encoding, fill, random, scales};
pub use policy::{Counts, Policy, Profile};
pub use sets::{MOST_SETS, operand_sets, operand_sets_or_two};
pub use suite::{Class, Measured, Prepared, Ready, Scope, Suite, measure, measure_after};
pub use trial::trial;
pub use tuned::{depth, recall, remember, search};
pub use turns::measure_in_turns;
pub use window::Window;
