//! Element types, one entry each: name, width, encoding, tolerance. Adding a dtype is adding a variant here; suites and
//! devices say for themselves which ones they can do, and the rest is Skipped with the reason.

use crate::minifloat::{self, Minifloat, Overflow};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An element type of a tensor. The serialised name is the one in a [`crate::CaseId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// binary32 in memory, multiplied with 10 mantissa bits.
    Tf32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// FP8 E4M3, OCP encoding.
    E4m3,
    /// FP8 E5M2, OCP encoding.
    E5m2,
    /// FP8 E4M3, FNUZ encoding (CDNA3).
    E4m3fnuz,
    /// FP8 E5M2, FNUZ encoding (CDNA3).
    E5m2fnuz,
    /// Signed 8-bit integer, accumulated in 32 bits.
    I8,
    /// Signed 32-bit integer: what int8 products are summed and stored in.
    I32,
    /// FP4 E2M1 without block scales.
    E2m1,
    /// OCP MXFP8: E4M3 elements, one E8M0 scale for each 32.
    Mxfp8,
    /// OCP MXFP4: E2M1 elements, one E8M0 scale for each 32.
    Mxfp4,
    /// NVFP4: E2M1 elements, one E4M3 scale for each 16 and one f32 scale a tensor.
    Nvfp4,
}

/// A block-scaled format's scale: one for each `block` elements along K, `bits` wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockScale {
    /// Elements that share one scale.
    pub block: u64,
    /// Width of a scale in bits.
    pub bits: u64,
}

impl Dtype {
    /// All of them, in the order of declaration.
    pub const ALL: [Self; 15] = [
        Self::F64,
        Self::F32,
        Self::Tf32,
        Self::F16,
        Self::Bf16,
        Self::E4m3,
        Self::E5m2,
        Self::E4m3fnuz,
        Self::E5m2fnuz,
        Self::I8,
        Self::I32,
        Self::E2m1,
        Self::Mxfp8,
        Self::Mxfp4,
        Self::Nvfp4,
    ];

    /// The name in ids, tables and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
            Self::E4m3fnuz => "e4m3fnuz",
            Self::E5m2fnuz => "e5m2fnuz",
            Self::I8 => "i8",
            Self::I32 => "i32",
            Self::E2m1 => "e2m1",
            Self::Mxfp8 => "mxfp8",
            Self::Mxfp4 => "mxfp4",
            Self::Nvfp4 => "nvfp4",
        }
    }

    /// The name shared by encodings of one format (`e4m3` for OCP and FNUZ), used in a CaseId so that two vendors' cases
    /// join; the encoding is a field beside it.
    #[must_use]
    pub const fn class(self) -> Self {
        match self {
            Self::E4m3fnuz => Self::E4m3,
            Self::E5m2fnuz => Self::E5m2,
            other => other,
        }
    }

    /// Bits of one element in memory, block scales not counted (see [`Dtype::block_scale`]).
    #[must_use]
    pub const fn bits(self) -> u64 {
        match self {
            Self::F64 => 64,
            Self::F32 | Self::Tf32 | Self::I32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::E4m3 | Self::E5m2 | Self::E4m3fnuz | Self::E5m2fnuz | Self::I8 | Self::Mxfp8 => 8,
            Self::E2m1 | Self::Mxfp4 | Self::Nvfp4 => 4,
        }
    }

    /// Bytes of `elements` elements, rounded up to whole bytes, block scales included.
    #[must_use]
    pub fn bytes(self, elements: u64) -> crate::Bytes {
        let scales = self.block_scale().map_or(0, |s| elements.div_ceil(s.block) * s.bits);
        crate::Bytes((elements * self.bits() + scales).div_ceil(8))
    }

    /// The block scale, where the format has one.
    #[must_use]
    pub const fn block_scale(self) -> Option<BlockScale> {
        match self {
            Self::Mxfp8 | Self::Mxfp4 => Some(BlockScale { block: 32, bits: 8 }),
            Self::Nvfp4 => Some(BlockScale { block: 16, bits: 8 }),
            _ => None,
        }
    }

    /// What its elements are without their block scales: e4m3 of mxfp8, e2m1 of mxfp4 and nvfp4, itself of all others.
    #[must_use]
    pub const fn element(self) -> Self {
        match self {
            Self::Mxfp8 => Self::E4m3,
            Self::Mxfp4 | Self::Nvfp4 => Self::E2m1,
            other => other,
        }
    }

    /// The element's float format; None for f64 and integers, which need no conversion.
    #[must_use]
    pub const fn format(self) -> Option<Minifloat> {
        match self {
            Self::F64 | Self::I8 | Self::I32 => None,
            Self::F32 => Some(minifloat::F32),
            Self::Tf32 => Some(minifloat::TF32),
            Self::F16 => Some(minifloat::F16),
            Self::Bf16 => Some(minifloat::BF16),
            Self::E4m3 | Self::Mxfp8 => Some(minifloat::E4M3),
            Self::E5m2 => Some(minifloat::E5M2),
            Self::E4m3fnuz => Some(minifloat::E4M3FNUZ),
            Self::E5m2fnuz => Some(minifloat::E5M2FNUZ),
            Self::E2m1 | Self::Mxfp4 | Self::Nvfp4 => Some(minifloat::E2M1),
        }
    }

    /// Relative error of one rounding to this type (2⁻⁽ᵐ⁺¹⁾); 0 for integers. Tolerances are built from it.
    #[must_use]
    pub fn unit_roundoff(self) -> f64 {
        match self {
            Self::F64 => f64::EPSILON / 2.0,
            Self::I8 | Self::I32 => 0.0,
            other => other.format().map_or(0.0, Minifloat::unit_roundoff),
        }
    }

    /// Bytes of one element in memory; None for types narrower than a byte.
    #[must_use]
    pub const fn element_bytes(self) -> Option<usize> {
        if self.bits().is_multiple_of(8) { Some(self.bits() as usize / 8) } else { None }
    }

    /// The value of one element from its little-endian bytes; NaN for the wrong number of bytes.
    #[must_use]
    pub fn read(self, bytes: &[u8]) -> f64 {
        match (self, bytes) {
            (Self::F64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
            (Self::F32 | Self::Tf32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
            (Self::I32, &[a, b, c, d]) => f64::from(i32::from_le_bytes([a, b, c, d])),
            (Self::I8, &[a]) => f64::from(a as i8),
            (Self::Bf16, &[a, b]) => f64::from(f32::from_bits(u32::from(u16::from_le_bytes([a, b])) << 16)),
            (_, &[a, b]) => self.format().map_or(f64::NAN, |f| f.decode(u32::from(u16::from_le_bytes([a, b])))),
            (_, &[a]) => self.format().map_or(f64::NAN, |f| f.decode(u32::from(a))),
            _ => f64::NAN,
        }
    }

    /// Writes `value`, rounded as [`Dtype::round`] does, as one little-endian element; nothing for the wrong number of bytes.
    pub fn write(self, value: f64, out: &mut [u8]) {
        let overflow = if self.bits() <= 8 { Overflow::Saturate } else { Overflow::NonFinite };
        let bits = match (self, self.format()) {
            (Self::F64, _) => value.to_bits(),
            (Self::I8, _) => u64::from(self.round(value) as i8 as u8),
            (Self::I32, _) => u64::from(self.round(value) as i32 as u32),
            // Lies in memory as an f32.
            (Self::Tf32, _) => u64::from((self.round(value) as f32).to_bits()),
            (_, Some(format)) => u64::from(format.encode(value, overflow)),
            _ => 0,
        };
        if Some(out.len()) == self.element_bytes() {
            out.copy_from_slice(&bits.to_le_bytes()[..out.len()]);
        }
    }

    /// `value` as this type would hold it: rounded to nearest even, saturated for FP8 and narrower and for integers.
    #[must_use]
    pub fn round(self, value: f64) -> f64 {
        match (self, self.format()) {
            (Self::I8, _) => value.round_ties_even().clamp(-128.0, 127.0),
            (Self::I32, _) => value.round_ties_even().clamp(f64::from(i32::MIN), f64::from(i32::MAX)),
            (_, Some(format)) => {
                let overflow = if self.bits() <= 8 { Overflow::Saturate } else { Overflow::NonFinite };
                format.decode(format.encode(value, overflow))
            }
            _ => value,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Dtype {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|d| d.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|d| d.name()).collect();
            format!("'{text}' is no dtype; known: {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_match_serde() {
        for dtype in Dtype::ALL {
            assert_eq!(dtype.name().parse::<Dtype>(), Ok(dtype));
            assert_eq!(serde_json::to_string(&dtype).unwrap(), format!("\"{dtype}\""));
        }
    }

    #[test]
    fn block_scales_are_counted_in_bytes() {
        assert_eq!(Dtype::Nvfp4.bytes(32).0, 16 + 2);
        assert_eq!(Dtype::Mxfp8.bytes(64).0, 64 + 2);
        assert_eq!(Dtype::E2m1.bytes(3).0, 2);
    }

    #[test]
    fn what_is_written_reads_back_rounded() {
        for dtype in Dtype::ALL {
            let Some(size) = dtype.element_bytes() else { continue };
            for value in [0.0, 1.0, -1.4, 3.3, -100.7, 1e6, 5e-3] {
                let mut bytes = vec![0; size];
                dtype.write(value, &mut bytes);
                assert_eq!(dtype.read(&bytes), dtype.round(value), "{dtype} {value}");
            }
            dtype.write(1.0, &mut [0; 9]);
        }
    }

    #[test]
    fn rounding_follows_the_encoding() {
        assert_eq!(Dtype::E4m3.round(1000.0), 448.0);
        assert_eq!(Dtype::E4m3fnuz.round(1000.0), 240.0);
        assert_eq!(Dtype::I8.round(-200.4), -128.0);
        assert_eq!(Dtype::F16.round(1e6), f64::INFINITY);
    }
}
