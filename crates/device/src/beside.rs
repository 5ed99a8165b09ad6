//! What a rank of a job runs beside its collective, in the rank's own process. What that is, a matrix product, is made by the crate
//! whose case it is; a rank's process is given the function that makes it ([`crate::cpu::rank_main`]).

use crate::{Checked, Result};
use ridgepoint_core::{Dtype, Seconds};

/// Work of a rank's device that goes on beside a collective.
pub trait Beside {
    /// Who does it, and where.
    fn by(&self) -> String;

    /// Begins `n` executions, which [`Beside::end`] waits for.
    ///
    /// # Errors
    /// Its thread has ended.
    fn begin(&self, n: usize) -> Result<()>;

    /// Waits for those that were begun.
    ///
    /// # Errors
    /// That of an execution.
    fn end(&self) -> Result<()>;

    /// Overwrites the result.
    ///
    /// # Errors
    /// The device's.
    fn poison(&self) -> Result<()>;

    /// Compares the result with what it must be; the error is a multiple of what rounding allows.
    ///
    /// # Errors
    /// The device's.
    fn check(&self) -> Result<Checked>;
}

/// Makes it on the device with this id, of a size as ids write it (`m512n512k512`), of operands of this dtype and seed.
pub type MakeBeside = fn(&str, &str, Dtype, u64) -> Result<Box<dyn Beside>>;

/// Ranks of a job, each with such work of its own.
pub trait RanksBeside {
    /// Makes it ready at every rank, as [`MakeBeside`] says, and tells by whom the first does it.
    ///
    /// # Errors
    /// `Unsupported` where a rank has nothing to do it by; names the rank that failed.
    fn ready(&mut self, size: &str, dtype: Dtype, seed: u64) -> Result<String>;

    /// `n` executions of the collective, of what is beside it, or of both at once: the slowest rank's time by its host's clock. They
    /// begin together where the collective is among them.
    ///
    /// # Errors
    /// Names the ranks that arrived and those that did not.
    fn time(&mut self, n: usize, collective: bool, beside: bool) -> Result<Seconds>;

    /// What each rank found of its own, together.
    ///
    /// # Errors
    /// Names the rank that failed.
    fn check(&mut self) -> Result<Checked>;
}
