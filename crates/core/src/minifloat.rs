//! Conversion between float64 and every narrow float format, one description a format instead of one function a format.
//!
//! Sources of the layouts: IEEE 754-2019 (f16, f32), the bfloat16 definition (f32 with 16 bits cut off), OCP 8-bit
//! Floating Point Specification 1.0 (E4M3, E5M2), OCP Microscaling Formats 1.0 (E2M1, E8M0), and the FNUZ variants of
//! AMD's CDNA3 instruction set (bias one higher, one NaN at 0x80, no negative zero, no infinities).

/// Which bit patterns of a format are not finite numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// The top exponent holds infinity (mantissa 0) and NaN, as in IEEE 754.
    Ieee,
    /// Only all-ones (exponent and mantissa) is NaN; there is no infinity. OCP E4M3.
    AllOnesNan,
    /// Only the pattern of negative zero is NaN; no infinity and no negative zero. FNUZ.
    NegativeZeroNan,
    /// Every pattern is a finite number. E2M1, E3M2, E2M3.
    None,
}

/// What becomes of a value beyond the largest finite one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// To infinity where the format has one, else to NaN.
    NonFinite,
    /// To the largest finite value of that sign. What inference kernels do with FP8.
    Saturate,
}

/// A binary float format of at most 32 bits: sign, `exponent` bits, `mantissa` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minifloat {
    /// Width of the exponent field.
    pub exponent: u32,
    /// Width of the mantissa field.
    pub mantissa: u32,
    /// Exponent bias.
    pub bias: i32,
    /// Which patterns are not finite.
    pub specials: Specials,
}

/// IEEE 754 binary32.
pub const F32: Minifloat = Minifloat { exponent: 8, mantissa: 23, bias: 127, specials: Specials::Ieee };
/// TF32: binary32's range with 10 mantissa bits, stored in the top 19 of 32 bits.
pub const TF32: Minifloat = Minifloat { exponent: 8, mantissa: 10, bias: 127, specials: Specials::Ieee };
/// IEEE 754 binary16.
pub const F16: Minifloat = Minifloat { exponent: 5, mantissa: 10, bias: 15, specials: Specials::Ieee };
/// bfloat16.
pub const BF16: Minifloat = Minifloat { exponent: 8, mantissa: 7, bias: 127, specials: Specials::Ieee };
/// OCP E4M3 (largest finite value 448).
pub const E4M3: Minifloat = Minifloat { exponent: 4, mantissa: 3, bias: 7, specials: Specials::AllOnesNan };
/// OCP E5M2 (largest finite value 57344).
pub const E5M2: Minifloat = Minifloat { exponent: 5, mantissa: 2, bias: 15, specials: Specials::Ieee };
/// E4M3 FNUZ (largest finite value 240).
pub const E4M3FNUZ: Minifloat = Minifloat { exponent: 4, mantissa: 3, bias: 8, specials: Specials::NegativeZeroNan };
/// E5M2 FNUZ (largest finite value 57344).
pub const E5M2FNUZ: Minifloat = Minifloat { exponent: 5, mantissa: 2, bias: 16, specials: Specials::NegativeZeroNan };
/// OCP E2M1 (±0, 0.5, 1, 1.5, 2, 3, 4, 6).
pub const E2M1: Minifloat = Minifloat { exponent: 2, mantissa: 1, bias: 1, specials: Specials::None };
/// OCP E3M2 (largest value 28).
pub const E3M2: Minifloat = Minifloat { exponent: 3, mantissa: 2, bias: 3, specials: Specials::None };
/// OCP E2M3 (largest value 7.5).
pub const E2M3: Minifloat = Minifloat { exponent: 2, mantissa: 3, bias: 1, specials: Specials::None };

/// The nearest bfloat16 of an f32, ties to even, NaN to NaN: what [`BF16`] encodes, by two integer operations for whole tensors.
#[must_use]
#[inline]
pub const fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16 }
}

impl Minifloat {
    /// Width in bits, sign included.
    #[must_use]
    pub const fn bits(self) -> u32 {
        1 + self.exponent + self.mantissa
    }

    const fn sign_bit(self) -> u32 {
        1 << (self.exponent + self.mantissa)
    }

    const fn magnitude_mask(self) -> u32 {
        self.sign_bit() - 1
    }

    /// The pattern of the largest finite magnitude.
    const fn largest_finite(self) -> u32 {
        match self.specials {
            Specials::Ieee => (((1 << self.exponent) - 1) << self.mantissa) - 1,
            Specials::AllOnesNan => self.magnitude_mask() - 1,
            Specials::NegativeZeroNan | Specials::None => self.magnitude_mask(),
        }
    }

    /// Half the distance between 1 and the next number: the relative error that rounding to nearest may cause.
    #[must_use]
    pub fn unit_roundoff(self) -> f64 {
        f64::powi(0.5, self.mantissa as i32 + 1)
    }

    /// The largest finite value.
    #[must_use]
    pub fn max(self) -> f64 {
        self.decode(self.largest_finite())
    }

    /// The value of a bit pattern; bits above the format's width are ignored.
    #[must_use]
    pub fn decode(self, pattern: u32) -> f64 {
        let negative = pattern & self.sign_bit() != 0;
        let magnitude = pattern & self.magnitude_mask();
        let field = (magnitude >> self.mantissa) as i32;
        let fraction = f64::from(magnitude & ((1 << self.mantissa) - 1));
        match self.specials {
            Specials::Ieee if field == (1 << self.exponent) - 1 => {
                return if fraction != 0.0 {
                    f64::NAN
                } else if negative {
                    f64::NEG_INFINITY
                } else {
                    f64::INFINITY
                };
            }
            Specials::AllOnesNan if magnitude == self.magnitude_mask() => return f64::NAN,
            Specials::NegativeZeroNan if negative && magnitude == 0 => return f64::NAN,
            _ => {}
        }
        let scale = f64::powi(2.0, field.max(1) - self.bias - self.mantissa as i32);
        let implicit = if field > 0 { f64::from(1u32 << self.mantissa) } else { 0.0 };
        let value = (implicit + fraction) * scale;
        if negative { -value } else { value }
    }

    /// The nearest pattern to `value`, ties to even, subnormals included. NaN becomes the format's NaN; a format without
    /// one (E2M1 and its like) saturates it to the largest value, as the OCP specification leaves it to the implementation.
    #[must_use]
    pub fn encode(self, value: f64, overflow: Overflow) -> u32 {
        if value.is_nan() {
            return match self.specials {
                Specials::Ieee => (((1 << self.exponent) - 1) << self.mantissa) | (1 << (self.mantissa - 1)),
                Specials::AllOnesNan => self.magnitude_mask(),
                Specials::NegativeZeroNan => self.sign_bit(),
                Specials::None => self.largest_finite(),
            };
        }
        let sign = if value.is_sign_negative() { self.sign_bit() } else { 0 };
        let magnitude = value.abs();
        let pattern = if magnitude.is_infinite() { u32::MAX } else { self.round(magnitude) };
        if pattern > self.largest_finite() {
            return match (overflow, self.specials) {
                (Overflow::Saturate, _) | (_, Specials::None) => sign | self.largest_finite(),
                (Overflow::NonFinite, Specials::Ieee) => sign | (((1 << self.exponent) - 1) << self.mantissa),
                (Overflow::NonFinite, Specials::AllOnesNan) => sign | self.magnitude_mask(),
                (Overflow::NonFinite, Specials::NegativeZeroNan) => self.sign_bit(),
            };
        }
        match (self.specials, pattern) {
            (Specials::NegativeZeroNan, 0) => 0,
            _ => sign | pattern,
        }
    }

    /// Rounds a finite magnitude to a pattern that may lie past the largest finite one.
    fn round(self, magnitude: f64) -> u32 {
        if magnitude == 0.0 {
            return 0;
        }
        let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(1 - self.bias);
        if exponent > 1 << self.exponent {
            return u32::MAX;
        }
        // Exact: a power of two only moves the exponent, and the result fits in 53 bits.
        let units = magnitude * f64::powi(2.0, self.mantissa as i32 - exponent);
        let rounded = units.round_ties_even() as u32;
        // `rounded` includes the implicit bit of a normal number, so adding it to the exponent field less one carries
        // into the next binade by itself.
        let field = (exponent + self.bias - 1) as u32;
        (field << self.mantissa) + rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Minifloat; 11] = [F32, TF32, F16, BF16, E4M3, E5M2, E4M3FNUZ, E5M2FNUZ, E2M1, E3M2, E2M3];

    #[test]
    fn largest_values_are_those_of_the_specifications() {
        let max: Vec<f64> = ALL.iter().map(|f| f.max()).collect();
        assert_eq!(max[0], f64::from(f32::MAX));
        assert_eq!(max[2], 65504.0);
        assert_eq!(max[4..], [448.0, 57344.0, 240.0, 57344.0, 6.0, 28.0, 7.5]);
    }

    #[test]
    fn every_pattern_up_to_16_bits_survives_a_round_trip() {
        for format in ALL.into_iter().filter(|f| f.bits() <= 16) {
            for pattern in 0..1u32 << format.bits() {
                let value = format.decode(pattern);
                let back = format.encode(value, Overflow::NonFinite);
                if value.is_nan() {
                    assert!(format.decode(back).is_nan(), "{format:?} {pattern:#x}");
                } else {
                    assert_eq!(back, pattern, "{format:?} {value}");
                }
            }
        }
    }

    #[test]
    fn ties_go_to_even_and_overflow_does_as_told() {
        assert_eq!(E2M1.decode(E2M1.encode(2.5, Overflow::Saturate)), 2.0);
        assert_eq!(E2M1.decode(E2M1.encode(3.5, Overflow::Saturate)), 4.0);
        assert_eq!(E4M3.decode(E4M3.encode(1e9, Overflow::Saturate)), 448.0);
        assert!(E4M3.decode(E4M3.encode(1e9, Overflow::NonFinite)).is_nan());
        assert_eq!(E5M2.decode(E5M2.encode(-1e9, Overflow::NonFinite)), f64::NEG_INFINITY);
        assert_eq!(E4M3FNUZ.encode(-0.0, Overflow::Saturate), 0);
    }

    proptest! {
        #[test]
        fn the_fast_bf16_is_the_general_one(bits in any::<u32>()) {
            let x = f32::from_bits(bits);
            let (fast, general) = (u32::from(bf16_bits(x)), BF16.encode(f64::from(x), Overflow::NonFinite));
            prop_assert!(fast == general || x.is_nan() && BF16.decode(fast).is_nan(), "{x}: {fast:#x}, {general:#x}");
        }

        #[test]
        fn f32_agrees_with_the_hardware(value in any::<f64>()) {
            prop_assert_eq!(F32.encode(value, Overflow::NonFinite) & 0x7fff_ffff != 0, (value as f32) != 0.0);
            if !value.is_nan() {
                prop_assert_eq!(F32.encode(value, Overflow::NonFinite), (value as f32).to_bits());
            }
        }

        #[test]
        fn rounding_is_to_the_nearest(value in -500.0f64..500.0) {
            for format in [F16, BF16, E4M3, E5M2, E5M2FNUZ] {
                let got = format.decode(format.encode(value, Overflow::Saturate));
                let limit = value.abs().min(format.max()) * format.unit_roundoff() + f64::powi(2.0, -format.bias);
                prop_assert!((got - value.clamp(-format.max(), format.max())).abs() <= limit);
            }
        }
    }
}
