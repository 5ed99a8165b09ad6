//! Exit codes, documented in the README and tested: a script can tell a bad result from a bad call from a bad machine.

use ridgepoint_core::verdict::Verdict;
use std::fmt;
use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything asked for was measured or skipped with a reason, and every result was right.
    Pass = 0,
    /// 1: a result was wrong, a case failed, or a record cannot be read.
    CheckFailed = 1,
    /// 2: wrong usage: unknown flag, filter, device or format.
    Usage = 2,
    /// 3: the environment cannot do it: no device, no permission, disk full, interrupted.
    Environment = 3,
}

impl Exit {
    /// The code of a verdict: the table stands at [`Verdict::exit_code`]. Anything unreadable is at least a failed check.
    #[must_use]
    pub fn of(verdict: Verdict, strict: bool, problems: bool) -> Self {
        match verdict.exit_code(strict) {
            0 if problems => Self::CheckFailed,
            0 => Self::Pass,
            1 => Self::CheckFailed,
            _ => Self::Environment,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure that ends the program: one sentence and its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened and what to do next.
    pub message: String,
    /// The code.
    pub exit: Exit,
}

impl Failure {
    /// The user asked for something that cannot be.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit: Exit::Usage }
    }

    /// The machine cannot do it.
    pub fn environment(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit: Exit::Environment }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The result of a command.
pub type Outcome<T = Exit> = Result<T, Failure>;
