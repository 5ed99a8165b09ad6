//! Units as types, so that bytes are never added to FLOPs and seconds are never read as milliseconds.
//! Decimal everywhere: 1 GB = 1e9 bytes, 1 TFLOP = 1e12 operations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, Mul};

/// A count of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// A count of floating-point (or integer) operations; one fused multiply-add counts as two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Flops(pub u64);

/// A duration in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Seconds(pub f64);

impl Bytes {
    /// `n` KiB (1024 bytes): buffer sizes are powers of two, rates are decimal.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` MiB (1024² bytes).
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// GB/s (1e9 bytes a second) when this many bytes move in `time`.
    #[must_use]
    pub fn gb_per_s(self, time: Seconds) -> f64 {
        self.0 as f64 / time.0 / 1e9
    }
}

impl Flops {
    /// TFLOP/s (1e12 operations a second) when this many operations take `time`.
    #[must_use]
    pub fn tflop_per_s(self, time: Seconds) -> f64 {
        self.0 as f64 / time.0 / 1e12
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Mul<u64> for Bytes {
    type Output = Self;
    fn mul(self, n: u64) -> Self {
        Self(self.0.saturating_mul(n))
    }
}

impl fmt::Display for Bytes {
    /// The exact binary size where there is one (`16KiB`, `4MiB`, `1GiB`), else plain bytes. This is the spelling used
    /// inside a [`crate::CaseId`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        match n {
            n if n >= 1 << 30 && n % (1 << 30) == 0 => write!(f, "{}GiB", n >> 30),
            n if n >= 1 << 20 && n % (1 << 20) == 0 => write!(f, "{}MiB", n >> 20),
            n if n >= 1 << 10 && n % (1 << 10) == 0 => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}B"),
        }
    }
}

impl std::str::FromStr for Bytes {
    type Err = String;

    /// The inverse of `Display`: `512B`, `16KiB`, `4MiB`, `1GiB`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no size: write a whole number and B, KiB, MiB or GiB, as in 16KiB");
        let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let n: u64 = text[..unit].parse().map_err(|_| wrong())?;
        let scale = match &text[unit..] {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        n.checked_mul(scale).map(Self).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_decimal() {
        assert_eq!(Bytes(3_000_000_000).gb_per_s(Seconds(1.0)), 3.0);
        assert_eq!(Flops(2_000_000_000_000).tflop_per_s(Seconds(2.0)), 1.0);
    }

    proptest! {
        #[test]
        fn sizes_print_and_parse_back(n in 0u64..1 << 50) {
            prop_assert_eq!(Bytes(n).to_string().parse::<Bytes>(), Ok(Bytes(n)));
        }

        #[test]
        fn no_text_panics_the_parser(text in ".{0,24}") {
            let _ = text.parse::<Bytes>();
        }
    }
}
