//! What can be made to go wrong, so that tests see it found. Only a constructor asks for one: no variable or argument does.

/// A fault of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// One bit of the first element that it receives is flipped, as by a flaky link.
    Corrupt = 1,
    /// The first eight bytes of what it receives are left as they were.
    Unwritten = 2,
    /// It stops for good in the middle of a run.
    Hang = 3,
    /// It ends in the middle of a run.
    Die = 4,
}

impl Fault {
    /// By name: `corrupt`, `unwritten`, `hang`, `die`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let all = [("corrupt", Self::Corrupt), ("unwritten", Self::Unwritten), ("hang", Self::Hang), ("die", Self::Die)];
        all.into_iter().find(|(known, _)| *known == name).map(|(_, fault)| fault)
    }

    pub(super) fn numbered(number: usize) -> Option<Self> {
        [Self::Corrupt, Self::Unwritten, Self::Hang, Self::Die].into_iter().find(|f| *f as usize == number)
    }
}
