//! The way of a number: prepare → verify → sample → record. The measurement policy lives here once and nowhere else; suites
//! say what to do, devices do it, and this crate decides how often, how warm, how cold and when to stop.

pub mod policy;
mod sample;
mod suite;
pub mod verify;
mod window;

pub use policy::{Policy, Profile};
pub use sample::sample;
pub use suite::{Class, Measured, Prepared, Ready, Scope, Suite, measure};
pub use window::Window;
